"""How many processes a command starts, where they meet, and what happens when they cannot, or when one is lost."""

import argparse
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from fastreid.utils import launch as launching
from fastreid.utils.errors import UserError
from fastreid.utils.launch import LAUNCHER_VARIABLES, add_launch_arguments, launch, meeting_point
from fastreid.utils.machine import num_cores

SCRIPT = Path(__file__).with_name("launched_command.py")
TIMEOUT = 60  # seconds


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in (*LAUNCHER_VARIABLES, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_launch_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def start(python):
    """`start(*words)`: the command, whose own processes start as a user's do."""

    def start(*words):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        return subprocess.Popen([python, SCRIPT, *map(str, words)], env=environment, stderr=subprocess.PIPE, text=True)

    return start


def free_port():
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def facts(folder, rank):
    """Return what a process wrote: pid, number of processes, sum of 1 .. that number, local rank, threads, --resume."""
    deadline, path = time.monotonic() + TIMEOUT, folder / str(rank)
    while not (path.is_file() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [int(number) for number in path.read_text().split()]


def test_one_process_is_this_one():
    assert meeting_point(arguments()) == ("localhost", 0)
    seen = []
    launch(lambda args: seen.append((args.num_gpus, os.getpid())), arguments())
    assert seen == [(1, os.getpid())]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--num-gpus", "0"], "at least 1"),
        (["--max-restarts", "-1"], "--max-restarts must be at least 0"),
        (["--num-machines", "2"], "--dist-url auto is for one machine"),
        (["--num-machines", "2", "--machine-rank", "2"], "--machine-rank must be from 0 to 1"),
        (["--machine-rank", "1"], "--machine-rank must be from 0 to 0"),
        (["--dist-url", "10.0.0.1:29500"], "like tcp://10.0.0.1:29500; found '10.0.0.1:29500'"),
        (["--dist-url", "tcp://here:99999"], "found 'tcp://here:99999'"),
    ],
)
def test_arguments_that_contradict_each_other(words, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        launch(lambda args: pytest.fail("ran"), arguments(*words))


def test_the_address_of_machine_0():
    several = ["--num-machines", "2", "--machine-rank", "1", "--dist-url"]
    assert meeting_point(arguments(*several, "tcp://node-0.cluster:29500")) == ("node-0.cluster", 29500)
    assert meeting_point(arguments(*several, "tcp://[fe80::1]:29500")) == ("fe80::1", 29500)


def test_a_port_in_use_is_named():
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} is in use"):
            launch(
                lambda args: pytest.fail("ran"), arguments("--num-gpus", "2", "--dist-url", f"tcp://localhost:{port}")
            )


def test_arguments_that_contradict_torchrun(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    launch(lambda args: None, arguments())  # a lone variable of somebody else
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="has RANK, WORLD_SIZE but not LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        launch(lambda args: pytest.fail("ran"), arguments())
    for name, value in {
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="torchrun has started 2 process"):
        launch(lambda args: pytest.fail("ran"), arguments("--num-gpus", "4"))
    with pytest.raises(UserError, match="give torchrun .* --max-restarts"):
        launch(lambda args: pytest.fail("ran"), arguments("--max-restarts", "4"))


def test_a_process_that_does_not_come_is_named(monkeypatch):
    store = launching.host_store("localhost", 0)  # which a busy machine may take long for
    monkeypatch.setattr(launching, "MEETING_MINUTES", 0.001)
    with pytest.raises(UserError, match="processes 1, 2 of 3 have not come"):
        launching.meet(store, 0, 3)
    with pytest.raises(UserError, match="two processes have number 0"):
        launching.meet(store, 0, 3)


def test_processes_of_two_machines_meet_and_the_loss_of_one_ends_those_of_both(tmp_path, start):
    together = ["--num-machines", 2, "--dist-url", f"tcp://localhost:{free_port()}", "--endless", tmp_path]
    commands = [start("--machine-rank", rank, *together) for rank in range(2)]
    try:
        found = [facts(tmp_path, rank) for rank in range(2)]
        assert [values[1:] for values in found] == [[2, 3, 0, num_cores(), 0]] * 2
        os.kill(found[1][0], signal.SIGKILL)
        errors = [command.communicate(timeout=TIMEOUT)[1] for command in commands]
    finally:
        for command in commands:
            command.kill()
    assert [command.returncode for command in commands] == [1, 1]
    assert "Connection" in errors[0] and "was killed by SIGKILL" in errors[1]


def test_lost_processes_are_replaced_as_often_as_allowed_and_resume_what_was_saved(tmp_path, start):
    command = start("--num-gpus", 2, "--max-restarts", 2, "--endless", tmp_path)
    lost = [1, 0, 1]
    try:
        starts = []
        for rank in lost:
            starts.append([facts(tmp_path, rank) for rank in range(2)])
            for path in tmp_path.iterdir():
                path.unlink()
            if len(starts) == 1:
                (tmp_path / "checkpoints").touch()  # those of the second start save one
            os.kill(starts[-1][rank][0], signal.SIGKILL)
        errors = command.communicate(timeout=TIMEOUT)[1]
    finally:
        command.kill()
    assert command.returncode == 1
    assert len({values[0] for found in starts for values in found}) == 6
    resumed = [0, 0, 1]
    assert [[values[1:3] + values[5:] for values in found] for found in starts] == [[[2, 3, r]] * 2 for r in resumed]
    killed = [f"process {rank} (pid {found[rank][0]}) was killed by SIGKILL" for rank, found in zip(lost, starts)]
    first, restart, *rest = errors.splitlines()
    assert killed[0] in first and restart == "restart 1 of at most 2"
    again = rest.index("restart 2 of at most 2")
    assert killed[1] in rest[again - 1] and killed[2] in rest[-1] and errors.count("restart ") == 2


def test_a_wrong_input_is_wrong_the_second_time_too(tmp_path, start):
    command = start("--max-restarts", 3, "--wrong", tmp_path)
    assert command.communicate(timeout=TIMEOUT)[1] == "error: no such path: check it\n"
    assert command.returncode == 2
