#!/bin/sh
# Link pre-trained models and logs kept elsewhere: sh symbolic_link_others.sh FOLDER, where FOLDER holds pretrained/,
# logs/ or both; what lies in them is linked into the folders of the same names here.
set -eu
usage="sh symbolic_link_others.sh FOLDER_WITH_pretrained_OR_logs"
target=${1:-}
[ -d "$target" ] && target=$(cd "$target" && pwd -P)
cd "$(dirname "$0")"
. ./tools/link_entries.sh
require_folder "$target" "$usage"
if [ ! -d "$target/pretrained" ] && [ ! -d "$target/logs" ]; then
    echo "error: $target has neither pretrained/ nor logs/; usage: $usage" >&2
    exit 2
fi
for folder in pretrained logs; do
    if [ -d "$target/$folder" ]; then
        link_entries "$target/$folder" "$folder"
    fi
done
