"""The lock of a folder: one holder at a time, and nothing stale."""

import errno
import os
import platform
import subprocess

import pytest

from fastreid.utils import locks
from fastreid.utils.errors import UserError
from fastreid.utils.locks import hold_lock, lock_file

NO_PROCESS = 2**22 + 1  # above the highest number that Linux gives


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / "made" / "lock"
    with lock_file(path):
        with pytest.raises(UserError, match=f"is in use by process {os.getpid()}"):
            with lock_file(path):
                pass
    with lock_file(path):
        assert path.read_text() == f"{os.getpid()} {platform.node()}"


def test_the_file_of_a_process_that_is_gone_is_no_lock(tmp_path):
    (tmp_path / "lock").write_text(f"{NO_PROCESS} and more")
    with lock_file(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text().startswith(f"{os.getpid()} ")


@pytest.mark.parametrize("patience", [0.3, 60])
def test_children_hold_the_lock_of_a_parent_that_is_gone(tmp_path, monkeypatch, patience):
    monkeypatch.setattr(locks, "POLL", 0.02)
    path = tmp_path / "lock"
    with lock_file(path) as lock:
        child = subprocess.Popen(["sleep", "60" if patience < 1 else "0.5"], pass_fds=[lock])
    path.write_text(str(NO_PROCESS))
    try:
        if patience < 1:
            with pytest.raises(UserError, match=f"in use by process {NO_PROCESS}"):
                with lock_file(path, patience):
                    pass
        else:
            with lock_file(path, patience):
                assert child.wait(10) == 0
    finally:
        child.kill()
        child.wait()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*file/lock"):
        with lock_file(tmp_path / "file" / "lock"):
            pass


def test_a_holder_on_another_machine_is_named_at_once(tmp_path):
    path = tmp_path / "lock"
    with lock_file(path):
        path.write_text(f"{NO_PROCESS} other-machine")
        with pytest.raises(
            UserError, match=f"in use by process {NO_PROCESS} on other-machine, .* choose another folder"
        ):
            with lock_file(path):
                pass


def test_a_lock_to_the_end_of_the_process_is_taken_once(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_held", {})
    for _ in range(2):
        hold_lock(tmp_path / "lock")
    with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        with lock_file(tmp_path / "lock"):
            pass
    (descriptor,) = locks._held.values()
    os.close(descriptor)
    with lock_file(tmp_path / "lock"):
        pass


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_a_planted_link_is_not_written_through(tmp_path, plant):
    (tmp_path / "victim").write_text("precious")
    plant(tmp_path / "victim", tmp_path / "lock")
    with pytest.raises(UserError, match="lock is a link"):
        with lock_file(tmp_path / "lock"):
            pass
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, caplog):
    def refuse(descriptor, operation):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with lock_file(tmp_path / "lock"):
        assert "file system without locks" in caplog.text
