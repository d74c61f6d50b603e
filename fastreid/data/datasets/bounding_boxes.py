"""The layout that Market-1501 introduced and DukeMTMC-reID follows."""

from __future__ import annotations

import re
from typing import ClassVar

from fastreid.data.datasets.bases import Items, ReidDataset, TestSet

JUNK = -1  # a box that is neither a person of the set nor a clear distractor: used nowhere
DISTRACTOR = 0  # a box of nobody in particular: makes the gallery harder


class BoundingBoxDataset(ReidDataset):
    """Folders bounding_box_train, query and bounding_box_test, with identity and camera in each file name."""

    pattern: ClassVar[re.Pattern]
    example: ClassVar[str]

    def train(self) -> Items:
        """The images of bounding_box_train."""
        items = self.read_part("bounding_box_train")
        return items[items.pids > DISTRACTOR]

    def test(self) -> TestSet:
        """Queries against bounding_box_test, with its distractors and without its junk."""
        query, gallery = self.read_part("query"), self.read_part("bounding_box_test")
        return TestSet.from_query_gallery(query[query.pids > DISTRACTOR], gallery[gallery.pids != JUNK])

    def read_part(self, folder: str) -> Items:
        """All images of one of the three folders."""
        return self.read_images(self.subfolder(folder), self.pattern, self.example)

    def read_all_people(self) -> Items:
        """The images of all three folders, without distractors and junk."""
        parts = [self.read_part(folder) for folder in ("bounding_box_train", "query", "bounding_box_test")]
        items = Items.concatenate(parts)
        return items[items.pids > DISTRACTOR]
