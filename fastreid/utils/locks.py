"""A lock that a command holds on a folder, together with the processes it starts."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

POLL = 0.2  # seconds


@contextmanager
def lock_file(path: Path, patience: float = 120.0) -> Iterator[int]:
    """Hold a lock as long as the block lasts, and give its file descriptor.

    Processes that inherit the descriptor hold the lock too, until they end: the system gives it back, so that no stale
    lock is left by processes that were killed. The file, which stays, holds the holder's process id.

    Args:
        patience: seconds to wait for the children of a holder that is gone, which are about to end.

    Raises:
        UserError: another process holds it, or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another folder") from error
    try:
        acquire(descriptor, path, patience)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def acquire(descriptor: int, path: Path, patience: float) -> None:
    """Take the lock, as soon as the children of a holder that is gone have ended.

    Raises:
        UserError: the holder lives, or its children do not end.
    """
    since, told = time.monotonic(), False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace")
        if is_alive(holder) or time.monotonic() - since > patience:
            raise UserError(
                f"{path.parent} is in use by process {holder or 'unknown'}, or by one that it started: wait for its end, "
                "or stop it"
            )
        if not told:
            logger.info(f"waiting for what process {holder}, which is gone, has started in {path.parent}")
            told = True
        time.sleep(POLL)


def is_alive(pid: str) -> bool:
    """Tell whether there is a process of that number; the text is a lock file's."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # another user's
        return True
    return True
