"""A lock on a folder: that of a command, together with the processes it starts, or of a process to its end."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastreid.utils.errors import UserError
from fastreid.utils.files import is_alive, open_own

logger = logging.getLogger(__name__)

POLL = 0.2  # seconds
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what a file system without locks answers

_held: dict[tuple[int, Path], int] = {}  # descriptors, by this process's id (a forked one's are its parent's) and path


@contextmanager
def lock_file(path: Path, patience: float = 120.0) -> Iterator[int]:
    """Hold a lock as long as the block lasts, and give its file descriptor; see `take_lock`."""
    descriptor = take_lock(path, patience)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def hold_lock(path: Path, patience: float = 120.0) -> None:
    """Take a lock for as long as this process lives, once; see `take_lock`."""
    key = os.getpid(), path.absolute()
    if key not in _held:
        _held[key] = take_lock(path, patience)


def take_lock(path: Path, patience: float) -> int:
    """Take a lock and return its file descriptor, which holds it until it is closed.

    Processes that inherit the descriptor hold the lock too, until they end: the system gives it back, so that no stale
    lock is left by processes that were killed, on this machine or, where the file system is shared, on another. The
    file, which stays, holds the holder's process id and machine.

    Args:
        patience: seconds to wait for the children of a holder that is gone, which are about to end.

    Raises:
        UserError: another process holds it, or the file cannot be written, or is a link.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another folder") from error
    try:
        acquire(descriptor, path, patience)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {platform.node()}".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


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
            holder, _, machine = os.pread(descriptor, 512, 0).decode(errors="replace").partition(" ")
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logger.warning(
                f"{path.parent} is on a file system without locks: see to it that nothing else writes into it"
            )
            return
        elsewhere = machine not in ("", platform.node())
        if elsewhere or is_alive(holder) or time.monotonic() - since > patience:
            where = f" on {machine}" if elsewhere else ""
            raise UserError(
                f"{path.parent} is in use by process {holder or 'unknown'}{where}, or by one that it started: wait for "
                "its end, or stop it, or choose another folder"
            )
        if not told:
            logger.info(f"waiting for what process {holder}, which is gone, has started in {path.parent}")
            told = True
        time.sleep(POLL)
