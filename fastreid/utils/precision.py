"""When and in which type training and testing compute in half precision (`SOLVER.AMP`)."""

from __future__ import annotations

from typing import Any

import torch


def uses_amp(cfg, device: torch.device) -> bool:
    """Tell whether half precision is used: if it is asked for, but not where a CUDA config runs on the CPU.

    Such a config was not written for the CPU, where half precision is slow on older machines.
    """
    return cfg.SOLVER.AMP and not (device.type == "cpu" and cfg.MODEL.DEVICE.startswith("cuda"))


def amp_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on the CPU, float16 elsewhere, which needs a gradient scaler."""
    return torch.bfloat16 if device.type == "cpu" else torch.float16


class CountingScaler(torch.amp.GradScaler):
    """A gradient scaler that counts in `skipped` the updates it left out, as their gradients were not finite."""

    skipped = 0

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        before = self.get_scale()
        super().update(new_scale)
        self.skipped += self.get_scale() < before

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | ({"skipped": self.skipped} if self.is_enabled() else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.skipped = state.get("skipped", 0)
