"""Files that appear only when they are complete."""

from __future__ import annotations

import csv
import json
import os
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from fastreid.utils.errors import UserError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to, and rename it to `path` if the block ends well.

    The temporary name keeps the suffix, by which many writers choose the format.

    Raises:
        UserError: the folder cannot be made or written to; an existing file at `path` is as it was.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path} ({reason}): check the folder, its permissions and space") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file as a whole."""
    write_text(path, json.dumps(value, indent=2) + "\n")


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
