"""Images that a user names as files, folders and globs."""

from __future__ import annotations

import csv
import glob
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastreid.data.datasets.files import IMAGE_SUFFIXES
from fastreid.utils.errors import UserError
from fastreid.utils.files import walk_folders

logger = logging.getLogger(__name__)

NAMED_FILES = 3  # in a warning about many
# What a search writes into its output folder: by them its pictures are known, which show the images that are there.
RESULTS, RESULTS_HEADER, PICTURES = "results.csv", ("query", "rank", "image", "distance"), "pictures"


def find_images(inputs: Sequence[str]) -> list[str]:
    """Return the paths of the images that files, folders (with those inside) and globs name, each once, in their order.

    Within a folder or glob images are in the order of their names; folders are followed through links. Hidden files and
    folders are passed over, and with a warning: files without an image's suffix, links to nowhere, and pictures that a
    search has drawn. A file that is named itself is an image whatever its name.

    Raises:
        UserError: an input does not exist, matches nothing or holds no images.
    """
    paths: list[str] = []
    for entry in map(os.path.expanduser, inputs):
        if os.path.isfile(entry):
            paths.append(entry)
            continue
        matches = [entry] if os.path.isdir(entry) else glob.glob(entry, recursive=True)
        paths += only_images(entry, sorted({file for match in matches for file in files_of(Path(match))}))
    # A link may lead to a folder that was named as well.
    folders = {folder: os.path.realpath(folder) for folder in set(map(os.path.dirname, paths))}
    unique: dict[tuple[str, str], str] = {}
    for path in paths:
        unique.setdefault((folders[os.path.dirname(path)], os.path.basename(path)), path)
    return list(unique.values())


def files_of(match: Path) -> list[Path]:
    """Return a file, or the files in a folder and those inside, without hidden ones."""
    if not match.is_dir():
        return [match]
    found = []
    for folder, names in walk_folders(match):
        if not any(part.startswith(".") for part in folder.relative_to(match).parts):
            found += [folder / name for name in names if not name.startswith(".")]
    return found


def only_images(entry: str, files: list[Path]) -> list[str]:
    """Return those files that are images to all appearance, and name the others in warnings."""
    drawn_in = {folder for folder in {path.parent for path in files} if is_drawn_by_search(folder)}
    images: list[str] = []
    others: dict[str, list[Path]] = {}
    suffixes = ", ".join(IMAGE_SUFFIXES)
    for path in files:
        if path.parent in drawn_in:
            others.setdefault("that a search has drawn", []).append(path)
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            others.setdefault(f"that are no images ({suffixes})", []).append(path)
        elif not path.is_file():
            others.setdefault("that are links to nowhere", []).append(path)
        else:
            images.append(str(path))
    if not images:
        kind = "the folder" if os.path.isdir(entry) else "no file, folder or pattern"
        problem = "has no images" if os.path.isdir(entry) else "leads to images"
        why = "; ".join(f"{len(found)} {reason}" for reason, found in others.items() if "no images" not in reason)
        count = sum(map(len, others.values()))
        raise UserError(
            f"{kind} {entry} {problem}: expected {suffixes} files, found {count} other files{why and f' ({why})'}"
        )
    for reason, found in others.items():
        more = f" and {len(found) - NAMED_FILES} more" if len(found) > NAMED_FILES else ""
        named = ", ".join(map(str, found[:NAMED_FILES])) + more
        logger.warning(f"{entry}: passed over {len(found)} file(s) {reason}: {named}")
    return images


def is_drawn_by_search(folder: Path) -> bool:
    """Tell whether a folder holds the pictures of a search: it lies beside the search's results."""
    if folder.name != PICTURES:
        return False
    try:
        with (folder.parent / RESULTS).open(newline="", encoding="utf-8", errors="replace") as file:
            return next(csv.reader(file), None) == list(RESULTS_HEADER)
    except (OSError, csv.Error):  # no such file, or no such table
        return False


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
