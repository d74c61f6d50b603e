#!/usr/bin/env python3
"""Write a trained model to a file that runs without this program, and check that its features are the same.

    python tools/export.py --config-file logs/Sample/DG-mobilenet --output metabin.onnx
    python tools/export.py --config-file logs/Sample/DG-mobilenet/model_final.pth --output metabin.pt2

Input: `images` (N, 3, H, W), RGB float32 0..255, any N, H and W of INPUT.SIZE_TEST. Output: `features` (N, D).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fastreid import Predictor
from fastreid.engine.export import check_output, export_model
from fastreid.engine.predictor import add_model_arguments
from fastreid.utils.errors import run_command
from fastreid.utils.files import home_path, refuse_inputs
from fastreid.utils.logger import setup_logger


def main() -> None:
    parser = argparse.ArgumentParser(description="Export a trained model to ONNX or to PyTorch's ExportedProgram.")
    add_model_arguments(parser)
    parser.add_argument(
        "--output", required=True, type=home_path, metavar="FILE", help="FILE.onnx, or FILE.pt2 for PyTorch"
    )
    args = parser.parse_args()
    setup_logger()
    check_output(args.output)
    predictor = Predictor(args.config_file, args.opts)
    refuse_inputs(args.output, [predictor.checkpoint, args.config_file])
    differences = export_model(predictor, args.output)
    height, width = predictor.image_size
    size = args.output.stat().st_size / 1e6
    print(f"{args.output}: {size:.1f} MB, (N, 3, {height}, {width}) -> (N, {predictor.feature_size})")
    for number, difference in differences.items():
        print(f"{number:3d} image(s): largest difference from the model's features {difference:.1e}")


if __name__ == "__main__":
    run_command(main)
