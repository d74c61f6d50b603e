#!/usr/bin/env python3
"""Compute the features of images, folders and globs.

    python3 demo/demo.py --config-file logs/Sample/DG-mobilenet --input people/ 'more/*.jpg' --output feats.npz
    python3 demo/demo.py --config-file logs/Sample/DG-mobilenet/model_final.pth --input a.jpg --opts MODEL.DEVICE cpu

The file holds `features` (N, D) float32 and `paths` (N,), read with numpy.load, and what they were computed from.
"""

import argparse
import os
import sys
from pathlib import Path

# On the CPU, OpenMP threads that wait by spinning take the cores from the loader's workers: see tools/train_net.py.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fastreid import Predictor
from fastreid.data.image_files import find_images
from fastreid.engine.predictor import add_model_arguments
from fastreid.evaluation.feature_files import compute_features
from fastreid.utils.errors import UserError, run_command
from fastreid.utils.files import home_path
from fastreid.utils.logger import setup_logger


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute the features of images.")
    add_model_arguments(parser)
    parser.add_argument("--input", nargs="+", required=True, metavar="PATH", help="images, folders or quoted globs")
    parser.add_argument(
        "--output", default="features.npz", type=home_path, help="the .npz to write (default: %(default)s)"
    )
    args = parser.parse_args()
    setup_logger()
    if args.output.suffix != ".npz":
        raise UserError(f"--output must be a file ending in .npz; found {args.output}")
    paths = find_images(args.input)
    compute_features(Predictor(args.config_file, args.opts), paths).save(args.output)


if __name__ == "__main__":
    run_command(main)
