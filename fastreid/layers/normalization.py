"""Batch, instance and batch-instance normalization, with a statistics mode chosen per forward pass.

`BatchInstanceNorm` is the layer of "Meta Batch-Instance Normalization for Generalizable Person Re-Identification"
(CVPR 2021, arXiv 2011.14670). Layers know nothing of meta-learning: a training step chooses the statistics with
`running_stats(model, mode)` and substitutes gates with `torch.func.functional_call`.

Shapes everywhere: x is (N, C, H, W); batch statistics are (C,), instance statistics (N, C).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.layers.coefficients import Mixture
from fastreid.layers.moments import Source
from fastreid.layers.normalize import normalize
from fastreid.layers.passes import EAGER, activate, per_map
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


def synchronize_statistics(model: nn.Module, synchronize: bool = True) -> None:
    """Let the batch normalization of a model use the statistics of all processes' images, or of the process's own."""
    for layer in model.modules():
        if isinstance(layer, BatchNorm):
            layer.synchronize = synchronize


def running_statistics(model: nn.Module, only_training: bool = False) -> list[Tensor]:
    """Return the running means and variances of a model's batch normalization, or only of those in training mode."""
    layers = [
        layer for layer in model.modules() if isinstance(layer, BatchNorm) and (layer.training or not only_training)
    ]
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
        out = F.batch_norm(x, *running, self.weight, self.bias, self.uses_batch_stats, self.momentum, self.eps)
        return activate(out, activation, residual)

    def forward_by_moments(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        """Return what `forward` does for maps (N, C, H, W) of any size, with the statistics of `source`."""
        return normalize(x, self.alone(), self.source(), activation, residual, eps=self.eps)

    def alone(self) -> Mixture:
        """Return the mixture that is this normalization only."""
        return Mixture(self.weight, self.bias, self.weight, self.bias, torch.ones_like(self.weight))

    def source(self, first: int = 0) -> Source:
        """Return where it has its statistics from in the present mode.

        Args:
            first: its first channel among those of the maps.
        """
        return Source(
            self.running_mean,
            self.running_var,
            self.uses_batch_stats,
            self.synchronized,
            first,
            self.num_batches_tracked if self.updates_running_stats else None,
            self.momentum,
            self.population,
        )


class InstanceNorm(nn.Module):
    """Instance normalization with affine parameters; 1x1 maps, which have no variance, are multiplied by a constant."""

    kernels = EAGER

    def __init__(self, num_features: int, fc_multiply: float = 0.0):
        super().__init__()
        self.num_features, self.fc_multiply = num_features, fc_multiply
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        if x.shape[2:] == (1, 1):
            return activate(x * self.fc_multiply, activation, residual)
        mixture = Mixture(self.weight, self.bias, self.weight, self.bias, torch.zeros_like(self.weight))
        return normalize(x, mixture, None, activation, residual, self.kernels)

    def extra_repr(self) -> str:
        return f"{self.num_features}, fc_multiply={self.fc_multiply}"


class AppendedInstanceNorm(InstanceNorm):
    """Instance normalization after a shortcut's addition, where a plain network has none: IBN-b's, see `IBN`."""


class SplitNorm(nn.Module):
    """BN on some channels, IN on the others, which are before or after them."""

    kernels = EAGER
    batch_first = True

    @property
    def parts(self) -> tuple[BatchNorm, InstanceNorm]:
        raise NotImplementedError

    def in_order(self, of_batch: Tensor, of_instances: Tensor, dim: int = 0) -> Tensor:
        """Return values of the two parts' channels as one tensor in the channels' order."""
        return torch.cat((of_batch, of_instances) if self.batch_first else (of_instances, of_batch), dim)

    def divide(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the channels of BN and those of IN of a tensor (N, C, ...)."""
        sizes = [part.num_features for part in self.parts]
        if self.batch_first:
            return values.split(sizes, 1)
        return values.split(sizes[::-1], 1)[::-1]

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        batch, instance = self.parts
        if x.shape[2:] == (1, 1):
            of_batch, of_instances = self.divide(x)
            out = self.in_order(batch.forward_by_moments(of_batch), instance(of_instances), dim=1)
            return activate(out, activation, residual)
        weight, bias = self.in_order(batch.weight, instance.weight), self.in_order(batch.bias, instance.bias)
        gate = self.in_order(torch.ones_like(batch.weight), torch.zeros_like(instance.weight))
        mixture = Mixture(weight, bias, weight, bias, gate)
        source = batch.source(0 if self.batch_first else instance.num_features)
        return normalize(x, mixture, source, activation, residual, self.kernels, batch.eps)


class BatchInstanceNormHalf(SplitNorm):
    """BN on the first ceil(C / 2) channels, IN on the rest ("BIN_half")."""

    def __init__(self, num_features: int, fc_multiply: float = 0.0):
        super().__init__()
        self.batch_channels = math.ceil(num_features / 2)
        self.bat_n = BatchNorm(self.batch_channels)
        self.ins_n = InstanceNorm(num_features - self.batch_channels, fc_multiply)

    @property
    def parts(self) -> tuple[BatchNorm, InstanceNorm]:
        return self.bat_n, self.ins_n


class IBN(SplitNorm):
    """IN on the first int(C / 2) channels, BN on the rest: IBN-a's layer, whose parts have its published names.

    Pan et al., "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net" (ECCV 2018, 1807.09441).
    """

    batch_first = False

    def __init__(self, num_features: int, fc_multiply: float = 0.0):
        super().__init__()
        self.instance_channels = num_features // 2
        self.IN = InstanceNorm(self.instance_channels, fc_multiply)
        self.BN = BatchNorm(num_features - self.instance_channels)

    @property
    def parts(self) -> tuple[BatchNorm, InstanceNorm]:
        return self.BN, self.IN


class SharedAffineBatchInstanceNorm(BatchNorm):
    """g * w * BN^(x) + b + (1 - g) * w * IN^(x), where ^ is normalization without affine ("BIN_gate1")."""

    kernels = EAGER

    def __init__(self, num_features: int, gate_init: str = "one"):
        super().__init__(num_features)
        self.gate = nn.Parameter(initial_gate(num_features, gate_init))

    def forward(self, x: Tensor, activation: str | None = None, residual: Tensor | None = None) -> Tensor:
        self._check_input_dim(x)
        mixture = Mixture(self.weight, self.bias, self.weight, self.bias, self.gate)
        if x.shape[2:] == (1, 1):  # which have no variance: BN alone
            mixture = self.alone()._replace(batch_weight=self.gate * self.weight)
        return normalize(x, mixture, self.source(), activation, residual, self.kernels, self.eps)


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
        if x.shape[2:] == (1, 1):
            gate = per_map(self.gate)
            return activate(gate * batch.forward_by_moments(x) + (1 - gate) * instance(x), activation, residual)
        mixture = Mixture(batch.weight, batch.bias, instance.weight, instance.bias, self.gate)
        return normalize(x, mixture, batch.source(), activation, residual, self.kernels, batch.eps)


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
        bin_init: a value of `MODEL.NORM.BIN_INIT`.
        fc_multiply: `MODEL.NORM.IN_FC_MULTIPLY`.
        others: types that the caller deals with itself, for the message.

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
