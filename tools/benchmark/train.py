#!/usr/bin/env python3
"""Compare training iterations and inference with the plain way of computing them: seconds, memory, launches, ratios.

    python tools/benchmark/train.py      # everything: about an hour on two cores, less than 8 minutes on a GPU
    python tools/benchmark/train.py --models mobilenet --batches 40           # one table
    python tools/benchmark/train.py --models mobilenet --batches 40 --ways eager --profile trace   # where its time goes

The plain way is the published composition: F.batch_norm, F.instance_norm and the gates' mixture as separate
operations, NCHW, one optimizer group per parameter, gradients of every parameter in the meta step, losses read in each
step. Each measurement is a process of its own; the ways take turns, several rounds, so that a busy moment of the
machine meets all of them. Images are random numbers, weights are random: speed does not depend on them.

The ways: `plain` as it was run; `plain, reuse` the same in a process that reuses freed memory (utils/memory.py), as
ours does; `eager`; `kernels`, SOLVER.COMPILE auto on a GPU; `norm` and `model`, SOLVER.COMPILE; `checkpoint`,
MODEL.BACKBONE.CHECKPOINT of the stages with the largest maps; `bf16` on the CPU and `fp16` on a GPU, SOLVER.AMP.

Launches are those of a base and a meta step: on the CPU the operations that would be kernels on a GPU, there the
kernels.
Under a table stand the floors of an iteration: the convolutions' arithmetic and the maps' way through memory, at the
speeds of a matrix product and of a copy that are measured here.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from tabulate import tabulate  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.autograd import DeviceType  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from training_profile import Floors, copy_speed, matmul_speed, tables  # noqa: E402

from fastreid.config import CfgNode, get_cfg  # noqa: E402
from fastreid.engine import SimpleTrainer, train_loop  # noqa: E402
from fastreid.layers.coefficients import EPS  # noqa: E402
from fastreid.layers.normalization import BatchNorm, InstanceNorm  # noqa: E402
from fastreid.layers.passes import activate  # noqa: E402
from fastreid.modeling import build_model  # noqa: E402
from fastreid.modeling.backbones.mobilenet_v2 import MobileNetV2  # noqa: E402
from fastreid.modeling.backbones.resnet import ResNet  # noqa: E402
from fastreid.solver import build_optimizer  # noqa: E402
from fastreid.utils.memory import keep_freed_memory, peak_memory_mb  # noqa: E402
from tools.benchmark.launches import LaunchCounter  # noqa: E402

CONFIGS = {"mobilenet": "configs/Sample/DG-mobilenet.yml", "resnet": "configs/Sample/DG-resnet.yml"}
ON_GPU = torch.cuda.is_available()
USUAL_WAYS = ("plain", "plain, reuse", "eager", "norm", "norm, checkpoint", "model", "bf16", "bf16 norm")
if ON_GPU:
    USUAL_WAYS = ("plain", "eager", "kernels", "norm", "fp16", "fp16 kernels")
WAYS = tuple(dict.fromkeys((*USUAL_WAYS, "kernels", "norm, checkpoint", "model")))
COMPILE = {"auto": "kernels", "norm": "norm", "model": "model"}
# The stages with the largest maps: those of the "checkpoint" way.
LARGEST = {"mobilenet": ("layer1", "layer2", "layer3"), "resnet": ("layer1",)}
IDENTITIES, DOMAINS, INSTANCES = 4000, 5, 4


class PlainBatchInstanceNorm(nn.Module):
    """The published layer: both normalizations, then their mixture."""

    def __init__(self, channels: int):
        super().__init__()
        self.bat_n, self.ins_n = BatchNorm(channels), InstanceNorm(channels)
        self.gate = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        gate = self.gate[:, None, None]
        instance = F.instance_norm(x, weight=self.ins_n.weight, bias=self.ins_n.bias, eps=EPS)
        out = self.bat_n(x) * gate + instance * (1 - gate)
        if residual is not None:
            out = out + residual
        return activate(out, activation)


class PlainTrainer(SimpleTrainer):
    """Steps that compute every gradient."""

    def step(self, loss: Tensor, trained: dict[str, Tensor], averaged: bool = False) -> None:
        for optimizer in (self.optimizer_main, self.optimizer_norm):
            optimizer.zero_grad()
        loss.backward()
        (self.optimizer_norm if trained.keys() == self.gates.keys() else self.optimizer_main).step()
        with torch.no_grad():
            for gate in self.gates.values():
                gate.clamp_(0, 1)


def make_config(model: str, way: str, batch: int, size: list[int]) -> CfgNode:
    """Return the config of a published run, for random images on this machine's CPU or GPU."""
    cfg = get_cfg()
    cfg.merge_from_file(ROOT / CONFIGS[model])
    cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", "False", "MODEL.HEADS.NUM_CLASSES", IDENTITIES])
    cfg.MODEL.DEVICE = "cuda" if ON_GPU else "cpu"
    cfg.SOLVER.IMS_PER_BATCH = cfg.META.DATA.MTRAIN_MINI_BATCH = batch
    cfg.SOLVER.ITERS_PER_EPOCH, cfg.META.DATA.NUM_DOMAINS = 1000, DOMAINS
    cfg.SOLVER.CHECK_FINITE = way.startswith("plain")
    cfg.SOLVER.AMP = cfg.SOLVER.AMP_ON_CPU = way.startswith(("bf16", "fp16"))
    cfg.SOLVER.COMPILE = next((c for c, word in COMPILE.items() if word in way), "off")
    cfg.MODEL.BACKBONE.CHECKPOINT = LARGEST[model] if "checkpoint" in way else ()
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
            torch.optim.SGD(
                optimizer_groups(cfg, model, which), lr=0.01, momentum=0.9 * (which == "main"), foreach=False
            )
            for which in ("main", "norm")
        ]
        kind = PlainTrainer
        train_loop.gradients_for = lambda *_: nullcontext()  # every parameter asks for its gradient in every step
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
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - start


