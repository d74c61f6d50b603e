"""The lock of a folder: one holder at a time, and nothing stale."""

import os
import platform
import subprocess

import pytest

from fastreid.utils import locks
from fastreid.utils.errors import UserError
from fastreid.utils.locks import lock_file

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
