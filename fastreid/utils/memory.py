"""How the memory of large tensors on the CPU is had from the system, and how much of it is used."""

from __future__ import annotations

import ctypes
import platform
import re
import resource
import sys
from pathlib import Path

import torch

# Parameters of glibc's mallopt, malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of freed tensors instead of giving it back to the system each time.

    By default glibc maps every large block again, and the kernel fills it with zeros page by page: for a feature map
    that takes several times as long as to compute it. Returns False, having done nothing, where the C library is
    another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))  # -1: as size_t, never


def peak_memory_mb(device: torch.device | None = None) -> float:
    """Return the most memory used so far, in MB: of a CUDA device, else of this process."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Linux's ru_maxrss begins with what the process held that started this one: the memory map's own peak does not.
    status = Path("/proc/self/status")
    own = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8")) if status.is_file() else None
    if own:
        return int(own[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
