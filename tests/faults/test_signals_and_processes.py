"""Signals from outside, and processes of a run that die."""

import os
import signal
import subprocess
import time

import pytest


@pytest.mark.parametrize("sent, workers", [(signal.SIGTERM, 2), (signal.SIGINT, 0)], ids=["SIGTERM", "SIGINT"])
def test_a_signal_to_all_processes_saves_and_stops(work, sent, workers):
    command = work.start("run", "DATALOADER.NUM_WORKERS", workers)
    work.wait_for_checkpoint("run")
    os.killpg(command.pid, sent)
    output = command.finish(status=128 + sent)
    last = work.last("run")
    iteration = work.content("run", last)["iteration"]
    assert output.endswith(f"stopped by {sent.name}: the same command with --resume goes on from {last}\n")
    assert output.count(f"{sent.name}: stopping after this iteration") == 1 and "Traceback" not in output
    assert last == f"model_{iteration:07d}.pth"
    if sent == signal.SIGTERM:  # in the middle of an epoch, and on with fewer workers
        later = f"model_{(iteration // 4 + 2) * 4 - 1:07d}.pth"
        output = work.train_until("run", later, "--resume", "DATALOADER.NUM_WORKERS", 1)
        assert f"resumed {work.folder / 'run' / last}" in output
        work.assert_like_the_reference("run", later)


def test_a_worker_that_is_killed_ends_the_run_with_its_name_and_the_checkpoint_of_before(work):
    command = work.start("run", "DATALOADER.NUM_WORKERS", 1)
    saved = work.wait_for_checkpoint("run")
    worker = command.workers()[0]
    os.kill(worker, signal.SIGKILL)
    output = command.finish(status=2)
    message = output.splitlines()[-1]
    assert message.startswith("error: ") and f"DataLoader worker (pid {worker}) is killed by signal: " in message
    assert "--resume" in message and "Traceback" not in output
    assert work.last("run") >= saved and work.content("run", work.last("run"))["iteration"] >= 3


def test_a_second_run_in_a_folder_that_a_living_one_writes_into_is_an_error(work):
    first = work.start("run")
    work.wait_for_checkpoint("run")
    config = (work.folder / "run" / "config.yaml").read_bytes()
    for words in (["SOLVER.BASE_LR", 0.5], ["--resume"]):
        output = work.start("run", *words).finish(status=2)
        message = output.splitlines()[-1]
        assert (
            message.startswith(f"error: {work.folder / 'run'} is in use by process {first.pid}")
            and "Traceback" not in output
        )
    assert (work.folder / "run" / "config.yaml").read_bytes() == config
    os.kill(first.pid, signal.SIGTERM)
    first.finish(status=128 + signal.SIGTERM)


@pytest.fixture
def namespaces():
    """The right to a /dev/shm of one's own."""
    if (
        os.geteuid() != 0
        or subprocess.run(["unshare", "-m", "mount", "--make-rprivate", "/"], capture_output=True).returncode
    ):
        pytest.skip("no right to mount another /dev/shm")


@pytest.mark.parametrize("where", ["training", "test"])
def test_too_little_shared_memory_is_one_line(work, namespaces, where):
    large = [
        "INPUT.SIZE_TRAIN",
        [128, 64],
        "INPUT.SIZE_TEST",
        [128, 64],
        "DATALOADER.NUM_WORKERS",
        1,
        "TEST.IMS_PER_BATCH",
        6,
    ]
    words = large if where == "training" else ["--eval-only", *large, "MODEL.WEIGHTS", "untrained"]
    output = work.start("run", *words, shared_memory="400k").finish(status=2)
    message = output.splitlines()[-1]
    assert message.startswith("error: ") and "--shm-size" in message and "Traceback" not in output


def test_a_signal_stops_a_run_whose_loader_gives_nothing(work):
    """A network folder that does not answer, by a pipe in an image's place."""
    command = work.start("run", "DATALOADER.NUM_WORKERS", 1, "SOLVER.WRITE_PERIOD", 1, patience=0.2)
    saved = work.wait_for_checkpoint("run")
    for image in (work.data / "b" / "train").iterdir():
        image.unlink()
        os.mkfifo(image)
    written, since, longest = len(command.path.read_text()), time.monotonic(), 0.5
    while time.monotonic() - since < 4 * longest:  # until the log, of a line an iteration, stands still
        if written != len(command.path.read_text()):
            longest = max(longest, time.monotonic() - since)
            written, since = len(command.path.read_text()), time.monotonic()
        time.sleep(0.05)
    os.kill(command.pid, signal.SIGTERM)
    output = command.finish(status=128 + signal.SIGTERM)
    assert "stopped by SIGTERM, as no batch came: the same command with --resume goes on from model_" in output
    assert "Traceback" not in output and work.last("run") >= saved
