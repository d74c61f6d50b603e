"""Market-1501."""

from __future__ import annotations

import re

from fastreid.data.datasets.bases import Items, ReidDataset, TestSet
from fastreid.data.datasets.bounding_boxes import BoundingBoxDataset


class Market1501(BoundingBoxDataset):
    """Market-1501: boxes of a person detector, six cameras before a supermarket.

    Reference: L. Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015.
    URL: https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html
    Statistics: 1,501 people; train 12,936 images of 751, query 3,368 of 750, gallery 15,913 with distractors.
    Licence: for research use; see the page above.
    Files: `0002_c1s1_000451_03.jpg` = identity 2, camera 1; identity 0 is a distractor, -1 junk.
    """

    folder = "Market-1501-v15.09.15"
    pattern = re.compile(r"(?P<pid>-?\d+)_c(?P<camid>\d+)s\d+_")
    example = "0002_c1s1_000451_03.jpg"


class DGMarket1501(Market1501):
    """Market-1501 as a source domain: all three folders without distractors and junk, 29,419 images of 1,501 people."""

    test_name = "Market1501"

    def train(self) -> Items:
        """The people's images of all three folders."""
        return self.read_all_people()

    def test(self) -> TestSet:
        """Raises UserError: every image is trained on."""
        return ReidDataset.test(self)
