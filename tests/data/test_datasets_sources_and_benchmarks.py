"""Market-1501, DukeMTMC-reID, CUHK02, CUHK03, CUHK-SYSU and MSMT17 in tiny layouts."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from fastreid.data.datasets import build_dataset
from fastreid.utils.errors import UserError


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def rows(items):
    return sorted((Path(path).name, pid, camid) for path, pid, camid in items)


@pytest.fixture
def market(tmp_path):
    folder = tmp_path / "Market-1501-v15.09.15"
    touch(folder / "bounding_box_train", "0002_c1s1_000451_03.jpg", "0002_c2s1_000001_01.jpg", "Thumbs.db", "._0.jpg")
    touch(folder / "query", "0001_c1s1_001051_00.jpg")
    touch(folder / "bounding_box_test", "0001_c3s2_000002_01.jpg", "0000_c4s1_000001_00.jpg", "-1_c6s3_000001_00.jpg")
    return tmp_path


def test_market_as_a_source_takes_all_folders_without_distractors_and_junk(market):
    items = build_dataset("DG_Market1501", market).train()
    assert rows(items) == [
        ("0001_c1s1_001051_00.jpg", 1, 1),
        ("0001_c3s2_000002_01.jpg", 1, 3),
        ("0002_c1s1_000451_03.jpg", 2, 1),
        ("0002_c2s1_000001_01.jpg", 2, 2),
    ]
    assert all(Path(path).is_file() for path in items.paths)


def test_market_gallery_keeps_distractors_and_drops_junk(market):
    data = build_dataset("Market1501", market)
    assert rows(data.train()) == [("0002_c1s1_000451_03.jpg", 2, 1), ("0002_c2s1_000001_01.jpg", 2, 2)]
    test = data.test()
    [split] = test.splits
    assert rows(test.items[split.query]) == [("0001_c1s1_001051_00.jpg", 1, 1)]
    assert rows(test.items[split.gallery]) == [("0000_c4s1_000001_00.jpg", 0, 4), ("0001_c3s2_000002_01.jpg", 1, 3)]


def test_duke_reads_its_own_file_names(tmp_path):
    folder = tmp_path / "DukeMTMC-reID"
    touch(folder / "bounding_box_train", "0001_c2_f0046182.jpg")
    touch(folder / "query", "0005_c2_f0046985.jpg")
    touch(folder / "bounding_box_test", "0005_c8_f0056182.jpg", "0030_c1_f0056182.jpg")
    assert rows(build_dataset("DG_DukeMTMC", tmp_path).train()) == [
        ("0001_c2_f0046182.jpg", 1, 2),
        ("0005_c2_f0046985.jpg", 5, 2),
        ("0005_c8_f0056182.jpg", 5, 8),
        ("0030_c1_f0056182.jpg", 30, 1),
    ]
    data = build_dataset("DukeMTMC", tmp_path)
    assert len(data.train()) == 1
    assert [len(data.test().splits[0].query), len(data.test().splits[0].gallery)] == [1, 2]


def test_a_missing_subfolder_says_what_is_there(market):
    (market / "Market-1501-v15.09.15" / "query").rename(market / "Market-1501-v15.09.15" / "Query")
    with pytest.raises(UserError, match="found Query/, expected query/"):
        build_dataset("Market1501", market).test()
    (market / "Market-1501-v15.09.15" / "Query").rename(market / "Market-1501-v15.09.15" / "probes")
    with pytest.raises(UserError, match="query is missing .*holds bounding_box_test/, bounding_box_train/, probes/"):
        build_dataset("Market1501", market).test()


def test_a_folder_without_images_is_an_error(market):
    (market / "Market-1501-v15.09.15" / "query" / "0001_c1s1_001051_00.jpg").rename(market / "moved.jpg")
    touch(market / "Market-1501-v15.09.15" / "query", "readme.txt")
    with pytest.raises(UserError, match=r"query has no images: expected .*\.jpg.* found 1 other files"):
        build_dataset("DG_Market1501", market).train()


def test_a_file_name_that_does_not_parse_is_named_with_the_expected_form(market):
    touch(market / "Market-1501-v15.09.15" / "query", "holiday.jpg")
    with pytest.raises(UserError, match=r"query/holiday\.jpg: expected names like 0002_c1s1_000451_03\.jpg"):
        build_dataset("DG_Market1501", market).train()


def test_cuhk02_people_and_cameras_differ_between_pairs(tmp_path):
    for pair in range(1, 6):
        for view in (1, 2):
            touch(tmp_path / "cuhk02" / f"P{pair}" / f"cam{view}", "001_0123456.png", "002_0123456.png")
    items = build_dataset("DG_CUHK02", tmp_path).train()
    assert len(items) == 20
    assert len(set(items.pids.tolist())) == 10
    assert sorted(set(items.camids.tolist())) == list(range(10))


def test_cuhk02_needs_all_pairs(tmp_path):
    touch(tmp_path / "cuhk02" / "P1" / "cam1", "001_0123456.png")
    with pytest.raises(UserError, match="P1/cam2 is missing"):
        build_dataset("DG_CUHK02", tmp_path).train()


@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_cuhk03_source_reads_pair_person_and_view(tmp_path, boxes):
    touch(tmp_path / "cuhk03" / f"images_{boxes}", "1_001_1_01.png", "1_001_2_07.png", "2_001_2_10.png")
    items = build_dataset(f"DG_CUHK03_{boxes}", tmp_path).train()
    assert len(set(items.pids.tolist())) == 2 and items.pids[0] == items.pids[1]
    assert items.camids.tolist() == [0, 1, 3]


def test_cuhk03_without_extracted_images_names_their_folder(tmp_path):
    touch(tmp_path / "cuhk03" / "cuhk03_release", "cuhk-03.mat")
    with pytest.raises(UserError, match="images_detected is missing"):
        build_dataset("DG_CUHK03_detected", tmp_path).train()


CUHK03_FILES = ["1_001_1_01.png", "1_001_2_06.png", "1_002_1_01.png", "1_002_2_06.png", "1_003_2_06.png"]


def cuhk03(root: Path, boxes: str = "detected", **changes) -> Path:
    folder = root / "cuhk03"
    touch(folder / f"images_{boxes}", *CUHK03_FILES)
    filelist = np.array(CUHK03_FILES, dtype=object).reshape(-1, 1)
    protocol = {
        "filelist": filelist,
        "labels": np.array([[1], [1], [2], [2], [3]], dtype=np.uint16),
        "camId": np.array([[1], [2], [1], [2], [2]], dtype=np.uint8),
        "train_idx": np.array([[1], [2]]),
        "query_idx": np.array([[3]], dtype=np.uint16),
        "gallery_idx": np.array([[4], [5]], dtype=np.uint16),
    }
    protocol |= changes
    path = folder / f"cuhk03_new_protocol_config_{boxes}.mat"
    savemat(path, {key: value for key, value in protocol.items() if value is not None})
    return path


@pytest.mark.parametrize("name, boxes", [("CUHK03", "detected"), ("CUHK03_labeled", "labeled")])
def test_cuhk03_follows_the_protocol_file(tmp_path, name, boxes):
    cuhk03(tmp_path, boxes)
    data = build_dataset(name, tmp_path)
    assert rows(data.train()) == [("1_001_1_01.png", 1, 1), ("1_001_2_06.png", 1, 2)]
    test = data.test()
    [split] = test.splits
    assert rows(test.items[split.query]) == [("1_002_1_01.png", 2, 1)]
    assert rows(test.items[split.gallery]) == [("1_002_2_06.png", 2, 2), ("1_003_2_06.png", 3, 2)]
    assert len(test.items) == 3


def test_cuhk03_image_in_query_and_gallery_is_one_item(tmp_path):
    cuhk03(tmp_path, query_idx=np.array([[3], [4]]))
    test = build_dataset("CUHK03", tmp_path).test()
    [split] = test.splits
    assert len(test.items) == 3 and split.query[1] == split.gallery[0]


def test_cuhk03_protocol_without_cameras_takes_them_from_the_names(tmp_path):
    cuhk03(tmp_path)
    expected = build_dataset("CUHK03", tmp_path)
    expected_rows = [rows(expected.train()), rows(expected.test().items)]
    cuhk03(tmp_path, camId=None)
    found = build_dataset("CUHK03", tmp_path)
    assert [rows(found.train()), rows(found.test().items)] == expected_rows
    cuhk03(tmp_path, camId=None, filelist=np.array(["a.png", *CUHK03_FILES[1:]], dtype=object))
    with pytest.raises(UserError, match=r"without camId .* found a\.png"):
        build_dataset("CUHK03", tmp_path).train()


def published_split(root: Path) -> tuple[Path, dict]:
    """The 767/700 split as the published program writes it, with paths of another machine."""
    cuhk03(root)
    places = ["/home/someone/cuhk03/images_detected/", "D:\\cuhk03\\images_detected\\"]
    images = [[f"{places[number % 2]}{name}", number // 2, number % 2] for number, name in enumerate(CUHK03_FILES)]
    split = {"train": images[:2], "query": images[2:3], "gallery": images[3:], "num_train_pids": 1}
    return root / "cuhk03" / "splits_new_detected.json", split


def test_cuhk03_split_file_of_the_published_program_is_read(tmp_path):
    path, split = published_split(tmp_path)
    path.write_text(json.dumps([split]))
    data = build_dataset("CUHK03", tmp_path)
    assert rows(data.train()) == [("1_001_1_01.png", 0, 0), ("1_001_2_06.png", 0, 1)]
    test = data.test()
    assert rows(test.items[test.splits[0].query]) == [("1_002_1_01.png", 1, 0)]
    assert rows(test.items[test.splits[0].gallery]) == [("1_002_2_06.png", 1, 1), ("1_003_2_06.png", 2, 0)]
    for wrong in (
        [],
        [split, split],
        [split | {"query": [["1_002_1_01.png"]]}],
        [{"train": []}],
        [split | {"query": 3}],
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(UserError, match="splits_new_detected.json cannot be used: expected one split, .*rows"):
            build_dataset("CUHK03", tmp_path).test()
    path.write_text(json.dumps([split | {"gallery": [["1_009_1_01.png", 2, 1]]}]))
    with pytest.raises(
        UserError, match="lacks 1 of the 4 images that splits_new_detected.json names, .*1_009_1_01.png"
    ):
        build_dataset("CUHK03", tmp_path).test()


def test_cuhk03_classic_splits_of_the_published_program_are_read(tmp_path):
    _, split = published_split(tmp_path)
    (tmp_path / "cuhk03" / "splits_classic_detected.json").write_text(json.dumps([split] * 20))
    test = build_dataset("CUHK03_classic", tmp_path).test()
    assert len(test.splits) == 20
    assert [row[0] for row in rows(test.items[test.splits[19].gallery])] == CUHK03_FILES[3:]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"labels": None}, "no variable labels"),
        ({"labels": np.array([1, 2])}, "found 5, 2 and 5"),
        ({"query_idx": np.array([0])}, "query_idx must hold positions from 1 to 5"),
        ({"gallery_idx": np.array([6])}, "gallery_idx must hold positions"),
        (
            {"filelist": np.array(CUHK03_FILES[:4] + ["1_009_1_01.png"], dtype=object)},
            "lacks 1 of the 5 .*1_009_1_01.png",
        ),
        ({"filelist": np.array(CUHK03_FILES[:4] + [np.zeros(3)], dtype=object)}, "filelist must hold file names"),
    ],
)
def test_cuhk03_protocol_errors_are_explained(tmp_path, changes, message):
    cuhk03(tmp_path, **changes)
    with pytest.raises(UserError, match=message):
        build_dataset("CUHK03", tmp_path).test()


def test_cuhk03_protocol_file_missing_or_broken(tmp_path):
    path = cuhk03(tmp_path)
    whole = path.read_bytes()
    for content in (b"not a mat file" * 50, whole[:150], whole[:-200], b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot read .*config_detected.mat as a MATLAB v5 file|no variable"):
            build_dataset("CUHK03", tmp_path).train()
    path.unlink()
    with pytest.raises(UserError, match="config_detected.mat is missing"):
        build_dataset("CUHK03", tmp_path).train()


def test_cuhk_sysu_takes_scenes_for_cameras(tmp_path):
    touch(tmp_path / "CUHK-SYSU" / "cropped_image", "p00001_n01_s00017_hard0.png", "p11934_n02_s18184_hard1.png")
    items = build_dataset("DG_CUHK_SYSU", tmp_path).train()
    assert rows(items) == [("p00001_n01_s00017_hard0.png", 1, 17), ("p11934_n02_s18184_hard1.png", 11934, 18184)]


def test_as_many_names_as_cuhk_sysu_has_are_read_within_a_second(tmp_path, monkeypatch):
    names = [f"p{number // 3:05}_n01_s{number:05}_hard0.png" for number in range(34_574)]
    touch(tmp_path / "CUHK-SYSU" / "cropped_image")
    monkeypatch.setattr("fastreid.data.datasets.bases.image_names", lambda name, folder: names)
    data = build_dataset("DG_CUHK_SYSU", tmp_path)
    start = time.process_time()
    assert len(data.train()) == 34_574
    assert time.process_time() - start < 1


@pytest.fixture(params=[("MSMT17_V1", "train", "test"), ("MSMT17_V2", "mask_train_v2", "mask_test_v2")])
def msmt17(request, tmp_path):
    version, train, test = request.param
    names = {
        "train": "0000_000_01_0303morning_0008_0.jpg",
        "query": "0000_000_02_0303morning_0008_0.jpg",
        "gallery": "0000_001_15_0303noon_0010_1.jpg",
    }
    for part, folder in (("train", train), ("query", test), ("gallery", test)):
        touch(tmp_path / version / folder / "0000", names[part])
        (tmp_path / version / f"list_{part}.txt").write_text(f"0000/{names[part]} 0\n")
    (tmp_path / version / "list_val.txt").write_text("")
    return tmp_path / version


def test_msmt17_follows_its_lists_in_both_versions(msmt17):
    data = build_dataset("MSMT17", msmt17.parent)
    assert rows(data.train()) == [("0000_000_01_0303morning_0008_0.jpg", 0, 1)]
    test = data.test()
    assert [test.items[index][1:] for index in (0, 1)] == [(0, 2), (0, 15)]
    assert all(Path(path).is_file() for path in test.items.paths)
    assert test.splits[0].query.tolist() == [0] and test.splits[0].gallery.tolist() == [1]


@pytest.mark.parametrize(
    "content, message",
    [
        ("0000/0000.jpg\n", r"line 1 of .*list_train.txt is '0000/0000.jpg'"),
        ("\n", "list_train.txt is empty"),
        ("0000/0000_009_01_x_1.jpg 0\n", "0000_009_01_x_1.jpg that list_train.txt names is missing"),
        ("0007/0007_000_01_x_1.jpg 7\n", "0007 is missing"),
    ],
)
def test_msmt17_list_errors_are_explained(msmt17, content, message):
    (msmt17 / "list_train.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        build_dataset("MSMT17", msmt17.parent).train()


def test_msmt17_needs_its_lists(msmt17):
    (msmt17 / "list_gallery.txt").unlink()
    with pytest.raises(UserError, match="list_gallery.txt is missing"):
        build_dataset("MSMT17", msmt17.parent).test()


@pytest.mark.parametrize("suffix", ["", "_V1", "_V2"])
def test_msmt17_as_a_source_takes_all_four_lists_and_tells_the_people_of_its_parts_apart(msmt17, suffix):
    name = f"DG_MSMT17{suffix}"
    if not msmt17.name.endswith(suffix):
        with pytest.raises(UserError, match="the data set's folder"):
            build_dataset(name, msmt17.parent)
        return
    [train_folder] = msmt17.glob("*train*/0000")
    touch(train_folder, "0000_003_04_0303morning_0008_0.jpg")
    (msmt17 / "list_val.txt").write_text("0000/0000_003_04_0303morning_0008_0.jpg 0\n")
    data = build_dataset(name, msmt17.parent)
    items = data.train()
    assert items.camids.tolist() == [1, 4, 2, 15]
    assert items.pids[0] == items.pids[1] != items.pids[2] == items.pids[3]  # numbered 0 in all lists
    assert all(Path(path).is_file() for path in items.paths)
    with pytest.raises(UserError, match=f"{name} has no query and gallery.*use MSMT17{suffix} there"):
        data.test()


@pytest.mark.parametrize(
    "name",
    [
        "/etc/0000_000_01_x_1.jpg",
        "../0000_000_01_x_1.jpg",
        "0000/../../0000_000_01_x_1.jpg",
        "0000/0000_000_01_x\0_1.jpg",
        f"0000/0000_000_01_{'x' * 300}.jpg",
        "a//0000_000_01_x_1.jpg",
        f"0000/0000_000_{'9' * 30}_x_1.jpg",
        "..\\0000_000_01_x_1.jpg",
    ],
)
def test_msmt17_lists_name_nothing_outside_of_the_set(msmt17, name):
    (msmt17 / "list_train.txt").write_text(f"{name} 0\n")
    with pytest.raises(UserError, match="line 1 of .*list_train.txt is .*: expected a file below"):
        build_dataset("MSMT17", msmt17.parent).train()


@pytest.mark.parametrize("content", [b"0000/0000_000_01_caf\xe9_1.jpg 0\n", b"0000/0000_000_01_x_1.jpg " + b"9" * 30])
def test_msmt17_lists_of_other_bytes_and_large_numbers_are_explained(msmt17, content):
    (msmt17 / "list_train.txt").write_bytes(content)
    with pytest.raises(UserError, match="list_train.txt"):
        build_dataset("MSMT17", msmt17.parent).train()
