"""Style normalization and restitution (SNR): instance normalization, and what of the removed style tells people apart.

Jin et al., "Style Normalization and Restitution for Generalizable Person Re-Identification" (CVPR 2020,
arXiv 2005.11037).
"""

from __future__ import annotations

from torch import Tensor

from fastreid.layers.attention import SqueezeExcitation
from fastreid.layers.normalization import InstanceNorm
from fastreid.layers.style import StyleLayer

# Means over the maps, (N, C) each: normalized; with the relevant part of the style; with the rest of it.
Restituted = tuple[Tensor, Tensor, Tensor]


class StyleRestitution(StyleLayer):
    """x -> IN(x) + a * R, where R = x - IN(x) and a in (0, 1), for each image and channel, is computed from R's means.

    While it is trained, `restituted` holds what the dual causality loss compares, until `take_restituted`.
    """

    def __init__(self, channels: int, fc_multiply: float = 0.0):
        super().__init__()
        self.IN = InstanceNorm(channels, fc_multiply)
        self.attention = SqueezeExcitation(channels)
        self.restituted: Restituted | None = None

    def forward(self, x: Tensor) -> Tensor:
        normalized = self.IN(x)
        style = x - normalized
        relevant = self.attention(style)
        if self.training:
            plain, whole, part = (values.mean((2, 3)) for values in (normalized, style, relevant))
            self.restituted = plain, plain + part, plain + whole - part
        return normalized + relevant


def take_restituted(layers: list[StyleLayer]) -> tuple[Restituted, ...]:
    """Return what the layers hold for the dual causality loss, in their order; they hold it no longer."""
    found = []
    for layer in layers:
        if isinstance(layer, StyleRestitution) and layer.restituted is not None:
            found.append(layer.restituted)
            layer.restituted = None
    return tuple(found)
