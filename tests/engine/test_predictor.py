"""A trained model as a function: kinds of images, kinds of sources, and what is said about bad input."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid import Predictor
from fastreid.config import get_cfg
from fastreid.data.datasets import Items
from fastreid.engine import defaults
from fastreid.evaluation.extraction import extract_features
from fastreid.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread", "short_mobilenet")


@pytest.fixture(scope="module")
def predictor(run_folder):
    return Predictor(run_folder)


@pytest.fixture
def paths(tmp_path):
    """Six images of several sizes."""
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 256, (40 + number, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    return sorted(map(str, tmp_path.glob("*.png")))


def same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-4)


@pytest.mark.parametrize("options", [[], ["TEST.FLIP", "True"]])
def test_features_are_those_of_an_evaluation(run_folder, paths, options):
    predictor = Predictor(run_folder, options)
    items = Items.from_rows((path, 0, 0) for path in paths)
    features = predictor(paths)
    assert features.dtype == torch.float32 and features.shape == (6, predictor.feature_size)
    assert torch.equal(features, extract_features(predictor.cfg, predictor.model, items))


def test_a_backbone_by_its_short_name_is_the_same_one(run_folder, paths, predictor):
    short = ["MODEL.BACKBONE.NAME", "mobilenet_v2_1.0", "MODEL.BACKBONE.DEPTH", "1", "MODEL.HEADS.IN_FEAT", "0"]
    other = Predictor(run_folder, short)
    assert other.feature_size == predictor.feature_size == 1280
    assert torch.equal(other(paths), predictor(paths))


@pytest.mark.parametrize("choice, asked", [("auto", [("auto", "cpu")]), ("off", []), ("norm", [])])
def test_kernels_are_chosen_as_in_training_but_nothing_is_compiled_at_length(run_folder, monkeypatch, choice, asked):
    found = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(defaults, "compile_model", lambda model, *words: found.append((words[0], words[1].type)))
    Predictor(run_folder, ["MODEL.DEVICE", "cuda", "SOLVER.COMPILE", choice])  # without a GPU, the CPU
    assert found == asked


def test_loader_processes_give_the_same(run_folder, paths, predictor):
    assert torch.equal(Predictor(run_folder, ["DATALOADER.NUM_WORKERS", "1"])(paths), predictor(paths))


def test_every_kind_of_image_gives_the_features_of_its_file(predictor, paths):
    expected = predictor(paths[:2])
    images = [Image.open(path) for path in paths[:2]]
    same(predictor(images), expected)
    arrays = [np.asarray(image) for image in images]
    same(predictor(arrays), expected)
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    same(predictor(tensors), expected)
    same(predictor([paths[0], tensors[1]]), expected)
    resized = torch.stack([predictor.transform(image) for image in images])
    same(predictor(resized), expected)
    same(predictor(resized.byte()), expected)
    for one in (paths[0], images[0], arrays[0], tensors[0]):
        same(predictor(one), expected[:1])
    same(predictor(np.stack([arrays[0], arrays[0]])), expected[[0, 0]])


def test_pil_images_and_arrays_are_decoded_as_files_are(predictor, tmp_path):
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (40, 20), dtype=np.uint8)
    colours = np.dstack([rng.integers(0, 256, (40, 20, 3), dtype=np.uint8), gray])
    images = [Image.fromarray(gray), Image.fromarray(gray.astype(np.uint16) * 257), Image.fromarray(colours)]
    sideways, exif = Image.fromarray(gray).convert("RGB").transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    sideways.save(tmp_path / "sideways.png", exif=exif)
    expected = predictor(images)
    same(predictor([np.asarray(image) for image in images]), expected)
    same(predictor([images[1], np.asarray(images[1])]), expected[[0, 0]])
    same(predictor(np.asarray(images[1])), expected[:1])
    for photo in (Image.open(tmp_path / "sideways.png"), tmp_path / "sideways.png"):
        same(predictor([photo, images[2]]), expected[[0, 2]])


def test_features_can_be_trained_on(predictor, paths):
    weight = torch.ones(predictor.feature_size, requires_grad=True)
    (predictor(paths[:1]) * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((4, 4), np.int32), r"found ndarray \(4, 4\) int32"),
        (np.zeros((0, 4, 3), np.uint8), r"found ndarray \(0, 4, 3\) uint8"),
        (Image.new("F", (4, 4)), r"image 1 cannot be read as RGB of 8 bits: .*mode F"),
        (np.zeros((4, 4, 3), np.float32), r"found ndarray \(4, 4, 3\) float32"),
        (torch.zeros(3, 8, 8), r"tensor \(3, 32, 16\) float, .* found Tensor \(3, 8, 8\)"),
        (torch.rand(3, 32, 16), "must be RGB 0..255, not scaled"),
        (torch.full((3, 32, 16), float("nan")), "must be RGB 0..255"),
        (7, "image 1 must be .* found int"),
    ],
)
def test_what_is_no_image_is_named(predictor, image, message):
    with pytest.raises(UserError, match=message):
        predictor([np.zeros((4, 4, 3), np.uint8), image])


def test_no_image_and_a_damaged_file_are_named(predictor, tmp_path):
    with pytest.raises(UserError, match="the list is empty"):
        predictor([])
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match="text.jpg is not a readable image"):
        predictor(str(tmp_path / "text.jpg"))


def config_file_beside_logs(run_folder, root):
    """A person's config file, and a run of it in the folder that training would choose."""
    shutil.copytree(run_folder, root / "logs" / "mine")
    (root / "configs").mkdir()
    text = (run_folder / "config.yaml").read_text()
    (root / "configs" / "mine.yml").write_text(text)
    return root / "configs" / "mine.yml"


