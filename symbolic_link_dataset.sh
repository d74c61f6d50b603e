#!/bin/sh
# Link data sets into datasets/: sh symbolic_link_dataset.sh FOLDER, where FOLDER holds Market-1501-v15.09.15, GRID, ...
set -eu
target=${1:-}
[ -d "$target" ] && target=$(cd "$target" && pwd -P)
cd "$(dirname "$0")"
. ./tools/link_entries.sh
require_folder "$target" "sh symbolic_link_dataset.sh FOLDER_WITH_DATA_SETS"
link_entries "$target" datasets
