"""Mean and variance of all that a layer's batch normalization sees, batch after batch, instead of a moving average."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fastreid.layers.moments import Population
from fastreid.layers.normalization import BatchNorm, running_stats
from fastreid.utils.processes import num_processes


@contextmanager
def population_statistics(model: nn.Module) -> Iterator[dict[BatchNorm, Population]]:
    """Within, each batch normalization in training mode normalizes with the batch's statistics and adds them up.

    Running statistics are left alone. With several processes a batch is all the processes' images, so that the result
    is the same in all of them, and that of a single process. The layers' populations are filled while the model runs.
    """
    layers = [m for m in model.modules() if isinstance(m, BatchNorm) and m.training]
    before = [layer.synchronize for layer in layers]
    populations = {layer: Population() for layer in layers}
    try:
        for layer, population in populations.items():
            layer.population, layer.synchronize = population, num_processes() > 1
        with running_stats(model, "hold"):
            yield populations
    finally:
        for layer, synchronize in zip(layers, before):
            layer.population, layer.synchronize = None, synchronize


@torch.no_grad()
def take_population_statistics(populations: dict[BatchNorm, Population]) -> None:
    """Make each layer's running statistics those of its population; a layer that saw nothing keeps its own."""
    for layer, population in populations.items():
        if population.count:
            layer.running_mean.copy_(population.mean)
            layer.running_var.copy_(population.var)
