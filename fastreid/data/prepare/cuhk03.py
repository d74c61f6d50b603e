"""CUHK03: images and classic splits out of cuhk-03.mat, the new protocol out of its two .mat files.

Format of cuhk-03.mat, MATLAB v7.3, that is HDF5, in which MATLAB's dimensions come in reverse order:

    detected, labeled   5 cells, the camera pairs; each a cell of people x 10 views, the first 5 of view 1; each of
                        these an RGB image, (3, W, H) uint8 in HDF5, or empty
    testsets            20 cells, the classic splits; each 100 x 2 numbers: pair and person, both from 1

A cell holds references to other objects of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
from PIL import Image

from fastreid.data.datasets import build_dataset
from fastreid.data.datasets.cuhk03 import (
    CUHK03,
    NUM_CLASSIC_SPLITS,
    PROTOCOL_KEYS,
    DGCUHK03Detected,
    pair_pid_and_camid,
)
from fastreid.data.datasets.splits import shuffled
from fastreid.data.prepare.base import Part, Preparation
from fastreid.data.prepare.jobs import run_jobs
from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_path, write_json

ARCHIVE = "cuhk-03.mat"
NUM_PAIRS, NUM_VIEWS, VIEW_1 = 5, 10, 5
Cell = tuple[int, int, int]  # pair, person and index of the view, all from 1


def image_name(cell: Cell) -> str:
    """The file name of an image: pair, person, view and index."""
    pair, person, index = cell
    return f"{pair}_{person:03d}_{1 if index <= VIEW_1 else 2}_{index:02d}.png"


def open_archive(path: Path) -> h5py.File:
    """Open cuhk-03.mat; raises UserError if it is not HDF5."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise UserError(
            f"cannot read {path} as a MATLAB v7.3 (HDF5) file ({' '.join(str(error).split())}): copy it "
            f"again, it is damaged or incomplete"
        ) from error


def references(file: h5py.File, item: h5py.Dataset | None, what: str) -> np.ndarray:
    """The references in a cell, in HDF5's order of dimensions; raises UserError if it is not a cell."""
    if not isinstance(item, h5py.Dataset) or item.dtype != h5py.ref_dtype:
        raise UserError(
            f"{file.filename} is not CUHK03's archive: expected a cell of references in {what}; get the file again"
        )
    return item[()]


def pair_cells(file: h5py.File, boxes: str) -> list[np.ndarray]:
    """References to images as (10, people) arrays, one for each camera pair; raises UserError for another structure."""
    pairs = references(file, file.get(boxes), boxes).ravel()
    cells = [references(file, file[pair], f"{boxes}, pair {number}") for number, pair in enumerate(pairs, start=1)]
    if len(cells) != NUM_PAIRS or any(cell.ndim != 2 or cell.shape[0] != NUM_VIEWS for cell in cells):
        found = ", ".join(" x ".join(map(str, cell.shape[::-1])) for cell in cells)
        raise UserError(
            f"{file.filename} is not CUHK03's archive: expected {NUM_PAIRS} pairs of people x {NUM_VIEWS} "
            f"views in {boxes}, found {found}; get the file again"
        )
    return cells


def images_in_archive(path: Path, boxes: str) -> list[Cell]:
    """The cells that hold an image, without reading the images; raises UserError for another structure."""
    with open_archive(path) as file:
        # MATLAB stores an empty cell as a vector of its dimensions, so what has three dimensions is an image.
        return [
            (pair, person + 1, view + 1)
            for pair, cells in enumerate(pair_cells(file, boxes), start=1)
            for person in range(cells.shape[1])
            for view in range(NUM_VIEWS)
            if file[cells[view, person]].ndim == 3
        ]


def classic_test_people(path: Path) -> list[list[tuple[int, int]]]:
    """(pair, person) of the test people of each classic split; raises UserError for another structure."""
    with open_archive(path) as file:
        sets = [np.asarray(file[cell]) for cell in references(file, file.get("testsets"), "testsets").ravel()]
    if len(sets) != NUM_CLASSIC_SPLITS or any(people.ndim != 2 or people.shape[0] != 2 for people in sets):
        raise UserError(
            f"{path} is not CUHK03's archive: expected {NUM_CLASSIC_SPLITS} lists of pair and person in "
            f"testsets, found {', '.join(str(people.shape[::-1]) for people in sets)}; get the file again"
        )
    return [[(int(pair), int(person)) for pair, person in people.T] for people in sets]


def extract(cells: Sequence[Cell], path: Path, boxes: str, folder: Path) -> int:
    """Write the images of some cells as PNG, return how many; raises UserError if one cannot be read or written."""
    with open_archive(path) as file:
        pairs = pair_cells(file, boxes)
        for cell in cells:
            pair, person, index = cell
            try:
                pixels = np.asarray(file[pairs[pair - 1][index - 1, person - 1]])
            except OSError as error:
                raise UserError(
                    f"cannot read image {image_name(cell)} out of {path} ({error}): copy the archive "
                    f"again, it is damaged"
                ) from error
            if pixels.dtype != np.uint8 or pixels.shape[0] != 3:
                raise UserError(
                    f"{path} is not CUHK03's archive: expected RGB bytes as image {image_name(cell)}, "
                    f"found {pixels.dtype} of {pixels.shape[::-1]}; get the file again"
                )
            with atomic_path(folder / image_name(cell)) as temporary:
                Image.fromarray(np.ascontiguousarray(pixels.transpose(2, 1, 0))).save(temporary, compress_level=3)
    return len(cells)


