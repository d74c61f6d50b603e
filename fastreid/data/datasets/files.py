"""Finding and listing a data set's folders and files, with errors that say what to do."""

from __future__ import annotations

import difflib
import logging
import os
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

MOST_BYTES = 255  # of a file's name
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png")
OTHER_PICTURES = (".webp", ".tif", ".tiff", ".gif", ".jfif", ".jp2", ".avif", ".heic", ".ppm", ".pgm", ".tga")
ROOT_ADVICE = (
    "set FASTREID_DATASETS to the folder that holds the data sets, or link it with "
    "'sh symbolic_link_dataset.sh <folder>'"
)


def tool_advice(name: str) -> str:
    """The command that prepares the data set or says what is wrong with it; nothing for a folder of one's own."""
    if name.startswith("folder:"):
        return ""
    return f", or run 'python tools/prepare_datasets.py {name}', which prepares it or says what is wrong"


def datasets_root() -> Path:
    """The folder that holds the data sets: $FASTREID_DATASETS, or `datasets` in the current folder."""
    return Path(os.environ.get("FASTREID_DATASETS") or "datasets").expanduser()


def require_dataset_folder(name: str, root: Path, candidates: Sequence[str]) -> Path:
    """The first of `candidates` that is a folder under `root`; raises UserError with the likely mistake if none is."""
    if not root.is_dir():
        raise UserError(f"{name}: the data root {root} is missing{_broken_link(root)}: {ROOT_ADVICE}")
    for candidate in candidates:
        if (root / candidate).is_dir():
            return root / candidate
    expected = " or ".join(f"{root / candidate}" for candidate in candidates)
    found = next(filter(None, (likely_mistake(root / candidate) for candidate in candidates)), "")
    raise UserError(f"{name}: the data set's folder {expected} is missing{found}: put it there, or {ROOT_ADVICE}")


def require_subfolder(name: str, folder: Path) -> Path:
    """`folder` itself if it is one; raises UserError saying what is in its place otherwise."""
    if folder.is_dir():
        return folder
    mistake = likely_mistake(folder)
    if not mistake and folder.parent.is_dir():
        entries = sorted(entry.name + "/" * entry.is_dir() for entry in folder.parent.iterdir())
        shown = ", ".join(entries[:6]) + (", ..." if len(entries) > 6 else "")
        mistake = f" ({folder.parent} holds {shown})" if entries else f" ({folder.parent} is empty)"
    raise UserError(
        f"{name}: the folder {folder} is missing{mistake}: check that the data set was unpacked whole"
        f"{tool_advice(name)}"
    )


def require_file(name: str, path: Path) -> Path:
    """`path` itself if it is a file; raises UserError otherwise."""
    if not path.is_file():
        raise UserError(
            f"{name}: the file {path} is missing: check that the data set was unpacked whole{tool_advice(name)}"
        )
    return path


def image_names(name: str, folder: Path) -> list[str]:
    """The image file names in `folder`, sorted; hidden files and other kinds of files are passed over.

    Raises:
        UserError: the folder is missing, cannot be read or has no images.
    """
    require_subfolder(name, folder)
    images, others = list_images(name, folder)
    if not images:
        raise UserError(
            f"{name}: the folder {folder} has no images: expected {', '.join(IMAGE_SUFFIXES)} files, "
            f"found {others} other files: check that the data set was unpacked whole{tool_advice(name)}"
        )
    return images


def list_images(name: str, folder: Path) -> tuple[list[str], int]:
    """The image file names in `folder`, sorted, and how many other files it has; UserError if it cannot be read.

    Pictures of other formats, which nothing reads, are named in a warning.
    """
    files = [entry.name for entry in list_entries(name, folder) if entry.is_file()]
    images = sorted(file for file in files if file.lower().endswith(IMAGE_SUFFIXES) and not file.startswith("."))
    pictures = sorted(file for file in files if file.lower().endswith(OTHER_PICTURES) and not file.startswith("."))
    if pictures:
        logger.warning(
            f"{name}: {len(pictures)} file(s) in {folder} are passed over, as {pictures[0]}: only "
            f"{', '.join(IMAGE_SUFFIXES)} are read; convert them"
        )
    return images, len(files) - len(images)


def list_folders(name: str, folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted, without hidden ones; UserError if it cannot be read."""
    entries = list_entries(name, folder)
    return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def list_entries(name: str, folder: Path) -> list[os.DirEntry]:
    """What is in `folder`; UserError if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{name}: cannot list the folder {folder} ({error.strerror}): check its permissions") from error


def inside(path: str) -> bool:
    """Tell whether a path out of a list stays in its folder: relative, nowhere up, and one that a system can have."""
    try:
        parts = [os.fsencode(part) for part in path.replace("\\", "/").split("/")]
    except UnicodeEncodeError:
        return False
    return b".." not in parts and all(0 < len(part) <= MOST_BYTES and b"\0" not in part for part in parts)


def load_mat(name: str, path: Path, keys: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read variables of a MATLAB v5 file; raises UserError if it is missing, unreadable or lacks one not `optional`."""
    from scipy.io import loadmat  # imported late: only two data sets need it, and it takes a while
    from scipy.io.matlab import MatReadError

    require_file(name, path)
    try:
        variables = loadmat(path, variable_names=list(keys))
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError, zlib.error) as error:
        raise UserError(f"{name}: cannot read {path} as a MATLAB v5 file ({error}): unpack it again") from error
    for key in keys:
        if key not in variables and key not in optional:
            raise UserError(f"{name}: {path} has no variable {key}: expected {', '.join(keys)}; unpack it again")
    return {key: variables[key] for key in keys if key in variables}


def _broken_link(path: Path) -> str:
    """The remark that `path` is a symbolic link to nowhere, or nothing."""
    return f" (it is a link to {os.readlink(path)}, which is not there)" if path.is_symlink() else ""


def likely_mistake(expected: Path) -> str:
    """Why the folder `expected` is probably not found: a dangling link, a file, or another spelling of the name."""
    if expected.is_symlink():
        return _broken_link(expected)
    if expected.exists():
        return " (it is a file, not a folder)"
    if not expected.parent.is_dir():
        return ""
    siblings = sorted(entry.name for entry in expected.parent.iterdir() if entry.is_dir())
    alike = [sibling for sibling in siblings if names_alike(sibling, expected.name)]
    nearest = difflib.get_close_matches(expected.name, alike, n=1, cutoff=0.0)
    return f" (found {nearest[0]}/, expected {expected.name}/)" if nearest else ""


def names_alike(found: str, expected: str) -> bool:
    """Whether two folder names are spellings of one: equal up to signs, one within the other, or a typing slip."""
    parts = [re.split(r"[\W_]+", folder.lower()) for folder in (found, expected)]
    found, expected = ("".join(words) for words in parts)
    if found == expected:
        return True
    short, long = sorted((found, expected), key=len)
    if 4 <= len(short) >= len(long) / 2 and short in long:
        return True
    # With other digits it is another data set (cuhk02 and cuhk03), with another word another part (cam_a and cam_b).
    same_digits = re.sub(r"\D", "", found) == re.sub(r"\D", "", expected)
    same_words = len(parts[0]) != len(parts[1]) or all(_similar(*words) >= 0.6 for words in zip(*parts, strict=True))
    return same_digits and same_words and _similar(found, expected) >= 0.75


def _similar(one: str, other: str) -> float:
    """How alike two texts are, 0..1."""
    return difflib.SequenceMatcher(None, one, other).ratio()
