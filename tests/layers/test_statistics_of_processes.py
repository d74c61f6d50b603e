"""Statistics over processes, as far as a single process shows them; see also tests/engine/test_parallel_training.py."""

import pytest
import torch

from fastreid.layers import IBN, norm_factory, running_statistics, running_stats, synchronize_statistics
from fastreid.layers.moments import pool, pool_of_all
from fastreid.layers.normalization import BatchNorm

BATCH_NORMS = ("BN", "BIN_half", "IBN", "BIN_gate1", "BIN_gate2")


def make_layer(name):
    return IBN(4) if name == "IBN" else norm_factory(name, "half")(4)


def test_the_moments_of_all_images_are_those_of_one_process():
    mean, var = 1e4 + torch.randn(6, 5), torch.rand(6, 5)  # float32 squares of such means would cancel
    expected = pool(mean.double(), var.double())
    found = pool_of_all(mean, var)
    assert found.images == expected.images == 6
    torch.testing.assert_close(found[0].double(), expected[0], rtol=3e-7, atol=0)
    torch.testing.assert_close(found[1].double(), expected[1], rtol=2e-3, atol=0)


def test_every_batch_normalization_of_a_model_is_synchronized_or_none():
    model = torch.nn.Sequential(*(make_layer(name) for name in BATCH_NORMS))
    layers = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    for choice in (True, False):
        synchronize_statistics(model, choice)
        assert [layer.synchronize for layer in layers] == [choice] * len(BATCH_NORMS)
    assert len(running_statistics(model)) == 2 * len(BATCH_NORMS)


@pytest.mark.parametrize("mode", ["general", "hold"])
@pytest.mark.parametrize("name", ["IN", *BATCH_NORMS])
def test_no_image_gives_zero_gradients_and_leaves_running_statistics_alone(name, mode):
    layer = make_layer(name)
    before = [buffer.clone() for buffer in layer.buffers()]
    with running_stats(layer, mode):
        out = layer(torch.empty(0, 4, 3, 2), activation="relu")
    out.sum().backward()
    assert out.shape == (0, 4, 3, 2)
    assert all(parameter.grad.eq(0).all() for parameter in layer.parameters())
    assert all(torch.equal(buffer, old) for buffer, old in zip(layer.buffers(), before))
