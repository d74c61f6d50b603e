"""CUHK02: nothing to prepare, the archive unpacks to what is read."""

from __future__ import annotations

from fastreid.data.datasets.cuhk02 import CUHK02, NUM_PAIRS, PERSON_RANGE
from fastreid.data.prepare.base import Part, Preparation


class PrepareCUHK02(Preparation):
    """Five pairs of cameras."""

    name, folder = "cuhk02", CUHK02.folder
    archive_folders = ("Dataset",)
    train_readers = ("DG_CUHK02",)
    published, expected = {"images": 7264, "people": 1816}, "7,264 / 1,816"

    def parts(self) -> list[Part]:
        """Ten folders."""
        return [
            Part(
                f"P{pair}/cam{view}",
                CUHK02.pattern,
                CUHK02.example,
                lambda match, pair=pair, view=view: (pair * PERSON_RANGE + int(match[1]), 2 * pair + view),
            )
            for pair in range(1, NUM_PAIRS + 1)
            for view in (1, 2)
        ]
