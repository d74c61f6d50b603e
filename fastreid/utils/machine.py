"""This machine: its processor cores, and this process's place among the run's processes on it."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

import torch


def num_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_rank() -> int:
    """Return this process's number among those of the run on this machine, from 0: the GPU that is its own."""
    return int(os.environ.get("LOCAL_RANK", 0))


def num_local_processes() -> int:
    """Return the number of processes of the run on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def machine_name(device: str) -> str:
    """Return the GPU's name if the device is one and there is CUDA, else the processor's, with the number of cores."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return f"{found[1] if found else platform.processor() or platform.machine()}, {num_cores()} cores"
