"""When and in which type training computes in half precision (`SOLVER.AMP`); tests are in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def uses_amp(cfg, device: torch.device) -> bool:
    """Tell whether half precision is used: if `SOLVER.AMP` asks for it, and on the CPU `SOLVER.AMP_ON_CPU` too.

    Configs are written for GPUs; on the CPU half precision is slow on older machines.
    """
    return cfg.SOLVER.AMP and (device.type != "cpu" or cfg.SOLVER.AMP_ON_CPU)


def amp_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 on the CPU, float16 elsewhere, which needs a gradient scaler."""
    return torch.bfloat16 if device.type == "cpu" else torch.float16


class CountingScaler(torch.amp.GradScaler):
    """A gradient scaler that counts in `skipped` the updates it left out, as their gradients were not finite.

    The count stays on the device until it is asked for.
    """

    def __init__(self, device: str, **options: Any):
        super().__init__(device, **options)
        self._one = torch.ones((), device=device)
        self._skipped: int | Tensor = 0

    @property
    def skipped(self) -> int:
        return int(self._skipped)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        if not self.is_enabled():
            return
        # One, scaled, is the scale; `get_scale` would make the host wait for the device.
        before = self.scale(self._one)
        super().update(new_scale)
        self._skipped = self._skipped + (self.scale(self._one) < before).int()

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | ({"skipped": self.skipped} if self.is_enabled() else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._skipped = state.get("skipped", 0)
