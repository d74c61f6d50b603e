"""ImageNet weights into backbones with any normalization, and what is said when the file does not fit."""

import re
from urllib.error import URLError

import pytest
import torch
import torchvision

from fastreid.config import get_cfg
from fastreid.layers import norm_factory
from fastreid.modeling.backbones import MobileNetV2, build_backbone
from fastreid.utils.errors import UserError

PARTS = {"BN": ("bn", ""), "BIN_gate1": ("bn", ""), "BIN_gate2": ("bn.bat_n", ""), "BIN_half": ("bn.bat_n", "")}
RUNNING = ("running_mean", "running_var")
AFFINE = ("weight", "bias")


def config(path, kind="BN", *options, depth=2, name="mobilenet_v2"):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", f"build_{name}_backbone", "MODEL.BACKBONE.DEPTH", depth])
    cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", "True", "MODEL.BACKBONE.PRETRAIN_PATH", str(path)])
    cfg.merge_from_list(["MODEL.NORM.TYPE_BACKBONE", kind, "MODEL.NORM.BIN_INIT", "half", *options])
    return cfg


def imagenet_tensors(width=0.2):
    """Return random tensors named as in the ImageNet files of MobileNetV2: convK, conv3.0 and conv3.1."""
    tensors = {}
    for name, tensor in MobileNetV2(norm_factory("BN"), width).state_dict().items():
        name = re.sub(r"^layer", "conv", name)
        name = re.sub(r"^(conv\d\.\d+)\.conv3\.", r"\1.conv3.0.", name)
        name = re.sub(r"^(conv\d\.\d+)\.bn\.", r"\1.conv3.1.", name)
        tensors[name] = torch.rand(tensor.shape) + 0.5 if tensor.is_floating_point() else tensor
    return tensors | {"classifier.weight": torch.zeros(10, 1280), "classifier.bias": torch.zeros(10)}


@pytest.fixture
def file(tmp_path):
    """A file of ImageNet weights of width 0.2, and its tensors."""
    tensors = imagenet_tensors()
    path = tmp_path / "mobilenetv2_0.2.pth"
    torch.save(tensors, path)
    return path, tensors


def test_the_made_up_file_has_the_real_ones_names(file):
    assert {
        "conv1.conv.weight",
        "conv1.bn.weight",
        "conv2.0.conv1.conv.weight",
        "conv2.0.dwconv2.bn.running_var",
        "conv2.0.conv3.0.weight",
        "conv2.0.conv3.1.weight",
        "conv2.0.conv3.1.running_mean",
        "conv9.conv.weight",
    } <= set(file[1])


@pytest.mark.parametrize("kind", ["BN", "IN", "BIN_half", "BIN_gate1", "BIN_gate2", "DualNorm"])
def test_every_convolution_is_loaded(file, kind):
    path, tensors = file
    state = build_backbone(config(path, kind)).state_dict()
    for theirs, ours in [
        ("conv1.conv.weight", "layer1.conv.weight"),
        ("conv2.0.conv3.0.weight", "layer2.0.conv3.weight"),
        ("conv5.3.dwconv2.conv.weight", "layer5.3.dwconv2.conv.weight"),
        ("conv9.conv.weight", "layer9.conv.weight"),
    ]:
        assert torch.equal(state[ours], tensors[theirs])
    convolutions = [name for name, tensor in state.items() if tensor.dim() == 4]
    assert len(convolutions) == sum(t.dim() == 4 for t in tensors.values())


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("kind", PARTS)
def test_the_batch_part_takes_what_load_bn_says(file, kind, affine, running):
    path, tensors = file
    options = ["MODEL.NORM.LOAD_BN_AFFINE", str(affine), "MODEL.NORM.LOAD_BN_RUNNING", str(running)]
    state = build_backbone(config(path, kind, *options)).state_dict()
    for theirs, ours in (("conv1.bn", "layer1"), ("conv4.1.conv3.1", "layer4.1")):
        for leaves, loaded in ((AFFINE, affine), (RUNNING, running)):
            for leaf in leaves:
                found = state[f"{ours}.{PARTS[kind][0]}.{leaf}"]
                initial = torch.full_like(found, float(leaf in ("weight", "running_var")))
                assert torch.equal(found, tensors[f"{theirs}.{leaf}"][: len(found)] if loaded else initial)
    if "gate" in kind:
        assert all((gate == 0.5).all() for name, gate in state.items() if name.endswith("gate"))