def launches(function, device: torch.device) -> int:
    """Return how many kernels a call launches; on the CPU, how many operations would be kernels on a GPU."""
    if device.type != "cuda":
        with LaunchCounter() as counter:
            function()
        return counter.launches.total()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        function()
        torch.cuda.synchronize(device)
    return sum(event.device_type == DeviceType.CUDA for event in trace.events())


def floors(trainer: SimpleTrainer) -> dict[str, float]:
    """Return what an iteration computes and moves at least, and this machine's speeds at both."""
    counts = {"flops": 0, "bytes": 0}
    for step in (trainer.run_step_meta_learning1, trainer.run_step_meta_learning2):
        with Floors(trainer.model) as counted:
            step()
        counts = {"flops": counts["flops"] + counted.flops, "bytes": counts["bytes"] + counted.bytes}
    return {**counts, "flop/s": matmul_speed(trainer.device), "byte/s": copy_speed(trainer.device)}


def measure(model_name: str, way: str, batch: int, size: list[int], iterations: int) -> dict[str, object]:
    """Run one way in this process and return its numbers."""
    if not way.startswith("plain") or way.endswith("reuse"):
        keep_freed_memory()
    cfg = make_config(model_name, way, batch, size)
    trainer = make_trainer(cfg, model_name, way, batch)
    base, meta = trainer.run_step_meta_learning1, trainer.run_step_meta_learning2
    first = seconds(base, trainer.device) + seconds(meta, trainer.device)
    times = [(seconds(base, trainer.device), seconds(meta, trainer.device)) for _ in range(iterations)]
    peak = peak_memory_mb(trainer.device)
    number = sum(launches(step, trainer.device) for step in (base, meta))
    trainer.model.eval()
    images = trainer.to_device(next(trainer.base_batches))
    with torch.inference_mode(), torch.autocast(trainer.device.type, trainer.amp_dtype, enabled=trainer.amp):
        trainer.model(images)
        inference = [seconds(lambda: trainer.model(images), trainer.device) for _ in range(iterations)]
    floor = floors(trainer)  # last, as it moves and computes much
    times = {"base": [b for b, _ in times], "meta": [m for _, m in times], "inference": inference}
    return {**times, "first": first, "peak": peak, "launches": number, "floor": floor}


def profile_way(model_name: str, way: str, batch: int, args: argparse.Namespace) -> str:
    """Return the tables of shares of a base and a meta step, run in this process."""
    if not way.startswith("plain") or way.endswith("reuse"):
        keep_freed_memory()
    trainer = make_trainer(make_config(model_name, way, batch, args.size), model_name, way, batch)
    steps = ("base", trainer.run_step_meta_learning1), ("meta", trainer.run_step_meta_learning2)
    folder = args.profile / f"{model_name}-{batch}-{way.replace(', ', '-')}"
    return f"{model_name}, batch {batch}, {way}; traces in {folder}\n\n{tables(steps, trainer.model, folder)}"


