# Sourced by symbolic_link_*.sh: link the entries of one folder into another. Nothing that exists is replaced.

# link_entries SOURCE FOLDER: a link in FOLDER to each entry of SOURCE.
link_entries() {
    source_folder=$(cd "$1" && pwd -P) || exit 2
    mkdir -p "$2" || exit 2
    linked=0
    for entry in "$source_folder"/*; do
        [ -e "$entry" ] || continue
        name=$(basename "$entry")
        place="$2/$name"
        if [ -L "$place" ]; then
            now=$(readlink "$place")
            if [ "$now" = "$entry" ]; then
                echo "as it was: $place -> $entry"
            elif [ -e "$place" ]; then
                echo "left alone: $place is a link to $now" >&2
            else
                rm "$place" && ln -s "$entry" "$place" && echo "linked: $place -> $entry (was a broken link to $now)"
                linked=$((linked + 1))
            fi
        elif [ -e "$place" ]; then
            [ "$name" = README.md ] || echo "left alone: $place is not a link; move it away to link $entry" >&2
        else
            ln -s "$entry" "$place" && echo "linked: $place -> $entry"
            linked=$((linked + 1))
        fi
    done
    echo "$linked new link(s) in $2/ to $source_folder"
}

# require_folder PATH USAGE: end with one line if PATH was not given or is not a folder.
require_folder() {
    if [ -z "$1" ]; then
        echo "usage: $2" >&2
        exit 2
    fi
    if [ ! -d "$1" ]; then
        echo "error: $1 is not a folder; usage: $2" >&2
        exit 2
    fi
}
