"""When and in which type training and testing compute in half precision (`SOLVER.AMP`)."""

from __future__ import annotations

import torch


def uses_amp(cfg, device: torch.device) -> bool:
    """Tell whether half precision is used: if it is asked for, but not where a CUDA config runs on the CPU.

    Such a config was not written for the CPU, where half precision is slow on older machines.
    """
    return cfg.SOLVER.AMP and not (device.type == "cpu" and cfg.MODEL.DEVICE.startswith("cuda"))


def amp_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on the CPU, float16 elsewhere, which needs a gradient scaler."""
    return torch.bfloat16 if device.type == "cpu" else torch.float16
