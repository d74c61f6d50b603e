"""Files that appear only when they are complete."""

from __future__ import annotations

import csv
import json
import os
import shutil
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from fastreid.utils.errors import UserError


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
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp{path.suffix}")
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


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed; no other run may be writing into the folder."""
    for path in folder.glob(f".{'[0-9a-f]' * 32}.tmp*"):
        path.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file as a whole, and durably.

    Raises:
        UserError: it cannot be written, for example for want of space, which the message tells; the old file stays.
    """
    needed = f"{len(data) / 2**20:,.1f} MB"
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < len(data):
        raise UserError(f"cannot write {path}: it needs {needed}, and {free / 2**20:,.1f} MB are free: make space and --resume")
    with atomic_path(path, durable=True) as temporary:
        try:
            temporary.write_bytes(data)
        except OSError as error:  # quotas are not in disk_usage, and others write, too
            raise OSError(error.errno, f"{error.strerror}, {needed} needed") from error


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write a text file as a whole."""
    with atomic_path(path, durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, durable: bool = False) -> None:
    """Write a JSON file as a whole."""
    write_text(path, json.dumps(value, indent=2) + "\n", durable)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys, which are the header, as CSV; None is an empty field.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def file_stem(name: str) -> str:
    """Return a data set's name as a file name without suffix; not all file systems take the colon of `folder:x`."""
    return name.replace(":", "_")
