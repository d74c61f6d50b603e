"""tools/calibrate.py: the file it writes, what takes it, and what it refuses."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastreid import Predictor
from fastreid.evaluation import compute_distance
from fastreid.evaluation.calibration import load_threshold
from fastreid.utils.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread", "short_mobilenet")
TOOL = Path(__file__).resolve().parents[2] / "tools" / "calibrate.py"
spec = importlib.util.spec_from_file_location("calibrate", TOOL)
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.fixture
def run(run_folder, tmp_path, monkeypatch):
    """A run's folder of its own, and `folder:site`: six people of unlike colours in query and gallery, and in train."""
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    rng = np.random.default_rng(1)
    for part, camera in (("query", 1), ("gallery", 2), ("train", 1), ("train", 2)):
        (tmp_path / "site" / part).mkdir(parents=True, exist_ok=True)
        for person, colour in enumerate(rng.permuted(np.tile([30, 120, 220], (6, 1)), axis=1)):
            pixels = np.clip(colour + rng.normal(0, 40, (32, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "site" / part / f"p{person}_c{camera}.png")
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / "last_checkpoint").write_text("model_final.pth")
    return tmp_path / "run"


def both_cameras(folder):
    """Return the paths of the six people's images in query and in gallery."""
    parts = ("query", 1), ("gallery", 2)
    return [[str(folder / part / f"p{person}_c{camera}.png") for person in range(6)] for part, camera in parts]


def calibrate(run, *arguments):
    weights = run / "model_final.pth"
    tool.main(["--config-file", str(run / "config.yaml"), "OUTPUT_DIR", str(run), "MODEL.WEIGHTS", str(weights),
               "--resamples", "20", "--dataset", "folder:site", *arguments])  # fmt: skip


def test_the_file_says_what_it_is_of_and_the_threshold_is_that_of_all_pairs(run, capsys):
    calibrate(run, "--far", "0.1", "0.5")
    found = json.loads((run / "threshold.json").read_text())
    assert (found["metric"], found["checkpoint"]) == ("cosine", str(run / "model_final.pth"))
    assert found["options"]["SIZE_TEST"] == [32, 16] and found["options"]["FLIP"] is False
    names = ("data_set", "part", "images", "people", "pairs_of_one_person", "pairs_of_two_people")
    assert [found[name] for name in names] == ["folder:site", "query and gallery", 12, 6, 6, 30]
    assert found["intervals"] == {"confidence": 0.95, "resamples_of_people": 20, "seed": 0}
    assert [row["far"] for row in found["thresholds"]] == [0.5, 0.1]
    predictor = Predictor(run)
    distances = compute_distance(*map(predictor, both_cameras(run.parent / "site"))).numpy()
    others = np.sort(distances[~np.eye(6, dtype=bool)])
    for row in found["thresholds"]:
        # In small batches features differ in the last digits.
        assert np.mean(others <= row["threshold"] + 1e-5) == pytest.approx(row["measured_far"])
        assert row["measured_far"] == pytest.approx(row["far"])
        assert np.mean(np.diag(distances) <= row["threshold"] + 1e-5) == pytest.approx(row["tar"])
        low, high = row["measured_far_interval"]
        assert low <= row["measured_far"] <= high
    assert "| 50 %         |" in capsys.readouterr().out
    first = (run / "threshold.json").read_bytes()
    calibrate(run, "--far", "0.1", "0.5")
    assert (run / "threshold.json").read_bytes() == first
    threshold = load_threshold(predictor, far=0.1)
    assert threshold == (found["thresholds"][1]["threshold"], 0.1)
    assert [threshold.most_alarms(images) for images in (1, 5, 50)] == [0.1, 0.5, 1]


def test_a_threshold_is_measured_elsewhere_and_nothing_is_written(run, capsys):
    calibrate(run, "--far", "0.5")
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix == ".json"}
    capsys.readouterr()
    calibrate(run, "--train", "--apply", str(run / "threshold.json"))
    said = capsys.readouterr().out
    assert "calibrated for" in said and "wrote" not in said
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.suffix == ".json"} == before


def test_pairs_of_images_are_answered(run):
    calibrate(run, "--far", "0.2")
    predictor = Predictor(run)
    limit = load_threshold(predictor).distance
    first, second = both_cameras(run.parent / "site")
    distances = compute_distance(predictor(first), predictor(second)).diag()
    assert predictor.same_person(first, second).tolist() == (distances <= limit).tolist()
    assert predictor.same_person(first[0], first[0]).tolist() == [True]
    with pytest.raises(UserError, match="found 6 and 1"):
        predictor.same_person(first, second[0])


@pytest.mark.parametrize(
    ("options", "words"),
    [(["TEST.METRIC", "euclidean"], "metric cosine"), (["TEST.FLIP", "True"], "FLIP False"),
     (["INPUT.SIZE_TEST", "[64, 32]"], r"SIZE_TEST \[32, 16\]")],
)  # fmt: skip
def test_thresholds_of_other_options_are_refused(run, options, words):
    calibrate(run, "--far", "0.1")
    with pytest.raises(UserError, match=f"of another model \\({words}\\)"):
        load_threshold(Predictor(run, options))
    with pytest.raises(UserError, match=words):
        calibrate(run, *options, "--apply", str(run / "threshold.json"))


def test_thresholds_of_another_checkpoint_and_files_of_something_else_are_refused(run, make_run, tmp_path):
    calibrate(run, "--far", "0.1", "0.5")
    predictor, file = Predictor(run), run / "threshold.json"
    with pytest.raises(UserError, match="several false accept rates: name one of 0.5, 0.1"):
        load_threshold(predictor)
    with pytest.raises(UserError, match="no false accept rate 0.3"):
        load_threshold(predictor, far=0.3)
    moved = shutil.copytree(run, tmp_path / "moved")
    assert load_threshold(Predictor(moved), far=0.1) == load_threshold(predictor, far=0.1)
    other = make_run(tmp_path / "other", "MODEL.NORM.BIN_INIT", "one")
    with pytest.raises(UserError, match="of another model .*checkpoint"):
        load_threshold(Predictor(other / "model_final.pth"), file, far=0.1)
    with pytest.raises(UserError, match="no thresholds .*tools/calibrate.py writes them"):
        load_threshold(Predictor(other / "model_final.pth"))
    found = json.loads(file.read_text())
    empty = json.dumps({**found, "thresholds": [{"far": 0.1, "threshold": None}]})
    for text in ("{", "[]", '{"thresholds": []}', empty):
        file.write_text(text)
        with pytest.raises(UserError, match="is no file of tools/calibrate.py"):
            load_threshold(predictor)


def test_bad_input_is_refused_before_a_feature_is_computed(run, monkeypatch):
    monkeypatch.setattr(tool, "extract_features", lambda *_: pytest.fail("features were computed"))
    with pytest.raises(UserError, match="0.0001 cannot be measured with 30 pairs"):
        calibrate(run, "--far", "0.0001")
    with pytest.raises(UserError, match="between 0 and 1; found 1.5"):
        calibrate(run, "--far", "1.5")
    with pytest.raises(UserError, match="--resamples must be at least 1"):
        calibrate(run, "--resamples", "0")
    with pytest.raises(UserError, match="no thresholds .*nothing.json"):
        calibrate(run, "--apply", str(run / "nothing.json"))
    (run / "model_final.pth").unlink()
    with pytest.raises(UserError, match="model_final.pth"):
        calibrate(run, "--far", "0.1")
