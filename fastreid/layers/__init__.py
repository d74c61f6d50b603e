"""Layers: normalization, attention, pooling and classification."""

from fastreid.layers.attention import NonLocal, SqueezeExcitation
from fastreid.layers.classifiers import build_classifier
from fastreid.layers.normalization import (
    IBN,
    AppendedInstanceNorm,
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
from fastreid.layers.restitution import StyleRestitution, take_restituted
from fastreid.layers.style import DSU, EFDMix, MixStyle, StyleLayer, image_domains, style_layers
from fastreid.layers.switchable import SwitchableNorm

__all__ = [
    "DSU",
    "IBN",
    "AppendedInstanceNorm",
    "BatchInstanceNorm",
    "BatchNorm",
    "EFDMix",
    "InstanceNorm",
    "MixStyle",
    "NonLocal",
    "SqueezeExcitation",
    "StyleLayer",
    "StyleRestitution",
    "SwitchableNorm",
    "build_classifier",
    "build_pool_layer",
    "image_domains",
    "norm_factory",
    "population_statistics",
    "running_statistics",
    "running_stats",
    "style_layers",
    "synchronize_statistics",
    "take_population_statistics",
    "take_restituted",
]
