"""Normalization layers against the readable composition of PyTorch's functions, and their statistics modes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from fastreid.layers import IBN, BatchInstanceNorm, BatchNorm, norm_factory, running_stats
from fastreid.utils.errors import UserError

NORM_TYPES = ("BN", "IN", "BIN_half", "IBN", "BIN_gate1", "BIN_gate2")

C = 6
FC_MULTIPLY = 0.25
USES_BATCH = {"general": True, "hold": True, "eval": False, "test": False}
LAYOUTS = [torch.contiguous_format, torch.channels_last]
GATED = ["BIN_gate1", "BIN_gate2"]


def make_layer(kind, channels=C):
    """Return a float64 layer none of whose tensors has its initial value."""
    make = norm_factory(kind, "half", FC_MULTIPLY) if kind != "IBN" else lambda c: IBN(c, FC_MULTIPLY)
    layer = make(channels).double()
    with torch.no_grad():
        for name, tensor in layer.state_dict().items():
            if name.endswith(("gate", "running_var")):
                tensor.copy_(torch.rand(tensor.shape) * 0.8 + 0.1)
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape))
    return layer


def composition(kind, layer, x, uses_batch):
    """Return the layer's output written out, from a layer of the same tensors, whose running statistics it moves."""
    single_pixel = x.shape[2:] == (1, 1)

    def batch_norm(x, norm, weight, bias):
        return F.batch_norm(x, norm.running_mean, norm.running_var, weight, bias, uses_batch, norm.momentum, norm.eps)

    if kind == "BN":
        return batch_norm(x, layer, layer.weight, layer.bias)
    if kind == "BIN_gate1":
        gate = layer.gate[:, None, None]
        w, b = layer.weight[:, None, None], layer.bias[:, None, None]
        out = gate * w * batch_norm(x, layer, None, None) + b
        return out if single_pixel else out + (1 - gate) * w * F.instance_norm(x)

    def instance_norm(x, norm):
        return x * norm.fc_multiply if single_pixel else F.instance_norm(x, weight=norm.weight, bias=norm.bias)

    if kind == "IN":
        return instance_norm(x, layer)
    if kind == "IBN":
        left, right, bat = x[:, : C // 2], x[:, C // 2 :], layer.BN
        return torch.cat([instance_norm(left, layer.IN), batch_norm(right, bat, bat.weight, bat.bias)], 1)
    bat, ins = layer.bat_n, layer.ins_n
    if kind == "BIN_half":
        left, right = x[:, : C // 2], x[:, C // 2 :]
        return torch.cat([batch_norm(left, bat, bat.weight, bat.bias), instance_norm(right, ins)], 1)
    gate = layer.gate[:, None, None]
    return gate * batch_norm(x, bat, bat.weight, bat.bias) + (1 - gate) * instance_norm(x, ins)


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("shape", [(4, C, 5, 3), (1, C, 5, 3), (4, C, 1, 1)], ids=["maps", "one image", "1x1 maps"])
@pytest.mark.parametrize("mode", USES_BATCH)
@pytest.mark.parametrize("kind", NORM_TYPES)
def test_output_gradients_and_statistics_equal_the_composition(kind, mode, shape, memory_format):
    layer = make_layer(kind)
    readable = copy.deepcopy(layer)
    layer.train(mode != "test")
    x = (torch.randn(shape, dtype=torch.float64) * 2 + 3).contiguous(memory_format=memory_format)
    # The reference's own CPU gradient is wrong for one image where the incoming one is channels_last (PyTorch 2.15).
    cotangent = torch.randn_like(x).contiguous(memory_format=memory_format if len(x) > 1 else torch.contiguous_format)
    results = []
    for owner in (layer, readable):
        leaf = x.clone().requires_grad_()
        if owner is layer:
            with running_stats(layer, "general" if mode == "test" else mode):
                out = layer(leaf)
        else:
            out = composition(kind, owner, leaf, USES_BATCH[mode])
        used = {n: p for n, p in owner.named_parameters() if shape[2] > 1 or n[:2] not in ("in", "IN") and kind != "IN"}
        gradients = torch.autograd.grad((out * cotangent).sum(), [leaf, *used.values()])
        results.append({"out": out.detach(), **dict(zip(["x", *used], gradients))})
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    state, moved = layer.state_dict(), readable.state_dict()
    for name in (n for n in state if "running" in n and mode == "general"):
        torch.testing.assert_close(state[name], moved[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_ibn_is_pytorchs_instance_norm_on_one_half_and_batch_norm_on_the_other(training):
    layer = make_layer("IBN", 7).train(training)
    halves = nn.ModuleDict({"IN": nn.InstanceNorm2d(3, affine=True), "BN": nn.BatchNorm2d(4)}).double().train(training)
    halves.load_state_dict(layer.state_dict())
    x = torch.randn(4, 7, 5, 3, dtype=torch.float64)
    expected = torch.cat([halves["IN"](x[:, :3]), halves["BN"](x[:, 3:])], 1)
    torch.testing.assert_close(layer(x), expected)
    residual = torch.randn_like(x)
    with running_stats(layer, "hold"):
        torch.testing.assert_close(layer(x, "relu", residual), F.relu(expected + residual))
    torch.testing.assert_close(layer.state_dict(), halves.state_dict())


def test_an_images_style_passes_the_batch_half_of_ibn_only():
    """A style is a gain and an offset of an image's channels."""
    layer = IBN(8).double()
    layer.BN.eps = 1e-12  # of the layer, for both parts
    x = torch.randn(4, 8, 6, 3, dtype=torch.float64)
    styled = x.clone()
    styled[0] = 3 * x[0] + 5
    before, after = layer(x), layer(styled)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().amax((0, 2, 3)).min() > 0.1


@pytest.mark.parametrize("kind", NORM_TYPES)
def test_only_general_mode_moves_statistics_and_counts_batches(kind):
    layer = make_layer(kind)
    x = torch.randn(4, C, 5, 3, dtype=torch.float64)
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    for mode in ("hold", "eval"):
        with running_stats(layer, mode):
            layer(x)
    layer.eval()(x)
    torch.testing.assert_close(dict(layer.named_buffers()), before, rtol=0, atol=0)
    layer.train()
    layer(x), layer(x)
    for name, buffer in layer.named_buffers():
        if name.endswith("num_batches_tracked"):
            assert buffer == before[name] + 2
        else:
            assert not torch.equal(buffer, before[name])


@pytest.mark.parametrize("kind", GATED)
@pytest.mark.parametrize("mode, shape", [("hold", (2, 3, 2, 2)), ("eval", (2, 3, 2, 2)), ("hold", (3, 3, 1, 1))])
def test_second_derivatives_are_right(kind, mode, shape):
    layer = make_layer(kind, 3)
    names = [name for name, _ in layer.named_parameters()]
    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def function(x, *values):
        with running_stats(layer, mode):
            return functional_call(layer, dict(zip(names, values)), (x,))

    assert torch.autograd.gradcheck(function, (x, *values))
    assert torch.autograd.gradgradcheck(function, (x, *values))


def test_a_single_pixel_of_a_single_image_is_finite_and_moves_the_statistics():
    layer = norm_factory("BIN_gate2", "half", FC_MULTIPLY)(C)
    x = torch.full((1, C, 1, 1), 2.0)
    torch.testing.assert_close(layer(x), torch.full_like(x, (1 - 0.5) * 2 * FC_MULTIPLY))
    torch.testing.assert_close(layer.bat_n.running_mean, torch.full((C,), 0.2))
    assert layer.bat_n.running_var.isfinite().all()


@pytest.mark.parametrize("kind, expected", [("IN", 0.25 * 2), ("BIN_gate2", 0.25 * 2), ("BIN_gate1", 0.0)])
def test_single_pixel_maps_are_multiplied_not_normalized(kind, expected):
    layer = norm_factory(kind, "zero", FC_MULTIPLY)(C)
    x = torch.full((3, C, 1, 1), 2.0)
    torch.testing.assert_close(layer(x), torch.full_like(x, expected))


@pytest.mark.parametrize("kind", NORM_TYPES)
def test_half_precision_input_keeps_its_type_but_not_its_sums(kind):
    layer = make_layer(kind).float()
    twin = copy.deepcopy(layer)
    x = (torch.randn(8, C, 16, 8) + 30).bfloat16()
    out, wide = layer(x), twin(x.float())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wide, rtol=2**-7, atol=2**-7)
    for (name, buffer), (_, expected) in zip(layer.named_buffers(), twin.named_buffers()):
        torch.testing.assert_close(buffer, expected, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["BN", *GATED])
def test_layers_keep_channels_last(kind):
    x = torch.randn(2, C, 4, 3).contiguous(memory_format=torch.channels_last)
    assert make_layer(kind).float()(x).is_contiguous(memory_format=torch.channels_last)


def test_one_channel_can_be_halved():
    layer = norm_factory("BIN_half")(1)
    assert layer.batch_channels == 1
    assert layer(torch.randn(2, 1, 4, 3)).shape == (2, 1, 4, 3)


@pytest.mark.parametrize("init, low, high", [("one", 1, 1), ("zero", 0, 0), ("half", 0.5, 0.5), ("random", 0, 1)])
@pytest.mark.parametrize("kind", GATED)
def test_gates_start_as_bin_init_says(kind, init, low, high):
    gate = norm_factory(kind, init)(64).gate
    assert gate.shape == (64,) and gate.min() >= low and gate.max() <= high
    assert (gate.std() > 0) == (init == "random")


@pytest.mark.parametrize("arguments, option", [(("BIN_gate3",), "TYPE_BACKBONE"), (("BIN_gate2", "two"), "BIN_INIT")])
def test_unknown_names_list_the_known_ones(arguments, option):
    with pytest.raises(UserError, match=f"MODEL.NORM.{option} must be one of .*; found '{arguments[-1]}'"):
        norm_factory(*arguments)


def two_layers():
    return nn.Sequential(BatchInstanceNorm(2), nn.Sequential(BatchNorm(2)))


def modes(model):
    return [m.stats_mode for m in model.modules() if isinstance(m, BatchNorm)]


def test_statistics_modes_nest_and_come_back():
    model = two_layers()
    with running_stats(model, "hold"):
        assert modes(model) == ["hold", "hold"]
        with running_stats(model[1], "eval"):
            assert modes(model) == ["hold", "eval"]
        assert modes(model) == ["hold", "hold"]
    assert modes(model) == ["general", "general"]


def test_statistics_modes_come_back_after_an_exception():
    model = two_layers()
    with pytest.raises(RuntimeError, match="boom"), running_stats(model, "hold"), running_stats(model, "eval"):
        raise RuntimeError("boom")
    assert modes(model) == ["general", "general"]


def test_an_unknown_statistics_mode_changes_nothing():
    model = two_layers()
    with pytest.raises(ValueError, match="one of general, hold, eval; found 'frozen'"), running_stats(model, "frozen"):
        pass
    assert modes(model) == ["general", "general"]


def test_batch_norm_takes_vectors_but_not_sequences():
    layer = BatchNorm(C)
    assert layer(torch.randn(4, C)).shape == (4, C)
    with pytest.raises(ValueError, match=r"found \(4, 6, 2\)"):
        layer(torch.randn(4, C, 2))
