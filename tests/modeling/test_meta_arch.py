"""The whole model: building, devices, normalization of the pixels, registries."""

import copy
import logging

import pytest
import torch
from torch import nn

from fastreid.config import get_cfg
from fastreid.modeling import build_model
from fastreid.modeling.backbones import BACKBONE_REGISTRY
from fastreid.modeling.heads import REID_HEADS_REGISTRY, MetalearningHead
from fastreid.modeling.meta_arch import META_ARCH_REGISTRY, Metalearning
from fastreid.utils.errors import UserError


def config(*options):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_mobilenet_v2_backbone"])
    cfg.merge_from_list(["MODEL.BACKBONE.DEPTH", 2, "MODEL.BACKBONE.PRETRAIN", "False", "MODEL.HEADS.IN_FEAT", 1280])
    cfg.merge_from_list(["MODEL.NORM.TYPE_BACKBONE", "BIN_gate2", "MODEL.HEADS.NUM_CLASSES", 5, *options])
    return cfg


@pytest.fixture
def registered():
    """Enter things into registries for one test."""
    entered = []

    def enter(registry, thing):
        registry.register()(thing)
        entered.append((registry, thing.__name__))

    yield enter
    for registry, name in entered:
        del registry._entries[name]


def images(n=2):
    return torch.rand(n, 3, 32, 16) * 255


def test_features_in_evaluation_and_two_outputs_in_training():
    model = build_model(config())
    assert isinstance(model, Metalearning)
    batch = {"images": images(4), "targets": torch.tensor([0, 0, 1, 1])}
    features, _, logits = model(batch)
    assert features.shape == (4, 1280) and logits.shape == (4, 5)
    assert model.eval()({"images": batch["images"]}).shape == (4, 1280)


def test_the_head_has_the_backbones_channels_where_none_are_stated():
    cfg = config("MODEL.HEADS.IN_FEAT", 0)
    cfg.freeze()
    model = build_model(cfg).eval()
    assert model({"images": images()}).shape == (2, 1280)
    assert cfg.MODEL.HEADS.IN_FEAT == 0
    assert get_cfg().MODEL.HEADS.IN_FEAT == 0


@pytest.mark.parametrize(
    "name, builder, depth",
    [(f"resnet{depth}", "resnet", depth) for depth in (18, 34, 50, 101, 152)]
    + [("mobilenet_v2_1.0", "mobilenet_v2", 10), ("mobilenet_v2_1.4", "mobilenet_v2", 14)],
)
def test_a_short_name_is_the_builder_with_its_depth(name, builder, depth):
    def shapes(*options):
        with torch.device("meta"):
            model = build_model(config("MODEL.DEVICE", "meta", "MODEL.HEADS.IN_FEAT", 0, *options))
        return {name: tensor.shape for name, tensor in model.state_dict().items()}

    long = shapes("MODEL.BACKBONE.NAME", f"build_{builder}_backbone", "MODEL.BACKBONE.DEPTH", depth)
    assert shapes("MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.DEPTH", 1) == long


def test_test_features_of_an_image_do_not_depend_on_its_batch():
    model, x = build_model(config()).eval(), images(3)
    torch.testing.assert_close(model({"images": x})[1:2], model({"images": x[1:2]}), rtol=1e-4, atol=1e-5)


def test_pixels_are_normalized_by_buffers_of_the_published_shape():
    model = build_model(config("MODEL.PIXEL_MEAN", [10.0, 20.0, 30.0], "MODEL.PIXEL_STD", [1.0, 2.0, 4.0]))
    buffers = dict(model.named_buffers())
    assert buffers["pixel_mean"].shape == buffers["pixel_std"].shape == (1, 3, 1, 1)
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.tensor([11.0, 24.0, 42.0]).view(1, 3, 1, 1).expand(2, 3, 32, 16)
    model.eval()({"images": x})
    torch.testing.assert_close(seen[0], torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).expand_as(x))


def test_tensors_are_named_as_in_published_checkpoints():
    names = set(build_model(config()).state_dict())
    assert {n for n in names if not n.startswith("backbone.")} == {
        "pixel_mean",
        "pixel_std",
        "heads.classifier_fc.weight",
        *(
            f"heads.classifier_norm.{n}"
            for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ),
    }
    assert {
        "backbone.layer1.bn.gate",
        "backbone.layer2.0.conv1.bn.bat_n.running_var",
        "backbone.layer9.bn.ins_n.bias",
    } <= names


def test_everything_works_in_double_precision():
    model = build_model(config()).double()
    twin = copy.deepcopy(model)
    batch = {"images": images(4).double(), "targets": torch.tensor([0, 0, 1, 1])}
    outputs = model(batch)
    assert outputs.before.dtype == outputs.logits.dtype == torch.float64
    outputs.logits.sum().backward()
    assert model.backbone.layer1.bn.gate.grad.dtype == torch.float64
    features = twin.eval()({"images": batch["images"]})
    assert features.dtype == torch.float64
    single = twin.float()({"images": batch["images"].float()})
    torch.testing.assert_close(single.double(), features, rtol=1e-3, atol=1e-4)


