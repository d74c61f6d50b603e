"""Random splits that are drawn once, are the same on every machine, and are kept in a JSON file beside the images.

File format (`splits.json`, `splits_single_shot.json`): a list with one object per split,

    [{"name": "split_1", "query": ["cam_a/000_45.bmp", ...], "gallery": ["cam_b/000_90.bmp", ...]}, ...]

where file names are relative to the folder of the JSON file, with forward slashes. Files of the published programs are
read too: there an entry of query or gallery is a row [path, identity, camera] with a path of the machine that wrote it,
or a bare file name, and a split has no name. A path means the one image that ends as it does.
"""

from __future__ import annotations

import json
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fastreid.data.datasets.bases import Split
from fastreid.utils.errors import UserError
from fastreid.utils.files import write_text

logger = logging.getLogger(__name__)

NUM_SPLITS = 10
SEED = 2020
T = TypeVar("T")


@dataclass(frozen=True)
class NamedSplit:
    """A split by file names relative to the data set's folder."""

    name: str
    query: list[str]
    gallery: list[str]


def shuffled(values: Sequence[T], purpose: str) -> list[T]:
    """The values in a random order that depends on nothing but their order and `purpose`.

    Sorting by Random.random() rather than Random.shuffle(): only the sequence of random() is promised to stay the same
    in every version of Python.
    """
    generator = random.Random(f"{SEED}/{purpose}")
    keys = [generator.random() for _ in values]
    return [values[index] for index in sorted(range(len(values)), key=keys.__getitem__)]


def drawn_names(dataset: str) -> list[str]:
    """The names of splits that are drawn at random; the log says that these are none of the published ones."""
    logger.info(
        "%s: no split files: %d splits are drawn from a fixed seed. The published figures belong to the splits of "
        "the published test download; other splits give other numbers",
        dataset,
        NUM_SPLITS,
    )
    return [f"split_{number}" for number in range(1, NUM_SPLITS + 1)]


def stored_splits(
    path: Path,
    known: Sequence[str],
    draw: Callable[[], list[NamedSplit]],
    expand: Callable[[dict], dict] = lambda entry: entry,
    *,
    keep: bool = True,
) -> list[NamedSplit]:
    """The splits in the file `path`; without one they are drawn, and the file is written if `keep`.

    Args:
        known, expand: see `read_splits`.

    Raises:
        UserError: an existing file cannot be used. A file that cannot be written is a warning only, since the same
            splits are drawn again next time.
    """
    if path.exists():
        return read_splits(path, known, expand)
    splits = draw()
    if keep:
        _write(path, splits)
    return splits


def index_splits(splits: Sequence[NamedSplit], names: Sequence[str]) -> list[Split]:
    """Splits as indices into `names`."""
    index = {name: number for number, name in enumerate(names)}
    return [
        Split(
            split.name,
            np.array([index[name] for name in split.query], dtype=np.int64),
            np.array([index[name] for name in split.gallery], dtype=np.int64),
        )
        for split in splits
    ]


def unusable(path: Path, reason: str) -> UserError:
    """The error that an existing splits file cannot be used."""
    return UserError(
        f"the splits file {path} cannot be used: {reason}; fix it, or delete it to have it made again "
        f"(splits that are drawn here give other numbers than published ones)"
    )


def _write(path: Path, splits: Sequence[NamedSplit]) -> None:
    text = json.dumps([vars(split) for split in splits], indent=1) + "\n"
    try:
        write_text(path, text)
    except UserError as error:
        logger.warning("%s: using the splits from memory; they are the same at every run", error)


def read_splits(
    path: Path, known: Sequence[str], expand: Callable[[dict], dict] = lambda entry: entry, count: int = NUM_SPLITS
) -> list[NamedSplit]:
    """The splits in the file `path`.

    Args:
        known: file names that splits may use.
        expand: turns an entry of another layout into one with query and gallery.
        count: how many splits the file must hold.

    Raises:
        UserError: it cannot be used.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unusable(path, f"it cannot be read as JSON ({error})") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise unusable(path, "expected a list of objects with query and gallery")
    if len(entries) != count:
        raise unusable(path, f"expected {count} splits, found {len(entries)}")
    images = defaultdict(list)
    for name in known:
        images[name.rpartition("/")[2]].append(name)
    depth = known[0].count("/") + 1
    splits = []
    for number, entry in enumerate(entries, start=1):
        entry = expand(entry)
        name = str(entry.get("name", f"split_{number}"))
        parts = {part: _file_names(path, name, part, entry.get(part), depth) for part in ("query", "gallery")}
        splits.append(
            NamedSplit(name, **{part: _find(path, f"{part} of {name}", names, images) for part, names in parts.items()})
        )
    return splits


def _file_names(path: Path, split: str, part: str, entries: Any, depth: int) -> list[str]:
    """The last parts of paths, out of a list of paths or of [path, identity, camera] rows."""
    if not isinstance(entries, list) or not entries:
        raise unusable(path, f"{part} of {split} must be a list of file names, with one at least")
    names = []
    for entry in entries:
        file_name = entry[0] if isinstance(entry, list) and entry else entry
        if not isinstance(file_name, str):
            raise unusable(path, f"{part} of {split} holds {entry!r} where a file name is expected")
        names.append("/".join(file_name.replace("\\", "/").split("/")[-depth:]))
    return names


def _find(path: Path, part: str, names: Sequence[str], images: dict[str, list[str]]) -> list[str]:
    """The images that `names` are the ends of; `images` lists them by bare file name."""
    found = [
        [image for image in images.get(name.rpartition("/")[2], ()) if f"/{image}".endswith(f"/{name}")]
        for name in names
    ]
    wrong = [(name, same) for name, same in zip(names, found, strict=True) if len(same) != 1]
    if wrong:
        name, same = wrong[0]
        reason = "stands for several of" if same else "is not among"
        alike = same or [
            image
            for images_so_named in images.values()
            for image in images_so_named
            if Path(image).stem == Path(name).stem
        ]
        there = f"; there is {' and '.join(alike[:2])}" if alike else ""
        raise unusable(
            path,
            f"{part} names {name}, which {reason} the images of {path.parent} ({len(wrong)} of "
            f"{len(names)} such names{there})",
        )
    return [image for [image] in found]
