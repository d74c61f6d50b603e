"""Normalization's passes and coefficients as Triton kernels, one launch each; every map is read once by each.

passes.py and coefficients.py have the formulas, and the same as PyTorch's functions: results are equal up to rounding.
Maps may be contiguous or channels_last: a kernel sees N images of P pixels and C channels, and steps over them by
strides. It computes in float32, for maps in float64 in that. Triton does not specialize on N: another number of images
compiles nothing again. Numbers that are not whole are constants, as arguments would be rounded to float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastreid.layers.coefficients import Mixture
from fastreid.layers.coefficients import coefficients as eager_coefficients
from fastreid.layers.coefficients import gradients as eager_gradients
from fastreid.layers.moments import Source, Statistics, find_statistics
from fastreid.layers.passes import UPPER_BOUND, Kernels, memory_format

TILE = 2048  # elements of a map that a program looks at together
CHANNELS = 64  # at most, of a tile where channels lie side by side in memory
IMAGES = 16  # that a program of the coefficients looks at together


@triton.jit
def moments_kernel(x, mean, var, P, C, stride_n, stride_p, stride_c, BP: tl.constexpr, BC: tl.constexpr):
    """One image, BC channels: Welford's recurrence in each lane, then the law of total variance over the lanes."""
    n, c = tl.program_id(0), tl.program_id(1) * BC + tl.arange(0, BC)
    lane = tl.arange(0, BP)
    x += n.to(tl.int64) * stride_n + c[None, :] * stride_c
    inner = (c < C)[None, :]
    lane_mean = tl.zeros([BP, BC], mean.dtype.element_ty)
    lane_squares = tl.zeros([BP, BC], mean.dtype.element_ty)
    for start in range(0, P, BP):
        p = (start + lane)[:, None]
        values = tl.load(x + p * stride_p, inner & (p < P), other=0).to(lane_mean.dtype)
        difference = values - lane_mean
        updated = lane_mean + difference / (start // BP + 1)
        lane_squares = tl.where(p < P, lane_squares + difference * (values - updated), lane_squares)
        lane_mean = tl.where(p < P, updated, lane_mean)
    seen = tl.where(lane < P, (P - 1 - lane) // BP + 1, 0).to(lane_mean.dtype)[:, None]
    first = tl.load(x, inner, other=0).to(lane_mean.dtype)  # near the mean: the sum of what is left rounds less
    total = first + (tl.sum(seen * (lane_mean - first), 0) / P)[None, :]
    difference = lane_mean - total
    squares = tl.sum(lane_squares + seen * difference * difference, 0)
    tl.store(mean + n * C + c[None, :], total, inner)
    tl.store(var + n * C + c, squares / P, c < C)


@triton.jit
def output_kernel(
    x, mean, scale, shift, residual, y, P, C, stride_n, stride_p, stride_c,
    HAS_RESIDUAL: tl.constexpr, CLAMP: tl.constexpr, UPPER: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """y = activation(scale * (x - mean) + shift + residual)."""
    blocks = tl.cdiv(P, BP)
    n, c = tl.program_id(0) // blocks, tl.program_id(1) * BC + tl.arange(0, BC)
    p = (tl.program_id(0) % blocks * BP + tl.arange(0, BP))[:, None]
    at = n.to(tl.int64) * stride_n + p * stride_p + c[None, :] * stride_c
    inner = (c < C)[None, :] & (p < P)
    m = tl.load(mean + n * C + c, c < C)[None, :]
    a = tl.load(scale + n * C + c, c < C)[None, :]
    b = tl.load(shift + n * C + c, c < C)[None, :]
    values = a * (tl.load(x + at, inner).to(m.dtype) - m) + b
    if HAS_RESIDUAL:
        values += tl.load(residual + at, inner).to(m.dtype)
    if CLAMP:
        values = tl.where(values < 0, 0.0, values)  # not maximum, which would hide what is not a number
        values = tl.where(values > UPPER, UPPER, values)
    tl.store(y + at, values.to(y.dtype.element_ty), inner)


@triton.jit
def load_gradient(grad, y, at, inner, CLAMP: tl.constexpr, UPPER: tl.constexpr):
    """Return the gradient for what went into the activation: zero where its output is at a bound."""
    values = tl.load(grad + at, inner, other=0)
    if CLAMP:
        out = tl.load(y + at, inner, other=0)
        values = tl.where((out <= 0) | (out >= UPPER), 0.0, values)
    return values


@triton.jit
def coefficient_gradients_kernel(
    grad, x, mean, y, for_scale, for_shift, P, C, stride_n, stride_p, stride_c,
    CLAMP: tl.constexpr, UPPER: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Sums over the pixels of an image, for BC channels, of gradient * (x - mean) and of the gradient."""
    n, c = tl.program_id(0), tl.program_id(1) * BC + tl.arange(0, BC)
    m = tl.load(mean + n * C + c, c < C)[None, :]
    scale_sum = tl.zeros([BP, BC], m.dtype)
    shift_sum = tl.zeros([BP, BC], m.dtype)
    for start in range(0, P, BP):
        p = (start + tl.arange(0, BP))[:, None]
        at = n.to(tl.int64) * stride_n + p * stride_p + c[None, :] * stride_c
        inner = (c < C)[None, :] & (p < P)
        g = load_gradient(grad, y, at, inner, CLAMP, UPPER).to(m.dtype)
        scale_sum += g * (tl.load(x + at, inner, other=0).to(m.dtype) - m)
        shift_sum += g
    tl.store(for_scale + n * C + c, tl.sum(scale_sum, 0), c < C)
    tl.store(for_shift + n * C + c, tl.sum(shift_sum, 0), c < C)


@triton.jit
def input_gradient_kernel(
    grad, x, mean, scale, slope, offset, y, for_x, P, C, stride_n, stride_p, stride_c,
    CLAMP: tl.constexpr, UPPER: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """scale * gradient + slope * (x - mean) + offset."""
    blocks = tl.cdiv(P, BP)
    n, c = tl.program_id(0) // blocks, tl.program_id(1) * BC + tl.arange(0, BC)
    p = (tl.program_id(0) % blocks * BP + tl.arange(0, BP))[:, None]
    at = n.to(tl.int64) * stride_n + p * stride_p + c[None, :] * stride_c
    inner = (c < C)[None, :] & (p < P)
    m = tl.load(mean + n * C + c, c < C)[None, :]
    a = tl.load(scale + n * C + c, c < C)[None, :]
    s = tl.load(slope + n * C + c, c < C)[None, :]
    b = tl.load(offset + n * C + c, c < C)[None, :]
    g = load_gradient(grad, y, at, inner, CLAMP, UPPER).to(m.dtype)
    values = a * g + s * (tl.load(x + at, inner).to(m.dtype) - m) + b
    tl.store(for_x + at, values.to(for_x.dtype.element_ty), inner)


@triton.jit(do_not_specialize=["N"])
def coefficients_kernel(
    mean, var, wb, bb, wi, bi, gate, running_mean, running_var, batches,
    scale, shift, inst_rsqrt, batch_rsqrt, batch_mean, batch_var, N, P, C, first, own,
    EPS: tl.constexpr, MOMENTUM: tl.constexpr, POOLED: tl.constexpr, MOVING: tl.constexpr,
    BN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """BC channels of all images: the batch's moments, running statistics, scale and shift."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inner = c < C
    dtype = mean.dtype.element_ty
    at_running = c - first
    has_running = inner & (at_running >= 0) & (at_running < own)
    if POOLED:
        total = tl.zeros([BC], dtype)
        for start in range(0, N, BN):
            n = (start + tl.arange(0, BN))[:, None]
            total += tl.sum(tl.load(mean + n * C + c[None, :], inner[None, :] & (n < N), other=0), 0)
        M = total / N
        total = tl.zeros([BC], dtype)
        for start in range(0, N, BN):
            n = (start + tl.arange(0, BN))[:, None]
            there = inner[None, :] & (n < N)
            distance = tl.where(there, tl.load(mean + n * C + c[None, :], there, other=0) - M[None, :], 0.0)
            total += tl.sum(tl.load(var + n * C + c[None, :], there, other=0) + distance * distance, 0)
        V = total / N
        if MOVING:
            count = (N * P).to(dtype)
            unbiased = V * (count / tl.maximum(count - 1, 1.0))
            old_mean = tl.load(running_mean + at_running, has_running)
            old_var = tl.load(running_var + at_running, has_running)
            tl.store(running_mean + at_running, old_mean + MOMENTUM * (M - old_mean), has_running)
            tl.store(running_var + at_running, old_var + MOMENTUM * (unbiased - old_var), has_running)
            if tl.program_id(0) == 0:
                tl.store(batches, tl.load(batches) + 1)
    else:
        M = tl.load(running_mean + at_running, has_running, other=0).to(dtype)
        V = tl.load(running_var + at_running, has_running, other=1).to(dtype)
    R = tl.rsqrt(V + EPS)
    tl.store(batch_mean + c, M, inner)
    tl.store(batch_var + c, V, inner)
    tl.store(batch_rsqrt + c, R, inner)
    g = tl.load(gate + c, inner, other=0).to(dtype)[None, :]
    batch_scale = tl.load(wb + c, inner, other=0).to(dtype)[None, :] * R[None, :]
    batch_bias = tl.load(bb + c, inner, other=0).to(dtype)[None, :]
    weight = tl.load(wi + c, inner, other=0).to(dtype)[None, :]
    bias = tl.load(bi + c, inner, other=0).to(dtype)[None, :]
    for start in range(0, N, BN):
        n = (start + tl.arange(0, BN))[:, None]
        at, there = n * C + c[None, :], inner[None, :] & (n < N)
        r = tl.rsqrt(tl.load(var + at, there, other=0) + EPS)
        m = tl.load(mean + at, there, other=0)
        tl.store(inst_rsqrt + at, r, there)
        tl.store(scale + at, g * batch_scale + (1 - g) * (weight * r), there)
        tl.store(shift + at, g * (batch_bias + (m - M[None, :]) * batch_scale) + (1 - g) * bias, there)


@triton.jit(do_not_specialize=["N"])
def gradients_kernel(
    for_scale, for_shift, mean, inst_rsqrt, batch_rsqrt, batch_mean, wb, bb, wi, bi, gate, slope, offset,
    for_parameters, N, P, C, POOLED: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """BC channels of all images: sums over the images, slope and offset, gradients for the parameters (5, C)."""
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    inner = c < C
    dtype = mean.dtype.element_ty
    M = tl.load(batch_mean + c, inner, other=0)
    R = tl.load(batch_rsqrt + c, inner, other=0)
    through_batch = tl.zeros([BC], dtype)
    through_instance = tl.zeros([BC], dtype)
    through_shift = tl.zeros([BC], dtype)
    for start in range(0, N, BN):
        n = (start + tl.arange(0, BN))[:, None]
        at, there = n * C + c[None, :], inner[None, :] & (n < N)
        s = tl.load(for_scale + at, there, other=0)
        t = tl.load(for_shift + at, there, other=0)
        through_batch += tl.sum(s + t * (tl.load(mean + at, there, other=0) - M[None, :]), 0)
        through_instance += tl.sum(s * tl.load(inst_rsqrt + at, there, other=0), 0)
        through_shift += tl.sum(t, 0)
    g = tl.load(gate + c, inner, other=0).to(dtype)
    batch_weight = tl.load(wb + c, inner, other=0).to(dtype)
    batch_bias = tl.load(bb + c, inner, other=0).to(dtype)
    weight = tl.load(wi + c, inner, other=0).to(dtype)
    bias = tl.load(bi + c, inner, other=0).to(dtype)
    tl.store(for_parameters + c, g * R * through_batch, inner)
    tl.store(for_parameters + C + c, g * through_shift, inner)
    tl.store(for_parameters + 2 * C + c, (1 - g) * through_instance, inner)
    tl.store(for_parameters + 3 * C + c, (1 - g) * through_shift, inner)
    for_gate = batch_weight * R * through_batch - weight * through_instance + (batch_bias - bias) * through_shift
    tl.store(for_parameters + 4 * C + c, for_gate, inner)
    batch_slope = tl.zeros([BC], dtype)
    batch_offset = tl.zeros([BC], dtype)
    if POOLED:
        shared = g * batch_weight * R / N
        batch_slope = shared * R * R * through_batch
        batch_offset = shared * through_shift
    for start in range(0, N, BN):
        n = (start + tl.arange(0, BN))[:, None]
        at, there = n * C + c[None, :], inner[None, :] & (n < N)
        r = tl.load(inst_rsqrt + at, there, other=0)
        own = ((1 - g) * weight)[None, :] * r
        distance = tl.load(mean + at, there, other=0) - M[None, :]
        s = tl.load(for_scale + at, there, other=0)
        t = tl.load(for_shift + at, there, other=0)
        tl.store(slope + at, -(own * r * r * s + batch_slope[None, :]) / P, there)
        tl.store(offset + at, -(own * t + batch_slope[None, :] * distance + batch_offset[None, :]) / P, there)


class Maps(NamedTuple):
    """How the kernels see maps: sizes, strides of image, pixel and channel, pixels and channels of a tile."""

    images: int
    pixels: int
    channels: int
    strides: tuple[int, int, int]
    tile: dict[str, int]

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.pixels, self.channels, *self.strides

    def grid(self, whole_images: bool) -> tuple[int, int]:
        """Return how many programs there are: by image or by an image's tile of pixels, and by channels."""
        parts = 1 if whole_images else triton.cdiv(self.pixels, self.tile["BP"])
        return self.images * parts, triton.cdiv(self.channels, self.tile["BC"])


def see(x: Tensor) -> Maps:
    """Return how the kernels see maps that are dense in memory."""
    images, channels, pixels = len(x), x.shape[1], x.shape[2] * x.shape[3]
    wide, long = triton.next_power_of_2(channels), triton.next_power_of_2(pixels)
    if memory_format(x) == torch.channels_last:
        strides, across = (pixels * channels, channels, 1), min(wide, CHANNELS)
        tile = {"BP": min(long, TILE // across), "BC": across}
    else:
        strides, along = (pixels * channels, 1, pixels), min(long, TILE)
        tile = {"BP": along, "BC": min(wide, TILE // along)}
    return Maps(images, pixels, channels, strides, tile)


def laid_out(values: Tensor | None, x: Tensor) -> Tensor | None:
    """Return values, of the shape of x, dense and in its memory format; None stays None."""
    return None if values is None else values.contiguous(memory_format=memory_format(x))


def clamp(activation: str | None) -> dict[str, object]:
    return {"CLAMP": activation is not None, "UPPER": UPPER_BOUND.get(activation, 0.0)}


def per_image(x: Tensor) -> Tensor:
    """Return an empty (N, C) for statistics of maps x."""
    return x.new_empty(x.shape[:2], dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each image and channel."""
    x, maps, mean, var = laid_out(x, x), see(x), per_image(x), per_image(x)
    moments_kernel[maps.grid(True)](x, mean, var, *maps.sizes, **maps.tile)
    return mean, var


def output(
    x: Tensor, mean: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, activation: str | None
) -> Tensor:
    """Return y."""
    x, maps = laid_out(x, x), see(x)
    y, residual = torch.empty_like(x), laid_out(residual, x)
    output_kernel[maps.grid(False)](
        x, mean, scale, shift, residual, y, *maps.sizes, residual is not None, **clamp(activation), **maps.tile
    )
    return y


def coefficient_gradients(
    grad: Tensor, x: Tensor, mean: Tensor, y: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor]:
    """Return the gradients for scale and shift, (N, C), from that for y."""
    x, maps, for_scale, for_shift = laid_out(x, x), see(x), torch.empty_like(mean), torch.empty_like(mean)
    coefficient_gradients_kernel[maps.grid(True)](
        laid_out(grad, x), x, mean, laid_out(y, x), for_scale, for_shift, *maps.sizes, **clamp(activation), **maps.tile
    )
    return for_scale, for_shift


def input_gradient(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    slope: Tensor,
    offset: Tensor,
    y: Tensor | None,
    activation: str | None,
) -> Tensor:
    """Return scale * grad + slope * (x - mean) + offset, the gradient for x, where `grad` is that for y."""
    x, maps = laid_out(x, x), see(x)
    for_x = torch.empty_like(x)
    input_gradient_kernel[maps.grid(False)](
        laid_out(grad, x), x, mean, scale, slope, offset, laid_out(y, x), for_x, *maps.sizes,
        **clamp(activation), **maps.tile,
    )  # fmt: skip
    return for_x


def columns(mean: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """Return the grid and the tile of a kernel that sees some channels of all images."""
    across = min(triton.next_power_of_2(mean.shape[1]), CHANNELS // 2)
    return (triton.cdiv(mean.shape[1], across),), {"BN": IMAGES, "BC": across}


def coefficients(
    mean: Tensor, var: Tensor, pixels: int, source: Source | None, mixture: Mixture, eps: float
) -> tuple[Tensor, Tensor, Statistics, tuple[Tensor, ...]]:
    """Return scale and shift (N, C), the batch's statistics, and what `gradients` needs."""
    images, channels = mean.shape
    given = None
    if source is not None and source.synchronized:
        return eager_coefficients(mean, var, pixels, source, mixture, eps)
    if source is None or source.population is not None:
        given = find_statistics(mean, var, pixels, source)
        source = Source(given.mean, given.var, pooled=False)
    pooled = source.pooled and images > 0
    scale, shift, inst_rsqrt = (torch.empty_like(mean) for _ in range(3))
    batch_rsqrt, batch_mean, batch_var = mean.new_empty(3, channels)
    grid, tile = columns(mean)
    coefficients_kernel[grid](
        mean, var, *mixture, source.mean, source.var, source.batches,
        scale, shift, inst_rsqrt, batch_rsqrt, batch_mean, batch_var, images, pixels, channels, source.first,
        len(source.mean), eps, source.momentum, pooled, source.batches is not None, **tile,
    )  # fmt: skip
    statistics = given or Statistics(batch_mean, batch_var, images if pooled else None)
    return scale, shift, statistics, (mean, inst_rsqrt, batch_rsqrt)


def gradients(
    for_scale: Tensor,
    for_shift: Tensor,
    pixels: int,
    statistics: Statistics,
    mixture: Mixture,
    kept: tuple[Tensor, ...],
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Return slope and offset, (N, C), and the gradients for the mixture, from those for scale and shift, (N, C)."""
    if statistics.synchronized:
        return eager_gradients(for_scale, for_shift, pixels, statistics, mixture, kept, needed)
    mean, inst_rsqrt, batch_rsqrt = kept
    slope, offset = torch.empty_like(mean), torch.empty_like(mean)
    found = mean.new_empty(len(mixture), mean.shape[1])
    grid, tile = columns(mean)
    gradients_kernel[grid](
        for_scale, for_shift, mean, inst_rsqrt, batch_rsqrt, statistics.mean, *mixture, slope, offset, found,
        len(mean), pixels, mean.shape[1], statistics.images is not None, **tile,
    )  # fmt: skip
    return slope, offset, [gradient if wanted else None for gradient, wanted in zip(found, needed)]


TRITON = Kernels(moments, coefficients, output, coefficient_gradients, gradients, input_gradient)
