#!/bin/sh
# make demo: draw data sets, test the untrained model, train on five sources, test on four unseen targets.
set -eu
DEMO_DATA=${DEMO_DATA:-datasets/synthetic}
DEMO_CONFIG=${DEMO_CONFIG:-configs/Demo/synthetic-mobilenet.yml}
DEMO_LOGS=${DEMO_LOGS:-logs/Demo/synthetic-mobilenet}
cd "$(dirname "$0")/.."
. ./tools/find_python.sh
FASTREID_DATASETS=$DEMO_DATA
export FASTREID_DATASETS

started=$(date +%s)
echo "== 1/3  five source and four target data sets in $DEMO_DATA"
"$PYTHON" tools/make_synthetic_datasets.py --root "$DEMO_DATA" --scale demo --size 64x32 \
    --sets cuhk02 cuhk03 market1501 dukemtmc cuhk_sysu grid prid ilids viper
echo "== 2/3  the untrained model, to compare with"
"$PYTHON" tools/train_net.py --config-file "$DEMO_CONFIG" --eval-only MODEL.WEIGHTS untrained \
    OUTPUT_DIR "$DEMO_LOGS/untrained"
echo "== 3/3  training, then testing"
"$PYTHON" tools/train_net.py --config-file "$DEMO_CONFIG" OUTPUT_DIR "$DEMO_LOGS"
echo "untrained: $(grep all_average "$DEMO_LOGS/untrained/results.txt")"
echo "trained:   $(grep all_average "$DEMO_LOGS/results.txt")"
echo "the whole table is in $DEMO_LOGS/results.txt, the curves in $DEMO_LOGS/result.png"
echo "demo ended after $(($(date +%s) - started)) s"
