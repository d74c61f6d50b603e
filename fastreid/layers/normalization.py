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

from fastreid.layers.normalize import EAGER, Coefficients, activate, normalize
from fastreid.utils.comm import gather_rows
from fastreid.utils.errors import UserError
from fastreid.utils.processes import num_processes

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


def pool_moments(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Return the batch's mean and biased variance (C,) from the images' (N, C): the law of total variance."""
    return mean.mean(0), var.mean(0) + mean.var(0, correction=0)


def pool_moments_of_all(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `pool_moments` does for the images of all processes together, and their number, a scalar.

    Each process sends its number of images, their mean and their sum of squared differences from it, which add up
    without cancelling (Chan et al., Stanford STAN-CS-79-773, 1979). A process may have no image.
    """
    images, channels = mean.shape
    own_mean = mean.sum(0) / max(images, 1)
    own_squares = (var + (mean - own_mean).square()).sum(0)
    own = torch.cat([own_mean.new_full((1,), images), own_mean, own_squares])
    images, means, squares = gather_rows(own[None], [1] * num_processes()).split([1, channels, channels], dim=1)
    total = images.sum()
    pooled = (images * means).sum(0) / total
    return pooled, (squares + images * (means - pooled).square()).sum(0) / total, total


def synchronize_statistics(model: nn.Module, synchronize: bool = True) -> None:
    """Let the batch normalization of a model use the statistics of all processes' images, or of the process's own."""
    for layer in model.modules():
        if isinstance(layer, BatchNorm):
            layer.synchronize = synchronize


def running_statistics(model: nn.Module, only_training: bool = False) -> list[Tensor]:
    """Return the running means and variances of a model's batch normalization, or only of those in training mode."""
    layers = [layer for layer in model.modules() if isinstance(layer, BatchNorm) and (layer.training or not only_training)]
    return [statistics for layer in layers for statistics in (layer.running_mean, layer.running_var)]


class BatchNorm(nn.BatchNorm2d):
    """Batch normalization of (N, C, H, W) or (N, C) inputs that obeys `running_stats` and `synchronize_statistics`.

    A process may have no image; it then has no statistics to use or to track, except those of all processes.
    """

    stats_mode = "general"
    synchronize = False
    population = None  # what adds up the batches' statistics, see population.py

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"expected (N, C) or (N, C, H, W), found {tuple(input.shape)}")

    @property
    def uses_batch_stats(self) -> bool:
        return self.training and self.stats_mode != "eval"

    @property
    def updates_running_stats(self) -> bool:
        return self.training and self.stats_mode == "general"

    @property
    def synchronized(self) -> bool:
        """Whether it uses the statistics of all processes' images."""
        return self.synchronize and self.uses_batch_stats and num_processes() > 1

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        self._check_input_dim(x)
        if self.synchronized or self.population is not None:
            maps = x if x.dim() == 4 else x[..., None, None]
            return self.forward_by_moments(maps, activation, residual).view_as(x)
        if self.updates_running_stats and len(x):
            self.num_batches_tracked.add_(1)
        running = self.running_mean, self.running_var
        if self.uses_batch_stats and not self.updates_running_stats:
            # Copies, not None: as many tensors are kept for the backward pass as in "general" mode, which activation
            # checkpointing counts on when it computes a map again without moving the statistics twice.
            running = [statistics.clone() for statistics in running]
        out = F.batch_norm(
            x,
            *running,
            self.weight,
            self.bias,
            self.uses_batch_stats,
            self.momentum,
            self.eps,
        )
        return activate(out, activation, residual)

    def forward_by_moments(self, x: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
        """Return what `forward` does for maps (N, C, H, W), with the moments that `moments_source` gives."""
        moments = self.moments_source(x.shape[2] * x.shape[3])

        def coefficients(inst_mean: Tensor, inst_var: Tensor, weight: Tensor, bias: Tensor, track: bool):
            mean, var = moments(inst_mean, inst_var, track)
            return batch_coefficients(inst_mean, mean, var, weight, bias, self.eps)

        return normalize(x, coefficients, (self.weight, self.bias), activation, residual)

    def moments_source(self, pixels: int) -> Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor]]:
        """Return the function that gives the mean and variance (C,) to normalize with, in the present mode.

        The function takes the images' moments (N, C), (N, C), and whether it may move the running statistics.

        Args:
            pixels: H * W of the maps.
        """
        uses_batch_stats, updates = self.uses_batch_stats, self.updates_running_stats
        synchronized, population = self.synchronized, self.population

        def moments(inst_mean: Tensor, inst_var: Tensor, track: bool) -> tuple[Tensor, Tensor]:
            if not uses_batch_stats:
                return self.running_mean, self.running_var
            if synchronized:
                mean, var, images = pool_moments_of_all(inst_mean, inst_var)
            elif len(inst_mean):
                (mean, var), images = pool_moments(inst_mean, inst_var), len(inst_mean)
            else:
                return self.running_mean, self.running_var
            if track and population is not None:
                population.add(mean.detach(), var.detach(), pixels * images)
            elif track and updates:
                self.track(mean.detach(), var.detach(), pixels * images)
            return mean, var

        return moments

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
        """Move the running statistics towards the batch's; the running variance is the unbiased one."""
        unbiased = var * (count / (count - 1 + (count == 1)))  # without asking a GPU for the count of all processes
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)


