"""Anyone's own data: `folder:<name>`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from fastreid.data.datasets.bases import Items, ReidDataset, TestSet
from fastreid.data.datasets.files import image_names, require_dataset_folder
from fastreid.utils.errors import UserError

PREFIX = "folder:"
# Nine digits at most, so that a time stamp is refused here instead of overflowing later.
NAME = re.compile(r"(?P<identity>.+?)_c(?P<camid>\d{1,9})(?!\d)")


class ImageFolder(ReidDataset):
    """A folder of one's own with train, or query and gallery, or all three.

    Files: `<identity>_c<camera>*.{jpg,jpeg,png,bmp}`, where the identity is any text and the camera a number.
    Identities are numbered from 0 in the order of their texts, for train by itself, for query and gallery together.
    """

    def find_folder(self) -> Path:
        """The folder named after `folder:`."""
        folder = self.name.removeprefix(PREFIX)
        if not folder:
            raise UserError(f"the data set name {self.name!r} lacks the folder: expected {PREFIX}<name>, the name of a "
                            f"folder in {self.root}")
        return require_dataset_folder(self.name, self.root, [folder])

    def train(self) -> Items:
        """The images of train."""
        return self.read_parts("train", use="DATASETS.NAMES")[0]

    def test(self) -> TestSet:
        """The images of query against those of gallery."""
        query, gallery = self.read_parts("query", "gallery", use="DATASETS.TESTS")
        if not np.isin(query.pids, gallery.pids).any():
            raise UserError(f"{self.name}: none of the people in {self.path / 'query'} is in {self.path / 'gallery'}: "
                            f"identities must be written the same in both")
        return TestSet.from_query_gallery(query, gallery)

    def read_parts(self, *parts: str, use: str) -> list[Items]:
        """The images of some of the three folders, with identities numbered over all of them."""
        for part in parts:
            if not (self.path / part).exists():
                there = sorted(entry.name for entry in self.path.iterdir() if entry.is_dir())
                raise UserError(f"{self.name}: no folder {self.path / part}, and a data set in {use} needs "
                                f"{' and '.join(f'{name}/' for name in parts)}; found "
                                f"{', '.join(f'{name}/' for name in there) or 'no folders'} in {self.path}")
        named = [self.read_names(self.path / part) for part in parts]
        texts = {identity for rows in named for _, identity, _ in rows}
        numbers = {identity: number for number, identity in enumerate(sorted(texts))}
        return [Items.from_rows((path, numbers[identity], camid) for path, identity, camid in rows) for rows in named]

    def read_names(self, folder: Path) -> list[tuple[str, str, int]]:
        """Path, identity text and camera of each image in a folder."""
        rows = []
        for file_name in image_names(self.name, folder):
            match = NAME.match(file_name)
            if match is None:
                raise self.bad_name(folder / file_name, "alice_c1_001.jpg (<identity>_c<camera number>*)")
            rows.append((f"{folder}/{file_name}", match["identity"], int(match["camid"])))
        return rows
