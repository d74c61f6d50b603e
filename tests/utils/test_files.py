"""Files that appear only when they are complete."""

import errno
import json
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from fastreid.utils import files
from fastreid.utils.errors import UserError
from fastreid.utils.files import (
    atomic_path,
    open_own,
    refuse_inputs,
    remove_leftovers,
    write_bytes,
    write_json,
    write_text,
)


def test_a_file_appears_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "folder" / "result.png"
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == path.parent and temporary.suffix == ".png" and temporary.name.startswith(".")
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "result.txt"
    with atomic_path(path) as first, atomic_path(path) as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert path.read_text() == "1"  # the outer block ends last


def test_a_path_that_is_a_folder_is_an_error(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="cannot write .*taken .*: check the folder, its permissions and space"):
        write_text(tmp_path / "taken", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="cannot write .*result.txt"):
        write_text(tmp_path / "taken" / "result.txt", "text")


def test_text_and_json_are_utf_8(tmp_path):
    write_text(tmp_path / "a.txt", "Größe\n")
    assert (tmp_path / "a.txt").read_bytes() == "Größe\n".encode()
    write_json(tmp_path / "a.json", {"mAP": 12.5, "splits": [1, 2]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"mAP": 12.5, "splits": [1, 2]}
    assert (tmp_path / "a.json").read_text().endswith("}\n")


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_a_durable_file_is_on_the_disk_before_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(files, "sync", lambda path: events.append(("sync", path.is_dir(), (tmp_path / "a").exists())))
    write_bytes(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert events == [("sync", False, False), ("sync", True, True)]


def test_a_file_too_large_for_the_disk_is_not_begun(tmp_path, monkeypatch):
    path = tmp_path / "new" / "model.pth"
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: namedtuple("Usage", "free")(2**20))
    with pytest.raises(UserError, match=r"cannot write .*model\.pth: it needs 1\.5 MB, and 1\.0 MB are free"):
        write_bytes(path, bytes(3 * 2**19))
    assert not path.parent.exists()


def test_a_disk_that_is_full_all_the_same_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")

    def write(self, data):
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(UserError, match="No space left on device, 0.0 MB needed"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    with pytest.raises(UserError), atomic_path(tmp_path / "model.pth") as temporary:
        pass  # nothing was written, so there is nothing to rename
    kept = [tmp_path / name for name in (".hidden.tmp.pth", "model.pth.tmp", ".gitignore")]
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own, dead, alive = (
        temporary.with_name(temporary.name.replace(f".{os.getpid()}.", f".{pid}."))
        for pid in (os.getpid(), ended.pid, os.getppid())
    )
    kept.append(alive)  # of a test beside the run
    older = temporary.with_name(temporary.name.replace(f".{os.getpid()}.", "."))  # of a version that wrote no process
    for path in (*kept, own, dead, older):
        path.touch()
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_an_input_is_no_output_by_whatever_name(tmp_path, link):
    source, output = tmp_path / "weights.pt2", tmp_path / "out.pt2"
    source.write_text("weights")
    refuse_inputs(output, [source, tmp_path / "absent"])
    if link is None:
        output = tmp_path / "folder" / ".." / "weights.pt2"
        output.parent.parent.mkdir()
    else:
        link(source, output)
    with pytest.raises(UserError, match="which this command reads and would replace"):
        refuse_inputs(output, [tmp_path / "absent", source])


def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(UserError, match=f"{name} is a link, or no file of one name"):
            open_own(tmp_path / name, os.O_RDWR | os.O_CREAT)
