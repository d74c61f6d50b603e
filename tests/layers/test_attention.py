"""Squeeze-and-excitation and non-local blocks against loops that follow the papers' formulas."""

import math

import pytest
import torch
from torch import nn

from fastreid.layers import NonLocal, SqueezeExcitation, running_stats


@torch.no_grad()
def test_squeeze_and_excitation_multiplies_each_channel_by_its_own_factor():
    layer = SqueezeExcitation(32)
    first, second = layer.fc[0].weight, layer.fc[2].weight
    assert first.shape == (2, 32) and second.shape == (32, 2)
    assert list(layer.state_dict()) == ["fc.0.weight", "fc.2.weight"]
    x = torch.randn(3, 32, 4, 2)
    for image, found in zip(x, layer(x)):
        means = [channel.mean() for channel in image]
        hidden = [max(0.0, sum(w * m for w, m in zip(row, means))) for row in first]
        for channel, row, out in zip(image, second, found):
            factor = 1 / (1 + math.exp(-sum(w * h for w, h in zip(row, hidden))))
            torch.testing.assert_close(out, channel * factor)


def make_non_local(channels=4):
    """Return a float64 block that does something: its last normalization does not start at zero."""
    block = NonLocal(channels).double()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block


@torch.no_grad()
def test_non_local_adds_the_mean_of_all_positions_weighted_by_similarity():
    block = make_non_local().eval()
    norm = block.W[1]
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 1.5)
    theta, phi, g, w = (conv.weight[:, :, 0, 0] for conv in (block.theta, block.phi, block.g, block.W[0]))
    x = torch.randn(2, 4, 3, 2, dtype=torch.float64)
    found = block(x)
    positions = [(row, column) for row in range(3) for column in range(2)]
    for image in range(2):
        for i in positions:
            here = x[image, :, i[0], i[1]]
            others = [x[image, :, j[0], j[1]] for j in positions]
            similarity = [math.exp((theta @ here) @ (phi @ other)) for other in others]
            mean = sum(s * (g @ other) for s, other in zip(similarity, others)) / sum(similarity)
            expected = (w @ mean - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
            torch.testing.assert_close(found[image, :, i[0], i[1]], here + expected)


def test_non_local_does_nothing_until_it_has_learned():
    block = NonLocal(8)
    x = torch.randn(4, 8, 6, 3).contiguous(memory_format=torch.channels_last)
    assert torch.equal(block(x), x)
    target = torch.randn_like(x)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.05)
    for _ in range(2):  # in the first step only the zero weight that ends the block has a gradient
        before = {name: parameter.clone() for name, parameter in block.named_parameters()}
        optimizer.zero_grad()
        loss = (block(x) - target).square().mean()
        loss.backward()
        optimizer.step()
    assert not torch.equal(block(x), x) and (block(x) - target).square().mean() < loss
    assert all(not torch.equal(parameter, before[name]) for name, parameter in block.named_parameters())


def test_the_norm_of_a_non_local_block_obeys_the_statistics_mode():
    block = NonLocal(4)
    x = torch.randn(2, 4, 3, 2)
    with running_stats(block, "hold"):
        block(x)
    assert block.W[1].num_batches_tracked == 0
    block(x)
    assert block.W[1].num_batches_tracked == 1


@pytest.mark.parametrize("make", [make_non_local, lambda: SqueezeExcitation(16).double()])
def test_second_derivatives_and_no_images(make):
    block = make()
    channels = 4 if isinstance(block, NonLocal) else 16
    x = torch.randn(2, channels, 2, 1, dtype=torch.float64, requires_grad=True)
    with running_stats(block, "hold"):
        assert torch.autograd.gradgradcheck(block, (x,))
    assert block(x[:0]).shape == (0, channels, 2, 1)
