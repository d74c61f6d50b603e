"""ResNet's WITH_IBN, WITH_SE and WITH_NL, DualNorm, and how they go together."""

import copy
import functools

import pytest
import torch
from torch import nn

from fastreid.config import get_cfg
from fastreid.engine.compile import compile_model
from fastreid.layers import IBN, BatchNorm, InstanceNorm, NonLocal, SqueezeExcitation, norm_factory, running_stats
from fastreid.layers.passes import EAGER
from fastreid.modeling.backbones import ResNet, build_backbone, describe
from fastreid.modeling.backbones.resnet import BasicBlock, Bottleneck
from fastreid.utils.errors import UserError

EVERYTHING = ("WITH_IBN", "WITH_SE", "WITH_NL")


def build(*options, name="resnet18", **norm):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.PRETRAIN", "False"])
    cfg.MODEL.NORM.TYPE_BACKBONE, cfg.MODEL.NORM.BIN_INIT = "BN", "half"
    for option in options:
        cfg.MODEL.BACKBONE[option] = True
    for option, value in norm.items():
        cfg.MODEL.NORM[option] = value
    return build_backbone(cfg)


def shapes(*options, name="resnet50", **norm):
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in build(*options, name=name, **norm).state_dict().items()}


PLAIN = shapes()


def test_ibn_replaces_the_first_norm_of_the_blocks_of_the_first_three_stages():
    found = shapes("WITH_IBN")
    replaced = {name for name in PLAIN if name not in found}
    assert {name.rpartition(".")[0] for name in replaced} == {
        f"layer{stage}.{block}.bn1" for stage, blocks in ((1, 3), (2, 4), (3, 6)) for block in range(blocks)
    }
    added = {name: shape for name, shape in found.items() if name not in PLAIN and name.startswith("layer2.0.")}
    assert added == {
        **{f"layer2.0.bn1.IN.{leaf}": (64,) for leaf in ("weight", "bias")},
        **{f"layer2.0.bn1.BN.{leaf}": (64,) for leaf in ("weight", "bias", "running_mean", "running_var")},
        "layer2.0.bn1.BN.num_batches_tracked": (),
    }
    assert len(found) == len(PLAIN) + 13 * 2


def test_the_norms_that_are_not_ibn_are_of_the_chosen_type():
    found = shapes("WITH_IBN", TYPE_BACKBONE="BIN_gate2")
    assert {"bn1.gate", "layer1.0.bn2.gate", "layer4.0.bn1.gate", "layer1.0.downsample.bn.gate"} <= set(found)
    assert "layer3.5.bn1.BN.weight" in found and "layer3.5.bn1.gate" not in found


def test_every_block_ends_with_squeeze_and_excitation():
    added = {name: shape for name, shape in shapes("WITH_SE").items() if name not in PLAIN}
    assert added["layer1.2.se.fc.0.weight"] == (16, 256) and added["layer4.0.se.fc.2.weight"] == (2048, 128)
    assert len(added) == 2 * 16
    assert shapes("WITH_SE", name="resnet34")["layer4.2.se.fc.0.weight"] == (32, 512)


@pytest.mark.parametrize("depth, second, third", [(18, 1, 1), (34, 2, 3), (50, 2, 3), (101, 2, 9), (152, 2, 9)])
def test_non_local_blocks_follow_the_last_blocks_of_two_stages(depth, second, third):
    with torch.device("meta"):
        model = build("WITH_NL", name=f"resnet{depth}")
    added = {name for name in model.state_dict() if name.startswith("NL_")}
    weights = ["theta", "phi", "g", "W.0", "W.1"]
    assert {name for name in added if name.endswith("weight")} == {
        f"NL_{stage}.{number}.{part}.weight"
        for stage, count in ((2, second), (3, third))
        for number in range(count)
        for part in weights
    }
    kinds = [type(part) for part in model.parts("layer3")]
    assert kinds[-2 * third :] == [BasicBlock if depth < 50 else Bottleneck, NonLocal] * third
    assert kinds.count(NonLocal) == third and len(kinds) == third + len(model.layer3)
    assert [type(part) for part in model.parts("layer1")] == [nn.Sequential]


@pytest.mark.parametrize("block, channels", [(BasicBlock, 32), (Bottleneck, 128)])
def test_squeeze_and_excitation_is_before_the_shortcut(block, channels):
    norm = norm_factory("BN")
    layer = block(norm, norm, channels, 32, 1, True).eval()
    x = torch.randn(2, channels, 4, 3)
    seen = []
    layer.se.register_forward_hook(lambda module, inputs, out: seen.extend((*inputs, out)))
    found = layer(x)
    torch.testing.assert_close(found, torch.relu(seen[1] + x))
    last = layer.bn2 if block is BasicBlock else layer.bn3
    assert seen[0].min() < 0 and not torch.equal(seen[0], seen[1])
    plain = block(norm, norm, channels, 32, 1, False).eval()
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if not name.startswith("se.")})
    nn.init.zeros_(layer.se.fc[2].weight)  # a factor of 1/2 for every channel
    with torch.no_grad():
        last.weight.mul_(2), last.bias.mul_(2)
    torch.testing.assert_close(layer(x), plain(x))


