"""Run a script that stops when the process that started it is gone, even by kill -9.

    python -m fastreid.utils.tether SCRIPT [ARGUMENT ...]

Standard input must be a pipe whose other end the starting process holds and never writes to. When that process is gone,
the input ends, and the script gets SIGTERM, at which training saves a checkpoint.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def stop_with_starter() -> None:
    """Wait until the starting process is gone, then send this process SIGTERM."""
    while os.read(sys.__stdin__.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=stop_with_starter, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
