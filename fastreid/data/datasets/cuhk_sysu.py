"""CUHK-SYSU (person search), as crops."""

from __future__ import annotations

import re

from fastreid.data.datasets.bases import Items, ReidDataset


class CUHKSYSU(ReidDataset):
    """CUHK-SYSU: people in street photographs and films, each scene image standing for a camera.

    Reference: T. Xiao et al., "Joint Detection and Identification Feature Learning for Person Search", CVPR 2017.
    URL: http://www.ee.cuhk.edu.hk/~xgwang/PS/dataset.html
    Statistics: 34,574 crops of 11,934 people.
    Licence: for academic use, on request from the authors.
    Files: cropped_image/`p00001_n01_s00001_hard0.png` = person 1, appearance 1, scene 1, not marked hard; cut from
    Image/SSM by annotation/Person.mat.
    """

    folder = "CUHK-SYSU"
    pattern = re.compile(r"p(?P<pid>\d+)_n\d+_s(?P<camid>\d+)_hard\d")
    example = "p00001_n01_s00001_hard0.png"

    def train(self) -> Items:
        """All crops."""
        return self.read_images(self.subfolder("cropped_image"), self.pattern, self.example)
