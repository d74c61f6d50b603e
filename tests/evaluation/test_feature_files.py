"""Features of images in a file: reading, use again, and what is refused."""

import os

import numpy as np
import pytest
from PIL import Image

from fastreid import Predictor
from fastreid.evaluation.feature_files import ImageFeatures, compute_features, reuse_features
from fastreid.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("short_mobilenet")


@pytest.fixture(scope="module")
def predictor(run_folder):
    return Predictor(run_folder)


@pytest.fixture
def paths(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return [str(tmp_path / f"{number}.png") for number in range(4)]


@pytest.fixture
def computed(monkeypatch):
    """The images whose features were computed."""
    seen = []
    forward = Predictor.__call__

    def watched(self, images, name):
        seen.extend(images)
        return forward(self, images, name)

    monkeypatch.setattr(Predictor, "__call__", watched)
    return seen


def test_numpy_alone_reads_the_file(predictor, paths, tmp_path):
    compute_features(predictor, paths).save(tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz", allow_pickle=False) as content:
        assert content["features"].dtype == np.float32
        np.testing.assert_array_equal(content["features"], predictor(paths))
        assert content["paths"].tolist() == paths
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".npz", *[".png"] * 4]


def test_only_new_and_changed_images_are_computed_again(predictor, paths, tmp_path, computed):
    file = tmp_path / "f.npz"
    reuse_features(predictor, paths[:3], file)
    computed.clear()
    again = reuse_features(predictor, paths[:3], file)
    assert computed == []
    Image.new("RGB", (16, 32), "red").save(paths[1])
    os.utime(paths[1], ns=(1, 1))
    changed = reuse_features(predictor, [paths[3], *paths[:3]], file)
    assert computed == [paths[3], paths[1]]
    expected = compute_features(predictor, [paths[3], *paths[:3]]).features
    # One image and four in a batch round differently.
    np.testing.assert_allclose(changed.features, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(changed.features[[1, 3]], again.features[[0, 2]])
    computed.clear()
    assert reuse_features(predictor, paths[:2], file).paths.tolist() == paths[:2]
    assert computed == []


@pytest.mark.parametrize("options", [["INPUT.SIZE_TEST", "[48, 16]"], ["TEST.FLIP", "True"]])
def test_other_options_compute_everything_again(predictor, run_folder, paths, tmp_path, computed, caplog, options):
    file = tmp_path / "f.npz"
    reuse_features(predictor, paths, file)
    computed.clear()
    reuse_features(Predictor(run_folder, options), paths, file)
    assert computed == paths and "of another model or of other options" in caplog.text


def test_features_of_another_model_are_refused(predictor, make_run, run_folder, paths, tmp_path):
    found = compute_features(predictor, paths)
    found.check_model(predictor, tmp_path)
    small = Predictor(
        make_run(tmp_path / "small", "META.BOTTLENECK.DO_IT", "True", "META.BOTTLENECK.REDUCTION_DIM", "8")
    )
    assert small(paths).shape == (4, 8)
    with pytest.raises(UserError, match="f.npz holds features of length 1280, but the model .* gives 8"):
        found.check_model(small, tmp_path / "f.npz")
    flipped = Predictor(run_folder, ["TEST.FLIP", "True"])
    with pytest.raises(UserError, match="a model with other options than"):
        found.check_model(flipped, tmp_path / "f.npz")


def test_files_that_hold_no_features_are_named(tmp_path):
    with pytest.raises(UserError, match="no file of features"):
        ImageFeatures.load(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", features=np.zeros((2, 3)))
    with pytest.raises(UserError, match="not a file of saved features .*paths"):
        ImageFeatures.load(tmp_path / "other.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(UserError, match="not a file of saved features"):
        ImageFeatures.load(tmp_path / "text.npz")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="not a file of saved features"):
        ImageFeatures.load(tmp_path / "array.npz")
    arrays = {name: np.zeros(3) for name in ("paths", "sizes", "times", "weights", "options")}
    np.savez(tmp_path / "short.npz", features=np.zeros((2, 5)), **arrays)
    with pytest.raises(UserError, match="disagree"):
        ImageFeatures.load(tmp_path / "short.npz")
