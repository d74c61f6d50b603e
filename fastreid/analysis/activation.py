"""Where a model looks: how strong its last feature map is at each place of an image."""

from __future__ import annotations

from collections.abc import Iterable

import matplotlib
import numpy as np
from PIL import Image, ImageOps
from torch import Tensor, nn

from fastreid.data.build import build_test_loader
from fastreid.data.datasets import Items
from fastreid.evaluation.extraction import forward_batches

COLOURS = "inferno"  # dark to bright, which colour-blind readers tell apart, in print too
SHARE = 0.65  # of the colours in an overlay; the rest is the image, in grey


def activation_maps(cfg, model: nn.Module, paths: Iterable[str], name: str = "") -> dict[str, np.ndarray]:
    """Return for each image the strength (h, w), float32 0..1, of the backbone's last map (C, h, w) at each place.

    It is the sum of squares over the channels (Zagoruyko and Komodakis, arXiv 1612.03928), from the image's weakest
    place to its strongest: maps of two images do not say in which one a place is stronger. An even map is 0.

    Args:
        cfg, model: as of a test.
        name: stands beside the progress bar.

    Raises:
        UserError: an image cannot be read.
    """
    items = Items.from_rows([(path, 0, 0) for path in dict.fromkeys(paths)])
    if len(items) == 0:
        return {}
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.FLIP = False  # one map of each image
    found: list[Tensor] = []

    def keep(_: nn.Module, __: tuple, output: Tensor) -> None:
        found.append(output.float().square().sum(1).cpu())

    hook = model.backbone.register_forward_hook(keep)
    try:
        forward_batches(cfg, model, build_test_loader(cfg, items), len(items), name)
    finally:
        hook.remove()
    maps = (strength.numpy() for batch in found for strength in batch)
    return {path: scaled(strength) for path, strength in zip(items.paths, maps, strict=True)}


def scaled(strength: np.ndarray) -> np.ndarray:
    """Return values moved and stretched to 0..1; zeros where all are the same."""
    low, high = strength.min(), strength.max()
    return (strength - low) / (high - low) if high > low else np.zeros_like(strength)


def overlay(image: Image.Image, strength: np.ndarray) -> Image.Image:
    """Return an RGB image in grey under the colours of a map (h, w), values 0..1, of its size."""
    smooth = Image.fromarray(strength.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    colours = matplotlib.colormaps[COLOURS](np.asarray(smooth).clip(0, 1), bytes=True)[..., :3]
    return Image.blend(ImageOps.grayscale(image).convert("RGB"), Image.fromarray(colours), SHARE)
