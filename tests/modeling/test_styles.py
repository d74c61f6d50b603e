"""MODEL.STYLE, IBN-b and SN in the backbones: where the layers stand, what the options do, ImageNet weights, AMP."""

import pytest
import torch
from torch import nn

from fastreid.config import get_cfg
from fastreid.layers import (
    DSU,
    IBN,
    AppendedInstanceNorm,
    BatchNorm,
    EFDMix,
    InstanceNorm,
    MixStyle,
    StyleRestitution,
    SwitchableNorm,
)
from fastreid.modeling import build_model
from fastreid.modeling.backbones import ResNet, build_backbone
from fastreid.modeling.losses.build import build_losses
from fastreid.utils.errors import UserError

RESNET, MOBILENET, OSNET = "resnet18", "mobilenet_v2_1.0", "osnet_x0_25"


def config(name, **options):
    cfg = get_cfg()
    defaults = {"MODEL.DEVICE": "cpu", "MODEL.BACKBONE.NAME": name, "MODEL.BACKBONE.PRETRAIN": "False"}
    defaults |= {"MODEL.NORM.TYPE_BACKBONE": "BN", "MODEL.HEADS.NUM_CLASSES": "4"}
    defaults |= {f"MODEL.{key.replace('__', '.')}": value for key, value in options.items()}
    cfg.merge_from_list([str(word) for option in defaults.items() for word in option])
    return cfg


def styles(name, **options):
    with torch.device("meta"):
        return dict(build_backbone(config(name, **options)).styles)


LEVELS = {
    RESNET: ("stem", "layer1", "layer2", "layer3", "layer4"),
    MOBILENET: ("layer1", "layer3", "layer4", "layer6", "layer8"),
    OSNET: ("conv1", "conv2", "conv3", "conv4", "conv5"),
}


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize(
    "method, kind, places",
    [
        ("MixStyle", MixStyle, slice(1, 3)),
        ("EFDMix", EFDMix, slice(1, 3)),
        ("DSU", DSU, slice(0, 5)),
        ("SNR", StyleRestitution, slice(1, 5)),
    ],
)
def test_a_method_stands_where_its_paper_has_it_or_where_it_is_told(name, method, kind, places):
    found = styles(name, STYLE__NAME=method)
    assert tuple(found) == LEVELS[name][places] and {type(layer) for layer in found.values()} == {kind}
    chosen = LEVELS[name][2]
    assert list(styles(name, STYLE__NAME=method, STYLE__STAGES=f"('{chosen}',)")) == [chosen]
    assert styles(name) == {}


@pytest.mark.parametrize("name", LEVELS)
def test_the_layers_see_the_maps_after_their_stages(name):
    stages = LEVELS[name]
    model = build_backbone(config(name, STYLE__NAME="DSU", STYLE__STAGES=stages)).eval()
    seen = {}
    for stage in stages:
        model.styles[stage].register_forward_hook(lambda m, inputs, out, stage=stage: seen.update({stage: inputs[0]}))
    model(torch.rand(2, 3, 64, 32))
    assert [seen[stage].shape[1] for stage in stages] == [model.widths[stage] for stage in stages]
    assert list(seen) == list(stages) and seen[stages[1]].shape[2] == (8 if name == OSNET else 16)


def test_the_options_reach_the_layers():
    options = {"STYLE__PROB": 0.25, "STYLE__ALPHA": 0.7, "STYLE__PARTNER": "domain"}
    for method in ("MixStyle", "EFDMix"):
        layer = styles(RESNET, STYLE__NAME=method, **options)["layer1"]
        assert (layer.prob, layer.alpha, layer.partner) == (0.25, 0.7, "domain")
    assert styles(RESNET, STYLE__NAME="DSU", **options)["stem"].prob == 0.25


