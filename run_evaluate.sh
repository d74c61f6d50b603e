#!/bin/sh
# Test the model in logs/Sample/DG-mobilenet on GRID, VIPeR, PRID and i-LIDS. Options are passed on:
# sh run_evaluate.sh MODEL.DEVICE cpu
set -eu
cd "$(dirname "$0")"
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
exec "$PYTHON" ./tools/train_net.py --config-file ./configs/Sample/DG-mobilenet.yml --eval-only --resume "$@"
