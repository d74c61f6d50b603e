"""Backbones: channel counts, names, strides, and ResNet against torchvision's."""

import pytest
import torch
import torchvision

from fastreid.config import get_cfg
from fastreid.layers import BatchNorm, InstanceNorm, norm_factory
from fastreid.modeling.backbones import BACKBONE_REGISTRY, MobileNetV2, ResNet, build_backbone
from fastreid.modeling.backbones.resnet import rename_imagenet
from fastreid.utils.errors import UserError

# (stage, expansion, channels at width 1, blocks, stride of its first block)
STAGES = [
    (2, 1, 16, 1, 1),
    (3, 6, 24, 2, 2),
    (4, 6, 32, 3, 2),
    (5, 6, 64, 4, 2),
    (6, 6, 96, 3, 1),
    (7, 6, 160, 3, 1),
    (8, 6, 320, 1, 1),
]
GATED = norm_factory("BIN_gate2")


def config(name, *options):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", f"build_{name}_backbone", "MODEL.BACKBONE.PRETRAIN", "False"])
    cfg.merge_from_list(["MODEL.BACKBONE.DEPTH", "50", "MODEL.NORM.TYPE_BACKBONE", "BN", *options])
    return cfg


@pytest.fixture
def no_memory():
    """Models are made of shapes only."""
    with torch.device("meta"):
        yield


@pytest.mark.parametrize("width, last", [(1.0, 1280), (1.4, 1792), (0.2, 1280), (0.5, 1280), (2.0, 2560)])
def test_mobilenet_channels_are_cut_not_rounded(width, last, no_memory):
    model = MobileNetV2(GATED, width)
    c_in = int(32 * width)
    assert model.layer1.conv.weight.shape == (c_in, 3, 3, 3) and model.layer1.conv.stride == (2, 2)
    for stage, expansion, channels, blocks, stride in STAGES:
        layer = getattr(model, f"layer{stage}")
        assert len(layer) == blocks
        for index, block in enumerate(layer):
            hidden, c_out = c_in * expansion, int(channels * width)
            assert block.conv1.conv.weight.shape == (hidden, c_in, 1, 1)
            assert block.dwconv2.conv.weight.shape == (hidden, 1, 3, 3)
            assert block.dwconv2.conv.stride == ((stride, stride) if index == 0 else (1, 1))
            assert block.conv3.weight.shape == (c_out, hidden, 1, 1)
            assert block.has_shortcut == (c_in == c_out and block.dwconv2.conv.stride == (1, 1))
            c_in = c_out
    assert model.layer9.conv.weight.shape == (last, c_in, 1, 1)
    assert model.out_channels == last


def test_mobilenet_tensors_have_the_published_names(no_memory):
    names = set(MobileNetV2(GATED, 1.4).state_dict())
    norm = {f"bat_n.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    norm |= {"ins_n.weight", "ins_n.bias", "gate"}
    blocks = [f"layer{stage}.{index}" for stage, _, _, count, _ in STAGES for index in range(count)]
    units = ["layer1", "layer9", *(f"{block}.{part}" for block in blocks for part in ("conv1", "dwconv2"))]
    expected = {f"{unit}.conv.weight" for unit in units} | {f"{block}.conv3.weight" for block in blocks}
    expected |= {f"{owner}.bn.{leaf}" for owner in (*units, *blocks) for leaf in norm}
    assert names == expected


@pytest.mark.parametrize("last_stride, size", [(1, (4, 2)), (2, (2, 1))])
def test_last_stride_sets_the_size_of_the_map(last_stride, size):
    images = torch.randn(2, 3, 64, 32)
    for name, depth in (("mobilenet_v2", 2), ("resnet", 18)):
        options = ["MODEL.BACKBONE.DEPTH", depth, "MODEL.BACKBONE.LAST_STRIDE", last_stride]
        model = build_backbone(config(name, *options))
        assert model(images).shape == (2, model.out_channels, *size)


def test_residual_is_added_where_shapes_agree():
    model = MobileNetV2(GATED, 0.2).eval()
    block = model.layer4[1]
    torch.nn.init.zeros_(block.bn.bat_n.weight)
    x = torch.randn(2, int(32 * 0.2), 4, 2)
    torch.testing.assert_close(block(x), x)


def test_activations_are_cut_at_six_but_the_projection_is_linear():
    model = MobileNetV2(norm_factory("BN"), 0.2).eval()
    seen = {}
    for name in ("layer1", "layer2.0.dwconv2", "layer2.0", "layer9"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out.detach().clone()}))
    model(50 * torch.randn(2, 3, 64, 32))
    for name in ("layer1", "layer2.0.dwconv2", "layer9"):
        assert seen[name].min() == 0 and seen[name].max() <= 6
    assert seen["layer1"].max() == 6
    assert seen["layer2.0"].min() < 0


