"""Normalization with coefficients of any kind, by autograd: for layers that mix more than BN and IN (normalize.py)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fastreid.layers.passes import centre, multiply_add, statistics_input


def by_moments(x: Tensor, coefficients: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Return scale * (x - mean) + shift of maps (N, C, H, W), in their type.

    Args:
        coefficients: of the images' moments, mean and biased variance (N, C): scale and shift, (N, C).
    """
    mean = statistics_input(x).mean((2, 3))
    centred = centre(x, mean)
    scale, shift = coefficients(mean, centred.square().mean((2, 3)))
    return multiply_add(centred, scale, shift, None).to(x.dtype)
