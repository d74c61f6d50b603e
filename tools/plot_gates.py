#!/usr/bin/env python3
"""Draw the gates of a training run: by layer over training, and before against after.

python tools/plot_gates.py logs/Sample/DG-mobilenet
python tools/plot_gates.py logs/Sample/DG-mobilenet --from checkpoints --output pictures
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fastreid.report.gate_history import CHECKPOINTS, TENSORBOARD, read_gates
from fastreid.report.gate_plots import save_gates
from fastreid.utils.errors import run_command
from fastreid.utils.files import home_path, require_folder
from fastreid.utils.logger import setup_logger


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the gates of a training run.")
    parser.add_argument("folder", type=home_path, metavar="LOGDIR", help="the output folder of a training run")
    parser.add_argument(
        "--from",
        dest="origin",
        choices=(CHECKPOINTS, TENSORBOARD),
        help="what to read; default: the TensorBoard logs, which have more iterations, if they hold gates",
    )
    parser.add_argument("--output", type=home_path, metavar="FOLDER", help="default: LOGDIR/analysis")
    args = parser.parse_args()
    setup_logger()
    output = args.output or args.folder / "analysis"
    require_folder(output)
    history = read_gates(args.folder, args.origin)
    save_gates(output, history)
    first, last = history.mean.mean(axis=1)[[0, -1]]
    print(
        f"{len(history.layers)} layers, {len(history.iterations)} iterations, {history.iterations[0]} to "
        f"{history.iterations[-1]}: average gate {first:.4f} -> {last:.4f}; written to {output}"
    )


if __name__ == "__main__":
    run_command(main)