def run(model: str, way: str, batch: int, args: argparse.Namespace) -> dict[str, object] | None:
    """Measure in a process of its own; None where the machine's memory does not suffice."""
    task = json.dumps([model, way, batch, args.size, args.iterations])
    done = subprocess.run([sys.executable, __file__, "--worker", task], capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if any(sign in done.stderr for sign in ("can't allocate memory", "MemoryError", "out of memory")):
        return None
    raise SystemExit(f"{model} {way} {batch}:\n{done.stderr}")


def leave_some_memory(kept_bytes: int = 2**30) -> None:
    """Let an allocation fail rather than make the system choose a process to kill."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    resource.setrlimit(resource.RLIMIT_DATA, (total - kept_bytes, resource.RLIM_INFINITY))


def table(model: str, batch: int, results: dict[str, list[dict]], rounds: int) -> str:
    """Return one model's and batch size's table of medians; ratios are to `plain`."""
    rows: list[list[str]] = []
    plain: tuple[float, float, float] | None = None
    for way, found in results.items():
        if not found:
            rows.append([way, "out of memory"])
            continue

        def middle(name: str) -> float:
            return statistics.median(value for result in found for value in result[name])

        base, meta, speed = middle("base"), middle("meta"), batch / middle("inference")
        first, peak = (statistics.median(result[name] for result in found) for name in ("first", "peak"))
        plain = (base + meta, peak, speed) if way == "plain" else plain
        ratios = ["", "", ""]
        if plain:
            ratios = [f"{plain[0] / (base + meta):.2f} x", f"{peak / plain[1]:.2f}", f"{speed / plain[2]:.2f} x"]
        digits = 3 if ON_GPU else 2
        times = [f"{first:.1f}", *(f"{value:.{digits}f}" for value in (base, meta, base + meta)), ratios[0]]
        rows.append([way, *times, f"{found[0]['launches']:,}", f"{peak:,.0f}", ratios[1], f"{speed:.1f}", ratios[2]])
    headers = ["way", "first s", "base s", "meta s", "both s", "faster", "launches", "peak MB", "memory"]
    headers += ["inference images/s", "faster"]
    device = torch.cuda.get_device_name() if ON_GPU else "CPU"
    title = f"{model}, batch {batch}, {device}, medians of {rounds} round(s)"
    lines = [title, "", tabulate(rows, headers, tablefmt="github", disable_numparse=True)]
    for floor in [result["floor"] for result in results.get("eager", [])][:1]:
        arithmetic, moving = floor["flops"] / floor["flop/s"], floor["bytes"] / floor["byte/s"]
        lines += ["", f"floors of both steps in float32: {arithmetic:.3f} s for {floor['flops'] / 1e9:,.0f} Gflop at "
                  f"{floor['flop/s'] / 1e9:,.0f} Gflop/s; {moving:.3f} s for {floor['bytes'] / 1e9:.1f} GB of maps at "
                  f"{floor['byte/s'] / 1e9:,.1f} GB/s"]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(CONFIGS), choices=CONFIGS)
    parser.add_argument("--batches", nargs="+", type=int, default=[80] if ON_GPU else [16, 40, 80])
    ways = {"default": USUAL_WAYS, "choices": WAYS, "metavar": "WAY", "help": ", ".join(WAYS)}
    parser.add_argument("--ways", "--way", nargs="+", **ways)
    parser.add_argument("--size", nargs=2, type=int, default=[256, 128], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument(
        "--iterations", type=int, default=10 if ON_GPU else 3, help="in each process, after a first one"
    )
    parser.add_argument("--rounds", type=int, default=2, help="processes for each way")
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="write traces, print shares and floors instead")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.profile:
        for model in args.models:
            for batch in args.batches:
                for way in args.ways:
                    print(profile_way(model, way, batch, args), end="\n\n", flush=True)
        return
    if args.worker:
        logging.basicConfig(level=logging.WARNING)
        if not ON_GPU:
            leave_some_memory()
        print(json.dumps(measure(*json.loads(args.worker))))
        return
    ways = list(dict.fromkeys(["plain", *args.ways]))
    for model in args.models:
        for batch in args.batches:
            results: dict[str, list[dict]] = {way: [] for way in ways}
            for _ in range(args.rounds):
                for way in ways:
                    found = run(model, way, batch, args)
                    if found is not None:
                        results[way].append(found)
            print(table(model, batch, results, args.rounds), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
