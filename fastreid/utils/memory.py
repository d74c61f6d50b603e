"""How the memory of large tensors on the CPU is had from the system, and how much of it is used."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys

# Parameters of glibc's mallopt, malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let this process reuse the memory of freed tensors instead of giving it back to the system each time.

    By default glibc maps every large block anew, and the kernel fills it with zeros page by page: for a feature map
    that takes several times as long as to compute it. Returns False, having done nothing, where the C library is
    another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))  # -1: as size_t, never


def peak_memory() -> int:
    """Return the most memory that this process has used so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
