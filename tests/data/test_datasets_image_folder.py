"""`folder:<name>`: a user's own images."""

from pathlib import Path

import pytest

from fastreid.data.datasets import build_dataset
from fastreid.utils.errors import UserError


def touch(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_identities_are_any_text_and_cameras_are_numbers(tmp_path):
    touch(
        tmp_path / "mine" / "train",
        "bob_c2.PNG",
        "alice_c1_001.jpg",
        "the_cat_c0_x.JPEG",
        "alice_c12s3.bmp",
        "note.txt",
        "_c_c3_1.jpg",
    )
    items = build_dataset("folder:mine", tmp_path).train()
    assert {(Path(path).name, pid, camid) for path, pid, camid in items} == {
        ("_c_c3_1.jpg", 0, 3),
        ("alice_c1_001.jpg", 1, 1),
        ("alice_c12s3.bmp", 1, 12),
        ("bob_c2.PNG", 2, 2),
        ("the_cat_c0_x.JPEG", 3, 0),
    }


def test_query_and_gallery_share_identity_numbers(tmp_path):
    touch(tmp_path / "mine" / "query", "bob_c1.jpg", "zoe_c1.jpg")
    touch(tmp_path / "mine" / "gallery", "alice_c2.jpg", "bob_c2.jpg", "zoe_c2.jpg")
    test = build_dataset("folder:mine", tmp_path).test()
    [split] = test.splits
    assert test.items.pids[split.query].tolist() == [1, 2]
    assert test.items.pids[split.gallery].tolist() == [0, 1, 2]
    assert all(Path(path).is_file() for path in test.items.paths)


def test_a_part_that_is_missing_says_what_it_is_needed_for_and_what_is_there(tmp_path):
    touch(tmp_path / "mine" / "train", "bob_c1.jpg")
    with pytest.raises(
        UserError,
        match=r"no folder .*mine/query, and a data set in DATASETS\.TESTS needs query/ and "
        r"gallery/; found train/",
    ):
        build_dataset("folder:mine", tmp_path).test()
    touch(tmp_path / "other" / "query", "bob_c1.jpg")
    with pytest.raises(
        UserError,
        match=r"no folder .*other/train, and a data set in DATASETS\.NAMES needs train/; "
        r"found query/",
    ):
        build_dataset("folder:other", tmp_path).train()


@pytest.mark.parametrize("file_name", ["bob.jpg", "_c1.jpg", "bob_cam1.jpg", "bob_c20260101123000.jpg"])
def test_a_name_without_identity_or_camera_is_an_error(tmp_path, file_name):
    touch(tmp_path / "mine" / "train", file_name)
    with pytest.raises(UserError, match=rf"{file_name}: expected names like alice_c1_001\.jpg"):
        build_dataset("folder:mine", tmp_path).train()


def test_an_empty_part_is_an_error(tmp_path):
    touch(tmp_path / "mine" / "train")
    with pytest.raises(UserError, match="train has no images"):
        build_dataset("folder:mine", tmp_path).train()


def test_query_people_who_are_not_in_the_gallery_at_all_are_an_error(tmp_path):
    touch(tmp_path / "mine" / "query", "1_c1.jpg")
    touch(tmp_path / "mine" / "gallery", "0001_c2.jpg")
    with pytest.raises(UserError, match="none of the people in .*query is in .*gallery"):
        build_dataset("folder:mine", tmp_path).test()


def test_the_name_of_the_folder_must_be_given(tmp_path):
    with pytest.raises(UserError, match="expected folder:<name>"):
        build_dataset("folder:", tmp_path)


def test_a_folder_for_each_person_is_read(tmp_path):
    touch(tmp_path / "mine" / "train" / "bob", "x_c2.jpg", "c1_001.png", "0002_c1s1_000451_03.jpg")
    touch(tmp_path / "mine" / "train" / "alice", "photo_c7_2.jpg")
    touch(tmp_path / "mine" / "train", "carol_c3.jpg")
    items = build_dataset("folder:mine", tmp_path).train()
    found = {(Path(path).name, pid, camid) for path, pid, camid in items}
    assert found == {
        ("photo_c7_2.jpg", 0, 7),
        ("x_c2.jpg", 1, 2),
        ("c1_001.png", 1, 1),
        ("0002_c1s1_000451_03.jpg", 1, 1),
        ("carol_c3.jpg", 2, 3),
    }
    assert all(Path(path).is_file() for path in items.paths)


def test_a_link_to_a_persons_folder_is_followed(tmp_path):
    touch(tmp_path / "elsewhere", "a_c1.jpg")
    (tmp_path / "mine" / "train").mkdir(parents=True)
    (tmp_path / "mine" / "train" / "bob").symlink_to(tmp_path / "elsewhere")
    assert len(build_dataset("folder:mine", tmp_path).train()) == 1


def test_without_any_camera_no_match_of_a_test_is_left_out_and_that_is_said(tmp_path, caplog):
    touch(tmp_path / "mine" / "query" / "bob", "1.jpg")
    touch(tmp_path / "mine" / "gallery" / "bob", "2.jpg", "3.jpg")
    test = build_dataset("folder:mine", tmp_path).test()
    assert test.items.camids.tolist() == [0, 1, 1]
    assert "no image in query, gallery has a camera in its name" in caplog.text
    touch(tmp_path / "mine" / "train" / "bob", "1.jpg")
    assert build_dataset("folder:mine", tmp_path).train().camids.tolist() == [0]


def test_names_of_which_only_some_have_a_camera_are_an_error(tmp_path):
    touch(tmp_path / "mine" / "query" / "bob", "1_c1.jpg")
    touch(tmp_path / "mine" / "gallery" / "bob", "2_c2.jpg", "3.jpg")
    with pytest.raises(UserError, match=r"1 of 3 images in query, gallery have no camera in their names, as .*3\.jpg"):
        build_dataset("folder:mine", tmp_path).test()


def test_folders_inside_a_persons_folder_name_the_next_step(tmp_path, caplog):
    touch(tmp_path / "mine" / "train" / "bob" / "cam1", "1.jpg")
    with pytest.raises(UserError, match=r"bob holds the folder cam1: .* such as cam1_c1\.jpg"):
        build_dataset("folder:mine", tmp_path).train()


def test_a_name_without_a_camera_is_told_of_both_layouts(tmp_path):
    touch(tmp_path / "mine" / "train", "bob_001.jpg")
    with pytest.raises(
        UserError,
        match=r"expected names like alice_c1_001\.jpg .* or put each person's images into a "
        r"folder of its own, train/<identity>/",
    ):
        build_dataset("folder:mine", tmp_path).train()


@pytest.mark.parametrize("names", [("-1_c1s1_1.jpg", "-1_c2.jpg"), ("-1/x_c1.jpg", "-1/x_c2.jpg")])
def test_junk_is_left_out_and_counted(tmp_path, caplog, names):
    for name in (*names, "bob_c1.jpg"):
        touch((tmp_path / "mine" / "train" / name).parent, Path(name).name)
    items = build_dataset("folder:mine", tmp_path).train()
    assert [Path(path).name for path in items.paths] == ["bob_c1.jpg"]
    assert "2 image(s) of identity -1" in caplog.text and "left out" in caplog.text


def test_a_folder_of_junk_alone_is_an_error(tmp_path):
    touch(tmp_path / "mine" / "train", "-1_c1.jpg")
    with pytest.raises(UserError, match="train has no images of people"):
        build_dataset("folder:mine", tmp_path).train()


def test_pictures_of_formats_that_nothing_reads_are_named(tmp_path, caplog):
    touch(tmp_path / "mine" / "train", "bob_c1.jpg", "bob_c2.webp", "Thumbs.db")
    assert len(build_dataset("folder:mine", tmp_path).train()) == 1
    assert "1 file(s) in" in caplog.text and "bob_c2.webp" in caplog.text and "Thumbs.db" not in caplog.text


def test_a_number_that_no_array_holds_names_the_file(tmp_path):
    touch(tmp_path / "DukeMTMC-reID" / "bounding_box_train", f"{10**25}_c1_f0046182.jpg")
    with pytest.raises(UserError, match=r"0_c1_f0046182\.jpg: the name holds the number 10+, expected"):
        build_dataset("DukeMTMC", tmp_path).train()


def test_names_that_are_not_utf_8_are_read(tmp_path):
    touch(tmp_path / "mine" / "train", "caf\udce9_c1.jpg", "李_c2.jpg")
    paths = build_dataset("folder:mine", tmp_path).train().paths.tolist()
    assert len(paths) == 2 and all(Path(path).is_file() for path in paths)
