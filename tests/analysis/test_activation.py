"""Where a model looks: maps against direct computations, and how they are drawn."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastreid.analysis.activation import activation_maps, overlay, scaled
from fastreid.data.build import load_test_set
from fastreid.data.decode import read_image


class TilesModel(nn.Module):
    """Image (3, 16, 8) -> means of 4 x 4 tiles, (3, 4, 2), as the backbone's map; their average is the feature."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.AvgPool2d(4)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, batch):
        return self.backbone(batch["images"]).mean((2, 3)) * self.scale


@pytest.fixture
def paths(small_cfg):
    return load_test_set("folder:people").items.paths[:5].tolist()


def expected(path):
    pixels = np.asarray(read_image(path), dtype=np.float32).reshape(4, 4, 2, 4, 3).mean((1, 3))
    strength = (pixels**2).sum(-1)
    return (strength - strength.min()) / (strength.max() - strength.min())


@pytest.mark.parametrize("flip", [False, True])
def test_maps_are_the_scaled_sums_of_squares_of_each_image(small_cfg, paths, flip):
    small_cfg.TEST.FLIP = flip
    maps = activation_maps(small_cfg, TilesModel(), [*paths, paths[0]])
    assert list(maps) == paths
    for path in paths:
        np.testing.assert_allclose(maps[path], expected(path), atol=1e-4)


def test_no_images_have_no_maps_and_the_model_keeps_no_hook(small_cfg, paths):
    model = TilesModel()
    assert activation_maps(small_cfg, model, []) == {}
    activation_maps(small_cfg, model, paths)
    assert not model.backbone._forward_hooks


def test_an_even_map_is_zero():
    assert scaled(np.full((2, 2), 3.0)).tolist() == [[0, 0], [0, 0]]


def test_an_overlay_is_bright_where_the_map_is_strong_and_keeps_the_image_in_grey():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 20, 3), dtype=np.uint8))
    drawn = overlay(image, np.array([[1.0], [0.0]], dtype=np.float32))
    assert drawn.size == image.size and drawn.mode == "RGB"
    pixels = np.asarray(drawn, dtype=float)
    assert pixels[:10].mean() > 2 * pixels[-10:].mean()
    grey = np.asarray(image.convert("L"), dtype=float)[-5:]
    assert np.corrcoef(pixels[-5:].mean(2).ravel(), grey.ravel())[0, 1] > 0.9
