"""The statistics that batch normalization uses, from the moments of the images.

Shapes: an image's mean and biased variance in each channel (N, C); the batch's (C,).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.utils.comm import gather_rows
from fastreid.utils.processes import num_processes


class Population:
    """Mean and variance (C,) of the values of all batches together, whatever the sizes of the batches.

    Batches are joined by their sums of squared differences from the mean, which add up without cancelling (Chan et al.,
    Stanford STAN-CS-79-773, 1979): the variance is the mean of the batches' variances plus the variance of their means.
    """

    def __init__(self) -> None:
        self.count: int | Tensor = 0
        self.mean: float | Tensor = 0.0
        self.squares: float | Tensor = 0.0

    def add(self, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
        """Take in a batch of `count` values a channel, of mean and biased variance (C,)."""
        total = self.count + count
        step = mean.double() - self.mean
        self.squares = self.squares + var.double() * count + step.square() * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total

    @property
    def var(self) -> Tensor:
        """The unbiased variance, as running variances are."""
        return self.squares / max(float(self.count) - 1, 1)


class Source(NamedTuple):
    """Where batch normalization has its statistics from in one forward pass.

    Args:
        mean, var: the running statistics.
        pooled: it uses those of the images instead, where there are any.
        synchronized: of the images of all processes.
        first: the channel of the maps that is theirs first.
        batches: the number of batches that have moved the running statistics, which this one moves by `momentum`; None:
            they stay.
        population: what adds up the images' statistics.
    """

    mean: Tensor
    var: Tensor
    pooled: bool
    synchronized: bool = False
    first: int = 0
    batches: Tensor | None = None
    momentum: float = 0.0
    population: Population | None = None


class Statistics(NamedTuple):
    """Mean and variance (C,) that batch normalization uses.

    Args:
        images: the number of images they are those of; None where they are constants.
        synchronized: whether these are the images of all processes.
    """

    mean: Tensor
    var: Tensor
    images: int | Tensor | None = None
    synchronized: bool = False


def pool(mean: Tensor, var: Tensor, synchronized: bool = False) -> Statistics:
    """Return the batch's statistics from the moments (N, C) of at least one image: the law of total variance."""
    if synchronized:
        return pool_of_all(mean, var)
    between, batch_mean = torch.var_mean(mean, 0, correction=0)
    return Statistics(batch_mean, var.mean(0).add_(between), len(mean))


def pool_of_all(mean: Tensor, var: Tensor) -> Statistics:
    """Return the statistics of the images of all processes together.

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
    return Statistics(pooled, (squares + images * (means - pooled).square()).sum(0) / total, total, True)


def find_statistics(mean: Tensor, var: Tensor, pixels: int, source: Source | None) -> Statistics:
    """Return the batch's statistics from the images' moments (N, C), and move or add up what the source says.

    Args:
        pixels: H * W of the maps.
        source: None for a layer without batch normalization, on which nothing depends.
    """
    channels = mean.shape[1]
    if source is None:
        return Statistics(mean.new_zeros(channels), mean.new_ones(channels))
    own = len(source.mean)
    if not source.pooled or not (len(mean) or source.synchronized):
        others = source.first, channels - source.first - own
        constants = source.mean, source.var
        return Statistics(*(F.pad(t, others, value=1.0) for t in constants) if own < channels else constants)
    found = pool(mean, var, source.synchronized)
    seen = [values.detach().narrow(0, source.first, own) for values in (found.mean, found.var)]
    if source.population is not None:
        source.population.add(*seen, pixels * found.images)
    elif source.batches is not None:
        move(source, *seen, pixels * found.images)
    return found


@torch.no_grad()
def move(source: Source, mean: Tensor, var: Tensor, count: int | Tensor) -> None:
    """Move running statistics towards those of `count` values a channel; the running variance is the unbiased one."""
    unbiased = var * (count / (count - 1 + (count == 1)))  # without asking a GPU for the count of all processes
    source.batches.add_(1)
    towards = [mean.to(source.mean.dtype), unbiased.to(source.var.dtype)]
    torch._foreach_lerp_([source.mean, source.var], towards, source.momentum)
