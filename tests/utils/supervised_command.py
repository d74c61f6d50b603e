"""A command of two processes; started by test_supervision.py with what its second process does."""

import os
import signal
import subprocess
import sys
import time

from fastreid.utils.errors import Stopped, UserError, run_command
from fastreid.utils.supervision import Supervisor


def work(rank, deed):
    # Like a loader's worker: it does not look after itself.
    worker = subprocess.Popen(["sleep", "60"])
    if deed == "stop at a signal":
        signal.signal(signal.SIGTERM, stop)
    os.write(1, f"pids {rank} {os.getpid()} {worker.pid}\n".encode())  # at once: two processes write
    if deed == "succeed":
        worker.kill()
        return
    if rank == 0 or deed == "stop at a signal":
        wait()
    time.sleep(0.5)  # until both have said who they are
    if deed == "raise":
        raise ArithmeticError("the cause")
    if deed == "wrong input":
        raise UserError("no such path: check it")
    if deed == "exit":
        sys.exit(3)
    wait()


def wait():
    """Wait a minute, in moments: a signal that comes just before a sleep is seen after it."""
    for _ in range(600):
        time.sleep(0.1)


def stop(number, frame):
    raise Stopped("stopped: --resume goes on", number)


if __name__ == "__main__":
    supervisor = Supervisor()
    for number in range(2):
        supervisor.add(work, number, sys.argv[1])
    run_command(supervisor.run)
