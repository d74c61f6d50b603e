"""Images named as files, folders and globs."""
import os

import pytest

from fastreid.data.image_files import file_states, find_images
from fastreid.utils.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "notes.txt", ".hidden.jpg", "sub/c.bmp"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"x")
    return tmp_path / "images"


def names(paths, folder):
    return [os.path.relpath(path, folder) for path in paths]


def test_a_folder_gives_its_images_and_names_what_it_passes_over(folder, caplog):
    assert names(find_images([str(folder)]), folder) == ["a.PNG", "b.jpg", "sub/c.bmp"]
    assert "passed over 1 file(s)" in caplog.text and "notes.txt" in caplog.text and ".hidden" not in caplog.text


def test_globs_and_files_come_in_the_order_given_and_once(folder):
    found = find_images([f"{folder}/b.jpg", f"{folder}/*.jpg", f"{folder}/**/*.bmp", str(folder)])
    assert names(found, folder) == ["b.jpg", "sub/c.bmp", "a.PNG"]


def test_a_named_file_is_taken_whatever_its_suffix(folder):
    assert names(find_images([f"{folder}/notes.txt"]), folder) == ["notes.txt"]


def test_many_other_files_are_counted(folder, caplog):
    for number in range(9):
        (folder / f"{number}.csv").touch()
    find_images([str(folder)])
    assert "passed over 10 file(s)" in caplog.text and "and 7 more" in caplog.text


def test_an_empty_folder_is_an_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="the folder .* has no images: .* found 1 other"):
        find_images([str(tmp_path)])


@pytest.mark.parametrize("entry", ["nobody.jpg", "*.jpg"])
def test_an_input_that_leads_nowhere_is_an_error(tmp_path, entry):
    with pytest.raises(UserError, match="no file, folder or pattern .* leads to images"):
        find_images([str(tmp_path / entry)])


def test_states_change_with_the_file(folder):
    path = folder / "b.jpg"
    os.utime(path, ns=(5, 7))
    assert [values.tolist() for values in file_states([str(path)])] == [[1], [7]]
    with pytest.raises(UserError, match="gone.jpg cannot be read"):
        file_states([str(folder / "gone.jpg")])
