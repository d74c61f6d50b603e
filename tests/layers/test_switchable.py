"""Switchable normalization against its formula, and the modes that it shares with batch normalization."""

import copy

import pytest
import torch

from fastreid.layers import SwitchableNorm, running_stats


def make(channels=4):
    layer = SwitchableNorm(channels).double().train()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def formula(layer, x, batch):
    """Written out with each of the three's own mean and variance."""
    dims = ((2, 3), (1, 2, 3))
    means = [x.mean(d, keepdim=True) for d in dims] + [batch[0].view(1, -1, 1, 1)]
    variances = [x.var(d, keepdim=True, correction=0) for d in dims] + [batch[1].view(1, -1, 1, 1)]
    mean = sum(share * m for share, m in zip(layer.mean_weight.softmax(0), means))
    var = sum(share * v for share, v in zip(layer.var_weight.softmax(0), variances))
    return (x - mean) / (var + 1e-5).sqrt() * layer.weight.view(-1, 1, 1) + layer.bias.view(-1, 1, 1)


def own_moments(x):
    return x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)


def test_by_hand():
    """Images (1, 3) and (0, 8), one channel: IN and LN are the same; BN has mean 3 and variance 9.5."""
    x = torch.tensor([[1.0, 3.0], [0.0, 8.0]], dtype=torch.float64).view(2, 1, 1, 2)
    found = SwitchableNorm(1).double().train()(x)  # equal shares: means 7/3 and 11/3, variances 11.5/3 and 41.5/3
    expected = torch.stack([(x[0] - 7 / 3) / (11.5 / 3) ** 0.5, (x[1] - 11 / 3) / (41.5 / 3) ** 0.5])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["general", "hold", "eval", "test"])
def test_value_and_gradients_are_the_formulas_in_every_mode(mode):
    x = (torch.randn(3, 4, 6, 5, dtype=torch.float64) * 2 + 1).requires_grad_()
    layer = make().train(mode != "test")
    layer.running_mean.uniform_(-1, 1), layer.running_var.uniform_(0.5, 2)
    before = copy.deepcopy(layer.state_dict())
    batch = own_moments(x) if mode in ("general", "hold") else (before["running_mean"], before["running_var"])
    with running_stats(layer, "general" if mode == "test" else mode):
        found = layer(x, "relu")
    expected = formula(layer, x, batch).relu()
    leaves, cotangent = [x, *layer.parameters()], torch.randn_like(x)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found, leaves, cotangent)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves, cotangent))
    assert all(gradient.any() for gradient in gradients), "something does not learn"
    moved = {name for name, value in layer.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == ({"running_mean", "running_var", "num_batches_tracked"} if mode == "general" else set())


def test_the_batch_s_part_in_a_test_does_not_depend_on_the_images_beside():
    layer, x = make().eval(), torch.randn(3, 4, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), torch.cat([layer(image[None]) for image in x]))


def test_tensors_have_the_authors_names():
    assert [name for name, _ in SwitchableNorm(3).named_parameters()] == ["weight", "bias", "mean_weight", "var_weight"]
    assert SwitchableNorm(3).mean_weight.tolist() == [1, 1, 1]


def test_half_precision_and_empty_batches():
    layer, x = SwitchableNorm(4).train(), torch.randn(3, 4, 8, 6) * 20 + 300
    torch.testing.assert_close(layer(x.bfloat16()).float(), layer(x), rtol=0.05, atol=0.1)
    assert layer(x[:0]).shape == (0, 4, 8, 6)
