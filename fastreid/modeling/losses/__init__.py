"""Losses, one file each: a plain function of tensors, and what builds it from a config."""

from .build import LOGITS, LOSS_REGISTRY, Loss
from .circle_loss import circle_loss
from .cross_entropy_loss import cross_entropy_loss
from .domain_losses import mmd_loss, scatter_loss, std_loss
from .dual_causality_loss import dual_causality_loss
from .triplet_loss import triplet_loss

__all__ = [
    "LOGITS",
    "LOSS_REGISTRY",
    "Loss",
    "circle_loss",
    "cross_entropy_loss",
    "dual_causality_loss",
    "mmd_loss",
    "scatter_loss",
    "std_loss",
    "triplet_loss",
]
