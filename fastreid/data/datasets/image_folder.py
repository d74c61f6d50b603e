"""Anyone's own data: `folder:<name>`."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastreid.data.datasets.bases import Items, ReidDataset, TestSet
from fastreid.data.datasets.files import (
    image_names,
    list_folders,
    list_images,
    require_dataset_folder,
    require_subfolder,
)
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

PREFIX = "folder:"
JUNK = "-1"  # as Market-1501 writes boxes of nobody: no person
# Nine digits at most, so that a time stamp is refused here instead of overflowing later.
NAME = re.compile(r"(?P<identity>.+?)_c(?P<camid>\d{1,9})(?!\d)")
CAMERA = re.compile(r"(?:.*?_)?c(?P<camid>\d{1,9})(?!\d)")
EXAMPLE = "alice_c1_001.jpg (<identity>_c<camera number>*)"
# Stands for the camera of an image whose name has none.
QUERY_CAMERA, OTHER_CAMERA = 0, 1


@dataclass(frozen=True)
class NamedImage:
    """An image of a folder: identity as it is written, and the camera, None if the name has none."""

    path: str
    identity: str
    camid: int | None


class ImageFolder(ReidDataset):
    """A folder of one's own with train, or query and gallery, or all three.

    Files: `<identity>_c<camera>*.{jpg,jpeg,png,bmp}`, where the identity is any text and the camera a number, or a
    folder for each person, `<identity>/*_c<camera>*.jpg`. If no image of such folders has a camera in its name, they
    are taken to be of one camera, and in a test queries to be of another one than the gallery. Identities are numbered
    from 0 in the order of their texts, for train by itself, for query and gallery together. Images of identity -1,
    junk, are left out.
    """

    def find_folder(self) -> Path:
        """The folder named after `folder:`."""
        folder = self.name.removeprefix(PREFIX)
        if not folder:
            raise UserError(
                f"the data set name {self.name!r} lacks the folder: expected {PREFIX}<name>, the name of a "
                f"folder in {self.root}"
            )
        return require_dataset_folder(self.name, self.root, [folder])

    def train(self) -> Items:
        """The images of train."""
        return self.read_parts("train", use="DATASETS.NAMES")[0]

    def test(self) -> TestSet:
        """The images of query against those of gallery."""
        query, gallery = self.read_parts("query", "gallery", use="DATASETS.TESTS")
        if not np.isin(query.pids, gallery.pids).any():
            raise UserError(
                f"{self.name}: none of the people in {self.path / 'query'} is in {self.path / 'gallery'}: "
                f"identities must be written the same in both"
            )
        return TestSet.from_query_gallery(query, gallery)

    def read_parts(self, *parts: str, use: str) -> list[Items]:
        """The images of some of the three folders, with identities numbered over all of them."""
        for part in parts:
            if not (self.path / part).exists():
                there = sorted(entry.name for entry in self.path.iterdir() if entry.is_dir())
                raise UserError(
                    f"{self.name}: no folder {self.path / part}, and a data set in {use} needs "
                    f"{' and '.join(f'{name}/' for name in parts)}; found "
                    f"{', '.join(f'{name}/' for name in there) or 'no folders'} in {self.path}"
                )
        named = [self.without_junk(self.read_names(self.path / part), part) for part in parts]
        cameras = self.cameras(parts, named)
        texts = {image.identity for images in named for image in images}
        numbers = {identity: number for number, identity in enumerate(sorted(texts))}
        return [
            Items.from_rows((image.path, numbers[image.identity], camid) for image, camid in zip(images, camids))
            for images, camids in zip(named, cameras)
        ]

    def read_names(self, folder: Path) -> list[NamedImage]:
        """The images in a folder and in those of people inside it."""
        require_subfolder(self.name, folder)
        people = list_folders(self.name, folder)
        found = []
        # Without people's folders an empty folder is an error.
        for file_name in list_images(self.name, folder)[0] if people else image_names(self.name, folder):
            match = NAME.match(file_name)
            if match is None:
                raise UserError(
                    f"{self.bad_name(folder / file_name, EXAMPLE)}, or put each person's images into a folder "
                    f"of its own, {folder.name}/<identity>/"
                )
            found.append(NamedImage(f"{folder}/{file_name}", match["identity"], int(match["camid"])))
        for person in people:
            for file_name in self.images_of(folder / person):
                match = CAMERA.match(file_name)
                camid = None if match is None else int(match["camid"])
                found.append(NamedImage(f"{folder}/{person}/{file_name}", person, camid))
        return found

    def images_of(self, folder: Path) -> list[str]:
        """The names of a person's images; raises UserError where they lie deeper."""
        names, _ = list_images(self.name, folder)
        deeper = list_folders(self.name, folder)
        if deeper:
            raise UserError(
                f"{self.name}: the person's folder {folder} holds the folder {deeper[0]}: a person's images must "
                f"lie directly in it, with the camera in their names, such as {deeper[0]}_c1.jpg"
            )
        if not names:
            logger.warning(f"{self.name}: the person's folder {folder} has no images")
        return names

    def without_junk(self, images: list[NamedImage], part: str) -> list[NamedImage]:
        """The images of people; junk is left out, with a warning."""
        kept = [image for image in images if image.identity != JUNK]
        if len(kept) < len(images):
            logger.warning(
                f"{self.name}: {len(images) - len(kept)} image(s) of identity {JUNK} in {self.path / part} are "
                f"left out: {JUNK} is no person, but what Market-1501 calls junk"
            )
        if not kept:
            raise UserError(f"{self.name}: the folder {self.path / part} has no images of people")
        return kept

    def cameras(self, parts: tuple[str, ...], named: list[list[NamedImage]]) -> list[list[int]]:
        """The camera of each image; raises UserError where only some names have one."""
        images = [image for found in named for image in found]
        without = [image for image in images if image.camid is None]
        if without and len(without) < len(images):
            raise UserError(
                f"{self.name}: {len(without)} of {len(images)} images in {', '.join(parts)} have no camera in "
                f"their names, as {without[0].path}: expected _c<camera number>, such as 001_c1.jpg, in all of "
                f"them (or in none, if cameras are not known)"
            )
        if not without:
            return [[image.camid for image in found] for found in named]
        test = " and in the test no image of the gallery is left out as one of the query's camera" * (len(parts) > 1)
        logger.warning(
            f"{self.name}: no image in {', '.join(parts)} has a camera in its name (_c<camera number>): they "
            f"count as of one camera{test}"
        )
        return [[QUERY_CAMERA if part != "gallery" else OTHER_CAMERA] * len(found) for part, found in zip(parts, named)]
