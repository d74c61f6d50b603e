"""kill -9 at random moments: the resumed run ends with exactly what the uninterrupted one ends with."""

import os
import random
import signal
import time
from pathlib import Path


def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(work, kills):
    ends = ["SOLVER.MAX_ITER", work.epochs, "SOLVER.CHECKPOINT_KEEP", 2]
    saved = [(work.reference / f"model_{4 * n - 1:07d}.pth").stat().st_mtime for n in (1, 3)]
    epoch_seconds = (saved[1] - saved[0]) / 2

    rng = random.Random(2021)
    for kill in range(kills):
        before = work.last("killed")
        command = work.start("killed", *ends, "DATALOADER.NUM_WORKERS", kill % 3, *(["--resume"] if before else []))
        if kill % 4 != 3:  # most kills come after some progress, some while the run still starts
            work.wait_for_checkpoint("killed", before)
        time.sleep(rng.random() * epoch_seconds)
        os.kill(command.pid, signal.SIGKILL)
        command.finish(status=-signal.SIGKILL)
        print(f"kill {kill + 1}: {before or 'start'} -> {work.last('killed')}")

    output = work.start("killed", "--resume", *ends).finish()
    assert f"resumed {work.folder / 'killed' / 'model_'}" in output
    work.assert_like_the_reference("killed")
    numbered = [name for name in work.names("killed") if name.startswith("model_0")]
    assert numbered == [f"model_{4 * n - 1:07d}.pth" for n in (work.epochs - 2, work.epochs - 1)]
    assert not [name for name in work.names("killed") if ".tmp" in name]


def test_a_lost_process_is_replaced_and_the_run_ends_like_one_that_was_not(work):
    command = work.start("restarted", "SOLVER.MAX_ITER", work.epochs, "--max-restarts", 1, fork=True)
    saved = work.wait_for_checkpoint("restarted", work.wait_for_checkpoint("restarted"))
    (process,) = (pid for pid in command.workers() if b"tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(process, signal.SIGKILL)
    output = command.finish()
    assert f"process 0 (pid {process}) was killed by SIGKILL" in output and "restart 1 of at most 1" in output
    assert f"resumed {work.folder / 'restarted' / saved[:9]}" in output
    work.assert_like_the_reference("restarted")