class InstanceNorm(nn.Module):
    """Instance normalization with affine parameters; 1x1 maps, which have no variance, are multiplied by a constant."""

    kernels = EAGER

    def __init__(self, num_features: int, fc_multiply: float = 0.0, eps: float = 1e-5):
        super().__init__()
        self.num_features, self.fc_multiply, self.eps = num_features, fc_multiply, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        if x.shape[2:] == (1, 1):
            return activate(x * self.fc_multiply, activation, residual)

        def coefficients(mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, track: bool) -> tuple[Tensor, Tensor]:
            return instance_coefficients(var, weight, bias, self.eps)

        return normalize(x, coefficients, (self.weight, self.bias), activation, residual, self.kernels)

    def extra_repr(self) -> str:
        return f"{self.num_features}, fc_multiply={self.fc_multiply}"


class AppendedInstanceNorm(InstanceNorm):
    """Instance normalization after a shortcut's addition, where a plain network has none: IBN-b's, see `IBN`."""


class BatchInstanceNormHalf(nn.Module):
    """BN on the first ceil(C / 2) channels, IN on the rest ("BIN_half")."""

    kernels = EAGER

    def __init__(self, num_features: int, fc_multiply: float = 0.0):
        super().__init__()
        self.batch_channels = math.ceil(num_features / 2)
        self.bat_n = BatchNorm(self.batch_channels)
        self.ins_n = InstanceNorm(num_features - self.batch_channels, fc_multiply)

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        coefficients, parameters = split_coefficients(x, self.bat_n, self.ins_n, batch_first=True)
        return normalize(x, coefficients, parameters, activation, residual, self.kernels)


class IBN(nn.Module):
    """IN on the first int(C / 2) channels, BN on the rest: IBN-a's layer, whose parts have its published names.

    Pan et al., "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net" (ECCV 2018, 1807.09441).
    """

    kernels = EAGER

    def __init__(self, num_features: int, fc_multiply: float = 0.0):
        super().__init__()
        self.instance_channels = num_features // 2
        self.IN = InstanceNorm(self.instance_channels, fc_multiply)
        self.BN = BatchNorm(num_features - self.instance_channels)

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        coefficients, parameters = split_coefficients(x, self.BN, self.IN, batch_first=False)
        return normalize(x, coefficients, parameters, activation, residual, self.kernels)


