"""demo.py, search.py and visualize_result.py as they are called."""

import csv
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastreid import Predictor
from fastreid.analysis.pictures import FRAME, GAP, HEIGHT, MARGIN, TITLE, WIDTH
from fastreid.evaluation.calibration import model_record
from fastreid.evaluation.ranked_lists import RankedQuery
from fastreid.utils.errors import UserError
from fastreid.utils.files import write_json

pytestmark = pytest.mark.usefixtures("one_thread", "short_mobilenet")
DEMO = Path(__file__).resolve().parents[2] / "demo"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMO / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(monkeypatch, run_folder):
    """Call a command of demo/ with arguments, for the model of `run_folder` unless another is named."""

    def call(name: str, *arguments, run: Path = run_folder) -> None:
        monkeypatch.setattr(sys, "argv", [name, "--config-file", str(run), *map(str, arguments)])
        load(name).main()

    return call


@pytest.fixture
def people(tmp_path, monkeypatch):
    """`folder:people`: two queries and, from two cameras, gallery images of three people of unlike colours."""
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path))
    rng = np.random.default_rng(0)
    for part, cameras in (("query", [1]), ("gallery", [1, 2])):
        (tmp_path / "people" / part).mkdir(parents=True)
        for person, colour in enumerate([(200, 40, 40), (40, 200, 40), (40, 40, 200)]):
            for camera in cameras:
                pixels = np.clip(colour + rng.normal(0, 20, (32, 16, 3)), 0, 255).astype(np.uint8)
                if part == "gallery" or person < 2:
                    Image.fromarray(pixels).save(tmp_path / "people" / part / f"p{person}_c{camera}.png")
    return tmp_path / "people"


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_demo_writes_features_with_their_paths(command, people, run_folder, tmp_path, capsys):
    (people / "query" / "notes.txt").touch()
    command("demo", "--input", people / "query", f"{people}/gallery/*_c2.png", "--output", tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz", allow_pickle=False) as content:
        paths, features = content["paths"].tolist(), content["features"]
    assert [Path(path).name for path in paths] == ["p0_c1.png", "p1_c1.png", "p0_c2.png", "p1_c2.png", "p2_c2.png"]
    np.testing.assert_array_equal(features, np.concatenate([Predictor(run_folder)(paths)]))
    assert "notes.txt" in capsys.readouterr().out


def test_demo_options_change_the_features(command, people, tmp_path):
    for name, options in (("a", []), ("b", ["--opts", "TEST.FLIP", "True"])):
        command("demo", "--input", people / "query", "--output", tmp_path / f"{name}.npz", *options)
    first, second = (np.load(tmp_path / f"{name}.npz")["features"] for name in "ab")
    assert np.abs(first - second).max() > 1e-3


def test_demo_refuses_what_it_cannot_do(command, people, tmp_path):
    with pytest.raises(UserError, match="--output must be a file ending in .npz"):
        command("demo", "--input", people / "query", "--output", tmp_path / "f.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no images"):
        command("demo", "--input", tmp_path / "empty")
    (people / "query" / "text.jpg").write_text("no image")
    with pytest.raises(UserError, match="text.jpg is not a readable image"):
        command("demo", "--input", people / "query", "--output", tmp_path / "f.npz")
    assert not (tmp_path / "f.npz").exists()
    with pytest.raises(UserError, match="no run .*nowhere"):
        command("demo", "--input", people / "query", run=tmp_path / "nowhere")


def search(command, people, output, *arguments, gallery=None, **keywords):
    where = ["--query", people / "query", "--gallery", gallery or people / "gallery", "--output", output]
    command("search", *where, *arguments, **keywords)
    return rows(output / "results.csv")


def test_search_ranks_the_gallery_of_each_query(command, people, run_folder, tmp_path):
    found = search(command, people, tmp_path / "out", "--top-k", 4)
    assert [row["rank"] for row in found] == ["1", "2", "3", "4"] * 2
    distances = [float(row["distance"]) for row in found]
    assert distances[:4] == sorted(distances[:4])
    predictor = Predictor(run_folder)
    query, image = predictor(found[0]["query"]), predictor(found[0]["image"])
    cosine = float((query * image).sum() / query.norm() / image.norm())
    assert distances[0] == pytest.approx(1 - cosine, abs=1e-3)
    pictures = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
    assert pictures == ["0001_p0_c1.png", "0002_p1_c1.png"]


def test_search_keeps_the_gallerys_features(command, people, tmp_path, capsys):
    first = search(command, people, tmp_path / "out")
    capsys.readouterr()
    assert search(command, people, tmp_path / "out", "--pictures", 0) == first
    assert "6 of 6 features are from" in capsys.readouterr().out
    (people / "gallery" / "p2_c1.png").unlink()
    assert len(search(command, people, tmp_path / "out")) == 10
    search(command, people, tmp_path / "out", "--opts", "TEST.FLIP", "True")
    assert "of another model or of other options" in capsys.readouterr().out


def test_a_second_search_does_not_find_the_pictures_of_the_first(command, people, tmp_path, capsys):
    output = people / "gallery" / "search"
    first = search(command, people, output)
    assert search(command, people, output) == first
    assert search(command, people, tmp_path / "elsewhere") == first
    printed = capsys.readouterr().out
    assert printed.count("passed over 2 file(s) that a search has drawn") == 2


@pytest.mark.parametrize("name", ["caf\udce9.png", "a\nb.png", "q" * 250 + ".png", "\u674e\u660e.png", "\x1b[31m.png"])
def test_search_takes_images_of_any_name(command, people, tmp_path, name, capfd):
    (people / "query" / "p0_c1.png").rename(people / "query" / name)
    (people / "gallery" / "p0_c1.png").rename(people / "gallery" / name)
    search(command, people, tmp_path / "out", "--top-k", 3)
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2
    search(command, people, tmp_path / "out", "--pictures", 0)
    assert "6 of 6 features are from" in capfd.readouterr().out


def test_results_of_a_search_hold_no_formulas_and_paths_that_lead_to_the_images(command, people, tmp_path, monkeypatch):
    monkeypatch.chdir(people / "query")
    (people / "query" / "p0_c1.png").rename("=1+1.png")
    command("search", "--query", "=1+1.png", "--gallery", "*.png", "--output", tmp_path / "out", "--pictures", 0)
    found = rows(tmp_path / "out" / "results.csv")
    assert {row["query"] for row in found} == {"./=1+1.png"} and "./=1+1.png" in {row["image"] for row in found}
    assert all(Path(row["image"]).is_file() for row in found)


def test_search_takes_the_features_of_demo(command, people, make_run, tmp_path):
    file = tmp_path / "f.npz"
    command("demo", "--input", people / "gallery", "--output", file)
    expected = search(command, people, tmp_path / "out")
    assert search(command, people, tmp_path / "again", gallery=file) == expected
    with pytest.raises(UserError, match="or one .npz file of features, not both"):
        command("search", "--query", people / "query", "--gallery", file, people / "gallery")
    small = make_run(tmp_path / "small", "META.BOTTLENECK.DO_IT", "True", "META.BOTTLENECK.REDUCTION_DIM", "8")
    with pytest.raises(UserError, match="features of length 1280, but the model .* gives 8"):
        search(command, people, tmp_path / "other", gallery=file, run=small)


def test_search_with_cells_states_what_they_give_up(command, people, tmp_path, capsys):
    pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")
    found = search(command, people, tmp_path / "out", "--index", "ivf", "--pictures", 0)
    output = capsys.readouterr().out
    assert "of the exact 6 nearest images 100.0 % were found" in output and len(found) == 12
    assert len(list((tmp_path / "out").glob("ivf_*.faiss"))) == 1


def thresholds_of(run_folder, path, limit):
    """Write thresholds of the model in `run_folder` for search."""
    predictor = Predictor(run_folder)
    record = model_record(predictor.cfg, predictor.model, str(predictor.checkpoint))
    write_json(
        path, {**record, "thresholds": [{"far": 0.1, "threshold": limit}, {"far": 0.01, "threshold": limit / 2}]}
    )
    return path


def test_search_answers_same_or_nobody_by_a_threshold(command, people, run_folder, tmp_path, capsys):
    plain = search(command, people, tmp_path / "plain")
    assert not (tmp_path / "plain" / "answers.csv").exists()
    near, far = sorted(float(row["distance"]) for row in plain if row["rank"] == "1")
    file = thresholds_of(run_folder, tmp_path / "t.json", (near + far) / 2)
    found = search(command, people, tmp_path / "out", "--threshold", file, "--far", 0.1)
    assert found == plain
    answers = rows(tmp_path / "out" / "answers.csv")
    assert [row["query"] for row in answers] == [row["query"] for row in plain if row["rank"] == "1"]
    for row in answers:
        assert row["answer"] == ("same" if float(row["distance"]) == near else "nobody")
        assert row["nearest"] in [
            other["image"] for other in plain if other["query"] == row["query"] and other["rank"] == "1"
        ]
    said = capsys.readouterr().out
    assert "1 queries are answered same, 1 nobody" in said
    assert "with 6 images in the gallery up to 60 %" in said


def test_search_refuses_thresholds_before_features(command, people, run_folder, tmp_path):
    file = thresholds_of(run_folder, tmp_path / "t.json", 0.5)
    with pytest.raises(UserError, match="several false accept rates"):
        search(command, people, tmp_path / "out", "--threshold", file)
    with pytest.raises(UserError, match="metric cosine"):
        search(
            command, people, tmp_path / "out", "--threshold", file, "--far", 0.1, "--opts", "TEST.METRIC", "euclidean"
        )
    with pytest.raises(UserError, match="no thresholds .*threshold.json"):
        search(command, people, tmp_path / "out", "--threshold")
    assert not (tmp_path / "out").exists()


def visualize(command, output, *arguments):
    command("visualize_result", "--output", output, *arguments)
    return sorted(path.name for path in output.iterdir())


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_ranked_lists_of_a_data_set_are_drawn(command, people, tmp_path, order, capsys):
    options = ["--dataset-name", "folder:people", "--rank-sort", order, "--max-rank", 3, "--per-page", 1]
    pages = visualize(command, tmp_path / "out", *options)
    assert pages == [f"folder_people_split_1_{order}_00{page}.png" for page in (1, 2)]
    assert "2 of 2 ranked lists on 2 page(s)" in capsys.readouterr().out
    assert len(visualize(command, tmp_path / "fewer", *options, "--num-vis", 1)) == 1


def test_heat_is_drawn_below_each_image(command, people, tmp_path):
    options = ["--dataset-name", "folder:people", "--max-rank", 3]
    [name] = visualize(command, tmp_path / "plain", *options)
    assert visualize(command, tmp_path / "heat", *options, "--heat") == [name]
    with Image.open(tmp_path / "plain" / name) as plain, Image.open(tmp_path / "heat" / name) as heat:
        assert heat.height == plain.height + 2 * HEIGHT  # two queries
        first = np.asarray(heat.convert("RGB"), dtype=float)
        query = first[MARGIN + TITLE + GAP + TITLE + FRAME :, MARGIN + FRAME : MARGIN + FRAME + WIDTH]
        assert np.abs(query[:HEIGHT] - query[HEIGHT : 2 * HEIGHT]).mean() > 10


@pytest.mark.parametrize("order, expected", [("ascending", [0.1, 0.5, 0.9]), ("descending", [0.9, 0.5, 0.1])])
def test_the_worst_or_the_best_come_first(order, expected, caplog):
    lists = [RankedQuery("a.png", 1, 1, ap, 1, []) for ap in (0.5, None, 0.1, 0.9)]
    assert [ranked.ap for ranked in load("visualize_result").in_order(lists, order)] == expected
    assert "1 of 4 queries have no true match" in caplog.text


def test_the_configs_data_sets_are_drawn_by_default(command, people, tmp_path):
    pages = visualize(command, tmp_path / "out", "--opts", "DATASETS.TESTS", "folder:people")
    assert pages == ["folder_people_split_1_ascending_001.png"]


def test_a_data_set_of_one_camera_and_a_wrong_split_are_named(command, people, tmp_path):
    for path in (people / "gallery").glob("*_c2.png"):
        path.unlink()
    with pytest.raises(UserError, match="folder:people, split_1: no query has a true match, .* another camera"):
        command("visualize_result", "--dataset-name", "folder:people", "--output", tmp_path / "out")
    with pytest.raises(UserError, match="--split two: folder:people has no such split, but split_1"):
        command("visualize_result", "--dataset-name", "folder:people", "--split", "two")


@pytest.mark.parametrize(
    "name, words", [("search", ["--query", "q.png", "--gallery", "g.png"]), ("visualize_result", [])]
)
def test_an_output_folder_that_is_a_file_is_refused_before_anything_is_computed(
    command, run_folder, monkeypatch, name, words
):
    before = (run_folder / "model_final.pth").read_bytes()
    with pytest.raises(UserError, match="model_final.pth is a file, expected a folder"):
        command(name, *words, "--output", run_folder / "model_final.pth")
    assert (run_folder / "model_final.pth").read_bytes() == before
