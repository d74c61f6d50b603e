"""Several processes as one command: one fails, all end, with the first failure's message and status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("supervised_command.py")
TIMEOUT = 30  # seconds


class Command:
    """The running command, and the processes that belong to it."""

    def __init__(self, deed):
        environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, deed],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Tests that run in the background of a shell ignore Ctrl-C, and so would the command.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.pids = {}
        for _ in range(2):
            _, rank, *pids = self.process.stdout.readline().split()
            self.pids[int(rank)] = [int(pid) for pid in pids]

    def finish(self):
        """Return the exit status and what the command wrote to stderr."""
        try:
            return self.process.wait(TIMEOUT), self.process.stderr.read()
        finally:
            self.process.kill()

    def all_gone(self):
        """Tell whether no process of the command is left, after a moment at most."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if not any(is_running(pid) for pids in self.pids.values() for pid in pids):
                return True
            time.sleep(0.05)
        return False


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    # An orphan that was killed stays a zombie where nothing collects it.
    return not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize(
    "deed, status, message",
    [
        ("succeed", 0, ""),
        ("raise", 1, "ArithmeticError: the cause"),
        ("wrong input", 2, "error: no such path: check it\n"),
        ("exit", 3, ""),
    ],
)
def test_the_first_to_leave_decides_and_nothing_is_left(deed, status, message):
    command = Command(deed)
    start = time.monotonic()
    found, errors = command.finish()
    assert found == status and command.all_gone()
    if deed == "raise":
        assert errors.startswith("process 1 of 2 failed") and errors.endswith(f"{message}\n")
    else:
        assert errors == message
    assert time.monotonic() - start < 20


def test_a_killed_process_ends_the_run():
    command = Command("wait")
    os.kill(command.pids[1][0], signal.SIGKILL)
    status, errors = command.finish()
    assert status == 1 and f"process 1 (pid {command.pids[1][0]}) was killed by SIGKILL" in errors
    assert command.all_gone()


def test_processes_do_not_outlive_the_one_that_started_them():
    command = Command("wait")
    command.process.kill()
    assert command.all_gone()
    command.finish()


@pytest.mark.parametrize(
    "deed, number, status, message",
    [
        ("wait", signal.SIGINT, 130, ""),
        ("wait", signal.SIGTERM, 143, ""),
        ("stop at a signal", signal.SIGTERM, 143, "stopped: --resume goes on\n"),
    ],
)
def test_signals_reach_the_processes(deed, number, status, message):
    command = Command(deed)
    command.process.send_signal(number)
    assert command.finish() == (status, message)
    assert command.all_gone()
