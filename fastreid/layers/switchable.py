"""Switchable normalization: instance, layer and batch statistics, mixed in shares that are learned.

Luo et al., "Differentiable Learning-to-Normalize via Switchable Normalization" (ICLR 2019, arXiv 1806.10779).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid.layers.by_moments import by_moments
from fastreid.layers.moments import find_statistics
from fastreid.layers.normalization import BatchNorm
from fastreid.layers.passes import activate


class SwitchableNorm(BatchNorm):
    """w * (x - m) / sqrt(v + eps) + b, with m and v sums of the IN, LN and BN ones in softmax shares of their own (SN).

    The shares, of the means and of the variances, are those of a layer. LN's and BN's moments follow from IN's. In a
    test the BN ones are the running ones.
    """

    def __init__(self, num_features: int):
        super().__init__(num_features)
        self.mean_weight = nn.Parameter(torch.ones(3))  # IN, LN, BN
        self.var_weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        self._check_input_dim(x)

        def coefficients(inst_mean: Tensor, inst_var: Tensor) -> tuple[Tensor, Tensor]:
            # Over channels what BN's are over images; not `pool`, whose variance not every exporter of PyTorch knows
            # here.
            layer_mean = inst_mean.mean(1, keepdim=True)
            layer_var = inst_var.mean(1, keepdim=True) + (inst_mean - layer_mean).square().mean(1, keepdim=True)
            batch = find_statistics(inst_mean, inst_var, x.shape[2] * x.shape[3], self.source())
            mean = mixture(self.mean_weight, inst_mean, layer_mean, batch.mean)
            var = mixture(self.var_weight, inst_var, layer_var, batch.var)
            scale = self.weight * torch.rsqrt(var + self.eps)
            return scale, self.bias + (inst_mean - mean) * scale

        return activate(by_moments(x, coefficients), activation, residual)


def mixture(weights: Tensor, *moments: Tensor) -> Tensor:
    """Return the sum of the moments in the softmax shares of their weights."""
    return sum(share * values for share, values in zip(weights.softmax(0), moments))
