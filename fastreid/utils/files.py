"""Files that appear only when they are complete."""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import shutil
import stat
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from fastreid.utils.errors import UserError
from fastreid.utils.text import spreadsheet_text

logger = logging.getLogger(__name__)


@contextmanager
def atomic_path(path: Path, durable: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and rename it to `path` if the block ends well.

    The temporary name keeps the suffix, by which many writers choose the format.

    Args:
        durable: wait until file and name are on the disk, so that a crash of the machine leaves the old or the new
            file, too; slow for many small files.

    Raises:
        UserError: the folder cannot be made or written to; an existing file at `path` is as it was.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.{os.getpid()}.tmp{path.suffix}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if durable:
                sync(temporary)
            os.replace(temporary, path)
            if durable:
                sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path`, into a UserError that says so."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path} ({reason}): check the folder, its permissions and space") from error


def open_own(path: Path, flags: int) -> int:
    """Open a file of this program by its fixed name, and return the descriptor; no link leads to another file.

    Where others may write, as in a shared folder, they could have put a link there, to a file of this user.

    Raises:
        UserError: it is a link, has a second name, or is no regular file.
        OSError: it cannot be opened.
    """
    refused = UserError(
        f"{path} is a link, or no file of one name: it is not written to, as others may have put it there; remove it"
    )
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR):
            raise refused from error
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise refused
    return descriptor


def refuse_inputs(output: Path, inputs: Iterable[Path]) -> None:
    """Raise UserError if the file that a command will write is one that it reads, by whatever name."""
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise UserError(
                f"--output {output} is {path}, which this command reads and would replace: choose another name"
            )


def require_folder(output: Path) -> None:
    """Raise UserError if what a command will make a folder, or write into, is a file."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file, expected a folder to write into: choose another name")


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed, not of those that live: a test beside the run."""
    for path in folder.glob(f".{'[0-9a-f]' * 32}.*tmp*"):
        writer = path.name.split(".")[2]  # "tmp" in names of earlier versions, which hold no process
        # In a container, the process that was killed may have had the number of this one, which is writing nothing yet.
        if writer == str(os.getpid()) or not is_alive(writer):
            path.unlink(missing_ok=True)


def is_alive(pid: str) -> bool:
    """Tell whether there is a process of that number on this machine; the text is that of a file, or of its name."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as a whole, and durably.

    Raises:
        UserError: it cannot be written, for example as there is no space, which the message tells; the old file stays.
    """
    needed = f"{len(data) / 2**20:,.1f} MB"
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < len(data):
        raise UserError(
            f"cannot write {path}: it needs {needed}, and {free / 2**20:,.1f} MB are free: make space and --resume"
        )
    with atomic_path(path, durable=True) as temporary:
        try:
            temporary.write_bytes(data)
        except OSError as error:  # quotas are not in disk_usage, and others write, too
            raise OSError(error.errno, f"{error.strerror}, {needed} needed") from error


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write a text file as a whole; bytes of names that are not UTF-8 are escaped."""
    with atomic_path(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write a JSON file as a whole."""
    write_text(path, json.dumps(value, indent=2) + "\n", durable)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys, which are the header, as CSV: see `write_rows`."""
    header = list(rows[0]) if rows else []
    write_rows(path, header, ([row[key] for key in header] for row in rows))


def write_rows(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write CSV; None is an empty field, and no text is one that a spreadsheet would run as a formula.

    Raises:
        UserError: the file cannot be written.
    """
    options = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
    with atomic_path(path) as temporary, temporary.open("w", **options) as file:
        writer = csv.writer(file)
        for row in chain([header], rows):
            writer.writerow(spreadsheet_text(cell) if isinstance(cell, str) else cell for cell in row)


def home_path(text: str) -> Path:
    """Return a path of a command line; ~ is the home folder, which shells leave in --option=~/x and in quotes."""
    return Path(text).expanduser()


def walk_folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder at or below `root`, links followed, with the names of its files and broken links.

    A folder that can be reached in several ways comes once, by its own name if that is below `root`. One that cannot be
    listed is passed over with a warning.
    """
    seen: set[tuple[int, int]] = set()
    roots = deque([root])
    while roots:
        for place, folders, names in os.walk(roots.popleft(), onerror=warn_of_folder):
            state = os.stat(place)
            if (state.st_dev, state.st_ino) in seen:
                folders.clear()
                continue
            seen.add((state.st_dev, state.st_ino))
            folders.sort()
            # Later, so that what a link leads to goes by its own name.
            roots.extend(Path(place, folder) for folder in folders if Path(place, folder).is_symlink())
            yield Path(place), names


def warn_of_folder(error: OSError) -> None:
    """Log that a folder cannot be listed."""
    logger.warning(f"passed over the folder {error.filename}, which cannot be listed ({error.strerror})")


def file_stem(name: str) -> str:
    """Return a data set's name as a file name without suffix; not all file systems take the colon of `folder:x`."""
    return name.replace(":", "_")
