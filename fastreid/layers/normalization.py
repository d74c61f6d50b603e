"""Batch, instance and batch-instance normalization, with a statistics mode chosen per forward pass.

`BatchInstanceNorm` is the layer of "Meta Batch-Instance Normalization for Generalizable Person Re-Identification"
(CVPR 2021, arXiv 2011.14670). Layers know nothing of meta-learning: a training step chooses the statistics with
`running_stats(model, mode)` and substitutes gates with `torch.func.functional_call`.

Shapes everywhere: x is (N, C, H, W); batch statistics are (C,), instance statistics (N, C).
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.utils.errors import UserError

STATS_MODES = ("general", "hold", "eval")
NormFactory = Callable[[int], nn.Module]  # channel count -> layer

GATE_INITS = ("one", "zero", "half", "random")


@contextmanager
def running_stats(model: nn.Module, mode: str) -> Iterator[None]:
    """Choose what the normalization layers of `model` do with running statistics while they are in training mode.

    Args:
        mode: "general" normalizes with the batch's statistics and updates the running ones, "hold" leaves the running
            ones untouched, "eval" normalizes with the running ones.
    """
    if mode not in STATS_MODES:
        raise ValueError(f"statistics mode must be one of {', '.join(STATS_MODES)}; found {mode!r}")
    layers = [m for m in model.modules() if isinstance(m, BatchNorm)]
    before = [m.stats_mode for m in layers]
    for layer in layers:
        layer.stats_mode = mode
    try:
        yield
    finally:
        for layer, old in zip(layers, before):
            layer.stats_mode = old


class InstanceMoments(torch.autograd.Function):
    """Mean and biased variance of each image and channel, in two passes over the map.

    Vectorized on the CPU, where `torch.var_mean` is not and takes most of a network's time, and needing no more than
    the input for the backward pass. The second pass subtracts the mean first, so large means cancel nothing.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> tuple[Tensor, Tensor]:
        mean = x.mean((2, 3))
        var = (x - mean[..., None, None]).square_().mean((2, 3))
        ctx.save_for_backward(x, mean)
        return mean, var

    @staticmethod
    def backward(ctx, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
        # Of ordinary operations on the saved input and output, so that second-order updates differentiate it again.
        x, mean = ctx.saved_tensors
        pixels = x.shape[2] * x.shape[3]
        slope = 2 / pixels * grad_var
        return scale_shift(x, slope, grad_mean / pixels - slope * mean)


def instance_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each image and channel, two (N, C) tensors."""
    return InstanceMoments.apply(x)


def pool_moments(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Return the batch's mean and biased variance (C,) from the images' (N, C): the law of total variance."""
    return mean.mean(0), var.mean(0) + mean.var(0, correction=0)


def scale_shift(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return scale * x + shift for coefficients of shape (C,) or (N, C), in the type of x."""
    return torch.addcmul(shift[..., None, None], x, scale[..., None, None]).to(x.dtype)


def statistics_input(x: Tensor) -> Tensor:
    """Return x in float32 where it is in half precision: sums over a map overflow or round there."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization of (N, C, H, W) or (N, C) inputs that obeys `running_stats`."""

    stats_mode = "general"

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected (N, C) or (N, C, H, W), found {tuple(input.shape)}")

    @property
    def uses_batch_stats(self) -> bool:
        return self.training and self.stats_mode != "eval"

    @property
    def updates_running_stats(self) -> bool:
        return self.training and self.stats_mode == "general"

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        if self.updates_running_stats:
            self.num_batches_tracked.add_(1)
        held = self.uses_batch_stats and not self.updates_running_stats
        return F.batch_norm(
            x,
            None if held else self.running_mean,
            None if held else self.running_var,
            self.weight,
            self.bias,
            self.uses_batch_stats,
            self.momentum,
            self.eps,
        )

    def moments(self, inst_mean: Tensor, inst_var: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """Return the mean and variance (C,) to normalize with, and update the running ones as the mode says.

        Args:
            inst_mean, inst_var: (N, C) of the input's images. pixels: H * W.
        """
        if not self.uses_batch_stats:
            return self.running_mean, self.running_var
        mean, var = pool_moments(inst_mean, inst_var)
        if self.updates_running_stats:
            self.track(mean.detach(), var.detach(), pixels * inst_mean.shape[0])
        return mean, var

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Move the running statistics towards the batch's; the running variance is the unbiased one."""
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((var * (count / max(count - 1, 1))).to(self.running_var.dtype), self.momentum)


class InstanceNorm(nn.Module):
    """Instance normalization with affine parameters; 1x1 maps, which have no variance, are multiplied by a constant."""

    def __init__(self, num_features: int, fc_multiply: float = 0.0, eps: float = 1e-5):
        super().__init__()
        self.num_features, self.fc_multiply, self.eps = num_features, fc_multiply, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] == (1, 1):
            return x * self.fc_multiply
        return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_features}, fc_multiply={self.fc_multiply}"


class BatchInstanceNormHalf(nn.Module):
    """BN on the first ceil(C / 2) channels, IN on the rest ("BIN_half")."""

    def __init__(self, num_features: int, fc_multiply: float = 0.0):
        super().__init__()
        self.batch_channels = math.ceil(num_features / 2)
        self.bat_n = BatchNorm(self.batch_channels)
        self.ins_n = InstanceNorm(num_features - self.batch_channels, fc_multiply)

    def forward(self, x: Tensor) -> Tensor:
        batch_part, instance_part = x.split([self.batch_channels, x.shape[1] - self.batch_channels], dim=1)
        if not instance_part.shape[1]:
            return self.bat_n(batch_part)
        return torch.cat([self.bat_n(batch_part), self.ins_n(instance_part)], dim=1)


class SharedAffineBatchInstanceNorm(BatchNorm):
    """g * w * BN^(x) + b + (1 - g) * w * IN^(x), where ^ is normalization without affine ("BIN_gate1")."""

    def __init__(self, num_features: int, gate_init: str = "one"):
        super().__init__(num_features)
        self.gate = nn.Parameter(initial_gate(num_features, gate_init))

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        single_pixel = x.shape[2:] == (1, 1)
        stats_x = statistics_input(x)
        inst_mean, inst_var = instance_moments(stats_x)
        mean, var = self.moments(inst_mean, inst_var, x.shape[2] * x.shape[3])
        batch_scale = self.gate * self.weight * torch.rsqrt(var + self.eps)
        scale, shift = batch_scale, self.bias - mean * batch_scale
        if not single_pixel:
            inst_scale = (1 - self.gate) * self.weight * torch.rsqrt(inst_var + self.eps)
            scale, shift = scale + inst_scale, shift - inst_mean * inst_scale
        return scale_shift(stats_x, scale, shift).to(x.dtype)


class BatchInstanceNorm(nn.Module):
    """g * BN(x) + (1 - g) * IN(x), one gate g in [0, 1] per channel: MetaBIN's layer ("BIN_gate2").

    Both normalizations are multiply-adds of x with coefficients that do not depend on the pixel, so they are merged
    into one: the two outputs are never stored.
    """

    def __init__(self, num_features: int, gate_init: str = "one", fc_multiply: float = 0.0):
        super().__init__()
        self.bat_n = BatchNorm(num_features)
        self.ins_n = InstanceNorm(num_features, fc_multiply)
        self.gate = nn.Parameter(initial_gate(num_features, gate_init))

    def forward(self, x: Tensor) -> Tensor:
        batch, instance, gate = self.bat_n, self.ins_n, self.gate
        stats_x = statistics_input(x)
        inst_mean, inst_var = instance_moments(stats_x)
        mean, var = batch.moments(inst_mean, inst_var, x.shape[2] * x.shape[3])
        batch_scale = batch.weight * torch.rsqrt(var + batch.eps)
        scale, shift = gate * batch_scale, gate * (batch.bias - mean * batch_scale)
        if x.shape[2:] == (1, 1):
            scale = scale + (1 - gate) * instance.fc_multiply
        else:
            inst_scale = instance.weight * torch.rsqrt(inst_var + instance.eps)
            scale = scale + (1 - gate) * inst_scale
            shift = shift + (1 - gate) * (instance.bias - inst_mean * inst_scale)
        return scale_shift(stats_x, scale, shift).to(x.dtype)


def initial_gate(num_features: int, init: str) -> Tensor:
    """Return the first value of a layer's gates, (C,) in [0, 1]."""
    if init == "random":
        return torch.rand(num_features)
    return torch.full((num_features,), {"one": 1.0, "zero": 0.0, "half": 0.5}[init])


def norm_factory(
    norm_type: str, bin_init: str = "one", fc_multiply: float = 0.0, others: tuple[str, ...] = ()
) -> NormFactory:
    """Return the constructor, by channel count, of the layer that `MODEL.NORM.TYPE_BACKBONE` names.

    Args:
        bin_init: a value of `MODEL.NORM.BIN_INIT`. fc_multiply: `MODEL.NORM.IN_FC_MULTIPLY`. others: types that the
            caller deals with itself, for the message.

    Raises:
        UserError: an unknown type or gate initialization; the message lists the known ones.
    """
    if bin_init not in GATE_INITS:
        raise UserError(f"MODEL.NORM.BIN_INIT must be one of {', '.join(GATE_INITS)}; found {bin_init!r}")
    factories: dict[str, NormFactory] = {
        "BN": BatchNorm,
        "IN": lambda c: InstanceNorm(c, fc_multiply),
        "BIN_half": lambda c: BatchInstanceNormHalf(c, fc_multiply),
        "BIN_gate1": lambda c: SharedAffineBatchInstanceNorm(c, bin_init),
        "BIN_gate2": lambda c: BatchInstanceNorm(c, bin_init, fc_multiply),
    }
    if norm_type not in factories:
        raise UserError(
            f"MODEL.NORM.TYPE_BACKBONE must be one of {', '.join((*factories, *others))}; found {norm_type!r}"
        )
    return factories[norm_type]
