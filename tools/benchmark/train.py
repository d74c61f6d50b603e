#!/usr/bin/env python3
"""Compare training iterations and inference with the plain way of computing them: seconds, memory, ratios.

    python tools/benchmark/train.py                                           # everything, about an hour on two cores
    python tools/benchmark/train.py --models mobilenet --batches 40           # one table
    python tools/benchmark/train.py --models mobilenet --batches 40 --profile trace    # where the time of `eager` goes

The plain way is the published composition: F.batch_norm, F.instance_norm and the gates' mixture as separate
operations, NCHW, one optimizer group per parameter, gradients of every parameter in the meta step, losses read in each
step. Each measurement is a process of its own; the ways take turns, several rounds, so that a busy moment of the machine
meets all of them. Images are random numbers, weights are random: speed does not depend on them.

The ways: `plain` as it was run; `plain, reuse` the same in a process that reuses freed memory (utils/memory.py), as ours
does; `eager`; `norm` and `model`, SOLVER.COMPILE; `bf16`, SOLVER.AMP on the CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from tabulate import tabulate  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from fastreid.config import CfgNode, get_cfg  # noqa: E402
from fastreid.engine import SimpleTrainer  # noqa: E402
from fastreid.layers.normalization import BatchNorm, InstanceNorm  # noqa: E402
from fastreid.layers.normalize import activate  # noqa: E402
from fastreid.modeling import build_model  # noqa: E402
from fastreid.modeling.backbones.mobilenet_v2 import MobileNetV2  # noqa: E402
from fastreid.modeling.backbones.resnet import ResNet  # noqa: E402
from fastreid.solver import build_optimizer  # noqa: E402
from fastreid.utils.memory import keep_freed_memory, peak_memory  # noqa: E402

CONFIGS = {"mobilenet": "configs/Sample/DG-mobilenet.yml", "resnet": "configs/Sample/DG-resnet.yml"}
WAYS = ("plain", "plain, reuse", "eager", "norm", "model", "bf16", "bf16 norm")
IDENTITIES, DOMAINS, INSTANCES = 4000, 5, 4


class PlainBatchInstanceNorm(nn.Module):
    """The published layer: both normalizations, then their mixture."""

    def __init__(self, channels: int):
        super().__init__()
        self.bat_n, self.ins_n = BatchNorm(channels), InstanceNorm(channels)
        self.gate = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        gate = self.gate[:, None, None]
        instance = F.instance_norm(x, weight=self.ins_n.weight, bias=self.ins_n.bias, eps=self.ins_n.eps)
        out = self.bat_n(x) * gate + instance * (1 - gate)
        if residual is not None:
            out = out + residual
        return activate(out, activation)


class PlainTrainer(SimpleTrainer):
    """Steps that compute every gradient."""

    def step(self, loss: Tensor, learned: dict[str, Tensor]) -> None:
        for optimizer in (self.optimizer_main, self.optimizer_norm):
            optimizer.zero_grad()
        loss.backward()
        super_learned = (self.optimizer_norm,) if set(learned) == set(self.gates) else (self.optimizer_main,)
        for optimizer in super_learned:
            optimizer.step()
        with torch.no_grad():
            for gate in self.gates.values():
                gate.clamp_(0, 1)


def make_config(model: str, way: str, batch: int, size: list[int]) -> CfgNode:
    """Return the config of a published run, for random images on this machine's CPU or GPU."""
    cfg = get_cfg()
    cfg.merge_from_file(ROOT / CONFIGS[model])
    cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", "False", "MODEL.HEADS.NUM_CLASSES", IDENTITIES])
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.SOLVER.IMS_PER_BATCH = cfg.META.DATA.MTRAIN_MINI_BATCH = batch
    cfg.SOLVER.ITERS_PER_EPOCH, cfg.META.DATA.NUM_DOMAINS = 1000, DOMAINS
    cfg.SOLVER.CHECK_FINITE = way.startswith("plain")
    cfg.SOLVER.AMP = way.startswith("bf16")
    cfg.SOLVER.COMPILE = "norm" if way.endswith("norm") else "model" if way == "model" else "off"
    cfg.INPUT.SIZE_TRAIN = cfg.INPUT.SIZE_TEST = size
    return cfg