def test_dual_norm_is_instance_norm_up_to_layer6():
    model = build_backbone(config("mobilenet_v2", "MODEL.BACKBONE.DEPTH", 2, "MODEL.NORM.TYPE_BACKBONE", "DualNorm"))
    kinds = {}
    for name, module in model.named_modules():
        if name.endswith(".bn"):
            kinds.setdefault(int(name[5]), set()).add(type(module))
    assert kinds == {stage: {InstanceNorm if stage <= 6 else BatchNorm} for stage in range(1, 10)}
    assert model(torch.randn(2, 3, 32, 16)).isfinite().all()


@pytest.mark.parametrize("kind", ["BN", "IN", "BIN_half", "BIN_gate1", "BIN_gate2"])
def test_every_normalization_trains_in_both_architectures(kind):
    for name, depth in (("mobilenet_v2", 2), ("resnet", 18)):
        options = ["MODEL.BACKBONE.DEPTH", depth, "MODEL.NORM.TYPE_BACKBONE", kind, "MODEL.NORM.BIN_INIT", "half"]
        # So that single-pixel maps do not cut the gradient off.
        model = build_backbone(config(name, *options, "MODEL.NORM.IN_FC_MULTIPLY", 0.1))
        model(torch.randn(2, 3, 64, 32)).square().sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())


def torchvision_names(model):
    return {
        rename_imagenet(name): tuple(t.shape) for name, t in model.state_dict().items() if not name.startswith("fc.")
    }


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnet_tensors_are_torchvisions_but_for_the_shortcuts_names(depth, no_memory):
    model = ResNet(norm_factory("BN"), depth)
    reference = torchvision.models.get_model(f"resnet{depth}", weights=None)
    found = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    assert found == torchvision_names(reference)
    assert model.out_channels == reference.fc.in_features
    assert "layer2.0.downsample.conv.weight" in found and "layer2.0.downsample.bn.running_mean" in found


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("training", [False, True])
def test_resnet_with_torchvisions_weights_gives_torchvisions_map(depth, training):
    reference = torchvision.models.get_model(f"resnet{depth}", weights=None)
    model = ResNet(norm_factory("BN"), depth, last_stride=2)
    weights = {rename_imagenet(n): t for n, t in reference.state_dict().items() if not n.startswith("fc.")}
    model.load_state_dict(weights)
    trunk = torch.nn.Sequential(*list(reference.children())[:-2])
    x = torch.randn(2, 3, 64, 32)
    torch.testing.assert_close(model.train(training)(x), trunk.train(training)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("resnet", ["MODEL.BACKBONE.DEPTH", 20], "DEPTH of ResNet must be one of 18, 34, 50, 101, 152; found 20"),
        ("mobilenet_v2", ["MODEL.BACKBONE.DEPTH", 0], "DEPTH of MobileNetV2 is ten times its width.*found 0"),
        ("resnet50", [], "no backbone is called 'build_resnet50_backbone'; the nearest is build_resnet_backbone"),
    ],
)
def test_unknown_choices_are_one_clear_line(name, options, message):
    with pytest.raises(UserError, match=message) as error:
        build_backbone(config(name, *options))
    assert "\n" not in str(error.value)


def test_backbones_are_registered_once():
    assert {"build_mobilenet_v2_backbone", "build_resnet_backbone"} <= set(BACKBONE_REGISTRY)
    with pytest.raises(KeyError, match="registered already"):
        BACKBONE_REGISTRY.register("build_resnet_backbone")(lambda cfg: None)
