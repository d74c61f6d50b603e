"""Normalization by each image's own moments, with what follows it, as one operation.

Whatever mixture of batch and instance normalization a layer computes, for a pixel it is one multiply-add,

    y = activation(scale[n, c] * (x - mean[n, c]) + shift[n, c] + residual)

with the mean of image n in channel c, and coefficients that depend on no pixel: the batch's moments follow from the
images' (law of total variance), and gates and affine parameters are per channel. The backward pass keeps x, and y where
there is an activation, which the convolution that reads it keeps anyway. Subtracting the mean first, here and in the
variance, cancels nothing where means are large.

Shapes: x, y, residual (N, C, H, W); mean, variance, scale, shift (N, C), in float32 where x is in half precision.
"""

from __future__ import annotations

import math
from typing import Callable, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

RELU, RELU6 = "relu", "relu6"
UPPER_BOUND = {RELU: math.inf, RELU6: 6.0}


class Coefficients(Protocol):
    """What a layer computes from its images' moments: mean, var, parameters -> scale, shift, all (N, C).

    `track` is True for one call of each forward pass, the one that may move running statistics.
    """

    def __call__(self, mean: Tensor, var: Tensor, *parameters: Tensor, track: bool) -> tuple[Tensor, Tensor]: ...


def activate(x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
    """Return activation(x + residual)."""
    if residual is not None:
        x = x + residual
    if activation is None:
        return x
    return F.relu(x) if activation == RELU else F.relu6(x)


def statistics_input(x: Tensor) -> Tensor:
    """Return x in float32 where it is in half precision: sums over a map overflow or round there."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def memory_format(x: Tensor) -> torch.memory_format:
    """Return the order of the elements of x in memory."""
    ambiguous = x.is_contiguous()  # as 1x1 maps are
    channels_last = not ambiguous and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def per_map(values: Tensor) -> Tensor:
    """Return (N, C) values shaped to meet (N, C, H, W)."""
    return values[..., None, None]


def centre(x: Tensor, mean: Tensor) -> Tensor:
    """Return x - mean."""
    return statistics_input(x) - per_map(mean)


def multiply_add(x: Tensor, scale: Tensor, shift: Tensor, out: Tensor | None) -> Tensor:
    """Return scale * x + shift, in `out` if that is of the right type."""
    return torch.addcmul(per_map(shift), x, per_map(scale), out=out if out is not None and out.dtype == x.dtype else None)


# The passes over whole maps. Each is one kernel when torch.compile has compiled it.


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each image and channel, in two passes."""
    mean = statistics_input(x).mean((2, 3))
    # Not torch.var: it is not vectorized on the CPU, where it would take most of a network's time.
    return mean, centre(x, mean).square_().mean((2, 3))


def output(
    x: Tensor,
    mean: Tensor,
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
    grad: Tensor, x: Tensor, mean: Tensor, y: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients for scale and shift, (N, C), from that for y."""
    grad = statistics_input(activation_gradient(grad, y, activation))
    return centre(x, mean).mul_(grad).sum((2, 3)), grad.sum((2, 3))


def input_gradient(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
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


def of_images(arguments: tuple, part: slice) -> list:
    """Return the arguments with the tensors cut to some of the images."""
    return [argument[part] if isinstance(argument, Tensor) else argument for argument in arguments]


class Kernels(NamedTuple):
    """The passes as they are run."""

    moments: Callable
    output: Callable
    coefficient_gradients: Callable
    input_gradient: Callable


EAGER = Kernels(*(in_parts(function, gives_map=function in (output, input_gradient)) for function in PASSES))


def normalize(
    x: Tensor,
    coefficients: Coefficients,
    parameters: tuple[Tensor, ...],
    activation: str | None = None,
    residual: Tensor | None = None,
    kernels: Kernels = EAGER,
) -> Tensor:
    """Return activation(scale * (x - mean) + shift + residual), in the type and memory format of x.

    Args:
        coefficients: gives scale and shift from the moments of x and the `parameters`, whose gradients it thereby
            defines; called again where a second derivative is needed, so it must not change with time.
    """
    if torch.compiler.is_compiling():  # whole-model compilation and export fuse and differentiate this themselves
        return composed(x, coefficients, parameters, activation, residual, track=True)
    if not torch.is_grad_enabled():
        mean, var = kernels.moments(x)
        scale, shift = coefficients(mean, var, *parameters, track=True)
        return kernels.output(x, mean, scale, shift, residual, activation)
    return Normalize.apply(x, residual, activation, coefficients, kernels, *parameters)


def composed(
    x: Tensor,
    coefficients: Coefficients,
    parameters: tuple[Tensor, ...],
    activation: str | None,
    residual: Tensor | None,
    track: bool,
) -> Tensor:
    """Return what `normalize` returns, by functions that autograd differentiates any number of times."""
    mean = statistics_input(x).mean((2, 3))
    centred = centre(x, mean)
    scale, shift = coefficients(mean, centred.square().mean((2, 3)), *parameters, track=track)
    return activate(multiply_add(centred, scale, shift, None).to(x.dtype), activation, residual)


class Normalize(torch.autograd.Function):
    """`normalize` with one pass over the maps for each thing that needs one."""

    @staticmethod
    def forward(ctx, x, residual, activation, coefficients, kernels, *parameters) -> Tensor:
        mean, var = kernels.moments(x)
        # The coefficients' own small graph: its gradients need no formulas here, whatever a layer computes. Kept as it
        # is under activation checkpointing, which would run its whole stage again for the sake of it.
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(without_graph, as_kept):
            leaves = [t.detach().requires_grad_() for t in (mean, var, *parameters)]
            scale, shift = coefficients(*leaves, track=True)
        y = kernels.output(x, mean, scale.detach(), shift.detach(), residual, activation)
        ctx.save_for_backward(x, y if activation is not None else None, *parameters)
        ctx.activation, ctx.coefficients, ctx.kernels = activation, coefficients, kernels
        ctx.small_graph = leaves, scale, shift
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, y, *parameters = ctx.saved_tensors
        activation = ctx.activation
        has_residual = ctx.needs_input_grad[1]
        if has_residual or torch.is_grad_enabled():
            grad, y, activation = activation_gradient(grad, y, activation), None, None
        if torch.is_grad_enabled():
            found = differentiable_gradients(ctx, grad, x, parameters)
        else:
            found = gradients(ctx, grad.contiguous(memory_format=memory_format(x)), x, y, activation)
        return found[0], grad if has_residual else None, None, None, None, *found[1:]


def gradients(ctx, grad: Tensor, x: Tensor, y: Tensor | None, activation: str | None) -> list[Tensor | None]:
    """Return the gradients for x and the parameters."""
    (mean, var, *leaves), scale, shift = ctx.small_graph
    images_mean, kernels = mean.detach(), ctx.kernels
    for_scale, for_shift = kernels.coefficient_gradients(grad, x, images_mean, y, activation)
    for_mean, for_var, *for_leaves = torch.autograd.grad(
        (scale, shift), (mean, var, *leaves), (for_scale, for_shift), retain_graph=True, allow_unused=True
    )
    pixels, scale = x.shape[2] * x.shape[3], scale.detach()
    slope = zero_if_none(for_var, var) * (2 / pixels)
    offset = (zero_if_none(for_mean, mean) - scale * for_shift) / pixels  # y depends on the mean directly, too
    for_x = kernels.input_gradient(grad, x, images_mean, scale, slope, offset, y, activation) if ctx.needs_input_grad[0] else None
    return [for_x, *for_leaves]


def differentiable_gradients(ctx, grad: Tensor, x: Tensor, parameters: list[Tensor]) -> list[Tensor | None]:
    """Return the gradients for x and the parameters, as functions of them and of `grad` for a second derivative."""
    inputs = [t.view_as(t) for t in (x, *parameters)]  # so that only their use in this operation counts
    y = composed(inputs[0], ctx.coefficients, tuple(inputs[1:]), None, None, track=False)
    wanted = [t for t in inputs if t.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True, allow_unused=True))
    return [next(found) if t.requires_grad else None for t in inputs]


def without_graph(tensor: Tensor) -> Tensor:
    # An operation that keeps its own output would otherwise keep itself alive, and everything before it.
    return tensor.detach()


def as_kept(tensor: Tensor) -> Tensor:
    return tensor


def zero_if_none(grad: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if grad is None else grad
