"""Whether image files can be read, each decoded to its last row."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from fastreid.data.common import DECODER_ERRORS
from fastreid.data.prepare.jobs import run_jobs


def damage(path: str) -> tuple[str, str] | None:
    """(path, reason) of an image that cannot be read; None if it can."""
    try:
        with Image.open(path) as image:
            # A JPEG decoded at an eighth of its size is still read to its end, which is where copies break off.
            image.draft("RGB", (1, 1))
            image.load()
    except DECODER_ERRORS as error:
        return path, " ".join(str(error).replace(repr(path), "it").split())
    return None


def unreadable(paths: Sequence[str], workers: int, description: str) -> list[tuple[str, str]]:
    """(path, reason) of all images that cannot be read, in the order of their paths."""
    return sorted(filter(None, run_jobs(damage, paths, workers, description, chunk=64)))
