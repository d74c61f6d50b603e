"""Attention inside a residual network, over channels and over positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastreid.layers.normalization import BatchNorm

REDUCTION = 16


class SqueezeExcitation(nn.Module):
    """x -> x * s, where a small network computes s in (0, 1), one for each image and channel, from the map's means.

    Hu et al., "Squeeze-and-Excitation Networks" (CVPR 2018, arXiv 1709.01507).
    """

    def __init__(self, channels: int, reduction: int = REDUCTION):
        super().__init__()
        hidden = max(1, channels // reduction)
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[..., None, None]


class NonLocal(nn.Module):
    """x + W(y), where y at a position is the mean of g(x) over all positions, weighted by their similarity to it.

    The embedded Gaussian form: weights are a softmax of theta(x_i) . phi(x_j) over the positions j; theta, phi and g
    have half the channels. No subsampling. The batch normalization at the end of W, plain whatever the backbone's type,
    starts at zero, so that the block does nothing at first. Memory grows with the square of the number of positions.

    Wang et al., "Non-local Neural Networks" (CVPR 2018, arXiv 1711.07971).
    """

    def __init__(self, channels: int):
        super().__init__()
        hidden = channels // 2
        self.theta = nn.Conv2d(channels, hidden, 1, bias=False)
        self.phi = nn.Conv2d(channels, hidden, 1, bias=False)
        self.g = nn.Conv2d(channels, hidden, 1, bias=False)
        self.W = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), BatchNorm(channels))
        for conv in (self.theta, self.phi):
            nn.init.normal_(conv.weight, std=0.01)  # larger ones would make the softmax choose single positions
        for conv in (self.g, self.W[0]):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out")
        nn.init.zeros_(self.W[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = (conv(x).flatten(2).transpose(1, 2) for conv in (self.theta, self.phi, self.g))
        similarity = torch.softmax(queries @ keys.transpose(1, 2), dim=2)
        mean = (similarity @ values).transpose(1, 2).unflatten(2, x.shape[2:])
        return self.W[1](self.W[0](mean), residual=x)
