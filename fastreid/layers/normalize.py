"""Normalization by each image's own moments, with what follows it, as one operation.

Whatever mixture of batch and instance normalization a layer computes, for a pixel it is one multiply-add,

    y = activation(scale[n, c] * (x - mean[n, c]) + shift[n, c] + residual)

with the mean of image n in channel c, and coefficients that depend on no pixel: the batch's moments follow from the
images' (law of total variance), and gates and affine parameters are per channel. The backward pass keeps x, and y where
there is an activation, which the convolution that reads it keeps anyway. Subtracting the mean first, here and in the
variance, cancels nothing where means are large.

passes.py has what goes over maps, coefficients.py what is per image and channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastreid.layers.coefficients import EPS, Mixture, coefficients
from fastreid.layers.moments import Source, Statistics
from fastreid.layers.passes import (
    EAGER,
    Kernels,
    activate,
    activation_gradient,
    centre,
    memory_format,
    multiply_add,
    shares,
    statistics_input,
)


def normalize(
    x: Tensor,
    mixture: Mixture,
    source: Source | None,
    activation: str | None = None,
    residual: Tensor | None = None,
    kernels: Kernels = EAGER,
    eps: float = EPS,
) -> Tensor:
    """Return activation(scale * (x - mean) + shift + residual), in the type and memory format of x.

    Args:
        source: of the batch's statistics; None for a layer without batch normalization.
        eps: what is added to variances.
    """
    if torch.compiler.is_compiling():  # whole-model compilation and export fuse and differentiate this themselves
        return composed(x, mixture, source, eps, activation, residual)
    if not torch.is_grad_enabled():
        return forward(x, mixture, source, eps, activation, residual, kernels)[0]
    return Normalize.apply(x, residual, source, eps, activation, kernels, *mixture)


def forward(
    x, mixture, source, eps, activation, residual, kernels
) -> tuple[Tensor, Tensor, Tensor, Statistics, tuple[Tensor, ...]]:
    """Return y, the images' means, scale, the batch's statistics, and what else the gradients need."""
    mean, var = kernels.moments(x)
    scale, shift, statistics, kept = kernels.coefficients(mean, var, x.shape[2] * x.shape[3], source, mixture, eps)
    return kernels.output(x, mean, scale, shift, residual, activation), mean, scale, statistics, kept


def composed(
    x: Tensor,
    mixture: Mixture,
    source: Source | None,
    eps: float,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Return what `normalize` returns, by functions that autograd differentiates any number of times."""
    mean = statistics_input(x).mean((2, 3))
    centred = centre(x, mean)
    var = centred.square().mean((2, 3))
    scale, shift, *_ = coefficients(mean, var, x.shape[2] * x.shape[3], source, mixture, eps)
    return activate(multiply_add(centred, scale, shift, None).to(x.dtype), activation, residual)


NO_TENSORS = (None,) * 4  # the gradients for `normalize`'s other arguments


class Normalize(torch.autograd.Function):
    """`normalize` with one pass over the maps for each thing that needs one."""

    @staticmethod
    def forward(ctx, x, residual, source, eps, activation, kernels, *parameters) -> Tensor:
        y, mean, scale, statistics, kept = forward(x, Mixture(*parameters), source, eps, activation, residual, kernels)
        ctx.save_for_backward(
            x, y if activation is not None else None, mean, scale, statistics.mean, statistics.var, *kept, *parameters
        )
        ctx.eps, ctx.activation, ctx.kernels = eps, activation, kernels
        ctx.images, ctx.synchronized = statistics.images, statistics.synchronized
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, y, mean, scale, batch_mean, batch_var, *others = ctx.saved_tensors
        statistics = Statistics(batch_mean, batch_var, ctx.images, ctx.synchronized)
        parameters = len(Mixture._fields)
        kept, mixture = others[:-parameters], Mixture(*others[-parameters:])
        activation, kernels = ctx.activation, ctx.kernels
        needs_x, needs_residual, *needed = ctx.needs_input_grad[:2] + ctx.needs_input_grad[6:]
        shared = shares(kernels, x)
        if needs_residual or shared or torch.is_grad_enabled():
            grad, y, activation = activation_gradient(grad, y, activation), None, None
        for_residual = grad if needs_residual else None
        if torch.is_grad_enabled():
            found = differentiable_gradients(grad, x, mixture, statistics, ctx.eps)
            return found[0], for_residual, *NO_TENSORS, *found[1:]
        grad = grad.contiguous(memory_format=memory_format(x))
        if shared:
            x, mean = centre(x, mean), None
        for_scale, for_shift = kernels.coefficient_gradients(grad, x, mean, y, activation)
        pixels = x.shape[2] * x.shape[3]
        slope, offset, found = kernels.gradients(for_scale, for_shift, pixels, statistics, mixture, kept, needed)
        for_x = kernels.input_gradient(grad, x, mean, scale, slope, offset, y, activation) if needs_x else None
        return for_x, for_residual, *NO_TENSORS, *found


def differentiable_gradients(
    grad: Tensor, x: Tensor, mixture: Mixture, statistics: Statistics, eps: float
) -> list[Tensor | None]:
    """Return the gradients for x and the mixture, as functions of them and of `grad` for a second derivative."""
    source = Source(statistics.mean, statistics.var, statistics.images is not None, statistics.synchronized)
    inputs = [t.view_as(t) for t in (x, *mixture)]  # so that only their use in this operation counts
    y = composed(inputs[0], Mixture(*inputs[1:]), source, eps)
    wanted = [t for t in inputs if t.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, grad, create_graph=True, allow_unused=True))
    return [next(found) if t.requires_grad else None for t in inputs]