def test_a_network_with_non_local_blocks_starts_as_the_one_without():
    model, plain = build("WITH_NL").eval(), build().eval()
    missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(name.startswith("NL_") for name in missing)
    images = torch.randn(2, 3, 64, 32).contiguous(memory_format=torch.channels_last)
    assert torch.equal(model(images), plain(images))
    nn.init.ones_(model.NL_2[0].W[1].weight)
    assert not torch.allclose(model(images), plain(images), atol=1e-3)


def test_dual_norm_is_instance_norm_up_to_layer3():
    model = build(TYPE_BACKBONE="DualNorm")
    kinds = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ("bn", "bn1", "bn2"):
            kinds.setdefault(name.partition(".")[0], set()).add(type(module))
    assert kinds == {**dict.fromkeys(("bn1", "layer1", "layer2", "layer3"), {InstanceNorm}), "layer4": {BatchNorm}}
    with pytest.raises(UserError, match="TYPE_BACKBONE must be one of BN, .*DualNorm, SN; found 'Dual'"):
        build(TYPE_BACKBONE="Dual")


@pytest.mark.parametrize("kind", ["BN", "IN", "BIN_half", "BIN_gate1", "BIN_gate2", "DualNorm"])
def test_all_three_train_with_every_normalization(kind):
    # 1x1 maps do not cut the gradient off with IN_FC_MULTIPLY.
    model = build(*EVERYTHING, TYPE_BACKBONE=kind, IN_FC_MULTIPLY=0.1)
    for block in (*model.NL_2, *model.NL_3):
        nn.init.ones_(block.W[1].weight)
    model(torch.randn(4, 3, 64, 32)).square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.parameters())
    kinds = [type(module) for module in model.modules()]
    assert [kinds.count(kind) for kind in (IBN, SqueezeExcitation, NonLocal)] == [6, 8, 2]


def small_parts():
    """A block and a non-local block of few channels, in float64."""
    norm = norm_factory("BIN_gate2", "half")
    model = nn.Sequential(nn.Conv2d(3, 32, 3), BasicBlock(norm, IBN, 32, 32, 1, True), NonLocal(32)).double()
    nn.init.ones_(model[2].W[1].weight)
    return model


def results(model, images):
    out = model(images)
    gradients = torch.autograd.grad(out.square().sum(), list(model.parameters()))
    return [out.detach(), gradients, dict(model.named_buffers())]


@pytest.mark.parametrize("mode", ["general", "hold"])
def test_stages_with_non_local_blocks_are_computed_again_with_the_same_numbers(mode):
    usual = ResNet(norm_factory("BIN_gate2", "half"), 18, ibn=IBN, with_se=True, with_nl=True).double()
    for block in (*usual.NL_2, *usual.NL_3):
        nn.init.ones_(block.W[1].weight)
    checkpointed = copy.deepcopy(usual)
    checkpointed.checkpointed = frozenset(("layer2", "layer3"))
    calls = []
    checkpointed.NL_2[0].theta.register_forward_hook(lambda *_: calls.append(1))
    images = torch.rand(2, 3, 32, 16, dtype=torch.float64)
    found = []
    for model in (checkpointed, usual):
        with running_stats(model, mode):
            found.append(results(model, images))
    assert len(calls) == 2
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_the_passes_of_ibn_are_compiled_with_the_others(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    model = nn.Sequential(IBN(3)).double()
    plain = copy.deepcopy(model)
    compile_model(model, "norm", torch.device("cpu"))
    assert model[0].kernels is not EAGER
    images = torch.rand(2, 3, 8, 6, dtype=torch.float64)
    torch.testing.assert_close(results(model, images), results(plain, images), rtol=1e-8, atol=1e-8)


def test_blocks_with_every_option_are_one_graph():
    model = small_parts()
    plain = copy.deepcopy(model)
    model.compile(backend="aot_eager", fullgraph=True)
    images = torch.rand(2, 3, 8, 6, dtype=torch.float64)
    torch.testing.assert_close(results(model, images), results(plain, images), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("option", ["WITH_SE", "WITH_NL"])
@pytest.mark.parametrize("name", ["mobilenet_v2_1.0", "build_mobilenet_v2_backbone"])
def test_mobilenet_has_none_of_them(option, name):
    with pytest.raises(UserError, match=f"MODEL.BACKBONE.{option} is an option of ResNet: set it to False with {name}"):
        build(option, name=name)


def test_a_message_names_the_options():
    with torch.device("meta"):
        assert describe(build(*EVERYTHING)) == "ResNet 18 IBN SE NL" and describe(build()) == "ResNet 18"