class PrepareCUHK03(Preparation):
    """CUHK03 with the boxes of a detector."""

    name, folder, boxes = "cuhk03_detected", "cuhk03", "detected"
    archive_folders = ("cuhk03_release",)
    train_readers: ClassVar[tuple[str, ...]] = ("DG_CUHK03_detected",)
    protocol_reader, classic_reader = "CUHK03", "CUHK03_classic"
    published: ClassVar[dict[str, int]] = {"images": 14_097, "people": 1467}
    expected = "14,097 / 1,467"

    def __init__(self, root: Path, check_only: bool, workers: int) -> None:
        super().__init__(root, check_only, workers)
        self.images = self.path / f"images_{self.boxes}"
        self.protocol_mat = self.path / f"cuhk03_new_protocol_config_{self.boxes}.mat"
        self.new_splits = self.path / f"splits_new_{self.boxes}.json"
        self.classic_splits = self.path / f"splits_classic_{self.boxes}.json"

    def parts(self) -> list[Part]:
        """The folder of images."""
        return [
            Part(
                self.images.name,
                DGCUHK03Detected.pattern,
                DGCUHK03Detected.example,
                pair_pid_and_camid,
                advice=f"put {self.path}/cuhk03_release/{ARCHIVE} there and run this tool",
            )
        ]

    def is_absent(self) -> bool:
        """Whether only images with the other kind of boxes are there."""
        other = self.path / f"images_{'labeled' if self.boxes == 'detected' else 'detected'}"
        return not self.images.exists() and self.archive is None and other.is_dir()

    @cached_property
    def archive(self) -> Path | None:
        """cuhk-03.mat in the folder that it unpacks to or beside it; None if it is not there."""
        places = (self.path / "cuhk03_release" / ARCHIVE, self.path / ARCHIVE)
        return next((place for place in places if place.is_file()), None)

    def prepare(self) -> None:
        """Extract the images and write the splits."""
        if self.archive is not None:
            self.prepare_images(self.archive)
            self.prepare_classic_splits(self.archive)
        self.prepare_new_splits()

    def prepare_images(self, archive: Path) -> None:
        """Extract the images that are not there yet."""
        wanted = images_in_archive(archive, self.boxes)
        present = {path.name for path in self.images.iterdir()} if self.images.is_dir() else set()
        missing = [cell for cell in wanted if image_name(cell) not in present]
        if missing and self.check_only:
            self.is_prepared = False
            self.add(
                "not prepared",
                f"{self.images.name}/ lacks {len(missing):,} of the {len(wanted):,} images in "
                f"{archive}: run this tool without --check",
            )
        elif missing:
            self.images.mkdir(exist_ok=True)
            self.remove_leftovers(self.images)
            chunks = [missing[start : start + 64] for start in range(0, len(missing), 64)]
            job = partial(extract, path=archive, boxes=self.boxes, folder=self.images)
            extracted = sum(
                run_jobs(job, chunks, self.workers, f"{self.name}: extracting", chunk=1, total=len(missing), amount=int)
            )
            self.report.made.append(f"{extracted:,} images in {self.images}")

    def prepare_classic_splits(self, archive: Path) -> None:
        """Write the 20 splits; the single gallery image of a person is drawn from a fixed seed."""
        if self.check_only or self.classic_splits.exists() or not self.images.is_dir():
            return
        views: dict[tuple[int, int, int], list[str]] = {}
        for cell in images_in_archive(archive, self.boxes):
            pair, person, index = cell
            views.setdefault((pair, person, 1 if index <= VIEW_1 else 2), []).append(
                f"{self.images.name}/{image_name(cell)}"
            )
        splits = []
        for number, people in enumerate(classic_test_people(archive), start=1):
            query = [name for person in people for name in views.get((*person, 1), [])]
            seen = [person for person in people if (*person, 2) in views]
            gallery = [shuffled(views[(*person, 2)], f"CUHK03/split_{number}/{person}")[0] for person in seen]
            splits.append({"name": f"split_{number}", "query": query, "gallery": gallery})
        write_json(self.classic_splits, splits)
        self.report.made.append(str(self.classic_splits))

    def prepare_new_splits(self) -> None:
        """Write the 767/700 split."""
        if self.new_splits.exists():
            return
        if not self.protocol_mat.is_file():
            self.add(
                "protocol missing",
                f"no file {self.protocol_mat}: {self.protocol_reader} (767/700) cannot be "
                f"used without it, {self.train_readers[0]} can; get it from the CUHK03-NP "
                f"page",
                fatal=False,
            )
        elif not self.check_only:
            dataset = build_dataset(self.protocol_reader, self.root)
            assert isinstance(dataset, CUHK03)
            try:
                columns = dataset.read_mat()
            except UserError as error:
                self.add("protocol cannot be read", self.text(error, self.protocol_reader))
                return
            write_json(self.new_splits, {key: columns[key] for key in PROTOCOL_KEYS})
            self.report.made.append(str(self.new_splits))

    def read(self) -> None:
        """The source reader, and those of the two protocols if their files are there."""
        super().read()
        if self.new_splits.exists() or self.protocol_mat.exists():
            self.read_with(self.protocol_reader, train=True, test=True)
        if self.classic_splits.exists():
            self.read_with(self.classic_reader, test=True)


class PrepareCUHK03Labeled(PrepareCUHK03):
    """CUHK03 with hand-drawn boxes."""

    name, boxes = "cuhk03_labeled", "labeled"
    train_readers = ("DG_CUHK03_labeled",)
    protocol_reader, classic_reader = "CUHK03_labeled", "CUHK03_classic_labeled"
    published, expected = {"images": 14_096, "people": 1467}, "14,096 / 1,467"
