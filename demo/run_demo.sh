#!/bin/sh
# make demo: draw data sets, test the untrained model, train on five sources, test on four unseen targets.
set -eu
DEMO_DATA=${DEMO_DATA:-datasets/synthetic}
DEMO_CONFIG=${DEMO_CONFIG:-configs/Demo/synthetic.yml}
DEMO_LOGS=${DEMO_LOGS:-logs/Demo/$(basename "$DEMO_CONFIG" .yml)}
cd "$(dirname "$0")/.."
. ./tools/find_python.sh
FASTREID_DATASETS=$DEMO_DATA
export FASTREID_DATASETS

# "Rank-1 12.3 %, mAP 23.4 %", the averages over all targets of a results.txt.
average() {
    LC_ALL=C awk -F'|' '/all_average/ { printf "Rank-1 %.1f %%, mAP %.1f %%", $3, $6 }' "$1"
}

started=$(date +%s)
echo "== 1/4  five source and four target data sets in $DEMO_DATA"
"$PYTHON" tools/make_synthetic_datasets.py --root "$DEMO_DATA" --scale demo --size 64x32 \
    --sets cuhk02 cuhk03 market1501 dukemtmc cuhk_sysu grid prid ilids viper
echo "== 2/4  the untrained model, to compare with"
"$PYTHON" tools/train_net.py --config-file "$DEMO_CONFIG" --eval-only MODEL.WEIGHTS untrained \
    OUTPUT_DIR "$DEMO_LOGS/untrained"
echo "== 3/4  training, then testing"
"$PYTHON" tools/train_net.py --config-file "$DEMO_CONFIG" OUTPUT_DIR "$DEMO_LOGS"
echo "== 4/4  a page about the run"
"$PYTHON" tools/report.py "$DEMO_LOGS" --queries 2 --heat
echo "On four data sets that were not seen in training, on average:"
echo "  untrained  $(average "$DEMO_LOGS/untrained/results.txt")"
echo "  trained    $(average "$DEMO_LOGS/results.txt")"
echo "curves of losses and gates: $DEMO_LOGS/result.png"
echo "tables, curves, gates, and whom the model confuses, in a browser: $DEMO_LOGS/report.html"
echo "demo ended after $(($(date +%s) - started)) s"
