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
    touch(tmp_path / "mine" / "train", "bob_c2.PNG", "alice_c1_001.jpg", "the_cat_c0_x.JPEG", "alice_c12s3.bmp",
          "note.txt", "_c_c3_1.jpg")
    items = build_dataset("folder:mine", tmp_path).train()
    assert {(Path(path).name, pid, camid) for path, pid, camid in items} == {
        ("_c_c3_1.jpg", 0, 3), ("alice_c1_001.jpg", 1, 1), ("alice_c12s3.bmp", 1, 12), ("bob_c2.PNG", 2, 2),
        ("the_cat_c0_x.JPEG", 3, 0)}


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
    with pytest.raises(UserError, match=r"no folder .*mine/query, and a data set in DATASETS\.TESTS needs query/ and "
                                        r"gallery/; found train/"):
        build_dataset("folder:mine", tmp_path).test()
    touch(tmp_path / "other" / "query", "bob_c1.jpg")
    with pytest.raises(UserError, match=r"no folder .*other/train, and a data set in DATASETS\.NAMES needs train/; "
                                        r"found query/"):
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