def test_every_kind_of_source_leads_to_the_checkpoint(run_folder, tmp_path):
    sources = [run_folder, str(run_folder), run_folder / "config.yaml", run_folder / "model_final.pth"]
    for source in sources:
        assert Predictor(source).checkpoint == run_folder / "model_final.pth"
    config_file = config_file_beside_logs(run_folder, tmp_path)
    assert Predictor(config_file).checkpoint == tmp_path / "logs" / "mine" / "model_final.pth"
    other = tmp_path / "other.pth"
    shutil.copy(run_folder / "model_final.pth", other)
    assert Predictor(run_folder, ["MODEL.WEIGHTS", str(other)]).checkpoint == other
    cfg = get_cfg()
    cfg.merge_from_file(run_folder / "config.yaml")
    cfg.MODEL.WEIGHTS = str(other)
    assert Predictor(cfg).checkpoint == other
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = "", str(run_folder)
    assert Predictor(cfg).checkpoint == run_folder / "model_final.pth"


def test_a_runs_own_checkpoint_stands_before_the_weights_it_began_with(make_run, tmp_path):
    folder = make_run(tmp_path / "run", "MODEL.WEIGHTS", "began_with.pth")
    assert Predictor(folder).checkpoint == folder / "model_final.pth"
    (folder / "last_checkpoint").unlink()
    with pytest.raises(UserError, match="no trained model: .*checkpoints there: model_final.pth"):
        Predictor(folder)


def test_missing_runs_are_named(run_folder, tmp_path):
    with pytest.raises(UserError, match="no run .*nowhere: expected a run's folder"):
        Predictor(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no config.yaml"):
        Predictor(tmp_path)
    with pytest.raises(UserError, match="no checkpoint .*gone.pth"):
        Predictor(run_folder, ["MODEL.WEIGHTS", str(tmp_path / "gone.pth")])
    with pytest.raises(UserError, match="of another architecture"):
        Predictor(run_folder, ["MODEL.NORM.TYPE_BACKBONE", "BN"])


def test_importing_the_package_does_not_import_pytorch():
    code = "import sys, fastreid; assert 'torch' not in sys.modules; fastreid.__version__"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(ImportError):
        from fastreid import Nothing  # noqa: F401
