"""The passes of normalization over whole maps.

Shapes: x, y, residual, grad (N, C, H, W); mean, var, scale, shift (N, C), in float32 where x is in half precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.layers.coefficients import coefficients, gradients

RELU, RELU6 = "relu", "relu6"
HALF_PRECISION = (torch.float16, torch.bfloat16)
UPPER_BOUND = {RELU: math.inf, RELU6: 6.0}


def activate(x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
    """Return activation(x + residual)."""
    if residual is not None:
        x = x + residual
    if activation is None:
        return x
    return F.relu(x) if activation == RELU else F.relu6(x)


def statistics_input(x: Tensor) -> Tensor:
    """Return x in float32 where it is in half precision: sums over a map overflow or round there."""
    return x.float() if x.dtype in HALF_PRECISION else x


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the order of the elements of x in memory."""
    ambiguous = x.is_contiguous()  # as 1x1 maps are
    channels_last = not ambiguous and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def per_map(values: Tensor) -> Tensor:
    """Return (N, C) values shaped to meet (N, C, H, W)."""
    return values[..., None, None]


def centre(x: Tensor, mean: Tensor | None) -> Tensor:
    """Return x - mean, or x where its mean has been taken off."""
    return x if mean is None else statistics_input(x) - per_map(mean)


def multiply_add(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor | None) -> Tensor:
    """Return scale * x + shift, in `out` if that is of the right type."""
    return torch.addcmul(
        per_map(shift), x, per_map(scale), out=out if out is not None and out.dtype == x.dtype else None
    )


# The passes over whole maps. Each is one kernel when torch.compile has compiled it. Without a mean, x is centred
# already.


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each image and channel, in two passes."""
    if x.device.type != "cpu":  # where torch.var_mean is not vectorized, and would take most of a network's time
        return torch.var_mean(statistics_input(x), (2, 3), correction=0)[::-1]
    mean = statistics_input(x).mean((2, 3))
    return mean, centre(x, mean).square_().mean((2, 3))


def output(
    x: Tensor,
    mean: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    residual: Tensor | None,
    activation: str | None,
    out: Tensor | None = None,
) -> Tensor:
    """Return y."""
    y = multiply_add(centre(x, mean), scale, shift, out)
    if residual is not None:
        y.add_(residual)
    if activation is not None:
        y.clamp_(0, UPPER_BOUND[activation])
    return y.to(x.dtype)


def activation_gradient(grad: Tensor, y: Tensor | None, activation: str | None) -> Tensor:
    """Return the gradient for what went into the activation: zero where its output is at a bound."""
    if activation is None:
        return grad
    return torch.ops.aten.hardtanh_backward(grad, y, 0.0, UPPER_BOUND[activation])


def coefficient_gradients(
    grad: Tensor, x: Tensor, mean: Tensor | None, y: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients for scale and shift, (N, C), from that for y."""
    grad = statistics_input(activation_gradient(grad, y, activation))
    products = x * grad if mean is None else centre(x, mean).mul_(grad)
    return products.sum((2, 3)), grad.sum((2, 3))


def input_gradient(
    grad: Tensor,
    x: Tensor,
    mean: Tensor | None,
    scale: Tensor,
    slope: Tensor,
    offset: Tensor,
    y: Tensor | None,
    activation: str | None,
    out: Tensor | None = None,
) -> Tensor:
    """Return scale * grad + slope * (x - mean) + offset, the gradient for x, where `grad` is that for y."""
    grad = statistics_input(activation_gradient(grad, y, activation))
    return multiply_add(centre(x, mean), slope, offset, out).addcmul_(grad, per_map(scale)).to(x.dtype)


PASSES = (moments, output, coefficient_gradients, input_gradient)
PART_BYTES = 2**22


def in_parts(function: Callable, gives_map: bool) -> Callable:
    """Make a pass go through the images of a large map on the CPU a few at a time.

    What it computes in between then stays in the processor's cache, and takes no memory of the map's size.
    """

    def wrapped(x: Tensor, *others):
        images = max(1, PART_BYTES * len(x) // max(1, x.numel() * x.element_size()))
        if x.device.type != "cpu" or images >= len(x):
            return function(x, *others)
        arguments = (x, *others)
        parts = [slice(start, start + images) for start in range(0, len(x), images)]
        if not gives_map:
            found = [function(*of_images(arguments, part)) for part in parts]
            return tuple(torch.cat(values) for values in zip(*found))
        result = torch.empty_like(x)
        for part in parts:
            out = result[part]
            value = function(*of_images(arguments, part), out)
            if value is not out:  # computed in another type
                out.copy_(value)
        return result

    return wrapped


def shares(kernels: Kernels, x: Tensor) -> bool:
    """Tell whether the backward passes share what they need of a map: eagerly on a GPU, to save launches.

    On the CPU it is faster to compute it again in the cache.
    """
    return kernels is EAGER and x.device.type != "cpu" and x.dtype not in HALF_PRECISION


def of_images(arguments: tuple, part: slice) -> list:
    """Return the arguments with the tensors cut to some of the images."""
    return [argument[part] if isinstance(argument, Tensor) else argument for argument in arguments]


class Kernels(NamedTuple):
    """The passes over the maps, and what is computed per image and channel between them, as they are run."""

    moments: Callable
    coefficients: Callable
    output: Callable
    coefficient_gradients: Callable
    gradients: Callable
    input_gradient: Callable


def with_passes(
    moments: Callable, output: Callable, coefficient_gradients: Callable, input_gradient: Callable
) -> Kernels:
    """Return what runs these passes, with the rest as it is."""
    return Kernels(moments, coefficients, output, coefficient_gradients, gradients, input_gradient)


EAGER = with_passes(*(in_parts(function, gives_map=function in (output, input_gradient)) for function in PASSES))
