"""GRID, PRID, i-LIDS and VIPeR: small layouts, published protocol at published size, kept splits."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from fastreid.data.datasets import build_dataset
from fastreid.utils.errors import UserError


def touch(folder: Path, names) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def make_grid(root: Path, pairs: int, others: int, train: list[list[int]]) -> None:
    touch(root / "GRID" / "probe", [f"{person:04}_1_25004_107_32_106_221.jpeg" for person in range(1, pairs + 1)])
    touch(
        root / "GRID" / "gallery",
        [f"{person:04}_2_25023_116_134_128_330.jpeg" for person in range(1, pairs + 1)]
        + [f"0000_{other % 8 + 1}_{other}_1_1_1_1.jpeg" for other in range(others)],
    )
    cells = np.empty((1, len(train)), dtype=object)
    for split, people in enumerate(train):
        cells[0, split] = {"a": 0.0, "b": 0.0, "ids": np.array([people])}
    savemat(root / "GRID" / "features_and_partitions.mat", {"trainIdxAll": cells})


def make_prid(root: Path, shared: int, only_a: int, only_b: int) -> None:
    for camera, only in (("cam_a", only_a), ("cam_b", only_b)):
        touch(
            root / "prid_2011" / "single_shot" / camera,
            [f"person_{person:04}.png" for person in range(1, shared + only + 1)],
        )


def make_ilids(root: Path, people: int) -> None:
    touch(
        root / "QMUL-iLIDS" / "images",
        [f"{person:04}{image:03}.jpg" for person in range(1, people + 1) for image in range(1, 5)],
    )


def make_viper(root: Path, people: int) -> None:
    touch(root / "viper" / "cam_a", [f"{person:03}_45.bmp" for person in range(people)])
    touch(root / "viper" / "cam_b", [f"{person:03}_90.bmp" for person in range(people)])


def pids(test, indices) -> list[int]:
    return test.items.pids[indices].tolist()


def file_names(test, indices) -> list[str]:
    return [Path(path).name for path in test.items.paths[indices]]


def fingerprint(test, root: Path) -> str:
    text = "\n".join(
        f"{split.name} {part} {os.path.relpath(path, root)}"
        for split in test.splits
        for part in ("query", "gallery")
        for path in test.items.paths[getattr(split, part)]
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# GRID


@pytest.mark.parametrize("name", ["DG_GRID", "ALL_GRID"])
def test_grid_tests_on_the_people_that_the_partition_does_not_train_on(tmp_path, name):
    train = [list(range(split % 2 + 1, 7, 2)) for split in range(10)]
    make_grid(tmp_path, 6, 3, train)
    test = build_dataset(name, tmp_path).test()
    assert [split.name for split in test.splits] == [f"split_{number}" for number in range(1, 11)]
    assert len(test.items) == 15 and len(set(test.items.paths.tolist())) == 15
    for split, people in zip(test.splits, train, strict=True):
        tested = sorted(set(range(1, 7)) - set(people))
        assert pids(test, split.query) == tested
        assert pids(test, split.gallery) == [0, 0, 0, *tested]
        assert set(test.items.camids[split.query].tolist()) == {1}
        assert all("/gallery/" in path for path in test.items.paths[split.gallery])


def test_grid_at_published_size(tmp_path):
    make_grid(tmp_path, 250, 775, [list(range(split + 1, split + 126)) for split in range(10)])
    test = build_dataset("DG_GRID", tmp_path).test()
    assert {(len(split.query), len(split.gallery)) for split in test.splits} == {(125, 900)}


@pytest.mark.parametrize(
    "train, message", [([[1]] * 9, "must hold 10 splits, found 9"), ([[1, 2]] * 10, "split 1 has nobody to test")]
)
def test_grid_partition_errors_are_explained(tmp_path, train, message):
    make_grid(tmp_path, 2, 1, train)
    with pytest.raises(UserError, match=message):
        build_dataset("DG_GRID", tmp_path).test()


def test_grid_partition_file_of_another_structure_or_missing(tmp_path):
    make_grid(tmp_path, 2, 1, [[1]] * 10)
    path = tmp_path / "GRID" / "features_and_partitions.mat"
    for variables, message in (
        ({"trainIdxAll": np.ones((1, 10))}, "1 x 10 cell of structs"),
        ({"features": np.ones(3)}, "no variable trainIdxAll"),
    ):
        savemat(path, variables)
        with pytest.raises(UserError, match=message):
            build_dataset("DG_GRID", tmp_path).test()
    path.unlink()
    with pytest.raises(UserError, match="features_and_partitions.mat is missing"):
        build_dataset("DG_GRID", tmp_path).test()


# PRID


def test_prid_at_published_size_has_the_published_protocol(tmp_path):
    make_prid(tmp_path, 200, 185, 549)
    test = build_dataset("DG_PRID", tmp_path).test()
    assert len(test.splits) == 10 and len(test.items) == 385 + 749
    for split in test.splits:
        query, gallery = pids(test, split.query), pids(test, split.gallery)
        assert len(set(query)) == len(query) == 100 and max(query) <= 200
        assert sorted(gallery) == sorted([*query, *range(201, 750)])
        assert all("/cam_a/" in path for path in test.items.paths[split.query])
        assert all("/cam_b/" in path for path in test.items.paths[split.gallery])
    assert len({tuple(pids(test, split.query)) for split in test.splits}) == 10


def test_prid_with_fewer_pairs_tests_on_half_of_them(tmp_path):
    make_prid(tmp_path, 9, 0, 5)
    test = build_dataset("ALL_PRID", tmp_path).test()
    assert {(len(split.query), len(split.gallery)) for split in test.splits} == {(4, 9)}


def test_prid_people_above_200_are_not_pairs(tmp_path):
    names = ["person_0001.png", "person_0201.png", "person_0202.png"]
    for camera in ("cam_a", "cam_b"):
        touch(tmp_path / "prid_2011" / "single_shot" / camera, names)
    with pytest.raises(UserError, match="needs 2 people with an image in both cameras.*found 1"):
        build_dataset("DG_PRID", tmp_path).test()


def test_prid_uses_a_file_of_people_as_the_published_programs_wrote_it(tmp_path):
    make_prid(tmp_path, 6, 0, 2)
    path = tmp_path / "prid_2011" / "splits_single_shot.json"
    path.write_text(json.dumps([{"train": [1, 2, 3], "test": [4, 5, 6]}] * 10))
    split = (test := build_dataset("DG_PRID", tmp_path).test()).splits[9]
    assert split.name == "split_10"
    assert pids(test, split.query) == [4, 5, 6] and pids(test, split.gallery) == [4, 5, 6, 7, 8]
    for people in ([4, 7], [[4]], [], "4"):
        path.write_text(json.dumps([{"train": [1], "test": people}] * 10))
        with pytest.raises(UserError, match="splits_single_shot.json cannot be used: test must list people.*delete it"):
            build_dataset("DG_PRID", tmp_path).test()


# i-LIDS


def test_ilids_at_published_size_has_the_published_protocol(tmp_path):
    make_ilids(tmp_path, 119)
    test = build_dataset("DG_iLIDS", tmp_path).test()
    assert len(test.splits) == 10 and len(test.items) == 476
    for split in test.splits:
        assert len(set(pids(test, split.query))) == len(split.query) == 60
        assert pids(test, split.query) == pids(test, split.gallery)
        assert (test.items.camids[split.query] != test.items.camids[split.gallery]).all()


def test_ilids_with_few_people_tests_on_half_of_them(tmp_path):
    make_ilids(tmp_path, 5)
    assert {len(split.query) for split in build_dataset("ALL_iLIDS", tmp_path).test().splits} == {3}


def test_ilids_refuses_a_single_person_and_a_single_image(tmp_path):
    make_ilids(tmp_path, 1)
    with pytest.raises(UserError, match="needs 2 people or more.*found 1 people"):
        build_dataset("DG_iLIDS", tmp_path).test()
    touch(tmp_path / "QMUL-iLIDS" / "images", ["0002001.jpg"])
    with pytest.raises(UserError, match="with 2 images each.*person 2 has 1"):
        build_dataset("DG_iLIDS", tmp_path).test()
    touch(tmp_path / "QMUL-iLIDS" / "images", ["2001.jpg"])
    with pytest.raises(UserError, match=r"2001\.jpg: expected names like 0001001\.jpg"):
        build_dataset("DG_iLIDS", tmp_path).test()


# VIPeR


@pytest.mark.parametrize("name", ["DG_VIPeR", "ALL_VIPER_only_10"])
def test_viper_at_published_size_has_the_published_protocol(tmp_path, name):
    make_viper(tmp_path, 632)
    test = build_dataset(name, tmp_path).test()
    assert [split.name for split in test.splits] == [f"split_{number}a" for number in range(1, 11)]
    assert len(test.items) == 1264
    for split in test.splits:
        assert len(set(pids(test, split.query))) == len(split.query) == 316
        assert pids(test, split.query) == pids(test, split.gallery)
        assert set(test.items.camids[split.query].tolist()) == {0}
        assert set(test.items.camids[split.gallery].tolist()) == {1}


def test_viper_variants_swap_halves_and_cameras(tmp_path):
    make_viper(tmp_path, 7)
    test = build_dataset("ALL_VIPER_10", tmp_path).test()
    assert [split.name for split in test.splits] == [f"split_{n}{variant}" for n in range(1, 11) for variant in "abcd"]
    a, b, c, d = test.splits[:4]
    assert len(a.query) == 4 and len(b.query) == 3
    assert sorted(pids(test, a.query) + pids(test, b.query)) == list(range(7))
    assert (c.query.tolist(), c.gallery.tolist()) == (a.gallery.tolist(), a.query.tolist())
    assert (d.query.tolist(), d.gallery.tolist()) == (b.gallery.tolist(), b.query.tolist())
    only_a = build_dataset("DG_VIPeR", tmp_path).test()
    assert file_names(only_a, only_a.splits[0].query) == file_names(test, a.query)


def test_viper_refuses_unpaired_repeated_and_single_people(tmp_path):
    make_viper(tmp_path, 1)
    with pytest.raises(UserError, match="needs 2 people or more, found 1"):
        build_dataset("DG_VIPeR", tmp_path).test()
    touch(tmp_path / "viper" / "cam_b", ["005_0.bmp"])
    with pytest.raises(UserError, match="person 5 has an image in one of"):
        build_dataset("DG_VIPeR", tmp_path).test()
    touch(tmp_path / "viper" / "cam_b", ["000_45.bmp"])
    with pytest.raises(UserError, match="person 0 has two images in one camera, cam_b/000_45.bmp and cam_b/000_90.bmp"):
        build_dataset("DG_VIPeR", tmp_path).test()


def make_viper_folders(root: Path, variants: str) -> None:
    for number in range(1, 11):
        for variant in variants:
            folder = root / "viper" / f"split_{number}{variant}"
            for part in ("query", "gallery"):
                camera = "a" if (part == "query") == (variant in "ab") else "b"
                for person in [0, 1] if variant in "ac" else [2, 3]:
                    path = touch(folder / part, [f"{person:03}_45.bmp"]) / f"{person:03}_45.bmp"
                    path.write_text(f"{camera} {person}")


def test_viper_split_folders_are_used_as_they_are_and_copies_are_one_item(tmp_path):
    make_viper(tmp_path, 8)
    make_viper_folders(tmp_path, "abcd")
    test = build_dataset("ALL_VIPER_10", tmp_path).test()
    assert len(test.splits) == 40 and len(test.items) == 8
    assert len({(pid, camid) for _, pid, camid in test.items}) == 8
    by_name = {split.name: split for split in test.splits}
    assert pids(test, by_name["split_3a"].query) == [0, 1] and pids(test, by_name["split_3b"].query) == [2, 3]
    assert by_name["split_3c"].query.tolist() == by_name["split_10a"].gallery.tolist()
    assert set(test.items.camids[by_name["split_3d"].query].tolist()) == {1}
    assert not (tmp_path / "viper" / "splits.json").exists()


def test_viper_names_a_missing_split_folder(tmp_path):
    make_viper_folders(tmp_path, "a")
    assert len(build_dataset("DG_VIPeR", tmp_path).test().items) == 4
    with pytest.raises(UserError, match="no split_1b/query .60 of 80"):
        build_dataset("ALL_VIPER_10", tmp_path).test()


# Drawing and keeping splits

SMALL = {
    "DG_PRID": lambda root: make_prid(root, 12, 0, 3),
    "DG_iLIDS": lambda root: make_ilids(root, 12),
    "DG_VIPeR": lambda root: make_viper(root, 12),
}
FILES = {
    "DG_PRID": "prid_2011/splits_single_shot.json",
    "DG_iLIDS": "QMUL-iLIDS/splits.json",
    "DG_VIPeR": "viper/splits.json",
}


@pytest.mark.parametrize(
    "name, make, expected",
    [
        ("DG_PRID", lambda root: make_prid(root, 200, 185, 549), "451d7e71ed6a619a"),
        ("DG_iLIDS", lambda root: make_ilids(root, 119), "71d465e66372bb78"),
        ("DG_VIPeR", lambda root: make_viper(root, 632), "e9811d56cc9b00fb"),
    ],
)
def test_published_size_splits_never_change(tmp_path, name, make, expected):
    make(tmp_path)
    assert fingerprint(build_dataset(name, tmp_path).test(), tmp_path) == expected


@pytest.mark.parametrize("name", SMALL)
def test_splits_are_written_once_with_relative_names_and_read_back_the_same(tmp_path, name):
    SMALL[name](tmp_path)
    drawn = build_dataset(name, tmp_path).test()
    path = tmp_path / FILES[name]
    written = path.read_bytes()
    assert str(tmp_path).encode() not in written
    assert not list(path.parent.glob("*.tmp"))
    entries = json.loads(written)
    assert len(entries) == 10 and set(entries[0]) == {"name", "query", "gallery"}
    assert all((path.parent / file_name).is_file() for file_name in entries[0]["query"] + entries[0]["gallery"])
    read = build_dataset(name, tmp_path).test()
    assert fingerprint(read, tmp_path) == fingerprint(drawn, tmp_path)
    assert path.read_bytes() == written


@pytest.mark.parametrize("name", SMALL)
def test_splits_do_not_depend_on_where_the_data_is(tmp_path, name):
    for root in (tmp_path / "one", tmp_path / "two"):
        SMALL[name](root)
    prints = {fingerprint(build_dataset(name, root).test(), root) for root in (tmp_path / "one", tmp_path / "two")}
    assert len(prints) == 1


@pytest.mark.parametrize("name", SMALL)
def test_an_existing_splits_file_is_used_as_it_is(tmp_path, name):
    SMALL[name](tmp_path)
    build_dataset(name, tmp_path).test()
    path = tmp_path / FILES[name]
    entries = json.loads(path.read_text())
    entries[0]["query"], entries[0]["gallery"] = entries[0]["query"][:1], entries[0]["gallery"][:1]
    path.write_text(json.dumps(entries[::-1]))
    test = build_dataset(name, tmp_path).test()
    assert [split.name for split in test.splits] == [entry["name"] for entry in entries[::-1]]
    assert len(test.splits[9].query) == len(test.splits[9].gallery) == 1


def test_rows_with_foreign_paths_as_the_published_programs_wrote_them_are_read(tmp_path):
    make_ilids(tmp_path, 3)
    row = ["/home/someone/datasets/QMUL-iLIDS/images/0002003.jpg", 1, 3]
    entry = {"train": [], "query": [row], "gallery": [["datasets\\QMUL-iLIDS\\images\\0002001.jpg", 1, 1]]}
    (tmp_path / "QMUL-iLIDS" / "splits.json").write_text(json.dumps([entry] * 10))
    test = build_dataset("DG_iLIDS", tmp_path).test()
    assert file_names(test, test.splits[0].query) == ["0002003.jpg"]
    assert file_names(test, test.splits[0].gallery) == ["0002001.jpg"]


GOOD = {"query": ["cam_a/000_45.bmp"], "gallery": ["cam_b/000_90.bmp"]}


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "cannot be read as JSON"),
        ("{}", "expected a list of objects"),
        (json.dumps([GOOD]), "expected 10 splits, found 1"),
        (json.dumps([GOOD | {"query": []}] * 10), "query of split_1 must be a list of file names"),
        (json.dumps([GOOD | {"gallery": [5]}] * 10), "gallery of split_1 holds 5"),
        (json.dumps([GOOD | {"gallery": ["cam_b/999_0.bmp"]}] * 10), "names cam_b/999_0.bmp, which is not among"),
        (json.dumps([GOOD | {"query": ["cam_b/000_90.bmp"]}] * 10), "queries of cam_a and a gallery of cam_b"),
    ],
)
def test_a_splits_file_that_cannot_be_used_is_named_with_what_to_do(tmp_path, content, message):
    make_viper(tmp_path, 4)
    (tmp_path / "viper" / "splits.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        build_dataset("DG_VIPeR", tmp_path).test()
    assert str(tmp_path / "viper" / "splits.json") in str(error.value)
    assert "fix it, or delete it" in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_a_warning_and_gives_the_same_splits(tmp_path, monkeypatch, caplog):
    make_viper(tmp_path, 8)

    def refuse(source, target):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        unwritten = fingerprint(build_dataset("DG_VIPeR", tmp_path).test(), tmp_path)
    assert "cannot write" in caplog.text and "Permission denied" in caplog.text
    assert sorted(entry.name for entry in (tmp_path / "viper").iterdir()) == ["cam_a", "cam_b"]
    assert fingerprint(build_dataset("DG_VIPeR", tmp_path).test(), tmp_path) == unwritten
