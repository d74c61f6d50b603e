"""Whether image files can be read, each decoded to its last row."""

from __future__ import annotations

from collections.abc import Sequence

from fastreid.data.decode import check_image
from fastreid.data.prepare.jobs import run_jobs


def damage(path: str) -> tuple[str, str] | None:
    """(path, reason) of an image that cannot be read; None if it can."""
    reason = check_image(path)
    return None if reason is None else (path, reason)


def unreadable(paths: Sequence[str], workers: int, description: str) -> list[tuple[str, str]]:
    """(path, reason) of all images that cannot be read, in the order of their paths."""
    return sorted(filter(None, run_jobs(damage, paths, workers, description, chunk=64)))