@pytest.mark.parametrize("load", [True, False])
@pytest.mark.parametrize(
    "kind, part", [("IN", "bn"), ("DualNorm", "bn"), ("BIN_half", "bn.ins_n"), ("BIN_gate2", "bn.ins_n")]
)
def test_the_instance_part_takes_what_load_in_says(file, kind, part, load):
    path, tensors = file
    state = build_backbone(config(path, kind, "MODEL.NORM.LOAD_IN_AFFINE", str(load))).state_dict()
    for leaf in AFFINE:
        found, theirs = state[f"layer4.1.{part}.{leaf}"], tensors[f"conv4.1.conv3.1.{leaf}"]
        assert torch.equal(found, theirs[-len(found) :] if load else torch.full_like(found, float(leaf == "weight")))


def test_dual_norm_takes_batch_norm_from_layer7_on(file):
    path, tensors = file
    state = build_backbone(config(path, "DualNorm")).state_dict()
    assert "layer6.0.bn.running_mean" not in state
    for leaf in AFFINE + RUNNING:
        assert torch.equal(state[f"layer7.0.bn.{leaf}"], tensors[f"conv7.0.conv3.1.{leaf}"])


@pytest.mark.parametrize(
    "wrap", [lambda t: {"state_dict": t}, lambda t: {"model": {f"module.{n}": v for n, v in t.items()}}]
)
def test_weights_may_lie_in_an_entry_of_the_file(file, wrap):
    path, tensors = file
    torch.save(wrap(tensors), path)
    state = build_backbone(config(path)).state_dict()
    assert torch.equal(state["layer2.0.bn.running_var"], tensors["conv2.0.conv3.1.running_var"])


def one_line(cfg):
    with pytest.raises(UserError) as error:
        build_backbone(cfg)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_file_says_where_it_belongs_and_how_to_do_without(tmp_path, monkeypatch):
    path = tmp_path / "none.pth"
    message = one_line(config(path))
    assert f"no pre-trained weights at {path}" in message and "MODEL.BACKBONE.PRETRAIN False" in message
    monkeypatch.chdir(tmp_path)
    assert "pretrained/mobilenetv2_1.4.pth" in one_line(config("", depth=14))
    assert str(path) in one_line(config(path, depth=18, name="resnet"))
    for name in ("", "pretrained/mobilenetv2_1.4.pth"):
        message = one_line(config(name, "BN", "MODEL.BACKBONE.NAME", "mobilenet_v2_1.4"))
        assert "pretrained/mobilenetv2_1.4.pth" in message and "torchreid's model zoo" in message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"<html>not found</html>\n" * 20])
