"""What a data set hands over: arrays of items for training, items with query/gallery splits for testing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fastreid.data.datasets.files import image_names, require_dataset_folder, require_subfolder
from fastreid.utils.errors import UserError

MOST = 2**53  # beyond all numbers that data sets have, and within what arrays and files hold


@dataclass(frozen=True, eq=False)
class Items:
    """Images with their identities and cameras, as arrays so that loader workers share the memory.

    Attributes:
        paths: (N,) unicode.
        pids: (N,) int64, the data set's own identity numbers.
        camids: (N,) int64, >= 0, not necessarily dense: the camera number in the file name, or numbered from 0 where
            the camera is given by a folder.
    """

    paths: np.ndarray
    pids: np.ndarray
    camids: np.ndarray

    def __post_init__(self) -> None:
        if not (self.paths.ndim == 1 and self.paths.shape == self.pids.shape == self.camids.shape):
            raise ValueError(
                f"expected three 1-D arrays of one length, found shapes {self.paths.shape}, "
                f"{self.pids.shape} and {self.camids.shape}"
            )
        if len(self) and self.camids.min() < 0:
            raise ValueError(f"camera numbers must be >= 0, found {self.camids.min()}")

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, int, int]]) -> Items:
        """Build from (path, pid, camid) rows; raises UserError for a number that is too large for an array."""
        rows = list(rows)
        for path, *numbers in rows:
            if max(numbers, default=0) > MOST:
                raise UserError(
                    f"{path}: the name holds the number {max(numbers)}, expected identity and camera up to "
                    f"{MOST}: rename or remove the file"
                )
        return cls(
            np.array([row[0] for row in rows], dtype=np.str_),
            np.array([row[1] for row in rows], dtype=np.int64),
            np.array([row[2] for row in rows], dtype=np.int64),
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Items]) -> Items:
        """Join several item sets in the order given; none at all gives an empty one."""
        if not parts:
            return cls.from_rows([])
        return cls(
            np.concatenate([part.paths for part in parts]),
            np.concatenate([part.pids for part in parts]),
            np.concatenate([part.camids for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index):
        """An int gives (path, pid, camid) as Python values; a slice, mask or index array gives `Items`."""
        if isinstance(index, (int, np.integer)):
            return str(self.paths[index]), int(self.pids[index]), int(self.camids[index])
        return Items(self.paths[index], self.pids[index], self.camids[index])


@dataclass(frozen=True, eq=False)
class Split:
    """One query/gallery protocol over the items of a `TestSet`: two int64 index arrays into them."""

    name: str
    query: np.ndarray
    gallery: np.ndarray


@dataclass(frozen=True, eq=False)
class TestSet:
    """The images of a test, each once, and the splits that use them, so that features are computed once per image."""

    __test__ = False  # keeps pytest from collecting the class because of its name

    items: Items
    splits: list[Split]

    @classmethod
    def from_query_gallery(cls, query: Items, gallery: Items) -> TestSet:
        """A test with a single split whose query and gallery images are different files."""
        order = np.arange(len(query) + len(gallery))
        return cls(Items.concatenate([query, gallery]), [Split("split_1", order[: len(query)], order[len(query) :])])


def pid_and_camid(match: re.Match) -> tuple[int, int]:
    """Identity and camera from the groups `pid` and `camid` of a file name pattern."""
    return int(match["pid"]), int(match["camid"])


class ReidDataset:
    """A data set found at `root / folder`; subclasses override `train`, `test` or both.

    Args:
        root: of all data sets.
        name: by which it was asked for, for messages.

    Raises:
        UserError: the root or the folder is missing.
    """

    folder: ClassVar[str] = ""
    test_name: ClassVar[str] = ""  # the name to test on instead, of a set that is for training only
    keeps_splits = True  # whether splits that had to be drawn are written to the data set's folder

    def __init__(self, root: Path, name: str) -> None:
        self.root = Path(root)
        self.name = name
        self.path = self.find_folder()

    def find_folder(self) -> Path:
        """The data set's folder; raises UserError if it is missing."""
        return require_dataset_folder(self.name, self.root, [self.folder])

    def train(self) -> Items:
        """The images to train on; raises UserError for a set that is for testing only."""
        raise UserError(
            f"{self.name} has no training part: name it in DATASETS.TESTS only, and take it out of "
            f"DATASETS.NAMES and META.DATA.NAMES"
        )

    def test(self) -> TestSet:
        """The images and splits to test on; raises UserError for a set that is for training only."""
        instead = f"use {self.test_name} there" if self.test_name else "use another data set there"
        raise UserError(f"{self.name} has no query and gallery, it cannot be in DATASETS.TESTS: {instead}")

    def subfolder(self, *parts: str) -> Path:
        """A folder inside the data set's; raises UserError if it is missing."""
        return require_subfolder(self.name, self.path.joinpath(*parts))

    def read_images(
        self,
        folder: Path,
        pattern: re.Pattern,
        example: str,
        decode: Callable[[re.Match], tuple[int, int]] = pid_and_camid,
    ) -> Items:
        """List a folder's images in name order and read identity and camera from each name.

        `pattern` is matched from the start of the file name, `decode` turns the match into (pid, camid).

        Raises:
            UserError: the folder is empty, or a name does not match; `example` is the name expected.
        """
        rows = []
        for file_name in image_names(self.name, folder):
            match = pattern.match(file_name)
            if match is None:
                raise self.bad_name(folder / file_name, example)
            rows.append((f"{folder}/{file_name}", *decode(match)))
        return Items.from_rows(rows)

    def bad_name(self, path: Path, example: str) -> UserError:
        """The error that a file name cannot be read."""
        return UserError(
            f"{self.name}: cannot read identity and camera from the file name {path}: expected names like "
            f"{example}; rename or remove the file"
        )

    def one_image_per_person(self, items: Items) -> dict[int, str]:
        """Image file name (relative to the data set's folder) by identity; raises UserError if somebody has two."""
        images: dict[int, str] = {}
        for path, pid in zip(items.paths.tolist(), items.pids.tolist(), strict=True):
            file_name = self.relative_name(path)
            if pid in images:
                raise UserError(
                    f"{self.name}: person {pid} has two images in one camera, {images[pid]} and "
                    f"{file_name} in {self.path}, where the protocol has one: remove one"
                )
            images[pid] = file_name
        return images

    def relative_name(self, path: str) -> str:
        """The path of an item relative to the data set's folder."""
        return path.removeprefix(f"{self.path}/")