def split_coefficients(
    x: Tensor, batch: BatchNorm, instance: InstanceNorm, batch_first: bool
) -> tuple[Coefficients, tuple[Tensor, ...]]:
    """Return what `normalize` takes for a layer that gives some channels of x to BN and the others to IN.

    Args:
        batch_first: whether the channels of BN come before those of IN, or after them.
    """
    moments = batch.moments_source(x.shape[2] * x.shape[3])
    single_pixel = x.shape[2:] == (1, 1)
    first = batch.num_features if batch_first else instance.num_features

    def batch_part(inst_mean, inst_var, weight, bias, track):
        mean, var = moments(inst_mean, inst_var, track)
        return batch_coefficients(inst_mean, mean, var, weight, bias, batch.eps)

    def instance_part(inst_mean, inst_var, weight, bias):
        if single_pixel:
            return constant_multiple(inst_mean, instance.fc_multiply)
        return instance_coefficients(inst_var, weight, bias, instance.eps)

    def coefficients(inst_mean, inst_var, batch_weight, batch_bias, weight, bias, track):
        left, right = (inst_mean[:, :first], inst_var[:, :first]), (inst_mean[:, first:], inst_var[:, first:])
        of_batch, of_instances = (left, right) if batch_first else (right, left)
        parts = batch_part(*of_batch, batch_weight, batch_bias, track), instance_part(*of_instances, weight, bias)
        return tuple(torch.cat(halves, 1) for halves in zip(*(parts if batch_first else parts[::-1])))

    return coefficients, (batch.weight, batch.bias, instance.weight, instance.bias)


class SharedAffineBatchInstanceNorm(BatchNorm):
    """g * w * BN^(x) + b + (1 - g) * w * IN^(x), where ^ is normalization without affine ("BIN_gate1")."""

    kernels = EAGER

    def __init__(self, num_features: int, gate_init: str = "one"):
        super().__init__(num_features)
        self.gate = nn.Parameter(initial_gate(num_features, gate_init))

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        self._check_input_dim(x)
        moments = self.moments_source(x.shape[2] * x.shape[3])
        single_pixel = x.shape[2:] == (1, 1)

        def coefficients(inst_mean, inst_var, weight, bias, gate, track):
            mean, var = moments(inst_mean, inst_var, track)
            scale, shift = batch_coefficients(inst_mean, mean, var, gate * weight, bias, self.eps)
            if not single_pixel:
                scale = scale + (1 - gate) * weight * torch.rsqrt(inst_var + self.eps)
            return scale, shift

        return normalize(x, coefficients, (self.weight, self.bias, self.gate), activation, residual, self.kernels)


class BatchInstanceNorm(nn.Module):
    """g * BN(x) + (1 - g) * IN(x), one gate g in [0, 1] per channel: MetaBIN's layer ("BIN_gate2")."""

    kernels = EAGER

    def __init__(self, num_features: int, gate_init: str = "one", fc_multiply: float = 0.0):
        super().__init__()
        self.bat_n = BatchNorm(num_features)
        self.ins_n = InstanceNorm(num_features, fc_multiply)
        self.gate = nn.Parameter(initial_gate(num_features, gate_init))

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        batch, instance = self.bat_n, self.ins_n
        moments = batch.moments_source(x.shape[2] * x.shape[3])
        single_pixel = x.shape[2:] == (1, 1)

        def coefficients(inst_mean, inst_var, batch_weight, batch_bias, weight, bias, gate, track):
            mean, var = moments(inst_mean, inst_var, track)
            batch_part = batch_coefficients(inst_mean, mean, var, batch_weight, batch_bias, batch.eps)
            if single_pixel:
                instance_part = constant_multiple(inst_mean, instance.fc_multiply)
            else:
                instance_part = instance_coefficients(inst_var, weight, bias, instance.eps)
            return tuple(gate * b + (1 - gate) * i for b, i in zip(batch_part, instance_part))

        parameters = (batch.weight, batch.bias, instance.weight, instance.bias, self.gate)
        return normalize(x, coefficients, parameters, activation, residual, self.kernels)


# Each normalization as scale * (x - inst_mean) + shift; what is returned broadcasts to (N, C).


def batch_coefficients(
    inst_mean: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return scale and shift of batch normalization with moments (C,)."""
    scale = weight * torch.rsqrt(var + eps)
    shift = bias + (inst_mean - mean) * scale
    return scale.expand_as(shift), shift


def instance_coefficients(inst_var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return scale and shift of instance normalization."""
    scale = weight * torch.rsqrt(inst_var + eps)
    return scale, bias.expand_as(scale)


def constant_multiple(inst_mean: Tensor, factor: float) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a multiplication of x by a constant."""
    return torch.full_like(inst_mean, factor), inst_mean * factor


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
