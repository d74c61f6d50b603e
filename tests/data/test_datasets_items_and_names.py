"""The containers, the registry of names, and the errors about missing and misnamed folders."""

from pathlib import Path

import numpy as np
import pytest

from fastreid.data.datasets import Items, TestSet, build_dataset, dataset_names, datasets_root
from fastreid.utils.errors import UserError

ROWS = [("a.jpg", 3, 1), ("folder/b.jpg", 5, 0), ("c.jpg", 3, 2)]


def test_items_give_rows_by_number_and_items_by_slice_mask_or_indices():
    items = Items.from_rows(ROWS)
    assert len(items) == 3
    assert items[1] == ("folder/b.jpg", 5, 0) and items[-1] == ROWS[2]
    assert all(type(value) in (str, int) for value in items[np.int64(0)])
    assert items[1:].paths.tolist() == ["folder/b.jpg", "c.jpg"]
    assert items[np.array([2, 0])].camids.tolist() == [2, 1]
    assert items[items.pids == 3].paths.tolist() == ["a.jpg", "c.jpg"]
    assert list(items) == ROWS


def test_items_are_plain_arrays():
    items = Items.from_rows(iter(ROWS))
    assert items.paths.dtype.kind == "U" and items.pids.dtype == items.camids.dtype == np.int64


def test_concatenated_items_keep_the_longest_path_whole():
    items = Items.concatenate([Items.from_rows(ROWS[:1]), Items.from_rows(ROWS[1:]), Items.from_rows([])])
    assert list(items) == ROWS
    assert len(Items.concatenate([])) == 0


@pytest.mark.parametrize("pids, camids", [([1, 2], [0]), ([1], [-1])])
def test_items_refuse_unequal_lengths_and_negative_cameras(pids, camids):
    with pytest.raises(ValueError, match="expected three 1-D arrays|must be >= 0"):
        Items(np.array(["a"]), np.array(pids), np.array(camids))


def test_a_single_split_indexes_query_then_gallery():
    test = TestSet.from_query_gallery(Items.from_rows(ROWS[:1]), Items.from_rows(ROWS[1:]))
    assert list(test.items) == ROWS
    [split] = test.splits
    assert split.query.tolist() == [0] and split.gallery.tolist() == [1, 2]


def test_the_published_names_are_known():
    assert {
        "DG_Market1501",
        "DG_DukeMTMC",
        "DG_CUHK02",
        "DG_CUHK03_detected",
        "DG_CUHK03_labeled",
        "DG_CUHK_SYSU",
        "DG_MSMT17",
        "Market1501",
        "DukeMTMC",
        "CUHK03",
        "MSMT17",
        "DG_GRID",
        "ALL_GRID",
        "DG_PRID",
        "ALL_PRID",
        "DG_iLIDS",
        "ALL_iLIDS",
        "DG_VIPeR",
        "ALL_VIPER_only_10",
        "ALL_VIPER_10",
    } <= set(dataset_names())


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("market1501", "Market1501"),
        ("DG_Viper", "DG_VIPeR"),
        ("DG_CUHK03", "DG_CUHK03_detected"),
        ("zzz", "folder:<name>"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(tmp_path, name, nearest):
    with pytest.raises(UserError, match="did you mean") as error:
        build_dataset(name, tmp_path)
    assert nearest in str(error.value)


def test_the_root_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("FASTREID_DATASETS", "/data/reid")
    assert datasets_root() == Path("/data/reid")
    monkeypatch.setenv("FASTREID_DATASETS", "")
    assert datasets_root() == Path("datasets")


def test_a_missing_root_says_how_to_set_it(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is missing: set FASTREID_DATASETS .*symbolic_link_dataset\.sh"):
        build_dataset("DG_VIPeR", tmp_path / "nowhere")


@pytest.mark.parametrize("name", dataset_names())
def test_a_missing_folder_is_one_line_with_the_expected_path(tmp_path, name):
    with pytest.raises(UserError) as error:
        build_dataset(name, tmp_path)
    assert str(error.value).startswith(f"{name}: the data set's folder {tmp_path}")
    assert "\n" not in str(error.value) and "symbolic_link_dataset.sh" in str(error.value)


@pytest.mark.parametrize(
    "name, found, expected",
    [
        ("DG_VIPeR", "VIPeR", "viper"),
        ("DG_Market1501", "Market-1501", "Market-1501-v15.09.15"),
        ("DG_PRID", "prid2011", "prid_2011"),
        ("DG_DukeMTMC", "DukeMTCM-reID", "DukeMTMC-reID"),
        ("folder:pku", "PKU", "pku"),
    ],
)
def test_a_misnamed_folder_is_pointed_out(tmp_path, name, found, expected):
    (tmp_path / found).mkdir()
    with pytest.raises(UserError, match=f"found {found}/, expected {expected}/"):
        build_dataset(name, tmp_path)


def test_another_data_set_is_not_taken_for_a_misnamed_one(tmp_path):
    (tmp_path / "cuhk03").mkdir()
    with pytest.raises(UserError) as error:
        build_dataset("DG_CUHK02", tmp_path)
    assert "found" not in str(error.value)


def test_another_part_of_a_data_set_is_not_taken_for_the_missing_one(tmp_path):
    (tmp_path / "viper" / "cam_a").mkdir(parents=True)
    (tmp_path / "viper" / "cam_a" / "000_45.bmp").touch()
    with pytest.raises(UserError, match=r"cam_b is missing \(.*viper holds cam_a/\)"):
        build_dataset("DG_VIPeR", tmp_path).test()
    (tmp_path / "Market-1501-v15.09.15" / "bounding_box_test").mkdir(parents=True)
    with pytest.raises(UserError, match=r"bounding_box_train is missing \(.*holds bounding_box_test/\)"):
        build_dataset("Market1501", tmp_path).train()


def test_a_dangling_link_and_a_file_in_the_folders_place_are_named_as_such(tmp_path):
    (tmp_path / "viper").symlink_to(tmp_path / "unmounted")
    (tmp_path / "GRID").touch()
    with pytest.raises(UserError, match="a link to .*unmounted, which is not there"):
        build_dataset("DG_VIPeR", tmp_path)
    with pytest.raises(UserError, match="a file, not a folder"):
        build_dataset("DG_GRID", tmp_path)


@pytest.mark.parametrize(
    "name, folder, instead",
    [
        ("DG_Market1501", "Market-1501-v15.09.15", "use Market1501"),
        ("DG_DukeMTMC", "DukeMTMC-reID", "use DukeMTMC"),
        ("DG_CUHK03_detected", "cuhk03", "use CUHK03 "),
        ("DG_CUHK03_labeled", "cuhk03", "use CUHK03_labeled"),
        ("DG_CUHK02", "cuhk02", "use another"),
        ("DG_CUHK_SYSU", "CUHK-SYSU", "use another"),
    ],
)
def test_a_source_cannot_be_tested_on(tmp_path, name, folder, instead):
    (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match=f"{name} has no query and gallery.*{instead}"):
        build_dataset(name, tmp_path).test()


@pytest.mark.parametrize(
    "name, folder",
    [("DG_GRID", "GRID"), ("ALL_PRID", "prid_2011"), ("DG_iLIDS", "QMUL-iLIDS"), ("ALL_VIPER_10", "viper")],
)
def test_a_target_cannot_be_trained_on(tmp_path, name, folder):
    (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match=f"{name} has no training part.*DATASETS.TESTS"):
        build_dataset(name, tmp_path).train()
