"""GRID, PRID, i-LIDS and VIPeR: the archives unpack to what is read, the splits are made when they are read first."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from fastreid.data.datasets import Items
from fastreid.data.datasets.grid import DISTRACTOR, GRID
from fastreid.data.datasets.ilids import ILIDS
from fastreid.data.datasets.prid import LAST_SHARED_PERSON, PRID
from fastreid.data.datasets.viper import CAMERA_A, CAMERA_B, VIPeR, VIPeRAllVariants, pid_and_camid, split_folders
from fastreid.data.prepare.base import Part, Preparation
from fastreid.data.prepare.layout import folders_in
from fastreid.utils.errors import UserError

OTHER_CAMERA = 1_000_000  # added to numbers that mean other people in PRID's camera b


class PrepareGRID(Preparation):
    """GRID: probes, gallery with other people, splits from features_and_partitions.mat."""

    name, folder = "grid", GRID.folder
    archive_folders = ("underground_reid",)
    test_readers, split_files = ("DG_GRID",), ("splits.json",)
    published, expected = {"pairs": 250, "other images": 775}, "250 pairs + 775 others"

    def parts(self) -> list[Part]:
        """probe and gallery."""
        return [Part(folder, GRID.pattern, GRID.example) for folder in ("probe", "gallery")]

    def num_people(self, items: Items) -> int:
        """Other people have no number, and are not counted."""
        return len(np.unique(items.pids[items.pids != DISTRACTOR]))

    def count(self, items: dict[str, Items]) -> dict[str, int]:
        """People in both folders, and images of others."""
        probe, gallery = items["probe"].pids, items["gallery"].pids
        pairs = np.intersect1d(probe[probe != DISTRACTOR], gallery)
        return {"pairs": len(pairs), "other images": int((gallery == DISTRACTOR).sum())}


class PreparePRID(Preparation):
    """PRID 2011, single shot."""

    name, folder = "prid", PRID.folder
    test_readers, split_files = ("DG_PRID",), ("splits_single_shot.json",)
    published, expected = {"images in camera a": 385, "images in camera b": 749}, "385 + 749"

    def parts(self) -> list[Part]:
        """The two cameras; above the last person in both, a number means another person in each."""

        def number(pid: int, camera: int) -> int:
            return pid + OTHER_CAMERA * (camera == 1 and pid > LAST_SHARED_PERSON)

        return [
            Part(
                f"single_shot/{folder}",
                PRID.pattern,
                PRID.example,
                lambda match, camera=camera: (number(int(match[1]), camera), camera),
            )
            for camera, folder in enumerate(("cam_a", "cam_b"))
        ]

    def count(self, items: dict[str, Items]) -> dict[str, int]:
        """Images of each camera."""
        return {f"images in camera {camera}": len(items[f"single_shot/cam_{camera}"]) for camera in "ab"}


class PrepareILIDS(Preparation):
    """QMUL i-LIDS."""

    name, folder = "ilids", ILIDS.folder
    archive_folders = ("i-LIDS_Pedestrian",)
    test_readers, split_files = ("DG_iLIDS",), ("splits.json",)
    published, expected = {"images": 476, "people": 119}, "476 / 119"

    def parts(self) -> list[Part]:
        """The one folder."""
        return [Part("images", ILIDS.pattern, ILIDS.example, aliases=("Persons",))]


class PrepareVIPeR(Preparation):
    """VIPeR from its two cameras, or from folders split_1a.. of copies, which are used as they are."""

    name, folder = "viper", VIPeR.folder
    test_readers, split_files = ("DG_VIPeR",), ("splits.json",)
    published, expected = {"pairs": 632}, "632 pairs"

    @property
    def splits(self) -> list[Path]:
        """The split folders, none in the layout with cameras' folders."""
        return split_folders(self.path) if self.path.is_dir() else []

    def top_folders(self) -> list[str]:
        """Also while the set's own folder is missing and its split folders lie beside it."""
        beside = [] if self.path.is_dir() else split_folders(self.root)
        return [split.name for split in beside] or super().top_folders()

    def parts(self) -> list[Part]:
        """cam_a and cam_b, or the folders of the splits, of which the reader tells which are missing."""
        if not self.splits:
            deeper = (
                [split.name for outer in folders_in(self.path) for split in split_folders(outer)]
                if self.path.is_dir()
                else []
            )
            return [self.part(name, CAMERA_A) for name in deeper[:1]] or [
                self.part("cam_a", CAMERA_A),
                self.part("cam_b", CAMERA_B),
            ]
        return [
            self.part(f"{split.name}/{part}", CAMERA_B if (part == "gallery") != (split.name[-1] in "cd") else CAMERA_A)
            for split in self.splits
            for part in ("train", "query", "gallery")
            if (split / part).is_dir()
        ]

    @staticmethod
    def part(folder: str, camera: int) -> Part:
        """One folder, all of one camera unless the names say another."""
        return Part(folder, VIPeR.pattern, VIPeR.example, partial(pid_and_camid, folder_camid=camera))

    def read(self) -> None:
        """The reader of the published test; variants b, c and d need not be there, but it is noted if only some are."""
        super().read()
        if any(split.name[-1] != "a" for split in self.splits):
            try:
                VIPeRAllVariants(self.root, "ALL_VIPER_10").test()
            except UserError as error:
                self.add("variants incomplete", self.text(error, "ALL_VIPER_10"), fatal=False)

    def counted(self, items: Items) -> Items:
        """Each person once in each camera, though split folders hold many copies."""
        _, first = np.unique(items.pids * 2 + items.camids, return_index=True)
        return items[first] if self.splits else items

    def count(self, items: dict[str, Items]) -> dict[str, int]:
        """People seen by both cameras."""
        everything = Items.concatenate(list(items.values()))
        views = [everything.pids[everything.camids == camera] for camera in (CAMERA_A, CAMERA_B)]
        return {"pairs": len(np.intersect1d(*views))}
