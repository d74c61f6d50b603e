"""VIPeR."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from fastreid.data.datasets.bases import Items, ReidDataset, Split, TestSet
from fastreid.data.datasets.splits import (
    NUM_SPLITS,
    NamedSplit,
    drawn_names,
    index_splits,
    shuffled,
    stored_splits,
    unusable,
)
from fastreid.utils.errors import UserError

CAMERA_A, CAMERA_B = 0, 1
REPAIR = (
    "unpack the published test download again, whole; or remove all split folders, and splits of the images in cam_a "
    "and cam_b are drawn, which give other numbers"
)


def split_folders(folder: Path) -> list[Path]:
    """The folders split_1a.. of the layout with copies of the images for each split, none in the other layout."""
    return sorted(entry for entry in folder.iterdir() if re.fullmatch(r"split_\d+[a-d]", entry.name))


def pid_and_camid(match: re.Match, folder_camid: int) -> tuple[int, int]:
    """Identity and camera of a file name: p000_c1_d045 has the camera in it, of 000_45 it is the folder's."""
    return int(match["pid"]), int(match["camera"]) - 1 if match["camera"] else folder_camid


class VIPeR(ReidDataset):
    """VIPeR: two outdoor cameras, one image per person and camera.

    Reference: D. Gray, S. Brennan and H. Tao, "Evaluating Appearance Models for Recognition, Reacquisition, and
    Tracking", PETS 2007.
    URL: https://vision.soe.ucsc.edu/node/178
    Statistics: 632 people; ten splits into halves of 316. Each split has four variants: a trains on the first half and
    tests on the second with camera a as query, b swaps the halves, c is a and d is b with camera b as query.
    Licence: for research use; see the page above.
    Files: {cam_a,cam_b}/`000_45.bmp` = person 0, angle 45, splits kept in splits.json (variant a, from which the others
    follow); or, if there are such folders, those of the published test download, split_1a.. split_10d with copies of
    the images, {train,query,gallery}/`p000_c1_d045.png` = person 0, camera a, angle 45.
    """

    folder = "viper"
    variants: ClassVar[str] = "a"
    num_splits: ClassVar[int] = NUM_SPLITS
    pattern = re.compile(r"(?P<p>p)?(?P<pid>\d+)(?(p)_c(?P<camera>[12]))(?=[_.])")
    example = "000_45.bmp or p000_c1_d045.png"

    def test(self) -> TestSet:
        """The class's splits in each of its variants, from split folders if there are any, else from the cameras."""
        return self.test_from_split_folders() if split_folders(self.path) else self.test_from_cameras()

    def test_from_cameras(self) -> TestSet:
        """Splits of the images in cam_a and cam_b."""
        camera_a, camera_b = self.read_folder("cam_a", CAMERA_A), self.read_folder("cam_b", CAMERA_B)
        images_a, images_b = self.one_image_per_person(camera_a), self.one_image_per_person(camera_b)
        unpaired = sorted(images_a.keys() ^ images_b.keys())
        if unpaired:
            raise UserError(
                f"{self.name}: person {unpaired[0]} has an image in one of {self.path}/cam_a and cam_b "
                f"only ({len(unpaired)} such people): check that the data set was unpacked whole"
            )
        people = sorted(images_a)
        splits_path = self.path / "splits.json"

        def files_of(tested: list[int]) -> tuple[list[str], list[str]]:
            return [images_a[pid] for pid in tested], [images_b[pid] for pid in tested]

        def draw() -> list[NamedSplit]:
            if len(people) < 2:
                raise UserError(f"{self.name}: the protocol needs 2 people or more, found {len(people)} in {self.path}")
            names = drawn_names(self.name)
            halves = [sorted(shuffled(people, f"VIPeR/{name}")[len(people) // 2 :]) for name in names]
            return [NamedSplit(f"{name}a", *files_of(half)) for name, half in zip(names, halves, strict=True)]

        file_names = [*images_a.values(), *images_b.values()]
        splits = []
        for first in stored_splits(splits_path, file_names, draw, keep=self.keeps_splits)[: self.num_splits]:
            if not set(first.query) <= set(images_a.values()) or not set(first.gallery) <= set(images_b.values()):
                raise unusable(splits_path, f"{first.name} must have queries of cam_a and a gallery of cam_b")
            others = [pid for pid in people if images_a[pid] not in set(first.query)]
            if not others and set("bd") & set(self.variants):
                raise unusable(splits_path, f"{first.name} has everybody in its query, so halves cannot be swapped")
            forward, swapped = (first.query, first.gallery), files_of(others)
            ways = {"a": forward, "b": swapped, "c": forward[::-1], "d": swapped[::-1]}
            base = first.name.removesuffix("a")
            splits += [NamedSplit(f"{base}{variant}", *ways[variant]) for variant in self.variants]
        return TestSet(Items.concatenate([camera_a, camera_b]), index_splits(splits, file_names))

    def test_from_split_folders(self) -> TestSet:
        """The splits laid out as folders; a person's image that several of them hold a copy of becomes one item."""
        names = [f"split_{number}{variant}" for number in range(1, self.num_splits + 1) for variant in self.variants]
        self.require_split_folders(names)
        rows: dict[tuple[int, int, bytes], tuple[int, str]] = {}  # (pid, camid, digest) -> item number and path

        def numbers_of(items: Items) -> np.ndarray:
            numbers = []
            for path, pid, camid in zip(items.paths.tolist(), items.pids.tolist(), items.camids.tolist(), strict=True):
                digest = hashlib.blake2b(Path(path).read_bytes()).digest()
                numbers.append(rows.setdefault((pid, camid, digest), (len(rows), path))[0])
            return np.array(numbers, dtype=np.int64)

        splits = []
        for name in names:
            cameras = (CAMERA_A, CAMERA_B) if name[-1] in "ab" else (CAMERA_B, CAMERA_A)
            query, gallery = (
                self.read_folder(f"{name}/{part}", camera)
                for part, camera in zip(("query", "gallery"), cameras, strict=True)
            )
            absent = np.setdiff1d(query.pids, gallery.pids)
            if len(absent):
                raise UserError(
                    f"{self.name}: person {absent[0]} is in {self.path / name}/query but not in its gallery "
                    f"({len(absent)} such people): {REPAIR}"
                )
            splits.append(Split(name, numbers_of(query), numbers_of(gallery)))
        return TestSet(Items.from_rows((path, pid, camid) for (pid, camid, _), (_, path) in rows.items()), splits)

    def require_split_folders(self, names: Sequence[str]) -> None:
        """Raise UserError if the layout with split folders is there only in part."""
        wanted = [f"{name}/{part}" for name in names for part in ("query", "gallery")]
        absent = [name for name in wanted if not (self.path / name).is_dir()]
        if absent:
            raise UserError(
                f"{self.name}: {self.path} has split folders, but not all: no {absent[0]} ({len(absent)} of "
                f"{len(wanted)} folders are missing, from {names[0]} to {names[-1]}): {REPAIR}"
            )

    def read_folder(self, folder: str, camid: int) -> Items:
        """The images of one folder, all of one camera unless their names say another."""
        return self.read_images(
            self.subfolder(folder), self.pattern, self.example, partial(pid_and_camid, folder_camid=camid)
        )


class VIPeRFirstFive(VIPeR):
    """VIPeR with the first five of the ten splits."""

    num_splits = 5


class VIPeRAllVariants(VIPeR):
    """VIPeR with all four variants of the ten splits, forty in all."""

    variants = "abcd"


class VIPeRAllVariantsFirstFive(VIPeRAllVariants, VIPeRFirstFive):
    """VIPeR with all four variants of the first five splits, twenty in all."""
