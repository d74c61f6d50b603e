"""Exported models against the model's features."""

import json
import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fastreid.config import get_cfg
from fastreid.engine import export
from fastreid.engine.compile import use_kernels
from fastreid.engine.export import FeatureModel, check_features, export_model, sample_images
from fastreid.evaluation.extraction import forward_batches
from fastreid.layers import (
    DSU,
    IBN,
    EFDMix,
    InstanceNorm,
    MixStyle,
    NonLocal,
    StyleRestitution,
    SwitchableNorm,
    norm_factory,
)
from fastreid.layers.passes import Kernels
from fastreid.modeling.backbones.osnet import ChannelGate, LightConv
from fastreid.modeling.backbones.resnet import BasicBlock
from fastreid.modeling.heads import MetalearningHead
from fastreid.utils.errors import UserError


class TinyModel(nn.Module):
    """Two convolutions with batch-instance normalization, and the head: quick to export."""

    def __init__(self):
        super().__init__()
        cfg = get_cfg()
        cfg.merge_from_list(["MODEL.HEADS.IN_FEAT", "8", "MODEL.HEADS.NUM_CLASSES", "2"])
        norm = norm_factory("BIN_gate2", "random")
        first, second = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 8, 3, stride=2)
        self.backbone = nn.Sequential(first, norm(6), nn.ReLU(), second, norm(8), nn.ReLU())
        self.heads = MetalearningHead(cfg)

    def forward(self, batch):
        return self.heads(self.backbone(batch["images"] / 128 - 1))


@pytest.fixture
def predictor():
    """What `export_model` uses of a predictor."""
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "TEST.FLIP", "True"])
    model = TinyModel().eval()
    checkpoint = Path("model_final.pth")
    return SimpleNamespace(cfg=cfg, model=model, image_size=(32, 16), feature_size=8, checkpoint=checkpoint)


def features_of(predictor, images):
    with torch.no_grad():
        return FeatureModel(predictor.model, flip=True)(images)


def test_the_exported_function_is_a_tests(predictor):
    images = sample_images(5, (32, 16))
    expected = forward_batches(predictor.cfg, predictor.model, [{"images": images}], 5)
    torch.testing.assert_close(features_of(predictor, images), expected)


def test_a_program_has_dynamic_batches_and_says_what_it_is(predictor, tmp_path):
    differences = export_model(predictor, tmp_path / "model.pt2")
    assert list(differences) == [1, 2, 7, 32] and max(differences.values()) < 1e-3
    extra = {"metadata.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    about = json.loads(extra["metadata.json"])
    assert about["input"]["shape"] == ["batch", 3, 32, 16] and about["output"]["shape"] == ["batch", 8]
    assert about["flip"] is True and about["checkpoint"] == "model_final.pth"
    images = sample_images(9, (32, 16))
    found = program(images)
    torch.testing.assert_close(found, features_of(predictor, images))
    # Each image is normalized by its own statistics: its feature does not depend on those beside it.
    torch.testing.assert_close(found, torch.cat([program(image[None]) for image in images]))


@pytest.fixture
def onnx():
    """The package, with the others that an export to ONNX needs; a test that takes it is skipped without them."""
    for package in export.ONNX_PACKAGES:
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e .[export]")
    return pytest.importorskip("onnx")


def test_a_model_with_kernels_of_a_gpu_is_exported_without_them(predictor, tmp_path):
    def without_gpu(*_):
        raise RuntimeError("no GPU")

    use_kernels(predictor.model, Kernels(*[without_gpu] * len(Kernels._fields)))
    with pytest.raises(RuntimeError, match="no GPU"):
        features_of(predictor, sample_images(2, (32, 16)))
    export_model(predictor, tmp_path / "model.pt2")


def test_onnx_has_the_same_features(predictor, tmp_path, onnx):
    differences = export_model(predictor, tmp_path / "model.onnx")
    assert list(differences) == [1, 2, 7, 32]
    content = onnx.load(tmp_path / "model.onnx")
    about = {entry.key: entry.value for entry in content.metadata_props}
    assert json.loads(about["output"])["shape"] == ["batch", 8]
    shape = content.graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_value for side in shape[1:]] == [3, 32, 16] and shape[0].dim_param
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_blocks_of_resnets_with_every_option_are_exported(predictor, tmp_path, suffix, request):
    if suffix == ".onnx":
        request.getfixturevalue("onnx")
    predictor.cfg.TEST.FLIP = False  # so that it takes half as long
    block = BasicBlock(norm_factory("BIN_gate2", "random"), IBN, 16, 16, 1, with_se=True)
    non_local = NonLocal(16)
    nn.init.normal_(non_local.W[1].weight)
    first, last = nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 8, 3, stride=2)
    predictor.model.backbone = nn.Sequential(first, block, non_local, last).eval()
    differences = export_model(predictor, tmp_path / f"model{suffix}")
    assert list(differences) == [1, 2, 7, 32]


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_the_layers_of_other_methods_are_exported(predictor, tmp_path, suffix, request):
    if suffix == ".onnx":
        request.getfixturevalue("onnx")
    predictor.cfg.TEST.FLIP = False
    first, last = nn.Conv2d(3, 16, 3, stride=2), nn.Conv2d(16, 8, 3, stride=2)
    layers = LightConv(SwitchableNorm, 16), ChannelGate(16), InstanceNorm(16)  # OSNet-AIN's
    styles = MixStyle(1.0), EFDMix(1.0), DSU(1.0), StyleRestitution(16)
    predictor.model.backbone = nn.Sequential(first, *layers, *styles, last).eval()
    differences = export_model(predictor, tmp_path / f"model{suffix}")
    assert list(differences) == [1, 2, 7, 32]


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
def test_a_full_disk_is_an_error_and_leaves_nothing(predictor, tmp_path, suffix, request):
    if suffix == ".onnx":
        request.getfixturevalue("onnx")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(UserError, match=f"cannot write .*model{suffix} "):
            export_model(predictor, tmp_path / f"model{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


class MeanOfBatch(nn.Module):
    """A model whose features depend on the other images of a batch."""

    def forward(self, batch):
        return batch["images"].mean((2, 3)) + batch["images"].mean()


def test_the_check_sees_features_that_depend_on_the_batch():
    model = FeatureModel(MeanOfBatch(), flip=False)

    def one_by_one(images):
        return torch.cat([model(image[None]) for image in images])

    differences, largest = check_features(model, one_by_one, (8, 4))
    assert differences[1] == 0 and differences[32] > 0.1 * largest


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_a_file_with_other_features_is_not_written(predictor, tmp_path, monkeypatch, wrong):
    def write(model, size, about, path):
        path.write_text("something")
        return lambda images: wrong * model(images)

    monkeypatch.setattr(export, "write_program", write)
    with pytest.raises(UserError, match="features differ by"):
        export_model(predictor, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_other_formats_and_missing_packages_are_named(predictor, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="ending in .onnx or .pt2; found .*model.pth"):
        export_model(predictor, tmp_path / "model.pth")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs onnx, onnxscript, onnxruntime: pip install"):
        export_model(predictor, tmp_path / "model.onnx")
