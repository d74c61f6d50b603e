#!/bin/sh
# Test the model in logs/Sample/DG-mobilenet on GRID, VIPeR, PRID and i-LIDS. Options are passed on:
# sh run_evaluate.sh MODEL.DEVICE cpu
set -eu
cd "$(dirname "$0")"
. ./tools/find_python.sh
exec "$PYTHON" ./tools/train_net.py --config-file ./configs/Sample/DG-mobilenet.yml --eval-only --resume "$@"
