"""CUHK03 and CUHK-SYSU as their publishers give them, made of synthetic images in the prepared layouts.

cuhk-03.mat is MATLAB v7.3, that is HDF5 behind a header of MATLAB's, with dimensions in reverse order: cells of
references to 5 camera pairs, each people x 10 images. CUHK-SYSU is scenes with several people each, and the boxes in
annotation/Person.mat: x y w h from 1, covering the pixels x..x+w and y..y+h.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from fastreid.utils.files import atomic_path
from tools.synthetic.layouts import mat_bytes
from tools.synthetic.people import stream
from tools.synthetic.scenes import draw_place

USER_BLOCK = 512  # bytes before the HDF5 part, of which MATLAB's header takes 128
NUM_VIEWS, NUM_SPLITS, MAX_TEST_PEOPLE = 10, 20, 100
GAP = 12  # pixels between and around the people of a scene
RAW_FILES = {"cuhk03": "cuhk03_release/cuhk-03.mat", "cuhk_sysu": "annotation/Person.mat"}  # written last


def pack(name: str, drawn: Path, folder: Path, seed: int) -> None:
    """Write the publishers' files of the set `name` into `folder`, out of the images in the folder `drawn`."""
    target = folder / RAW_FILES[name]
    target.parent.mkdir(parents=True, exist_ok=True)
    if name == "cuhk03":
        pack_cuhk03(drawn, target, seed)
    else:
        pack_cuhk_sysu(drawn, folder / "Image" / "SSM", target, seed)


class Cells:
    """Writer of MATLAB variables into an HDF5 file: arrays, and cells of references to them."""

    def __init__(self, file: h5py.File):
        self.file, self.count = file, 0

    def add(self, values: np.ndarray, kind: str, name: str = "") -> h5py.Reference:
        """Store an array, in MATLAB's order of dimensions, and return a reference to it; kind is MATLAB's class."""
        self.count += 1
        dtype = h5py.ref_dtype if kind == "cell" else None
        data = self.file.create_dataset(name or f"#refs#/{self.count:x}", data=values.T, dtype=dtype)
        data.attrs["MATLAB_class"] = np.bytes_(kind)
        return data.ref

    def add_cell(self, references: list[list[h5py.Reference]], name: str = "") -> h5py.Reference:
        """Store a cell of references, given by rows."""
        values = np.empty((len(references), len(references[0])), dtype=object)
        values[:] = references
        return self.add(values, "cell", name)

    def add_empty(self) -> h5py.Reference:
        """Store an empty array, which MATLAB does as a vector of its dimensions."""
        reference = self.add(np.zeros(2, dtype=np.uint64), "double")
        self.file[reference].attrs["MATLAB_empty"] = np.uint8(1)
        return reference


def pack_cuhk03(drawn: Path, target: Path, seed: int) -> None:
    """cuhk-03.mat out of images_detected and images_labeled."""
    with atomic_path(target) as temporary:
        with h5py.File(temporary, "w", userblock_size=USER_BLOCK) as file:
            cells = Cells(file)
            for boxes in ("detected", "labeled"):
                images: dict[tuple[int, int], dict[int, Path]] = defaultdict(dict)
                for path in sorted((drawn / f"images_{boxes}").iterdir()):
                    pair, person, _, index = (int(number) for number in re.findall(r"\d+", path.stem))
                    images[pair, person][index] = path
                pairs = []
                for pair in range(1, 6):
                    people = [person for other, person in images if other == pair]
                    pairs.append(
                        [
                            cells.add_cell(
                                [
                                    [
                                        cells.add(np.asarray(Image.open(images[pair, person][index])), "uint8")
                                        if index in images[pair, person]
                                        else cells.add_empty()
                                        for index in range(1, NUM_VIEWS + 1)
                                    ]
                                    for person in people
                                ]
                            )
                        ]
                    )
                cells.add_cell(pairs, boxes)
            everybody = np.array(sorted(images), dtype=float)
            tested = min(MAX_TEST_PEOPLE, max(1, len(everybody) // 5))
            cells.add_cell(
                [
                    [
                        cells.add(
                            everybody[stream(seed, "cuhk03 testsets", split).permutation(len(everybody))[:tested]],
                            "double",
                        )
                    ]
                    for split in range(NUM_SPLITS)
                ],
                "testsets",
            )
        with temporary.open("r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file, drawn data".ljust(116) + bytes(8) + struct.pack("<H2s", 0x0200, b"IM"))


def pack_cuhk_sysu(drawn: Path, scenes: Path, target: Path, seed: int) -> None:
    """Image/SSM and annotation/Person.mat out of cropped_image."""
    by_scene, by_person = defaultdict(list), defaultdict(list)
    for path in sorted((drawn / "cropped_image").iterdir()):
        pid, _, scene, hard = (int(number) for number in re.findall(r"\d+", path.stem))
        by_scene[scene].append(path)
        by_person[pid].append((path, scene, hard))
    scenes.mkdir(parents=True, exist_ok=True)
    boxes = {}
    for scene, paths in by_scene.items():
        boxes |= paste(paths, scenes / f"s{scene:05d}.jpg", seed, scene)
    people = np.empty((1, len(by_person)), dtype=[("idname", object), ("nAppear", object), ("scene", object)])
    for column, (pid, appearances) in enumerate(by_person.items()):
        rows = np.empty((1, len(appearances)), dtype=[("imname", object), ("idlocate", object), ("ishard", object)])
        for position, (path, scene, hard) in enumerate(appearances):
            rows[0, position] = (f"s{scene:05d}.jpg", np.array([boxes[path.name]], dtype=float), float(hard))
        people[0, column] = (f"p{pid:05d}", float(len(appearances)), rows)
    with atomic_path(target) as temporary:
        temporary.write_bytes(mat_bytes({"Person": people}))


def paste(paths: list[Path], target: Path, seed: int, scene: int) -> dict[str, list[int]]:
    """Draw a scene with people side by side; returns their boxes by crop name, the last one reaching over the edge."""
    crops = [Image.open(path) for path in paths]
    width = GAP + sum(crop.width + GAP for crop in crops) - GAP  # the last person stands at the right edge
    height = 2 * GAP + max(crop.height for crop in crops)
    image = draw_place("street", stream(seed, "cuhk_sysu scene", scene), width, height, 0.2)
    boxes, left = {}, GAP
    for path, crop in zip(paths, crops, strict=True):
        image.paste(crop, (left, GAP))
        over = 3 if path is paths[-1] else 0
        boxes[path.name] = [left + 1, GAP + 1, crop.width - 1 + over, crop.height - 1]
        left += crop.width + GAP
    with atomic_path(target) as temporary:
        image.save(temporary, quality=95, subsampling=0)
    return boxes
