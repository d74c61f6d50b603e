"""Switchable normalization: instance, layer and batch statistics, mixed in shares that are learned.

Luo et al., "Differentiable Learning-to-Normalize via Switchable Normalization" (ICLR 2019, arXiv 1806.10779).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid.layers.normalization import BatchNorm, batch_coefficients, pool_moments
from fastreid.layers.normalize import EAGER, normalize


class SwitchableNorm(BatchNorm):
    """w * (x - m) / sqrt(v + eps) + b, with m and v sums of the IN, LN and BN ones, in softmax shares of their own ("SN").

    The shares, of the means and of the variances, are those of a layer. LN's and BN's moments follow from IN's. In a test
    the BN ones are the running ones.
    """

    kernels = EAGER

    def __init__(self, num_features: int):
        super().__init__(num_features)
        self.mean_weight = nn.Parameter(torch.ones(3))  # IN, LN, BN
        self.var_weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        self._check_input_dim(x)
        batch_moments = self.moments_source(x.shape[2] * x.shape[3])

        def coefficients(inst_mean, inst_var, weight, bias, mean_weight, var_weight, track):
            layer_mean, layer_var = pool_moments(inst_mean.T, inst_var.T)
            mean, var = batch_moments(inst_mean, inst_var, track)
            mixed_mean = mixture(mean_weight, inst_mean, layer_mean[:, None], mean)
            mixed_var = mixture(var_weight, inst_var, layer_var[:, None], var)
            return batch_coefficients(inst_mean, mixed_mean, mixed_var, weight, bias, self.eps)

        parameters = self.weight, self.bias, self.mean_weight, self.var_weight
        return normalize(x, coefficients, parameters, activation, residual, self.kernels)


def mixture(weights: Tensor, *moments: Tensor) -> Tensor:
    """Return the sum of the moments in the softmax shares of their weights."""
    return sum(share * values for share, values in zip(weights.softmax(0), moments))
