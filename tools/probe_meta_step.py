#!/usr/bin/env python3
"""How far does the virtual step of meta-learning go in a trained model, and does it change the gates' gradient?

python tools/probe_meta_step.py logs/Sample/DG-mobilenet
python tools/probe_meta_step.py logs/Sample/DG-mobilenet/model_0009999.pth MODEL.DEVICE cpu --steps 20
"""

import argparse
import sys
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tabulate import tabulate

from fastreid.analysis.meta_probe import probe_meta_steps, usual_ratios
from fastreid.engine.defaults import DefaultTrainer
from fastreid.engine.predictor import find_run
from fastreid.utils.checkpoint import read_checkpoint
from fastreid.utils.errors import UserError, run_command
from fastreid.utils.files import home_path
from fastreid.utils.logger import setup_logger

HEADERS = ("inner ratio", "virtual step, mean", "largest", "cosine of gradients", "lowest", "change of gradient")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what the virtual step of a run's meta steps does.")
    parser.add_argument(
        "run", type=home_path, metavar="RUN", help="a run's folder (its last checkpoint), or a checkpoint in it"
    )
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="meta steps to look at (default: 8)")
    parser.add_argument(
        "--ratios", nargs="+", type=float, metavar="R", help="inner ratios; default: the run's, and larger ones"
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="options over those of the run, before --ratios")
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    if args.steps < 1 or any(not ratio > 0 for ratio in args.ratios or ()):
        raise UserError("--steps must be at least 1, and --ratios above 0")
    setup_logger()
    # In full precision: small gradients would be zero in half precision without a loss scale.
    cfg, checkpoint = find_run(args.run, [*args.opts, "SOLVER.AMP", "False", "MODEL.BACKBONE.PRETRAIN", "False"])
    trainer = DefaultTrainer(cfg)
    trainer.resume(checkpoint, read_checkpoint(checkpoint))
    trainer.iter = trainer.start_iter
    steps, silent = probe_meta_steps(trainer, args.ratios or usual_ratios(trainer), args.steps)
    rates = sorted(
        {trainer.learning_rates()[parameter] for parameter in trainer.trained.in_inner_update(trainer.iter).values()}
    )
    print(
        f"{checkpoint}, iteration {trainer.iter}: {args.steps} meta steps, {silent} of them without a gradient (left "
        f"out); learning rate {', '.join(f'{rate:g}' for rate in rates)}"
    )
    rows = [
        [
            ratio,
            mean(step.mean for step in probed),
            max(step.largest for step in probed),
            mean(step.cosine for step in probed),
            min(step.cosine for step in probed),
            f"{100 * mean(step.change for step in probed):.2f} %",
        ]
        for ratio, probed in steps.items()
        if probed
    ]
    if rows:
        print(tabulate(rows, HEADERS, "github", floatfmt=("g", ".1e", ".1e", ".5f", ".5f", "")))


if __name__ == "__main__":
    run_command(main)
