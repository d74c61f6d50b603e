#!/bin/sh
# Link data sets into datasets/.
#   bash symbolic_link_dataset.sh           the folders in this list, one a line; edit it
#   bash symbolic_link_dataset.sh FOLDER    all that FOLDER holds
folders="
/path/to/Market-1501-v15.09.15
/path/to/DukeMTMC-reID
/path/to/cuhk02
/path/to/cuhk03
/path/to/CUHK-SYSU
/path/to/GRID
/path/to/prid_2011
/path/to/QMUL-iLIDS
/path/to/viper
"
set -eu
. "$(dirname "$0")/tools/link_entries.sh"
if [ $# -gt 0 ]; then
    target=$(folder_path "$1" "bash symbolic_link_dataset.sh FOLDER_WITH_DATA_SETS")
    cd "$(dirname "$0")"
    link_entries "$target" datasets
else
    cd "$(dirname "$0")"
    link_listed "$folders" datasets "edit the list at the top of symbolic_link_dataset.sh, or name the folder that holds them"
fi
