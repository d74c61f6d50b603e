"""Where the time of a training step goes, as shares, beside what the machine would need at least.

Used by `train.py --profile`. The floors: floating-point operations over the speed of a large matrix product measured
here, and the bytes of feature maps that convolutions and normalizations must read and write, even if each were one
pass, over the speed of copying measured here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from tabulate import tabulate
from torch import nn
from torch.profiler import ProfilerActivity, profile

# Parts of names of operations, in the order they are tried.
GROUPS = {
    "convolutions": ("conv", "mkldnn", "cudnn"),
    "optimizer": ("Optimizer", "sgd", "_foreach", "lerp", "zero_grad"),
    "losses, head": (
        "aten::mm",
        "addmm",
        "softmax",
        "nll",
        "cdist",
        "native_batch_norm",
        "avg_pool",
        "matmul",
        "where",
    ),
    "normalization, activation, shortcut": (
        "Normalize",
        "triton",
        "graph_",
        "inductor",
        "Compiled",
        "hardtanh",
        "clamp",
        "sub",
        "mul",
        "add",
        "sum",
        "mean",
        "rsqrt",
    ),
    "copies, casts, memory": ("copy", "empty", "to_copy", "fill", "zero", "cat", "clone", "resize"),
}


def profile_step(name: str, step: Callable[[], object], model: nn.Module, folder: Path) -> str:
    """Run `step` three times, write its trace into `folder`, and return a table of shares and floors."""
    step()
    start = time.perf_counter()
    step()
    seconds = time.perf_counter() - start
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if cuda else [ProfilerActivity.CPU]
    with Floors(model) as floors:
        step()
    with profile(activities=activities) as trace:
        step()
    folder.mkdir(parents=True, exist_ok=True)
    trace.export_chrome_trace(str(folder / f"{name}.json"))
    shares = {group: 0.0 for group in (*GROUPS, "other")}
    for event in trace.key_averages():
        group = next((g for g, parts in GROUPS.items() if any(part in event.key for part in parts)), "other")
        shares[group] += event.self_device_time_total if cuda else event.self_cpu_time_total
    total = sum(shares.values())
    device = next(model.parameters()).device
    rows = [
        [group, f"{100 * value / total:.1f} %", f"{seconds * value / total:.2f} s"] for group, value in shares.items()
    ]
    rows.append(["whole step", "", f"{seconds:.2f} s"])
    speed, copying = matmul_speed(device), copy_speed(device)
    rows.append(
        [f"floor, {floors.flops / 1e9:.0f} Gflop at {speed / 1e9:.0f} Gflop/s", "", f"{floors.flops / speed:.2f} s"]
    )
    rows.append(
        [
            f"floor, {floors.bytes / 1e9:.1f} GB of maps at {copying / 1e9:.1f} GB/s",
            "",
            f"{floors.bytes / copying:.2f} s",
        ]
    )
    return f"{name} step\n{tabulate(rows, ['part', 'share', 'time'], tablefmt='github', disable_numparse=True)}"


class Floors:
    """Count the operations of convolutions, and the bytes of maps that they and normalizations move at least.

    Operations: forward, for the input's gradient, and for the weight's where it is trained. (PyTorch's counter takes
    the weight gradient of a depthwise convolution for that of a dense one.) Bytes: a convolution reads its input and
    writes its output; backward it reads the gradient, and the input where its weight is trained, and writes a gradient.
    A normalization with its activation reads its input twice and writes the output; backward it reads input, output
    and gradient twice, for the sums and then for the result, and writes that.
    """

    def __init__(self, model: nn.Module):
        self.model, self.flops, self.bytes, self.handles = model, 0, 0, []

    def __enter__(self) -> Floors:
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d) or hasattr(module, "gate"):
                self.handles.append(module.register_forward_hook(self.count))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def count(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if not isinstance(module, nn.Conv2d):
            self.bytes += 10 * output.nbytes
            return
        learns = module.weight.requires_grad
        self.flops += 2 * output.numel() * module.weight[0].numel() * (3 if learns else 2)
        self.bytes += inputs[0].nbytes * (3 if learns else 2) + output.nbytes * 2


def best_seconds(function: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Return the least time of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_speed(device: torch.device, n: int = 2048) -> float:
    """Return floating-point operations a second of a large float32 matrix product."""
    a, b = torch.rand(n, n, device=device), torch.rand(n, n, device=device)
    return 2 * n**3 / best_seconds(lambda: a @ b, device)


def copy_speed(device: torch.device, megabytes: int = 256) -> float:
    """Return the bytes a second that copying a large tensor reads and writes."""
    source = torch.rand(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_seconds(lambda: target.copy_(source), device)


def tables(steps: Iterable[tuple[str, Callable[[], object]]], model: nn.Module, folder: Path) -> str:
    """Return the tables of several steps, one under the other."""
    return "\n\n".join(profile_step(name, step, model, folder) for name, step in steps)
