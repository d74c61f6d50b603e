#!/usr/bin/env python3
"""Compile the Triton kernels of normalization for NVIDIA GPUs, of which none need be there, and show what they take.

    python tools/benchmark/kernel_resources.py                  # registers, spilled bytes and shared memory of each
    python tools/benchmark/kernel_resources.py --json --layouts channels_last --types float16

A kernel that spills keeps values in memory that should be in registers. Each is compiled for what a forward and a
backward pass of a layer would launch it with.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "0"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import triton
from tabulate import tabulate
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from fastreid.layers import norm_factory
from fastreid.layers.kernels import TRITON

TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.int64: "i64",
}
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
HEADER = ("kernel", "maps", "sm", "registers", "spilled bytes", "shared bytes")


def launches(dtype: torch.dtype, layout: torch.memory_format) -> list[tuple[JITFunction, dict[str, object]]]:
    """Return the kernels that a layer would launch, forward and backward, with their arguments by name."""
    seen = []

    def record(self, *values, grid, warmup, **options):
        seen.append((self, inspect.signature(self.fn).bind(*values, **options).arguments))

    run, JITFunction.run = JITFunction.run, record
    try:
        layer = norm_factory("BIN_gate2", "half")(192).to(torch.float64 if dtype == torch.float64 else torch.float32)
        layer.kernels = TRITON
        x, residual = (torch.zeros(4, 192, 32, 16, dtype=dtype).contiguous(memory_format=layout) for _ in range(2))
        layer(x.requires_grad_(), "relu6", residual).sum().backward()
    finally:
        JITFunction.run = run
    return seen


def source(kernel: JITFunction, values: dict[str, object]) -> ASTSource:
    """Return a kernel as Triton would specialize it for these arguments."""
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value, specialized = values[parameter.name], not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (specialized and isinstance(value, int) and value == 1):
            signature[parameter.name], constants[(i,)] = "constexpr", value
            continue
        is_tensor = isinstance(value, torch.Tensor)
        signature[parameter.name] = f"*{TYPES[value.dtype]}" if is_tensor else "i32"
        if is_tensor or (specialized and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(kernel, signature, constants, attributes)


def resources(kernel: JITFunction, values: dict[str, object], capability: int) -> tuple[int, int, int]:
    """Return registers of a thread, spilled bytes and shared bytes of a kernel's machine code."""
    compiled = triton.compile(source(kernel, values), target=GPUTarget("cuda", capability, 32))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", told)
    registers, stack, local = map(int, found.groups())
    return registers, stack + local, compiled.metadata.shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--types", nargs="+", default=["float32", "float16", "bfloat16", "float64"])
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS)
    parser.add_argument("--capabilities", nargs="+", type=int, default=[80, 90])
    parser.add_argument("--json", action="store_true", help="instead of a table")
    args = parser.parse_args()
    rows = []
    for dtype in args.types:
        for layout in args.layouts:
            for kernel, values in launches(getattr(torch, dtype), LAYOUTS[layout]):
                for capability in args.capabilities:
                    name = kernel.fn.__name__.removesuffix("_kernel")
                    rows.append([name, f"{dtype} {layout}", capability, *resources(kernel, values, capability)])
    if args.json:
        print(json.dumps([dict(zip(HEADER, row)) for row in rows]))
    else:
        print(tabulate(rows, HEADER, tablefmt="github"))


if __name__ == "__main__":
    main()
