"""MSMT17, version 1 or 2."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import ClassVar

from fastreid.data.datasets.bases import Items, ReidDataset, TestSet
from fastreid.data.datasets.files import inside, require_dataset_folder, require_file, require_subfolder
from fastreid.utils.errors import UserError

IMAGE_FOLDERS = {"MSMT17_V1": ("train", "test"), "MSMT17_V2": ("mask_train_v2", "mask_test_v2")}
LINE = re.compile(r"(?P<file>(?:.*/)?[^_/]+_[^_/]+_(?P<camid>\d{1,9})_[^/]*\S)\s+(?P<pid>\d{1,9})\s*")
EXAMPLE = "0000/0000_000_01_0303morning_0008_0.jpg 0"
TEST_PEOPLE = 1_000_000  # added to the numbers of the test part's people, which begin with 0 again


class MSMT17(ReidDataset):
    """MSMT17: fifteen cameras indoors and outdoors, over four days; version 2 has the background people masked.

    Reference: L. Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-identification", CVPR 2018.
    URL: https://www.pkuvmc.com/dataset.html
    Statistics: 126,441 images of 4,101 people; train 30,248 images of 1,041 (2,373 more of them are for validation and
    used by DG_MSMT17 only), query 11,659 and gallery 82,161 of 3,060.
    Licence: for academic use, under a signed agreement.
    Files: list_{train,query,gallery}.txt with lines `0000/0000_000_01_0303morning_0008_0.jpg 0`, file (camera 1) and
    identity, below train and test in MSMT17_V1, mask_train_v2 and mask_test_v2 in MSMT17_V2. If both versions are
    there, the first is used.
    """

    versions: ClassVar[tuple[str, ...]] = tuple(IMAGE_FOLDERS)

    def find_folder(self) -> Path:
        """The folder of the version that is there."""
        return require_dataset_folder(self.name, self.root, self.versions)

    def train(self) -> Items:
        """The images of list_train.txt."""
        return self.read_list("list_train.txt", IMAGE_FOLDERS[self.path.name][0])

    def test(self) -> TestSet:
        """The images of list_query.txt against those of list_gallery.txt."""
        folder = IMAGE_FOLDERS[self.path.name][1]
        return TestSet.from_query_gallery(
            self.read_list("list_query.txt", folder), self.read_list("list_gallery.txt", folder)
        )

    def read_list(self, list_name: str, folder_name: str) -> Items:
        """The images that a list file names; raises UserError for a line it cannot read and for missing images."""
        list_path, folder = require_file(self.name, self.path / list_name), self.subfolder(folder_name)
        rows, by_folder = [], {}
        for number, line in enumerate(
            list_path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), start=1
        ):
            if not line.strip():
                continue
            match = LINE.fullmatch(line)
            if match is None or not inside(match["file"]):
                raise UserError(
                    f"{self.name}: line {number} of {list_path} is {line!r}: expected a file below "
                    f"{folder_name} and its identity as in '{EXAMPLE}'; unpack the list again"
                )
            parent, _, file_name = match["file"].rpartition("/")
            by_folder.setdefault(parent, []).append(file_name)
            rows.append((f"{folder}/{match['file']}", int(match["pid"]), int(match["camid"])))
        if not rows:
            raise UserError(f"{self.name}: {list_path} is empty: expected lines like '{EXAMPLE}'; unpack it again")
        for parent, file_names in by_folder.items():
            present = set(os.listdir(require_subfolder(self.name, folder / parent)))
            absent = [file_name for file_name in file_names if file_name not in present]
            if absent:
                raise UserError(
                    f"{self.name}: the image {folder / parent / absent[0]} that {list_name} names is "
                    f"missing: check that the data set was unpacked whole"
                )
        return Items.from_rows(rows)


class MSMT17V1(MSMT17):
    """Version 1 only."""

    versions = ("MSMT17_V1",)


class MSMT17V2(MSMT17):
    """Version 2 only."""

    versions = ("MSMT17_V2",)


class DGMSMT17(MSMT17):
    """MSMT17 as a source domain: the images of all four lists, 126,441 of 4,101 people."""

    test_name = "MSMT17"

    def train(self) -> Items:
        """The images of list_train.txt, list_val.txt, list_query.txt and list_gallery.txt."""
        train_folder, test_folder = IMAGE_FOLDERS[self.path.name]
        learned = [self.read_list(f"list_{part}.txt", train_folder) for part in ("train", "val")]
        tested = Items.concatenate([self.read_list(f"list_{part}.txt", test_folder) for part in ("query", "gallery")])
        return Items.concatenate([*learned, Items(tested.paths, tested.pids + TEST_PEOPLE, tested.camids)])

    def test(self) -> TestSet:
        """Raises UserError: every image is trained on."""
        return ReidDataset.test(self)


class DGMSMT17V1(DGMSMT17):
    """Version 1 only."""

    versions, test_name = ("MSMT17_V1",), "MSMT17_V1"


class DGMSMT17V2(DGMSMT17):
    """Version 2 only."""

    versions, test_name = ("MSMT17_V2",), "MSMT17_V2"