def test_corrupt_file_is_named(tmp_path, content):
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    assert f"{path} is damaged" in one_line(config(path))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(2)])
def test_file_without_tensors_by_name_is_refused(tmp_path, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    assert f"{path}: expected a dictionary of tensors by name" in one_line(config(path))


def test_another_width_is_told_by_the_shapes(file):
    message = one_line(config(file[0], depth=4))
    assert f"{file[0]} is of another architecture than MobileNetV2 x0.4" in message
    assert "has shape (6,), expected (12,)" in message and "MODEL.BACKBONE.DEPTH" in message


def test_another_architecture_is_told_by_the_names(file):
    message = one_line(config(file[0], depth=18, name="resnet"))
    assert f"{file[0]} is of another architecture than ResNet 18: it has no " in message
    assert "MODEL.BACKBONE.NAME" in message


def test_a_deeper_networks_file_is_refused(tmp_path):
    path = tmp_path / "resnet34.pth"
    with torch.device("meta"):
        shapes = torchvision.models.resnet34(weights=None).state_dict()
    torch.save({name: torch.zeros(()).expand(t.shape) for name, t in shapes.items()}, path)
    assert "another architecture than ResNet 18: it has layer1.2.conv1.weight besides" in one_line(
        config(path, depth=18, name="resnet")
    )


class TestTorchvisionWeights:
    """PRETRAIN_PATH '' with a ResNet: torch.hub's cache, or the network."""

    @pytest.fixture(autouse=True)
    def offline(self, tmp_path, monkeypatch):
        def no_network(*args, **kwargs):
            raise URLError("no network in tests")

        monkeypatch.setattr(torch.hub, "urlopen", no_network)
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
        self.cached = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"

    def test_cached_file_is_loaded_into_the_batch_part(self):
        tensors = torchvision.models.resnet18(weights=None).state_dict()
        self.cached.parent.mkdir()
        torch.save(tensors, self.cached)
        state = build_backbone(config("", "BIN_half", depth=18, name="resnet")).state_dict()
        assert torch.equal(state["layer2.0.downsample.conv.weight"], tensors["layer2.0.downsample.0.weight"])
        expected = tensors["layer2.0.downsample.1.weight"][:64]
        assert torch.equal(state["layer2.0.downsample.bn.bat_n.weight"], expected)
        state = build_backbone(config("", "BN", "MODEL.BACKBONE.NAME", "resnet18")).state_dict()
        assert torch.equal(state["layer4.0.conv1.weight"], tensors["layer4.0.conv1.weight"])

    def test_offline_without_them_is_one_clear_line(self):
        message = one_line(config("", depth=18, name="resnet"))
        assert str(self.cached) in message and "no network in tests" in message
        assert "MODEL.BACKBONE.PRETRAIN_PATH" in message and "MODEL.BACKBONE.PRETRAIN False" in message

    def test_damaged_cached_file_is_named(self):
        self.cached.parent.mkdir()
        self.cached.write_bytes(b"PK\x03\x04 cut off")
        assert str(self.cached) in one_line(config("", depth=18, name="resnet"))

    def test_offline_mobilenet_of_width_1_is_one_clear_line_too(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for path in ("", "./pretrained/mobilenetv2_1.0.pth"):
            message = one_line(config(path, depth=10))
            assert "checkpoints/mobilenet_v2-b0353104.pth" in message and "no network in tests" in message
        assert "no pre-trained weights at other.pth" in one_line(config("other.pth", depth=10))


class TestTorchvisionsMobileNet:
    """Its first block has no expansion: ours gets one that changes nothing."""

    @pytest.fixture(scope="class")
    def theirs(self):
        """torchvision's model with statistics and affine parameters that are none of the first values."""
        torch.manual_seed(3)
        model = torchvision.models.mobilenet_v2(weights=None).eval()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.data.uniform_(0.7, 1.4)
                for tensor in (module.bias, module.running_mean):
                    tensor.data.uniform_(-0.4, 0.6)
        return model

    def cache(self, monkeypatch, tmp_path, model):
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        (tmp_path / "checkpoints").mkdir()
        torch.save(model.state_dict(), tmp_path / "checkpoints" / "mobilenet_v2-b0353104.pth")

    def compare(self, theirs, *options):
        images = torch.randn(2, 3, 64, 64)
        ours = build_backbone(config(*options, depth=10)).eval()
        with torch.no_grad():
            expected, found = theirs.features(images), ours(images)
        assert expected.std() > 0.05 and found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    def test_features_are_torchvisions_own(self, theirs, tmp_path, monkeypatch):
        self.cache(monkeypatch, tmp_path, theirs)
        self.compare(theirs, "", "BN", "MODEL.BACKBONE.LAST_STRIDE", "2")

    def test_features_with_gates_at_one_are_too(self, theirs, tmp_path, monkeypatch):
        self.cache(monkeypatch, tmp_path, theirs)
        self.compare(theirs, "", "BIN_gate2", "MODEL.BACKBONE.LAST_STRIDE", "2", "MODEL.NORM.BIN_INIT", "one")

    def test_a_file_in_torchvisions_naming_is_read_and_wins_over_the_cache(self, theirs, tmp_path, monkeypatch):
        self.cache(monkeypatch, tmp_path, torchvision.models.mobilenet_v2(weights=None))
        for path in (tmp_path / "mine.pth", tmp_path / "pretrained" / "mobilenetv2_1.0.pth"):
            path.parent.mkdir(exist_ok=True)
            torch.save({"state_dict": theirs.state_dict()}, path)
        self.compare(theirs, tmp_path / "mine.pth", "BN", "MODEL.BACKBONE.LAST_STRIDE", "2")
        self.compare(theirs, "", "BN", "MODEL.BACKBONE.LAST_STRIDE", "2")

    def test_a_file_of_another_width_is_told_by_the_shapes(self, tmp_path):
        with torch.device("meta"):
            shapes = torchvision.models.mobilenet_v2(weights=None, width_mult=0.5).state_dict()
        path = tmp_path / "half.pth"
        torch.save({name: torch.zeros(t.shape) for name, t in shapes.items()}, path)
        assert f"{path} is of another architecture than MobileNetV2 x1" in one_line(config(path, depth=10))
