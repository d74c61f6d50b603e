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


def centre(x: Tensor, mean: Tensor | None) -> Tensor:
    """Return x - mean; x itself where there is no mean, because it was subtracted before."""
    return statistics_input(x) if mean is None else statistics_input(x) - per_map(mean)


# The passes over whole maps. Each is few PyTorch functions, and one kernel when torch.compile has compiled it.


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each image and channel, in two passes."""
    mean, var, _ = moments_and_centred(x)
    return mean, var


def moments_and_centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance of each image and channel, and x - mean."""
    mean = statistics_input(x).mean((2, 3))
    centred = centre(x, mean)
    # Not torch.var: it is not vectorized on the CPU, where it would take most of a network's time.
    return mean, centred.square().mean((2, 3)), centred


def output(
    x: Tensor,
    mean: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    activation: str | None,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Return y in the given type."""
    y = torch.addcmul(per_map(shift), centre(x, mean), per_map(scale))
    if residual is not None:
        y.add_(residual)
    if activation is not None:
        y.clamp_(0, UPPER_BOUND[activation])
    return y.to(dtype)


def activation_gradient(grad: Tensor, y: Tensor, activation: str) -> Tensor:
    """Return the gradient for what went into the activation: zero where its output is at a bound."""
    return torch.ops.aten.hardtanh_backward(grad, y, 0.0, UPPER_BOUND[activation])


def coefficient_gradients(grad: Tensor, x: Tensor, mean: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the gradients for scale and shift, (N, C)."""
    grad = statistics_input(grad)
    return (centre(x, mean) * grad).sum((2, 3)), grad.sum((2, 3))


def input_gradient(grad: Tensor, x: Tensor, mean: Tensor | None, scale: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    """Return scale * grad + slope * (x - mean) + offset, the gradient for x, in the type of `grad`."""
    out = torch.addcmul(per_map(offset), centre(x, mean), per_map(slope))
    return out.addcmul_(statistics_input(grad), per_map(scale)).to(grad.dtype)


class Kernels(NamedTuple):
    """The passes as they are run: as they stand, or compiled. Compiled ones subtract the mean as they go."""

    moments: Callable = moments_and_centred
    output: Callable = output
    activation_gradient: Callable = activation_gradient
    coefficient_gradients: Callable = coefficient_gradients
    input_gradient: Callable = input_gradient
    compiled: bool = False


EAGER = Kernels()


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
        mean, var, *centred = kernels.moments(x)
        scale, shift = coefficients(mean, var, *parameters, track=True)
        return kernels.output(*centred_or(x, mean, centred), scale, shift, activation, residual, x.dtype)
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
    mean, var, centred = moments_and_centred(x)
    scale, shift = coefficients(mean, var, *parameters, track=track)
    return activate(torch.addcmul(per_map(shift), centred, per_map(scale)).to(x.dtype), activation, residual)


class Normalize(torch.autograd.Function):
    """`normalize` with one pass over the maps for each thing that needs one."""

    @staticmethod
    def forward(ctx, x, residual, activation, coefficients, kernels, *parameters) -> Tensor:
        mean, var, *centred = kernels.moments(x)
        # The coefficients' own small graph: its gradients need no formulas here, whatever a layer computes.
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (mean, var, *parameters)]
            scale, shift = coefficients(*leaves, track=True)
        values = centred_or(x, mean, centred)
        y = kernels.output(*values, scale.detach(), shift.detach(), activation, residual, x.dtype)
        ctx.save_for_backward(x, y if activation is not None else None, *parameters)
        ctx.activation, ctx.coefficients, ctx.kernels = activation, coefficients, kernels
        ctx.small_graph = leaves, scale, shift
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, y, *parameters = ctx.saved_tensors
        grad = grad.contiguous(memory_format=memory_format(x))  # as pooling's is not
        if ctx.activation is not None:
            grad = ctx.kernels.activation_gradient(grad, y, ctx.activation)
        differentiate = differentiable_gradients if torch.is_grad_enabled() else gradients
        grad_x, *grad_parameters = differentiate(ctx, grad, x, parameters)
        return grad_x, grad if ctx.needs_input_grad[1] else None, None, None, None, *grad_parameters


def gradients(ctx, grad: Tensor, x: Tensor, parameters: list[Tensor]) -> list[Tensor | None]:
    """Return the gradients for x and the parameters."""
    (mean, var, *leaves), scale, shift = ctx.small_graph
    values = (x, mean.detach()) if ctx.kernels.compiled else (centre(x, mean.detach()), None)
    grad_scale, grad_shift = ctx.kernels.coefficient_gradients(grad, *values)
    grad_mean, grad_var, *grad_leaves = torch.autograd.grad(
        (scale, shift), (mean, var, *leaves), (grad_scale, grad_shift), retain_graph=True, allow_unused=True
    )
    pixels, scale = x.shape[2] * x.shape[3], scale.detach()
    slope = zero_if_none(grad_var, var) * (2 / pixels)
    offset = (zero_if_none(grad_mean, mean) - scale * grad_shift) / pixels  # y depends on the mean directly, too
    return [ctx.kernels.input_gradient(grad, *values, scale, slope, offset), *grad_leaves]


def differentiable_gradients(ctx, grad: Tensor, x: Tensor, parameters: list[Tensor]) -> list[Tensor | None]:
    """Return the gradients for x and the parameters, as functions of them and of `grad` for a second derivative."""
    inputs = [t.view_as(t) for t in (x, *parameters)]  # so that only their use in this operation counts
    y = composed(inputs[0], ctx.coefficients, tuple(inputs[1:]), None, None, track=False)
    wanted = [t for t in inputs if t.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True, allow_unused=True))
    return [next(found) if t.requires_grad else None for t in inputs]


def centred_or(x: Tensor, mean: Tensor, centred: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return x and mean as the passes take them: x - mean and None where that was computed."""
    return (centred[0], None) if centred else (x, mean)


def zero_if_none(grad: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if grad is None else grad
