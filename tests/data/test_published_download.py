"""The published test download: four sets with split files of the published program, from readers to the table."""

import io
import json
import logging
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.data.datasets import build_dataset
from fastreid.data.prepare import prepare_sets
from fastreid.engine.defaults import default_argument_parser, default_setup
from fastreid.engine.defaults import test_only as run_test  # by another name, or pytest takes it for a test
from fastreid.evaluation import reid_evaluation
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.errors import UserError

ROOT = Path(__file__).parents[2]
SETS = {"ALL_GRID": "grid", "ALL_VIPER_only_10": "viper", "ALL_PRID": "prid", "ALL_iLIDS": "ilids"}
PEOPLE = 8
ELSEWHERE = ("/home/someone/datasets/GRID", "D:\\data\\GRID", "datasets/GRID")  # the machines that wrote GRID's rows


class Shot(tuple):
    """(content of the file, person, camera)"""


def shoot(generator: np.random.Generator, path: Path, pid: int, camera: int) -> Shot:
    """Write an image that no other file has, already of the size that the model sees."""
    buffer, pixels = io.BytesIO(), generator.integers(0, 256, (32, 16, 3)).astype(np.uint8)
    kind = {".png": "png", ".bmp": "bmp"}.get(path.suffix, "jpeg")
    Image.fromarray(pixels).save(buffer, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
    return Shot((buffer.getvalue(), pid, camera))


def halves(people, chance: random.Random) -> tuple[list[int], list[int]]:
    drawn = chance.sample(people, len(people))
    return sorted(drawn[: len(people) // 2]), sorted(drawn[len(people) // 2 :])


def make_viper(root: Path, variants: str = "a", name: str = "p{0:03}_c{1}_d{2:03}.png", cameras: bool = True):
    generator, chance = np.random.default_rng(1), random.Random(1)
    files = {(pid, camera): name.format(pid, camera, 45 * camera) for pid in range(PEOPLE) for camera in (1, 2)}
    shots = {key: shoot(generator, root / "viper" / f"cam_{'_ab'[key[1]]}" / file, *key) for key, file in files.items()}
    splits = {}
    for number in range(1, 11):
        first, second = halves(range(1, PEOPLE), chance)  # person 0 is for training in every split
        for variant in variants:
            train, test = (first, second) if variant in "ac" else (second, first)
            query, gallery = (1, 2) if variant in "ab" else (2, 1)
            folder = root / "viper" / f"split_{number}{variant}"
            parts = {
                "train": [(pid, camera) for pid in [0, *train] for camera in (1, 2)],
                "query": [(pid, query) for pid in test],
                "gallery": [(pid, gallery) for pid in test],
            }
            for part, keys in parts.items():
                (folder / part).mkdir(parents=True)
                for key in keys:
                    (folder / part / files[key]).write_bytes(shots[key][0])
            splits[folder.name] = [[shots[key] for key in parts[part]] for part in ("query", "gallery")]
    if not cameras:
        shutil.rmtree(root / "viper" / "cam_a")
        shutil.rmtree(root / "viper" / "cam_b")
    return splits


def make_ilids(root: Path):
    generator, chance = np.random.default_rng(2), random.Random(2)
    shots = {}
    for pid in range(1, PEOPLE + 1):
        for image in range(1, 5):
            file = f"{pid:04}{image:03}.jpg"
            shots[file] = shoot(generator, root / "QMUL-iLIDS" / "images" / file, pid, image)
    entries, splits = [], {}
    for number in range(1, 11):
        train, test = halves(range(1, PEOPLE + 1), chance)
        pairs = [[f"{pid:04}{image:03}.jpg" for image in chance.sample(range(1, 5), 2)] for pid in test]
        query, gallery = ([pair[part] for pair in pairs] for part in (0, 1))
        entries.append(
            {"train": [file for file in shots if int(file[:4]) in train], "query": query, "gallery": gallery}
        )
        splits[f"split_{number}"] = [[shots[file] for file in names] for names in (query, gallery)]
    (root / "QMUL-iLIDS" / "splits.json").write_text(json.dumps(entries))
    return splits


def make_prid(root: Path):
    generator, chance = np.random.default_rng(3), random.Random(3)
    people = {"cam_a": [*range(1, PEOPLE + 1), 201, 202], "cam_b": [*range(1, PEOPLE + 1), 201, 202, 203]}
    shots = {
        (pid, camera): shoot(generator, root / "prid_2011/single_shot" / camera / f"person_{pid:04}.png", pid, camera)
        for camera, pids in people.items()
        for pid in pids
    }
    entries, splits = [], {}
    for number in range(1, 11):
        train, test = halves(range(1, PEOPLE + 1), chance)
        entries.append({"train": train, "test": test})
        splits[f"split_{number}"] = [
            [shots[pid, "cam_a"] for pid in test],
            [shots[pid, "cam_b"] for pid in [*test, 201, 202, 203]],
        ]
    (root / "prid_2011" / "splits_single_shot.json").write_text(json.dumps(entries))
    return splits


def make_grid(root: Path):
    generator, chance = np.random.default_rng(4), random.Random(4)
    pairs = {
        (part, pid): (f"{part}/{pid:04}_{camera}_25004_107_32_106_221.jpeg", camera)
        for part, camera in (("probe", 1), ("gallery", 2))
        for pid in range(1, PEOPLE + 1)
    }
    others = {("gallery", -index): (f"gallery/0000_{index}_{index}_1_1_1_1.jpeg", index) for index in (1, 2, 3)}
    shots = {
        key: shoot(generator, root / "GRID" / file, max(key[1], 0), camera)
        for key, (file, camera) in (pairs | others).items()
    }
    entries, splits = [], {}
    for number in range(1, 11):
        train, test = halves(range(1, PEOPLE + 1), chance)
        place = ELSEWHERE[number % 3]

        def rows(keys, place=place):
            paths = [f"{place}/{(pairs | others)[key][0]}" for key in keys]
            return [
                [path.replace("/", "\\") if "\\" in place else path, max(key[1], 0), (pairs | others)[key][1] - 1]
                for path, key in zip(paths, keys, strict=True)
            ]

        query = [("probe", pid) for pid in test]
        gallery = [*others, *(("gallery", pid) for pid in test)]
        entries.append(
            {
                "train": rows([(part, pid) for part in ("probe", "gallery") for pid in train]),
                "query": rows(query),
                "gallery": rows(gallery),
                "num_train_pids": len(train),
                "num_query_pids": len(test),
                "num_gallery_pids": len(test) + len(others),
            }
        )
        splits[f"split_{number}"] = [[shots[key] for key in keys] for keys in (query, gallery)]
    (root / "GRID" / "splits.json").write_text(json.dumps(entries))
    return splits


def make_download(root: Path):
    """Lay the four sets out as in the download; return {name: {split: [query, gallery]}}, both lists of `Shot`."""
    return {
        "ALL_GRID": make_grid(root),
        "ALL_VIPER_only_10": make_viper(root),
        "ALL_PRID": make_prid(root),
        "ALL_iLIDS": make_ilids(root),
    }


def contents(test, indices) -> list[bytes]:
    return sorted(Path(path).read_bytes() for path in test.items.paths[indices])


def assert_splits(test, expected) -> None:
    assert [split.name for split in test.splits] == list(expected)
    for split in test.splits:
        query, gallery = expected[split.name]
        assert contents(test, split.query) == sorted(shot[0] for shot in query)
        assert contents(test, split.gallery) == sorted(shot[0] for shot in gallery)


def refused(name: str, root: Path) -> str:
    with pytest.raises(UserError) as error:
        build_dataset(name, root).test()
    assert "\n" not in str(error.value)
    return str(error.value)


def files_below(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


# The readers


def test_each_set_is_read_with_exactly_the_downloads_splits_and_nothing_is_written(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    expected = make_download(tmp_path)
    before = files_below(tmp_path)
    for name, splits in expected.items():
        assert_splits(build_dataset(name, tmp_path).test(), splits)
    assert files_below(tmp_path) == before and "are drawn" not in caplog.text


@pytest.mark.parametrize(
    "name, variants, numbers", [("ALL_VIPER", "abcd", 5), ("ALL_VIPER_10", "abcd", 10), ("ALL_VIPER_only_5", "a", 5)]
)
@pytest.mark.parametrize("folders", [True, False])
def test_names_of_viper_choose_splits_and_variants_in_both_layouts(tmp_path, name, variants, numbers, folders):
    expected = make_viper(tmp_path, "abcd" if folders else "")
    test = build_dataset(name, tmp_path).test()
    names = [f"split_{number}{variant}" for number in range(1, numbers + 1) for variant in variants]
    assert [split.name for split in test.splits] == names and len(test.items) <= 2 * PEOPLE
    if folders:
        assert_splits(test, {split: expected[split] for split in names})


@pytest.mark.parametrize("name", ["p{0:03}_c{1}_d{2:03}.bmp", "{0:03}_{2}.bmp", "{0:03}_{2}.png"])
def test_viper_split_folders_may_hold_other_names_of_the_same_images(tmp_path, name):
    expected = make_viper(tmp_path, name=name, cameras=False)
    assert_splits(build_dataset("DG_VIPeR", tmp_path).test(), expected)


def test_the_camera_in_a_name_counts_and_a_wrong_one_is_refused(tmp_path):
    make_viper(tmp_path, "ac")
    test = build_dataset("DG_VIPeR", tmp_path).test()
    assert {
        (split, camera)
        for split in ("query", "gallery")
        for camera in test.items.camids[getattr(test.splits[0], split)]
    } == {("query", 0), ("gallery", 1)}
    for wrong in ("p001_c3_d045.png", "p001.png", "q001_c1_d045.png"):
        path = tmp_path / "viper/split_1a/query" / wrong
        path.touch()
        assert f"{path}: expected names like 000_45.bmp or p000_c1_d045.png" in refused("DG_VIPeR", tmp_path)
        path.unlink()


# A folder that is only partly in the layout


@pytest.mark.parametrize(
    "missing, message",
    [
        (["split_7a/gallery"], "no split_7a/gallery (1 of 20 folders are missing, from split_1a to split_10a)"),
        ([f"split_{number}a" for number in range(6, 11)], "no split_6a/query (10 of 20 folders are missing"),
    ],
)
def test_split_folders_that_are_missing_are_one_line(tmp_path, missing, message):
    make_viper(tmp_path)
    for folder in missing:
        shutil.rmtree(tmp_path / "viper" / folder)
    for text in (refused("DG_VIPeR", tmp_path), check(tmp_path, "viper").problems[0].message):
        assert message in text and "unpack the published test download again, whole" in text


def test_a_split_folder_that_was_copied_in_part_is_refused(tmp_path):
    make_viper(tmp_path)
    gallery = tmp_path / "viper/split_4a/gallery"
    gone = sorted(gallery.iterdir())[0]
    gone.unlink()
    assert f"person {int(gone.name[1:4])} is in {gallery.parent}/query but not in its gallery" in refused(
        "DG_VIPeR", tmp_path
    )


def test_only_the_training_part_need_not_be_there(tmp_path):
    expected = make_viper(tmp_path, cameras=False)
    for split in expected:
        shutil.rmtree(tmp_path / "viper" / split / "train")
    assert_splits(build_dataset("DG_VIPeR", tmp_path).test(), expected)


def rename_images(folder: Path, suffix: str) -> None:
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(suffix))


def change(path: Path, edit) -> None:
    entries = json.loads(path.read_text())
    edit(entries)
    path.write_text(json.dumps(entries))


SPOILED = {
    "i-LIDS, splits of other people": (
        "ALL_iLIDS",
        lambda root: change(
            root / "QMUL-iLIDS/splits.json", lambda splits: splits[2].update(query=["0118003.jpg", "0119001.jpg"])
        ),
        r"query of split_3 names 0118003\.jpg, which is not among the images of .*QMUL-iLIDS \(2 of 2 such names\)",
    ),
    "i-LIDS, images converted": (
        "ALL_iLIDS",
        lambda root: rename_images(root / "QMUL-iLIDS/images", ".png"),
        r"which is not among .* \(4 of 4 such names; there is images/\d+\.png\)",
    ),
    "PRID, a person of the list is not there": (
        "ALL_PRID",
        lambda root: change(root / "prid_2011/splits_single_shot.json", lambda splits: splits[0].update(test=[1, 150])),
        r"test must list people who are in both cameras, numbered up to 200; found 150",
    ),
    "PRID, bare names": (
        "ALL_PRID",
        lambda root: change(
            root / "prid_2011/splits_single_shot.json",
            lambda splits: splits.__setitem__(0, {"query": ["person_0001.png"], "gallery": ["cam_b/person_0001.png"]}),
        ),
        r"query of split_1 names person_0001\.png, which stands for several of .*cam_a/person_0001\.png and ",
    ),
    "GRID, a probe is missing": (
        "ALL_GRID",
        lambda root: min((root / "GRID/probe").iterdir()).unlink(),
        r"names probe/0001_1_25004_107_32_106_221\.jpeg, which is not among .* \(1 of 4 such names\)",
    ),
    "GRID, five splits": (
        "ALL_GRID",
        lambda root: change(root / "GRID/splits.json", lambda splits: splits.__delitem__(slice(5))),
        r"expected 10 splits, found 5",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_split_files_that_do_not_fit_the_images_are_one_line(tmp_path, case):
    name, spoil, message = SPOILED[case]
    {"ALL_iLIDS": make_ilids, "ALL_PRID": make_prid, "ALL_GRID": make_grid}[name](tmp_path)
    build_dataset(name, tmp_path).test()
    spoil(tmp_path)
    text = refused(name, tmp_path)
    assert re.search(message, text), text
    assert "other numbers than published ones" in text


# tools/prepare_datasets.py --check


def check(root: Path, name: str):
    [report] = prepare_sets([name], root, check_only=True, workers=1)
    return report


def test_check_knows_the_layout(tmp_path):
    make_download(tmp_path)
    shutil.rmtree(tmp_path / "viper/cam_a")
    shutil.rmtree(tmp_path / "viper/cam_b")
    before = files_below(tmp_path)
    for name in SETS.values():
        report = check(tmp_path, name)
        assert report.verdict == "warning", report.problems
        assert [problem.kind for problem in report.problems] == ["other counts than published"]  # for they are small
    assert files_below(tmp_path) == before
    # Person 0, who is in no test, counts too.
    assert check(tmp_path, "viper").counts == {"pairs": PEOPLE} and check(tmp_path, "viper").images == 2 * PEOPLE


def test_check_notes_variants_that_are_there_in_part(tmp_path):
    make_viper(tmp_path, "abcd", cameras=False)
    assert [problem.kind for problem in check(tmp_path, "viper").problems] == ["other counts than published"]
    shutil.rmtree(tmp_path / "viper/split_9d")
    report = check(tmp_path, "viper")
    assert report.usable and "no split_9d/query (2 of 80 folders" in report.problems[0].message


def test_check_finds_split_folders_at_the_wrong_level(tmp_path):
    make_viper(tmp_path, cameras=False)
    (tmp_path / "viper").rename(tmp_path / "inner")
    (tmp_path / "viper").mkdir()
    (tmp_path / "inner").rename(tmp_path / "viper" / "VIPeR.v1.0")
    assert [problem.kind for problem in check(tmp_path, "viper").problems] == ["one level too deep"]
    for folder in list((tmp_path / "viper/VIPeR.v1.0").iterdir()):
        folder.rename(tmp_path / folder.name)
    shutil.rmtree(tmp_path / "viper")
    assert [problem.kind for problem in check(tmp_path, "viper").problems] == ["one level too high"]


# The whole way of run_evaluate.sh


def rank_1_and_map(features: dict[bytes, np.ndarray], query: list[Shot], gallery: list[Shot]) -> tuple[float, float]:
    """Percentages by the definition: cosine distance, no image of the same person and camera in a ranked list."""
    firsts, precisions = [], []
    for content, pid, camera in query:
        kept = [shot for shot in gallery if shot[1:] != (pid, camera)]
        ranked = sorted(kept, key=lambda shot: -float(features[content] @ features[shot[0]]))
        hits = np.array([shot[1] == pid for shot in ranked])
        firsts.append(hits[0])
        precisions.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
    return 100 * np.mean(firsts), 100 * np.mean(precisions)


def test_the_table_is_computed_on_the_downloads_splits(tmp_path, monkeypatch):
    expected = make_download(tmp_path / "datasets")
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "datasets"))
    logs, extract, features = tmp_path / "logs", reid_evaluation.extract_features, {}

    def watched(cfg, model, items, name):
        found = extract(cfg, model, items, name)
        unit = torch.nn.functional.normalize(found.double()).numpy()
        features.update((Path(path).read_bytes(), row) for path, row in zip(items.paths.tolist(), unit, strict=True))
        return found

    monkeypatch.setattr(reid_evaluation, "extract_features", watched)
    words = [
        "MODEL.DEVICE",
        "cpu",
        "MODEL.BACKBONE.DEPTH",
        "2",
        "MODEL.HEADS.IN_FEAT",
        "1280",
        "INPUT.SIZE_TEST",
        "[32, 16]",
        "DATALOADER.NUM_WORKERS",
        "0",
        "OUTPUT_DIR",
        str(logs),
    ]
    # What run_evaluate.sh starts, with a smaller model.
    command = ["--config-file", str(ROOT / "configs/Sample/DG-mobilenet.yml"), "--eval-only", "--resume", *words]
    cfg = default_setup(default_argument_parser().parse_intermixed_args(command))
    assert list(cfg.DATASETS.TESTS) == list(expected)
    other = cfg.clone()
    other.defrost()
    other.merge_from_list(["MODEL.BACKBONE.PRETRAIN", "False", "MODEL.HEADS.NUM_CLASSES", "3"])
    Checkpointer(build_model(other), logs).save("model_0000009", iteration=9)

    results = run_test(cfg, resume=True)
    for name, splits in expected.items():
        for split, (query, gallery) in splits.items():
            row = results.splits[name][split]
            assert (row["Rank-1"], row["mAP"]) == pytest.approx(rank_1_and_map(features, query, gallery)), (name, split)
        rank_1 = [results.splits[name][split]["Rank-1"] for split in splits]
        assert results.rows[f"{name}_average"]["Rank-1"] == pytest.approx(np.mean(rank_1))
        assert len(set(rank_1)) > 1  # splits differ, so that others would give other rows
