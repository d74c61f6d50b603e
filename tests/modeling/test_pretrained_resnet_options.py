"""ImageNet weights into ResNets with IBN, squeeze-and-excitation and non-local blocks."""

import logging

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.layers import IBN, norm_factory
from fastreid.modeling.backbones import ResNet, build_backbone
from fastreid.utils.errors import UserError


def weights_file(path, **options):
    """Write random weights named as in published files of ResNet-18; return them by their names here."""
    model = ResNet(norm_factory("BN"), 18, **options)
    tensors = {name: torch.rand_like(t) + 0.5 if t.is_floating_point() else t for name, t in model.state_dict().items()}
    published = {name.replace("downsample.conv", "downsample.0"): t for name, t in tensors.items()}
    published = {name.replace("downsample.bn", "downsample.1"): t for name, t in published.items()}
    torch.save(published | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, path)
    return tensors


def build(path, *options, **norm):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", "resnet18", "MODEL.BACKBONE.PRETRAIN_PATH", str(path)])
    cfg.MODEL.NORM.TYPE_BACKBONE = "BN"
    for option in options:
        cfg.MODEL.BACKBONE[option] = True
    for option, value in norm.items():
        cfg.MODEL.NORM[option] = value
    return build_backbone(cfg)


@pytest.fixture
def log(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    caplog.set_level(logging.INFO, "fastreid")
    return caplog


@pytest.mark.parametrize("kind", ["BN", "BIN_gate2"])
@pytest.mark.parametrize("load_in", [True, False])
def test_both_halves_of_ibn_take_their_slices_of_a_plain_file(tmp_path, kind, load_in):
    tensors = weights_file(tmp_path / "plain.pth")
    state = build(tmp_path / "plain.pth", "WITH_IBN", TYPE_BACKBONE=kind, LOAD_IN_AFFINE=load_in).state_dict()
    assert torch.equal(state["layer3.0.downsample.conv.weight"], tensors["layer3.0.downsample.conv.weight"])
    for leaf in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(state[f"layer2.1.bn1.BN.{leaf}"], tensors[f"layer2.1.bn1.{leaf}"][64:])
    for leaf, first in (("weight", 1.0), ("bias", 0.0)):
        expected = tensors[f"layer2.1.bn1.{leaf}"][:64] if load_in else torch.full((64,), first)
        assert torch.equal(state[f"layer2.1.bn1.IN.{leaf}"], expected)
    batch_part = "bn2.bat_n" if kind == "BIN_gate2" else "bn2"
    assert torch.equal(state[f"layer2.1.{batch_part}.weight"], tensors["layer2.1.bn2.weight"])


def test_a_file_with_ibns_names_fills_both_parts(tmp_path):
    """Its IN was trained as such, so that LOAD_IN_AFFINE, which is about plain files, is not asked."""
    tensors = weights_file(tmp_path / "ibn.pth", ibn=IBN)
    state = build(tmp_path / "ibn.pth", "WITH_IBN", LOAD_IN_AFFINE=False).state_dict()
    assert "layer1.0.bn1.IN.weight" in tensors
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert all(torch.equal(state[name], tensors[name]) for name in state.keys() - counters)
    unloaded = build(tmp_path / "ibn.pth", "WITH_IBN", LOAD_BN_AFFINE=False).state_dict()
    assert torch.equal(unloaded["layer1.0.bn1.BN.weight"], torch.ones(32))


def test_a_file_with_ibns_names_needs_with_ibn(tmp_path):
    weights_file(tmp_path / "ibn.pth", ibn=IBN)
    with pytest.raises(UserError, match="than ResNet 18: it has no layer1.0.bn1.weight .*WITH_IBN") as error:
        build(tmp_path / "ibn.pth")
    assert "\n" not in str(error.value)


def test_what_a_plain_file_does_not_hold_is_logged_and_starts_anew(tmp_path, log):
    tensors = weights_file(tmp_path / "plain.pth")
    state = build(tmp_path / "plain.pth", "WITH_SE", "WITH_NL").state_dict()
    assert torch.equal(state["layer4.1.conv2.weight"], tensors["layer4.1.conv2.weight"])
    assert state["NL_2.0.W.1.weight"].eq(0).all() and 0 < state["NL_2.0.theta.weight"].std() < 0.02
    message = next(record.message for record in log.records if "no weights of" in record.message)
    assert f"{tmp_path}/plain.pth has no weights of layer1.0.se, layer1.1.se, " in message and "NL_3.0" in message
    log.clear()
    build(tmp_path / "plain.pth")
    assert "no weights of" not in log.text


@pytest.mark.parametrize("option, name", [("with_se", "layer4.1.se.fc.2.weight"), ("with_nl", "NL_3.0.phi.weight")])
def test_what_a_file_holds_is_loaded_and_must_be_complete(tmp_path, option, name, log):
    tensors = weights_file(tmp_path / "more.pth", **{option: True})
    state = build(tmp_path / "more.pth", option.upper()).state_dict()
    assert torch.equal(state[name], tensors[name]) and "no weights of" not in log.text
    with pytest.raises(UserError, match="besides. Check .*WITH_SE and WITH_NL"):
        build(tmp_path / "more.pth")
    del tensors[name]
    torch.save(tensors, tmp_path / "more.pth")
    with pytest.raises(UserError, match=f"it has no {name} "):
        build(tmp_path / "more.pth", option.upper())
