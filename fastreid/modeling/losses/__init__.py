"""Loss functions: plain functions of tensors."""

from .circle_loss import circle_loss
from .cross_entropy_loss import cross_entropy_loss
from .domain_losses import mmd_loss, scatter_loss, std_loss
from .dual_causality_loss import dual_causality_loss
from .triplet_loss import triplet_loss

__all__ = [
    "circle_loss",
    "cross_entropy_loss",
    "dual_causality_loss",
    "mmd_loss",
    "scatter_loss",
    "std_loss",
    "triplet_loss",
]
