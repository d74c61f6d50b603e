# Sourced by symbolic_link_*.sh: link folders, or the entries of one, into another. Nothing that exists is replaced.

# link_entries SOURCE FOLDER: a link in FOLDER to each entry of SOURCE.
link_entries() {
    source_folder=$(cd "$1" && pwd -P) || exit 2
    mkdir -p "$2" || exit 2
    linked=0
    for entry in "$source_folder"/*; do
        [ -e "$entry" ] || continue
        link_one "$entry" "$2"
    done
    echo "$linked new link(s) in $2/ to $source_folder"
}

# link_listed LIST FOLDER ADVICE: a link in FOLDER to each folder of LIST, one a line; those that are missing are named.
link_listed() {
    mkdir -p "$2" || exit 2
    linked=0 there=0 missing=0 first_missing=
    while read -r listed; do
        [ -n "$listed" ] || continue
        if [ -d "$listed" ]; then
            there=$((there + 1))
            link_one "$(cd "$listed" && pwd -P)" "$2" "$(basename "$listed")"
        else
            missing=$((missing + 1))
            first_missing=${first_missing:-$listed}
        fi
    done <<LIST
$1
LIST
    [ "$there" -eq 0 ] || echo "$linked new link(s) in $2/"
    if [ "$missing" -gt 0 ] || [ "$there" -eq 0 ]; then
        echo "error: $missing of the $((there + missing)) folders in the list are not there${first_missing:+, the first is $first_missing}: $3" >&2
        exit 2
    fi
}

# link_one ENTRY FOLDER [NAME]: a link in FOLDER to ENTRY, by its own name or another.
link_one() {
    name=${3:-$(basename "$1")}
    place="$2/$name"
    if [ -L "$place" ]; then
        now=$(readlink "$place")
        if [ "$now" = "$1" ]; then
            echo "as it was: $place -> $1"
        elif [ -e "$place" ]; then
            echo "left alone: $place is a link to $now" >&2
        else
            rm "$place" && ln -s "$1" "$place" && echo "linked: $place -> $1 (was a broken link to $now)"
            linked=$((linked + 1))
        fi
    elif [ -e "$place" ]; then
        [ "$name" = README.md ] || echo "left alone: $place is not a link; move it away to link $1" >&2
    else
        ln -s "$1" "$place" && echo "linked: $place -> $1"
        linked=$((linked + 1))
    fi
}

# folder_path PATH USAGE: print the path of a folder from the root; end with one line if it is none.
folder_path() {
    if [ ! -d "$1" ]; then
        echo "error: $1 is not a folder; usage: $2" >&2
        exit 2
    fi
    (cd "$1" && pwd -P)
}
