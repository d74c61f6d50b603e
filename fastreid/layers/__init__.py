"""Layers: normalization, attention, pooling and classification."""

from fastreid.layers.attention import NonLocal, SqueezeExcitation
from fastreid.layers.classifiers import build_classifier
from fastreid.layers.normalization import (
    IBN,
    BatchInstanceNorm,
    BatchNorm,
    InstanceNorm,
    norm_factory,
    running_statistics,
    running_stats,
    synchronize_statistics,
)
from fastreid.layers.pooling import build_pool_layer
from fastreid.layers.population import population_statistics, take_population_statistics

__all__ = [
    "IBN",
    "BatchInstanceNorm",
    "BatchNorm",
    "InstanceNorm",
    "NonLocal",
    "SqueezeExcitation",
    "build_classifier",
    "build_pool_layer",
    "norm_factory",
    "population_statistics",
    "running_statistics",
    "running_stats",
    "synchronize_statistics",
    "take_population_statistics",
]
