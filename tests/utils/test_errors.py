"""How commands show what the user can mend."""

import os
import signal
import sys
import threading

import pytest
from torch.utils.data import DataLoader, Dataset

from fastreid.utils.errors import UserError, run_command
from fastreid.utils.files import atomic_path


class NarrowerError(UserError):
    """A kind of its own, as the engine has."""


def outcome(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_command(command)
    captured = capsys.readouterr()
    assert captured.out == ""
    return exit_.value.code, captured.err


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize("kind", [UserError, NarrowerError])
def test_an_error_of_the_user_is_one_line_and_status_2(kind, capsys):
    assert outcome(raising(kind("a.yml: no such key")), capsys) == (2, "error: a.yml: no such key\n")


def test_ctrl_c_is_status_130(capsys):
    assert outcome(raising(KeyboardInterrupt()), capsys) == (130, "interrupted\n")


def test_sigterm_is_status_143_and_what_was_half_written_is_removed(tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def command():
        with atomic_path(tmp_path / "result.json") as temporary:
            temporary.write_text("{")
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("went on")

    assert outcome(command, capsys) == (143, "stopped by SIGTERM\n")
    assert not list(tmp_path.iterdir()) and signal.getsignal(signal.SIGTERM) is before


def test_sigterm_is_left_to_whoever_handles_it_already(capsys):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert run_command(lambda: os.kill(os.getpid(), signal.SIGTERM)) is None
    finally:
        signal.signal(signal.SIGTERM, before)
    thread = threading.Thread(target=run_command, args=[lambda: None])  # which may not handle signals
    thread.start()
    thread.join()
    assert capsys.readouterr().err == ""


def test_a_defect_of_the_program_is_raised(capsys):
    with pytest.raises(ZeroDivisionError):
        run_command(lambda: 1 / 0)
    assert capsys.readouterr().err == ""


def test_a_command_that_ends_well_says_nothing(capsys):
    assert run_command(lambda: 5) is None
    assert capsys.readouterr() == ("", "")


def test_an_exit_of_the_command_itself_goes_through():
    with pytest.raises(SystemExit) as exit_:
        run_command(lambda: sys.exit(7))
    assert exit_.value.code == 7


class Broken(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError("cut short")
        except OSError as error:
            raise UserError("people/0001.jpg is not a readable image: replace it") from error


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_loader_worker_is_the_same_line(workers, capsys):
    status = outcome(lambda: list(DataLoader(Broken(), num_workers=workers)), capsys)
    assert status == (2, "error: people/0001.jpg is not a readable image: replace it\n")
