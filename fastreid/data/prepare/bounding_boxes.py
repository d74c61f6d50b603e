"""Market-1501 and DukeMTMC-reID: nothing to prepare, the archives unpack to what is read."""

from __future__ import annotations

from typing import ClassVar

from fastreid.data.datasets import Items
from fastreid.data.datasets.bounding_boxes import DISTRACTOR, BoundingBoxDataset
from fastreid.data.datasets.dukemtmc import DukeMTMC
from fastreid.data.datasets.market1501 import Market1501
from fastreid.data.prepare.base import Part, Preparation


class BoundingBoxes(Preparation):
    """Three folders; distractors and junk are read but not counted."""

    reader: ClassVar[type[BoundingBoxDataset]]

    def parts(self) -> list[Part]:
        """The three folders."""
        return [
            Part(folder, self.reader.pattern, self.reader.example)
            for folder in ("bounding_box_train", "query", "bounding_box_test")
        ]

    def counted(self, items: Items) -> Items:
        """The images of people of the set."""
        return items[items.pids > DISTRACTOR]


class PrepareMarket1501(BoundingBoxes):
    """Market-1501."""

    name, folder, reader = "market1501", Market1501.folder, Market1501
    archive_folders = ("Market-1501",)
    train_readers, test_readers = ("DG_Market1501", "Market1501"), ("Market1501",)
    published, expected = {"images": 29_419, "people": 1501}, "29,419 / 1,501"


class PrepareDukeMTMC(BoundingBoxes):
    """DukeMTMC-reID."""

    name, folder, reader = "dukemtmc", DukeMTMC.folder, DukeMTMC
    train_readers, test_readers = ("DG_DukeMTMC", "DukeMTMC"), ("DukeMTMC",)
    published, expected = {"images": 36_411, "people": 1812}, "36,411 / 1,812"
