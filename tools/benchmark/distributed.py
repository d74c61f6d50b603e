#!/usr/bin/env python3
"""Measure how training scales over CPU processes that share one global batch.

    python tools/benchmark/distributed.py                        # 1 and 2 processes, one thread each
    python tools/benchmark/distributed.py --processes 1 2 4 --batch 80 --size 256 128 --sync

Prints the time of one iteration (a base step and a meta step, images made up and loaded beforehand) and the share of it
that a process spends in collectives, waiting for the others included. The share is measured in iterations of their own,
in which the gradients' averaging does not overlap with the backward pass, as it does otherwise.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from functools import wraps
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also runs from a checkout that is not installed

import torch
import torch.distributed as dist
from tabulate import tabulate
from torch import Tensor

from fastreid.config import CfgNode, get_cfg
from fastreid.engine import SimpleTrainer
from fastreid.modeling import build_model
from fastreid.solver import build_optimizer
from fastreid.utils.errors import run_command
from fastreid.utils.launch import launch
from fastreid.utils.processes import num_processes, process_rank

DOMAINS, INSTANCES, CLASSES = 5, 4, 1000
COLLECTIVES = ("all_reduce", "all_gather", "broadcast", "all_gather_object")


class Stopwatch:
    """Seconds spent in collectives, which it makes wait for their end."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in COLLECTIVES:
            setattr(dist, name, self.timed(getattr(dist, name)))

    def timed(self, function):
        @wraps(function)
        def wrapped(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return wrapped

    # PyTorch looks at the annotations, which is why this file does not postpone them.
    def average(self, state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Average a bucket of gradients as DistributedDataParallel does, but waiting for it."""
        dist.all_reduce(bucket.buffer().div_(num_processes()))
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Time per iteration and share of communication, by number of processes."
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--iterations", type=int, default=5, help="measured ones, after two to warm up")
    parser.add_argument(
        "--batch", type=int, default=40, help=f"of all processes together, a multiple of {DOMAINS * INSTANCES}"
    )
    parser.add_argument("--size", type=int, nargs=2, default=[128, 64], metavar=("H", "W"), help="of the images")
    parser.add_argument("--depth", type=int, default=10, help="ten times MobileNetV2's width")
    parser.add_argument("--sync", action="store_true", help="batch statistics of all processes (MODEL.NORM.SYNC)")
    args = parser.parse_args()
    if args.batch < 1 or args.batch % (DOMAINS * INSTANCES):
        parser.error(f"--batch must be a multiple of {DOMAINS * INSTANCES}")
    if args.iterations < 1:
        parser.error("--iterations must be at least 1")
    return args


def config(args: argparse.Namespace) -> CfgNode:
    """Return the options of the measured model."""
    cfg = get_cfg()
    domains = tuple(f"domain {number}" for number in range(DOMAINS))
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.NAME": "build_mobilenet_v2_backbone",
        "MODEL.BACKBONE.DEPTH": args.depth,
        "MODEL.BACKBONE.PRETRAIN": False,
        "MODEL.NORM.TYPE_BACKBONE": "BIN_gate2",
        "MODEL.NORM.SYNC": args.sync,
        "MODEL.HEADS.IN_FEAT": max(1280, 128 * args.depth),
        "MODEL.HEADS.NUM_CLASSES": CLASSES,
        "META.DATA.NAMES": domains,
        "META.DATA.NUM_DOMAINS": DOMAINS,
        "META.SOLVER.INIT.FIRST_INNER_LOOP": 1,
        "SOLVER.ITERS_PER_EPOCH": 100,
    }
    cfg.merge_from_list([word for option in options.items() for word in option])
    return cfg


def share_of_batch(args: argparse.Namespace, seed: int) -> dict:
    """Return this process's identities, with all their images, of the batch that a seed makes up."""
    images = torch.rand(args.batch, 3, *args.size, generator=torch.Generator().manual_seed(seed)) * 255
    targets = torch.arange(args.batch) // INSTANCES
    mine = (targets % num_processes() == process_rank()).nonzero().squeeze(1)
    batch = {"images": images, "targets": targets, "camids": targets, "domains": targets % DOMAINS}
    return {key: value[mine] for key, value in batch.items()} | {"img_paths": [str(i) for i in mine.tolist()]}


def measure(args: argparse.Namespace) -> None:
    """Train as one of the processes; the first one writes what it measured."""
    cfg = config(args)
    torch.manual_seed(0)
    model = build_model(cfg)
    loaders = [share_of_batch(args, 1)], [share_of_batch(args, 2)]
    trainer = SimpleTrainer(cfg, model, *loaders, *(build_optimizer(cfg, model, which) for which in ("main", "norm")))

    def iterations(number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            trainer.run_step()
        trainer.read_losses()
        return (time.perf_counter() - start) / number

    iterations(2)
    seconds, communication = iterations(args.iterations), 0.0
    if num_processes() > 1:
        watch = Stopwatch()
        trainer.parallel.replica.register_comm_hook(None, watch.average)
        again = iterations(args.iterations) * args.iterations
        communication = watch.seconds / again
    if process_rank() == 0:
        args.result.write_text(json.dumps({"seconds": seconds, "communication": communication}))


def main() -> None:
    args = parse_args()
    args.num_machines, args.machine_rank, args.dist_url, args.max_restarts = 1, 0, "auto", 0
    rows = []
    for number in args.processes:
        args.num_gpus = number
        with tempfile.TemporaryDirectory() as folder:
            args.result = Path(folder) / "result.json"
            launch(measure, args)
            found = json.loads(args.result.read_text())
        rows.append([args.num_gpus, found["seconds"], found["communication"]])
    table = [
        [n, f"{seconds:.3f}", f"x{rows[0][1] / seconds:.2f}", f"{100 * share:.0f} %"] for n, seconds, share in rows
    ]
    print(
        tabulate(
            table, ["processes", "s / iteration", "speed", "communication"], tablefmt="pipe", disable_numparse=True
        )
    )


if __name__ == "__main__":
    run_command(main)
