"""CUHK02."""

from __future__ import annotations

import re

from fastreid.data.datasets.bases import Items, ReidDataset

NUM_PAIRS = 5
PERSON_RANGE = 1_000_000  # people are numbered from 1 in each camera pair: identity = pair * PERSON_RANGE + number


class CUHK02(ReidDataset):
    """CUHK02: five pairs of cameras, each with people of its own.

    Reference: W. Li and X. Wang, "Locally Aligned Feature Transforms across Views", CVPR 2013.
    URL: http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html
    Statistics: 7,264 images of 1,816 people (971, 306, 107, 193 and 239 in the pairs), ten cameras.
    Licence: for academic use, on request from the authors.
    Files: P1..P5/{cam1,cam2}/`001_0123456.png`, identity = pair and first number; cameras are numbered 0..9.
    """

    folder = "cuhk02"
    pattern = re.compile(r"(\d{1,6})_\d")
    example = "001_0123456.png"

    def train(self) -> Items:
        """All images."""
        return Items.concatenate([self.read_camera(pair, view) for pair in range(1, NUM_PAIRS + 1) for view in (1, 2)])

    def read_camera(self, pair: int, view: int) -> Items:
        """The images of one camera of a pair."""
        camid = 2 * (pair - 1) + view - 1
        return self.read_images(
            self.subfolder(f"P{pair}", f"cam{view}"),
            self.pattern,
            self.example,
            lambda match: (pair * PERSON_RANGE + int(match[1]), camid),
        )
