#!/usr/bin/env python3
"""Train or test a model.

    python tools/train_net.py --config-file configs/Sample/DG-mobilenet.yml
    python tools/train_net.py --config-file configs/Sample/DG-mobilenet.yml --resume
    python tools/train_net.py --config-file configs/Sample/DG-mobilenet.yml --eval-only --resume
    python tools/train_net.py --config-file configs/Sample/DG-mobilenet.yml --resume --tsne-only --dist-only
    python tools/train_net.py --config-file configs/Sample/DG-mobilenet.yml MODEL.DEVICE cpu SOLVER.IMS_PER_BATCH 40
    python tools/train_net.py --config-file configs/Sample/DG-mobilenet.yml --num-gpus 4

Copy this file for what the options do not offer. A data set, a loss and a backbone of your own are a module each, which
registers itself when it is imported, above `main`:

    import my_dataset  # DATASETS["MyPeople"] = MyPeople, a class, for DATASETS.NAMES and DATASETS.TESTS
    import my_loss  # @LOSS_REGISTRY.register("MyLoss"): for MODEL.LOSSES.NAME; add_options("MODEL.LOSSES.MY", {...})
    import my_backbone  # @BACKBONE_REGISTRY.register("my_backbone"): a class for MODEL.BACKBONE.NAME

A hook, a model, optimizers or loaders of your own are methods of a trainer that takes the place of `DefaultTrainer`:

    class MyTrainer(DefaultTrainer):
        def build_hooks(self):
            hooks = super().build_hooks()
            hooks.insert(0, MyHook())  # anywhere
            return hooks

So are `build_loaders`, `build_model`, `build_optimizers` and `build_writers`: tests/engine/test_extending.py has one
with a hook and one with a transform in its loader.
"""

import argparse
import os
import sys
from pathlib import Path

# On the CPU, OpenMP threads that wait by spinning take the cores from the loader's workers and from other programs:
# a busy machine is then many times slower. Read when PyTorch is loaded, so it stands before the imports.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fastreid.analysis.model_figures import analyse
from fastreid.engine.defaults import (
    DefaultTrainer,
    analysis_modes,
    default_argument_parser,
    default_setup,
    feature_cache,
    load_model,
    test_only,
)
from fastreid.utils.errors import run_command
from fastreid.utils.launch import launch


def main(args: argparse.Namespace) -> None:
    """Train or test, as one of the processes of the run."""
    cfg = default_setup(args)
    resume = args.resume or args.num_pth is not None
    cache = feature_cache(cfg, args)
    modes = analysis_modes(args)
    if args.eval_only:
        test_only(cfg, resume, args.num_pth, cache, args.trust_checkpoint)
    if modes:
        analyse(cfg, load_model(cfg, resume, args.num_pth, args.trust_checkpoint)[0], modes)
    if args.eval_only or modes:
        return
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume, args.num_pth, args.trust_checkpoint)
    trainer.run()


def run() -> None:
    """Run the command."""
    run_command(lambda: launch(main, default_argument_parser().parse_intermixed_args()))


if __name__ == "__main__":
    run()
