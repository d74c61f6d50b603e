#!/bin/sh
# Link logs and pre-trained models kept elsewhere: each entry of the folders is linked into logs/ or pretrained/ here.
#   bash symbolic_link_others.sh           ../MetaBIN(logs) and ../MetaBIN(pretrained), beside this folder
#   bash symbolic_link_others.sh FOLDER    FOLDER/logs and FOLDER/pretrained
set -eu
. "$(dirname "$0")/tools/link_entries.sh"
usage="bash symbolic_link_others.sh FOLDER_WITH_logs_OR_pretrained"
if [ $# -gt 0 ]; then
    target=$(folder_path "$1" "$usage")
    logs=$target/logs pretrained=$target/pretrained
    cd "$(dirname "$0")"
else
    cd "$(dirname "$0")"
    logs="../MetaBIN(logs)" pretrained="../MetaBIN(pretrained)"
fi
if [ ! -d "$logs" ] && [ ! -d "$pretrained" ]; then
    echo "error: nothing to link: neither $logs nor $pretrained is a folder; make one of them, or name the folder above: $usage" >&2
    exit 2
fi
if [ -d "$logs" ]; then link_entries "$logs" logs; fi
if [ -d "$pretrained" ]; then link_entries "$pretrained" pretrained; fi
