"""Images that a user names as files, folders and globs."""
from __future__ import annotations

import glob
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastreid.data.datasets.files import IMAGE_SUFFIXES
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

NAMED_FILES = 3  # in a warning about many


def find_images(inputs: Sequence[str]) -> list[str]:
    """Return the paths of the images that files, folders (with those inside) and globs name, each once, in their order.

    Within a folder or glob images are in the order of their names; hidden files are passed over, and files without an
    image's suffix with a warning that names them. A file that is named itself is an image whatever its suffix.

    Raises:
        UserError: an input does not exist, matches nothing or holds no images.
    """
    paths: list[str] = []
    for entry in inputs:
        if Path(entry).is_file():
            paths.append(entry)
            continue
        if Path(entry).is_dir():
            files = sorted(path for path in Path(entry).rglob("*") if path.is_file())
        else:
            files = sorted(path for path in map(Path, glob.glob(entry, recursive=True)) if path.is_file())
        paths += only_images(entry, [path for path in files if not path.name.startswith(".")])
    return list(dict.fromkeys(paths))


def only_images(entry: str, files: list[Path]) -> list[str]:
    """Return those files that have an image's suffix, and name the others in a warning."""
    images = [str(path) for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [str(path) for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
    suffixes = ", ".join(IMAGE_SUFFIXES)
    if not images:
        kind = "the folder" if Path(entry).is_dir() else "no file, folder or pattern"
        problem = "has no images" if Path(entry).is_dir() else "leads to images"
        raise UserError(f"{kind} {entry} {problem}: expected {suffixes} files, found {len(others)} other files")
    if others:
        more = f" and {len(others) - NAMED_FILES} more" if len(others) > NAMED_FILES else ""
        named = ", ".join(others[:NAMED_FILES]) + more
        logger.warning(f"{entry}: passed over {len(others)} file(s) that are no images ({suffixes}): {named}")
    return images


def file_states(paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sizes in bytes and times of change in nanoseconds of files, two (N,) int64 arrays.

    Raises:
        UserError: a file is missing.
    """
    states = np.empty((len(paths), 2), np.int64)
    for row, path in enumerate(paths):
        try:
            state = Path(path).stat()
        except OSError as error:
            raise UserError(f"the image {path} cannot be read ({error.strerror}): check the path") from error
        states[row] = state.st_size, state.st_mtime_ns
    return states[:, 0].copy(), states[:, 1].copy()
