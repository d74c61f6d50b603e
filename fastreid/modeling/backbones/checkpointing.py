"""Activation checkpointing of a backbone's stages: their maps are computed again in the backward pass, not kept.

Chen et al., "Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from fastreid.layers import BatchNorm, running_stats
from fastreid.utils.errors import UserError


def check_stages(names: Iterable[str], stages: Iterable[str]) -> frozenset[str]:
    """Return the stages named by `MODEL.BACKBONE.CHECKPOINT`.

    Raises:
        UserError: the backbone has no stage of that name.
    """
    names, stages = frozenset(names), list(stages)
    unknown = sorted(names.difference(stages))
    if unknown:
        raise UserError(f"MODEL.BACKBONE.CHECKPOINT must name stages out of {', '.join(stages)}; found {unknown[0]!r}")
    return names


def run_stage(stage: nn.Module, x: Tensor, checkpointed: bool) -> Tensor:
    """Return stage(x), keeping only x for the backward pass if `checkpointed`."""
    if not (checkpointed and stage.training and torch.is_grad_enabled()):
        return stage(x)
    # The backward pass comes when a training step's choices, substituted gates and a statistics mode, are over.
    parameters = dict(stage.named_parameters())
    mode = next((m.stats_mode for m in stage.modules() if isinstance(m, BatchNorm)), "hold")

    def forward(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(stage, dict(zip(parameters, values)), (x,))

    # Statistics move only once, in the forward pass.
    again = StatsMode(stage, "hold" if mode == "general" else mode)
    return checkpoint(forward, x, *parameters.values(), use_reentrant=False, context_fn=lambda: (nullcontext(), again))


class StatsMode(AbstractContextManager):
    """`running_stats(stage, mode)` that can be entered again and again.

    A graph may be gone through backwards more than once: by the inner update, and by the meta step itself if it
    combines both losses or is of second order. PyTorch enters one context for all of these.
    """

    def __init__(self, stage: nn.Module, mode: str):
        self.stage, self.mode = stage, mode
        self.entered: list[AbstractContextManager] = []

    def __enter__(self) -> None:
        self.entered.append(running_stats(self.stage, self.mode))
        self.entered[-1].__enter__()

    def __exit__(self, *error) -> bool | None:
        return self.entered.pop().__exit__(*error)