@pytest.mark.parametrize(
    "options, message",
    [
        ({"STYLE__NAME": "Mixstyle"}, "must be one of MixStyle, EFDMix, DSU, SNR, or '' for none; found 'Mixstyle'"),
        ({"STYLE__PARTNER": "camera"}, "STYLE.PARTNER must be one of random, domain; found 'camera'"),
        ({"STYLE__PROB": 1.5}, r"STYLE.PROB must be in \[0, 1\] and ALPHA above 0; found 1.5 and 0.1"),
        ({"STYLE__ALPHA": 0.0}, "ALPHA above 0; found 0.5 and 0.0"),
        ({"STYLE__NAME": "DSU", "STYLE__STAGES": "layer5"}, "STAGES must name stages out of stem, layer1, .*'layer5'"),
        ({"BACKBONE__IBN_TYPE": "c"}, "IBN_TYPE must be a or b; found 'c'"),
        ({"NORM__TYPE_BACKBONE": "sn"}, "TYPE_BACKBONE must be one of BN, .*DualNorm, SN; found 'sn'"),
    ],
)
def test_unknown_choices_are_one_clear_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        styles(RESNET, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", LEVELS)
def test_sn_is_in_the_place_of_every_batch_normalization(name):
    with torch.device("meta"):
        model, plain = (build_backbone(config(name, NORM__TYPE_BACKBONE=kind)) for kind in ("SN", "BN"))
    kinds = [type(module) for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert set(kinds) == {SwitchableNorm}
    assert len(kinds) == sum(isinstance(module, nn.BatchNorm2d) for module in plain.modules())


def names_of(kind, model):
    return {name for name, module in model.named_modules() if type(module) is kind}


def test_ibn_b_has_its_published_places():
    with torch.device("meta"):
        model = build_backbone(config("resnet50", BACKBONE__WITH_IBN=True, BACKBONE__IBN_TYPE="b"))
        mobile = build_backbone(config(MOBILENET, BACKBONE__WITH_IBN=True, BACKBONE__IBN_TYPE="b"))
        mobile_a = build_backbone(config(MOBILENET, BACKBONE__WITH_IBN=True))
    assert names_of(AppendedInstanceNorm, model) == {"layer1.2.IN", "layer2.3.IN"} and model.variant == "50 IBN-b"
    assert names_of(InstanceNorm, model) == {"bn1"} and names_of(InstanceNorm, mobile) == {"layer1.bn"}
    assert model.state_dict()["layer2.3.IN.weight"].shape == (512,) and not names_of(IBN, model)
    assert names_of(AppendedInstanceNorm, mobile) == {"layer3.1.IN", "layer4.2.IN"}
    blocks = {2: 1, 3: 2, 4: 3, 5: 4, 6: 3}
    assert names_of(IBN, mobile_a) == {f"layer{s}.{b}.conv1.bn" for s, count in blocks.items() for b in range(count)}
    assert (mobile.variant, mobile_a.variant) == ("x1 IBN-b", "x1 IBN")


def test_ibn_b_normalizes_after_the_shortcut_and_before_the_activation():
    model = build_backbone(config(RESNET, BACKBONE__WITH_IBN=True, BACKBONE__IBN_TYPE="b")).eval()
    block, x = model.layer1[1], torch.randn(2, 64, 6, 5)
    seen = []
    block.bn2.register_forward_hook(lambda module, inputs, out: seen.append(out.detach()))
    found = block(x)
    total = seen[0]  # with the shortcut, as it is given to the normalization
    expected = nn.functional.instance_norm(total, weight=block.IN.weight, bias=block.IN.bias).relu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert total.min() < 0 and not torch.allclose(found, total.relu(), atol=0.1)


def torchvision_file(path, model):
    tensors = {name: torch.rand_like(t) + 0.5 if t.is_floating_point() else t for name, t in model.state_dict().items()}
    theirs = (("downsample.conv", "downsample.0"), ("downsample.bn", "downsample.1"))
    renamed = {name: name.replace(*theirs[0]).replace(*theirs[1]) for name in tensors}
    torch.save({renamed[name]: value for name, value in tensors.items()}, path)
    return tensors


@pytest.mark.parametrize("load_in", [True, False])
def test_a_plain_file_leaves_what_is_added_as_it_is(tmp_path, load_in):
    tensors = torchvision_file(tmp_path / "plain.pth", ResNet(BatchNorm, 18))
    common = {"BACKBONE__PRETRAIN": True, "BACKBONE__PRETRAIN_PATH": tmp_path / "plain.pth"}
    common |= {"NORM__LOAD_IN_AFFINE": load_in}
    state = build_backbone(config(RESNET, BACKBONE__WITH_IBN=True, BACKBONE__IBN_TYPE="b", **common)).state_dict()
    assert state["layer1.1.IN.weight"].eq(1).all() and state["layer1.1.IN.bias"].eq(0).all()
    assert torch.equal(state["bn1.weight"], tensors["bn1.weight"]) == load_in
    state = build_backbone(config(RESNET, STYLE__NAME="SNR", **common)).state_dict()
    assert state["styles.layer1.IN.weight"].eq(1).all() and torch.equal(state["bn1.weight"], tensors["bn1.weight"])
    state = build_backbone(config(RESNET, NORM__TYPE_BACKBONE="SN", **common)).state_dict()
    assert torch.equal(state["layer2.0.bn1.running_var"], tensors["layer2.0.bn1.running_var"])
    assert state["layer2.0.bn1.mean_weight"].eq(1).all()


def test_a_file_of_ibn_b_fills_all_of_it(tmp_path):
    tensors = torchvision_file(tmp_path / "ibn_b.pth", ResNet(BatchNorm, 18, ibn_b=True))
    options = {"BACKBONE__PRETRAIN": True, "BACKBONE__PRETRAIN_PATH": tmp_path / "ibn_b.pth"}
    state = build_backbone(config(RESNET, BACKBONE__WITH_IBN=True, BACKBONE__IBN_TYPE="b", **options)).state_dict()
    assert all(torch.equal(value, tensors[name]) for name, value in state.items() if not name.endswith("tracked"))


ALL_METHODS = [{"STYLE__NAME": name} for name in ("MixStyle", "EFDMix", "DSU", "SNR")] + [{"NORM__TYPE_BACKBONE": "SN"}]


@pytest.mark.parametrize("options", ALL_METHODS)
def test_half_precision_training_has_finite_losses_and_gradients(options):
    cfg = config(RESNET, STYLE__PROB=1.0, **options)
    model = build_model(cfg).train()
    labels = torch.arange(8)
    batch = {"images": torch.rand(8, 3, 32, 16) * 255, "targets": labels // 2, "domains": labels // 4}
    names = (*cfg.MODEL.LOSSES.NAME, *["DualCausalityLoss"] * (cfg.MODEL.STYLE.NAME == "SNR"))
    with torch.autocast("cpu", torch.bfloat16):
        losses = build_losses(cfg, names, "test")(model(batch), batch["targets"], batch["domains"])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values()) and len(losses) == len(names)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
