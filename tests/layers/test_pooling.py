"""Global pooling layers."""

import pytest
import torch
from torch import nn

from fastreid.layers import build_pool_layer
from fastreid.layers.pooling import POOL_LAYERS, GeneralizedMeanPool
from fastreid.utils.errors import UserError

ONE_PER_MAP = sorted(set(POOL_LAYERS) - {"identity"})
MAP = torch.tensor([[-3.0, 0.0], [1.0, 2.0]]).view(1, 1, 2, 2)


@pytest.mark.parametrize("name", ONE_PER_MAP)
def test_each_map_becomes_one_number_in_its_type(name):
    layer = build_pool_layer(name)
    for dtype in (torch.float32, torch.float64):
        x = torch.rand(2, 3, 4, 5, dtype=dtype, requires_grad=True)
        out = layer.to(dtype)(x)
        assert out.shape == (2, 3, 1, 1) and out.dtype == dtype
        out.sum().backward()
        assert x.grad.isfinite().all() and x.grad.any()


@pytest.mark.parametrize(
    "name, expected",
    [("avgpool", 0.0), ("fastavgpool", 0.0), ("maxpool", 2.0), ("avgmaxpool", 2.0), ("clipavgpool", 1.5)]
    + [(name, (9 / 4) ** (1 / 3)) for name in ("gempool", "gempoolP")],
)
def test_value_of_a_small_map(name, expected):
    assert build_pool_layer(name)(MAP).item() == pytest.approx(expected, abs=1e-6)


def test_identity_leaves_the_map():
    assert build_pool_layer("identity")(MAP) is MAP


def test_a_map_without_positive_values_pools_to_zero_with_finite_gradients():
    for name in ("clipavgpool", "gempool"):
        x = torch.full((1, 2, 3, 3), -1.0, requires_grad=True)
        out = build_pool_layer(name)(x)
        out.sum().backward()
        torch.testing.assert_close(out, torch.zeros(1, 2, 1, 1), rtol=0, atol=1e-5)
        assert x.grad.isfinite().all()


def test_generalized_mean_lies_between_average_and_maximum():
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    average, maximum = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    torch.testing.assert_close(GeneralizedMeanPool(1.0)(x), average)
    torch.testing.assert_close(GeneralizedMeanPool(400.0).double()(x), maximum, rtol=0.02, atol=0)
    assert (GeneralizedMeanPool()(x) > average).all() and (GeneralizedMeanPool()(x) < maximum).all()


def test_only_gempool_p_learns_its_exponent():
    learned = build_pool_layer("gempoolP")
    assert [name for name, _ in learned.named_parameters()] == ["p"]
    learned(torch.rand(2, 3, 4, 4)).sum().backward()
    assert learned.p.grad.isfinite() and learned.p.grad != 0
    assert not list(build_pool_layer("gempool").parameters())


@pytest.mark.parametrize("name", sorted(set(POOL_LAYERS) - {"gempool", "gempoolP"}))
def test_plain_layers_add_nothing_to_a_checkpoint(name):
    layer = build_pool_layer(name)
    assert isinstance(layer, nn.Module) and not layer.state_dict()


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="POOL_LAYER must be one of avgpool, maxpool, .*; found 'avg'"):
        build_pool_layer("avg")
