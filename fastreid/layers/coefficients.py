"""The coefficients of a normalization: scale and shift of each image and channel, and their gradients, written out.

Every layer here is a mixture of batch and instance normalization with a gate g for each channel. With the images'
moments m, v (N, C), the batch's M, V (C,), r = 1 / sqrt(v + eps) and R = 1 / sqrt(V + eps), it maps x to
scale * (x - m) + shift, where

    scale = g * wb * R + (1 - g) * wi * r
    shift = g * (bb + (m - M) * wb * R) + (1 - g) * bi

of the batch's weight and bias wb, bb and the instances' wi, bi. Batch normalization alone has gates 1, instance
normalization alone gates 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastreid.layers.moments import Source, Statistics, find_statistics
from fastreid.utils.comm import all_sum

EPS = 1e-5  # what normalization layers add to variances


class Mixture(NamedTuple):
    """A layer's parameters, (C,) each."""

    batch_weight: Tensor
    batch_bias: Tensor
    weight: Tensor
    bias: Tensor
    gate: Tensor


class Kept(NamedTuple):
    """What the gradients need, with r and R as above: r, wi * r and m - M, (N, C); R, wb * R and V + eps, (C,)."""

    inst_rsqrt: Tensor
    inst_scale: Tensor
    distance: Tensor
    batch_rsqrt: Tensor
    batch_scale: Tensor
    batch_var: Tensor


def coefficients(
    mean: Tensor, var: Tensor, pixels: int, source: Source | None, mixture: Mixture, eps: float
) -> tuple[Tensor, Tensor, Statistics, Kept]:
    """Return scale and shift (N, C) from the images' moments, the batch's statistics, and what the gradients need."""
    statistics = find_statistics(mean, var, pixels, source)
    batch_var = statistics.var + eps
    inst_rsqrt, batch_rsqrt = torch.rsqrt(var + eps), torch.rsqrt(batch_var)
    inst_scale, batch_scale = mixture.weight * inst_rsqrt, mixture.batch_weight * batch_rsqrt
    distance = mean - statistics.mean
    scale = torch.lerp(inst_scale, batch_scale, mixture.gate)
    shift = torch.lerp(mixture.bias, torch.addcmul(mixture.batch_bias, distance, batch_scale), mixture.gate)
    return scale, shift, statistics, Kept(inst_rsqrt, inst_scale, distance, batch_rsqrt, batch_scale, batch_var)


def gradients(
    for_scale: Tensor,
    for_shift: Tensor,
    pixels: int,
    statistics: Statistics,
    mixture: Mixture,
    kept: tuple[Tensor, ...],
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Return slope and offset, (N, C), and the gradients for a mixture, from those for scale and shift, (N, C).

    The gradient for x is scale * grad + slope * (x - m) + offset, where grad is that for what x became. With P pixels,
    N images, s and t the gradients for scale and shift, and sums over the images S = sum(s + t * (m - M)), T = sum(t),

        slope = -((1 - g) * wi * r³ * s + g * wb * R³ * S / N) / P
        offset = -((1 - g) * wi * r * t + g * wb * R * (T + R² * S * (m - M)) / N) / P

    Args:
        needed: for which tensors of the mixture there is to be a gradient; there is None for the others.
    """
    kept = Kept(*kept)
    gate, rest, instance = mixture.gate, 1 - mixture.gate, for_scale * kept.inst_rsqrt
    through_batch = torch.addcmul(for_scale, for_shift, kept.distance)
    sums = torch.stack([through_batch, for_shift, instance]).sum(1)
    own = rest * kept.inst_scale
    if statistics.images is None:
        of_batch = torch.zeros_like(sums)
    else:
        of_all = all_sum(sums) if statistics.synchronized else sums
        of_batch = of_all * (gate * kept.batch_scale).div_(-pixels * statistics.images)
        of_batch[0].div_(kept.batch_var)
    slope = torch.addcmul(of_batch[0], own, instance * kept.inst_rsqrt, value=-1 / pixels)
    offset = torch.addcmul(of_batch[1], of_batch[0], kept.distance).addcmul_(own, for_shift, value=-1 / pixels)

    batch, bias, instance = sums
    found: list[Tensor | None] = [None] * len(mixture)
    if any(needed[:4]):
        found[:4] = torch._foreach_mul([batch * kept.batch_rsqrt, bias, instance, bias], [gate, gate, rest, rest])
    if needed[4]:
        found[4] = torch.addcmul(batch * kept.batch_scale, instance, mixture.weight, value=-1)
        found[4].addcmul_(bias, mixture.batch_bias - mixture.bias)
    return slope, offset, [gradient if wanted else None for gradient, wanted in zip(found, needed)]