def test_without_a_cuda_device_the_cpu_is_used_after_a_warning(caplog, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    for device in ("cuda", "cuda:3"):
        caplog.clear()
        assert build_model(config("MODEL.DEVICE", device)).device == torch.device("cpu")
        assert [r.levelname for r in caplog.records] == ["WARNING"]
        assert f"MODEL.DEVICE is {device}" in caplog.text and "CPU" in caplog.text


def test_a_cpu_config_does_not_warn(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    build_model(config())
    assert not caplog.records


def test_a_cuda_device_that_is_not_there_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="MODEL.DEVICE is cuda:2, but there are 2 CUDA"):
        build_model(config("MODEL.DEVICE", "cuda:2"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["MODEL.HEADS.IN_FEAT", 2048], "IN_FEAT must be 1280, .* of MobileNetV2 x0.2, or 0 to .*; found 2048"),
        (["MODEL.DEVICE", "gpu0"], "MODEL.DEVICE must be like cpu, cuda or cuda:0; found 'gpu0'"),
        (
            ["MODEL.META_ARCHITECTURE", "MetaLearning"],
            "META_ARCHITECTURE: no .* 'MetaLearning'; the nearest is Metalearning",
        ),
        (["MODEL.HEADS.NAME", "Head"], "MODEL.HEADS.NAME: no head is called 'Head'; the nearest is MetalearningHead"),
        (["MODEL.BACKBONE.NAME", "resnet"], "the nearest is resnet"),
        (["MODEL.BACKBONE.NAME", "resnet20"], "known: .*mobilenet_v2_1.0, .*build_resnet_backbone, resnet18, "),
        (["MODEL.NORM.TYPE_BACKBONE", "BIN"], "TYPE_BACKBONE must be one of .*found 'BIN'"),
        (["MODEL.BACKBONE.LAST_STRIDE", "0"], "LAST_STRIDE must be 1 or 2; found 0"),
        (["MODEL.NORM.TYPE_BACKBONE", "DualNorm", "MODEL.NORM.BIN_INIT", "two"], "BIN_INIT must be .*; found 'two'"),
        (["MODEL.NORM.BIN_INIT", "two"], "BIN_INIT must be one of one, zero, half, random; found 'two'"),
        (["MODEL.HEADS.POOL_LAYER", "avg"], "POOL_LAYER must be one of"),
        (["MODEL.HEADS.CLS_LAYER", "fc"], "CLS_LAYER must be one of"),
    ],
)
def test_values_that_do_not_exist_are_one_clear_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        build_model(config(*options))
    assert "\n" not in str(error.value)


def test_the_types_that_a_message_lists_for_mobilenet_hold_dual_norm():
    with pytest.raises(UserError, match="DualNorm"):
        build_model(config("MODEL.NORM.TYPE_BACKBONE", "BIN"))


def test_a_users_backbone_head_and_architecture_can_be_chosen(registered):
    class TinyBackbone(nn.Module):
        out_channels = 4

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=4)

        def forward(self, x):
            return self.conv(x)

    def build_tiny_backbone(cfg):
        return TinyBackbone()

    class LoudHead(MetalearningHead):
        def forward(self, feature_map, targets=None):
            return 2 * super().forward(feature_map, targets)

    class PairModel(Metalearning):
        def forward(self, batch):
            return torch.cat([super().forward(batch)] * 2, 1)

    registered(BACKBONE_REGISTRY, build_tiny_backbone)
    registered(REID_HEADS_REGISTRY, LoudHead)
    registered(META_ARCH_REGISTRY, PairModel)
    options = ["MODEL.BACKBONE.NAME", "build_tiny_backbone", "MODEL.HEADS.IN_FEAT", 4, "MODEL.HEADS.NAME", "LoudHead"]
    model = build_model(config(*options, "MODEL.META_ARCHITECTURE", "PairModel")).eval()
    assert isinstance(model.backbone, TinyBackbone) and isinstance(model.heads, LoudHead)
    assert model({"images": images()}).shape == (2, 8)


def test_every_map_is_in_channels_last_forward_and_backward():
    model = build_model(config("MODEL.NORM.BIN_INIT", "half"))
    layouts = set()

    def watch(module, args, out):
        if isinstance(module, nn.Conv2d):
            out.register_hook(lambda grad: layouts.add(grad.is_contiguous(memory_format=torch.channels_last)))
        layouts.add(out.is_contiguous(memory_format=torch.channels_last))

    for module in model.backbone.modules():
        if isinstance(module, nn.Conv2d) or hasattr(module, "gate"):
            module.register_forward_hook(watch)
    model({"images": images(), "targets": torch.tensor([0, 1])}).before.square().sum().backward()
    assert layouts == {True}
