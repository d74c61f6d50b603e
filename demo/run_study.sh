#!/bin/sh
# make study: does it generalize? Twelve runs on synthetic domains, then the table of seen and unseen ones. Goes on
# where it was stopped.
set -eu
STUDY_DATA=${STUDY_DATA:-datasets/study}
STUDY_TABLE=${STUDY_TABLE:-configs/Table/synthetic-study.yml}
STUDY_JOBS=${STUDY_JOBS:-2}
cd "$(dirname "$0")/.."
. ./tools/find_python.sh
FASTREID_DATASETS=$STUDY_DATA
export FASTREID_DATASETS

echo "== 1/2  five sources and four targets, whose styles come from a wider range, in $STUDY_DATA"
"$PYTHON" tools/make_synthetic_datasets.py --root "$STUDY_DATA" --ids 160 --images 10 --size 64x32 --seed 1 \
    --folder source1 source2 source3 source4 source5 --wide-folder target1 target2 target3 target4 --gap old
echo "== 2/2  $STUDY_TABLE, $STUDY_JOBS runs at a time (STUDY_JOBS=N for another number)"
"$PYTHON" tools/run_table.py "$STUDY_TABLE" --jobs "$STUDY_JOBS"
