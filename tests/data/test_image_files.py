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


def test_linked_folders_are_searched_each_once(folder, tmp_path):
    (tmp_path / "far" / "deep").mkdir(parents=True)
    for name in ("d.jpg", "deep/e.png"):
        (tmp_path / "far" / name).touch()
    (folder / "link").symlink_to(tmp_path / "far")
    (folder / "again").symlink_to(folder / "sub")
    (folder / "loop").symlink_to(folder)
    expected = ["a.PNG", "b.jpg", "link/d.jpg", "link/deep/e.png", "sub/c.bmp"]
    assert names(find_images([str(folder)]), folder) == expected
    assert len(find_images([f"{folder}/*"])) == 5
    assert len(find_images([str(folder), str(tmp_path / "far"), f"{folder}/**/*.jpg"])) == 5


def test_hidden_folders_are_passed_over_and_links_to_nowhere_named(folder, caplog):
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.jpg").touch()
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    assert names(find_images([str(folder)]), folder) == ["a.PNG", "b.jpg", "sub/c.bmp"]
    assert "passed over 1 file(s) that are links to nowhere" in caplog.text and "gone.jpg" in caplog.text


@pytest.mark.parametrize("output", [".", "found"])
def test_pictures_that_a_search_has_drawn_are_no_images_of_the_gallery(folder, output, caplog):
    (folder / output / "pictures").mkdir(parents=True)
    (folder / output / "pictures" / "0001_b.png").touch()
    assert len(find_images([str(folder)])) == 4
    (folder / output / "results.csv").write_text("query,rank,image,distance\n")
    assert names(find_images([str(folder)]), folder) == ["a.PNG", "b.jpg", "sub/c.bmp"]
    assert "passed over 1 file(s) that a search has drawn" in caplog.text
    with pytest.raises(UserError, match=r"found 1 other files \(1 that a search has drawn\)"):
        find_images([str(folder / output / "pictures")])


def test_a_home_folder_may_be_written_as_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert len(find_images(["~"])) == 3 and len(find_images(["~/*.jpg"])) == 1


@pytest.mark.parametrize("name", ["caf\udce9.jpg", "a\nb.jpg", "=1+1.jpg", "-1.jpg", "n" * 250 + ".jpg", "名前.jpg"])
def test_any_name_is_an_images_name(tmp_path, name):
    (tmp_path / name).touch()
    assert find_images([str(tmp_path)]) == [str(tmp_path / name)]