def make_trainer(cfg: CfgNode, model_name: str, way: str, batch: int) -> SimpleTrainer:
    """Return a trainer whose loaders give the same random batch again and again."""
    torch.manual_seed(0)
    model = build_model(cfg)
    groups = [build_optimizer(cfg, model, which) for which in ("main", "norm")]
    kind = SimpleTrainer
    if way.startswith("plain"):
        depth, stride = cfg.MODEL.BACKBONE.DEPTH, cfg.MODEL.BACKBONE.LAST_STRIDE
        if model_name == "mobilenet":
            model.backbone = MobileNetV2(PlainBatchInstanceNorm, depth / 10, stride)
        else:
            model.backbone = ResNet(PlainBatchInstanceNorm, depth, stride)
        model.to(memory_format=torch.contiguous_format)
        model.forward = plain_forward(model)
        groups = [
            torch.optim.SGD(optimizer_groups(cfg, model, which), lr=0.01, momentum=0.9 * (which == "main"), foreach=False)
            for which in ("main", "norm")
        ]
        kind = PlainTrainer
    identities = torch.arange(-(-batch // INSTANCES)).repeat_interleave(INSTANCES)[:batch]
    data = {
        "images": torch.rand(batch, 3, *cfg.INPUT.SIZE_TRAIN) * 255,
        "targets": identities,
        "camids": identities % 2,
        "domains": identities % DOMAINS,
        "img_paths": [f"{i}.jpg" for i in range(batch)],
    }
    return kind(cfg, model, [data], [data], *groups)


def plain_forward(model: nn.Module):
    """Return the model's forward pass without a change of memory format."""

    def forward(batch: dict[str, Tensor]):
        maps = model.backbone((batch["images"] - model.pixel_mean) / model.pixel_std)
        return model.heads(maps, batch["targets"]) if model.training else model.heads(maps)

    return forward


def optimizer_groups(cfg: CfgNode, model: nn.Module, which: str) -> list[dict]:
    """Return one group per parameter."""
    optimizer = build_optimizer(cfg, model, which)
    return [{**group, "params": [p], "fused": None} for group in optimizer.param_groups for p in group["params"]]


def seconds(function, device: torch.device) -> float:
    """Return how long a call takes, until the device has done its work."""
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(model_name: str, way: str, batch: int, size: list[int], iterations: int) -> dict[str, object]:
    """Run one way in this process and return its numbers."""
    if not way.startswith("plain") or way.endswith("reuse"):
        keep_freed_memory()
    cfg = make_config(model_name, way, batch, size)
    trainer = make_trainer(cfg, model_name, way, batch)
    base, meta = trainer.run_step_meta_learning1, trainer.run_step_meta_learning2
    first = seconds(base, trainer.device) + seconds(meta, trainer.device)
    times = [(seconds(base, trainer.device), seconds(meta, trainer.device)) for _ in range(iterations)]
    if trainer.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(trainer.device)
    else:
        peak = peak_memory()
    trainer.model.eval()
    images = trainer.to_device(next(trainer.base_batches))
    with torch.inference_mode(), torch.autocast(trainer.device.type, trainer.amp_dtype, enabled=trainer.amp):
        trainer.model(images)
        inference = [seconds(lambda: trainer.model(images), trainer.device) for _ in range(iterations)]
    return {"first": first, "base": [b for b, _ in times], "meta": [m for _, m in times], "peak": peak, "inference": inference}


def run(model: str, way: str, batch: int, args: argparse.Namespace) -> dict[str, object]:
    """Measure in a process of its own."""
    task = json.dumps([model, way, batch, args.size, args.iterations])
    done = subprocess.run([sys.executable, __file__, "--worker", task], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{model} {way} {batch}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def table(model: str, batch: int, results: dict[str, list[dict]], peaks_from: int) -> str:
    """Return one model's and batch size's table; ratios are to `plain`."""

    def middle(way: str, name: str) -> float:
        return statistics.median(value for result in results[way] for value in result[name])

    rows, whole = [], {}
    for way in results:
        base, meta = middle(way, "base"), middle(way, "meta")
        peak = statistics.median(result["peak"] for result in results[way]) / 2**20
        whole[way] = (base + meta, peak, batch / middle(way, "inference"))
        time_ratio, memory_ratio, images_ratio = (
            whole["plain"][0] / whole[way][0], peak / whole["plain"][1], whole[way][2] / whole["plain"][2]
        )
        first = statistics.median(result["first"] for result in results[way])
        rows.append(
            [way, f"{first:.1f}", f"{base:.2f}", f"{meta:.2f}", f"{base + meta:.2f}", f"{time_ratio:.2f} x", f"{peak:,.0f}"]
            + [f"{memory_ratio:.2f}", f"{whole[way][2]:.1f}", f"{images_ratio:.2f} x"]
        )
    headers = ["way", "first s", "base s", "meta s", "both s", "faster", "peak MB", "memory", "inference images/s", "faster"]
    title = f"{model}, batch {batch}, {peaks_from} round(s); medians"
    return f"{title}\n{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(CONFIGS), choices=CONFIGS)
    parser.add_argument("--batches", nargs="+", type=int, default=[16, 40, 80])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--size", nargs=2, type=int, default=[256, 128], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--iterations", type=int, default=3, help="in each process, after a first one")
    parser.add_argument("--rounds", type=int, default=2, help="processes for each way")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        logging.basicConfig(level=logging.WARNING)
        print(json.dumps(measure(*json.loads(args.worker))))
        return
    ways = list(dict.fromkeys(["plain", *args.ways]))
    for model in args.models:
        for batch in args.batches:
            results: dict[str, list[dict]] = {way: [] for way in ways}
            for _ in range(args.rounds):
                for way in ways:
                    results[way].append(run(model, way, batch, args))
            print(table(model, batch, results, args.rounds), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
