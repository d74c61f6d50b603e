"""Global pooling layers, (N, C, H, W) -> (N, C, 1, 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.utils.errors import UserError


class GeneralizedMeanPool(nn.Module):
    """(mean over the map of max(x, eps)^p)^(1/p); p = 1 is the average, a large p tends to the maximum.

    Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation" (TPAMI 2019). `learned` makes p a
    parameter ("gempoolP"); otherwise it is a constant, which checkpoints do not hold.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6, learned: bool = False):
        super().__init__()
        self.eps = eps
        self.p = nn.Parameter(torch.tensor([p])) if learned else p

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x.clamp(min=self.eps).pow(self.p), 1).pow(1.0 / self.p)


class AverageMaxPool(nn.Module):
    """Sum of the average and the maximum."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1)


class ClippedAveragePool(nn.Module):
    """Average over the positions whose value is above zero."""

    def forward(self, x: Tensor) -> Tensor:
        positive = x.clamp(min=0)
        return positive.sum((2, 3), keepdim=True) / (positive > 0).sum((2, 3), keepdim=True).clamp(min=1)


class FastAveragePool(nn.Module):
    """Average as one mean over the map, which needs no pooling kernel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


POOL_LAYERS = {
    "avgpool": lambda: nn.AdaptiveAvgPool2d(1),
    "maxpool": lambda: nn.AdaptiveMaxPool2d(1),
    "gempool": lambda: GeneralizedMeanPool(),
    "gempoolP": lambda: GeneralizedMeanPool(learned=True),
    "avgmaxpool": AverageMaxPool,
    "clipavgpool": ClippedAveragePool,
    "fastavgpool": FastAveragePool,
    "identity": nn.Identity,
}


def build_pool_layer(name: str) -> nn.Module:
    """Return the layer that `MODEL.HEADS.POOL_LAYER` names.

    Raises:
        UserError: an unknown name; the message lists the known ones.
    """
    if name not in POOL_LAYERS:
        raise UserError(f"MODEL.HEADS.POOL_LAYER must be one of {', '.join(POOL_LAYERS)}; found {name!r}")
    return POOL_LAYERS[name]()
