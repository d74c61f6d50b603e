"""CUHK03: all images, the new 767/700 protocol, or the 20 classic splits."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np

from fastreid.data.datasets.bases import Items, ReidDataset, Split, TestSet
from fastreid.data.datasets.files import image_names, load_mat, tool_advice
from fastreid.data.datasets.splits import index_splits, read_splits, unusable
from fastreid.utils.errors import UserError

PERSON_RANGE = 1_000_000  # people are numbered from 1 in each camera pair: identity = pair * PERSON_RANGE + number
INDEX_KEYS = ("train_idx", "query_idx", "gallery_idx")
PROTOCOL_KEYS = ("filelist", "labels", "camId", *INDEX_KEYS)
NUM_CLASSIC_SPLITS = 20


class DGCUHK03Detected(ReidDataset):
    """CUHK03 as a source domain: five pairs of cameras, boxes of a person detector.

    Reference: W. Li et al., "DeepReID: Deep Filter Pairing Neural Network for Person Re-identification", CVPR 2014.
    URL: http://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html
    Statistics: 1,467 people; 14,097 detected or 14,096 labelled boxes.
    Licence: for academic use, on request from the authors.
    Files: images_detected/`1_001_2_07.png` = pair 1, person 1, view 2, image 7, extracted from
    cuhk03_release/cuhk-03.mat; cameras are numbered 0..9.
    """

    folder = "cuhk03"
    boxes: ClassVar[str] = "detected"
    test_name = "CUHK03"
    pattern = re.compile(r"(?P<pair>\d{1,6})_(?P<person>\d{1,6})_(?P<view>[12])_\d")
    example = "1_001_2_07.png (pair, person, view, index)"

    def train(self) -> Items:
        """All images."""
        return self.read_images(self.subfolder(f"images_{self.boxes}"), self.pattern, self.example, pair_pid_and_camid)


class DGCUHK03Labeled(DGCUHK03Detected):
    """CUHK03 as a source domain, with hand-drawn boxes; the rest as DGCUHK03Detected."""

    boxes = "labeled"
    test_name = "CUHK03_labeled"


class CUHK03(ReidDataset):
    """CUHK03 with the new protocol, 767 people to train on and 700 to test on; boxes of a person detector.

    Reference: W. Li et al., CVPR 2014, as above; for the protocol Z. Zhong et al., "Re-ranking Person Re-identification
    with k-reciprocal Encoding", CVPR 2017.
    URL: https://github.com/zhunzhong07/person-re-ranking/tree/master/CUHK03-NP
    Statistics: train 7,365 images, query 1,400, gallery 5,332 (detected); 7,368, 1,400 and 5,328 (labelled).
    Licence: for academic use, on request from the authors.
    Files: splits_new_detected.json or, without it, cuhk03_new_protocol_config_detected.mat (MATLAB v5), and the images
    they name in images_detected. Both hold filelist, labels and camId per image (without camId the view in the file
    name is the camera); train_idx, query_idx and gallery_idx count from 1. The .json may also be the published
    programs': a list with one object {train, query, gallery} of rows [path, person, camera].
    """

    folder = "cuhk03"
    boxes: ClassVar[str] = "detected"

    @property
    def protocol_path(self) -> Path:
        """The file that defines the protocol: the prepared one if it is there, else the publishers'."""
        prepared = self.path / f"splits_new_{self.boxes}.json"
        return prepared if prepared.exists() else self.path / f"cuhk03_new_protocol_config_{self.boxes}.mat"

    @cached_property
    def protocol(self) -> tuple[Items, dict[str, np.ndarray]]:
        """All images and the three index arrays, from 0; raises UserError if the file and the images disagree."""
        folder = self.subfolder(f"images_{self.boxes}")
        columns = self.read_json() if self.protocol_path.suffix == ".json" else self.read_mat()
        names = columns["filelist"]
        pids, camids, *indices = (np.array(columns[key], dtype=np.int64) for key in PROTOCOL_KEYS[1:])
        if not len(names) == len(pids) == len(camids):
            raise self.bad_protocol(
                f"filelist, labels and camId must be equally long, found {len(names)}, {len(pids)} and {len(camids)}"
            )
        if len(names) and camids.min() < 0:
            raise self.bad_protocol(f"camId must not be negative, found {camids.min()}")
        for key, index in zip(INDEX_KEYS, indices, strict=True):
            if not len(index) or index.min() < 1 or index.max() > len(names):
                raise self.bad_protocol(f"{key} must hold positions from 1 to {len(names)}, with one at least")
        absent = sorted(set(names).difference(image_names(self.name, folder)))
        if absent:
            raise UserError(
                f"{self.name}: {folder} lacks {len(absent)} of the {len(names)} images that "
                f"{self.protocol_path.name} names, the first being {absent[0]}: extract them again"
                f"{tool_advice(self.name)}"
            )
        items = Items(np.array([f"{folder}/{name}" for name in names], dtype=np.str_), pids, camids)
        return items, {key: index - 1 for key, index in zip(INDEX_KEYS, indices, strict=True)}

    def read_mat(self) -> dict[str, list]:
        """The variables of the publishers' file as lists; raises UserError if they are not of the types expected."""
        mat = load_mat(self.name, self.protocol_path, PROTOCOL_KEYS, optional=("camId",))
        try:
            names = [str(np.asarray(cell).item()).strip() for cell in mat["filelist"].ravel()]
            numbers = {key: mat[key].ravel().astype(np.int64).tolist() for key in PROTOCOL_KEYS[1:] if key in mat}
        except (TypeError, ValueError) as error:
            raise self.bad_protocol("filelist must hold file names, the other variables numbers") from error
        if "camId" not in numbers:
            numbers["camId"] = self.views(names)
        return {"filelist": names, **numbers}

    def views(self, names: Sequence[str]) -> list[int]:
        """The camera of each image, 1 or 2, by its file name; raises UserError for a name of another form."""
        matches = [DGCUHK03Detected.pattern.match(name) for name in names]
        if None in matches:
            raise self.bad_protocol(
                f"without camId the cameras are in filelist, whose names must be like "
                f"{DGCUHK03Detected.example}; found {names[matches.index(None)]}"
            )
        return [int(match["view"]) for match in matches]

    def read_json(self) -> dict[str, list]:
        """The lists of the prepared file; raises UserError if they are not of the types expected."""
        try:
            columns = json.loads(self.protocol_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise unusable(self.protocol_path, f"it cannot be read as JSON ({error})") from error
        if isinstance(columns, list):
            return self.columns_of_rows(columns)
        for key in PROTOCOL_KEYS:
            kind = str if key == "filelist" else int
            values = columns.get(key) if isinstance(columns, dict) else None
            if not isinstance(values, list) or not all(type(value) is kind for value in values):
                raise unusable(self.protocol_path, f"expected an object whose {key} is a list of {kind.__name__}")
        return columns

    def columns_of_rows(self, splits: list) -> dict[str, list]:
        """The lists of a file of the published programs; raises UserError if it is not one split of rows."""
        parts = ("train", "query", "gallery")
        try:
            [split] = splits
            rows = [(str(path), int(pid), int(camid)) for part in parts for path, pid, camid in split[part]]
            ends = np.cumsum([0, *(len(split[part]) for part in parts)]).tolist()
        except (TypeError, ValueError, KeyError) as error:
            raise unusable(
                self.protocol_path,
                "expected one split, an object whose train, query and gallery are rows [path, person, camera]",
            ) from error
        names = [path.replace("\\", "/").rpartition("/")[2] for path, _, _ in rows]
        indices = [list(range(first + 1, last + 1)) for first, last in pairwise(ends)]
        return {
            "filelist": names,
            "labels": [pid for _, pid, _ in rows],
            "camId": [camid for *_, camid in rows],
            **dict(zip(INDEX_KEYS, indices, strict=True)),
        }

    def train(self) -> Items:
        """The images of the training people."""
        items, indices = self.protocol
        return items[indices["train_idx"]]

    def test(self) -> TestSet:
        """The protocol's query and gallery."""
        items, indices = self.protocol
        query, gallery = indices["query_idx"], indices["gallery_idx"]
        used, position = np.unique(np.concatenate([query, gallery]), return_inverse=True)
        return TestSet(items[used], [Split("split_1", position[: len(query)], position[len(query) :])])

    def bad_protocol(self, reason: str) -> UserError:
        """The error that the protocol file is not what it should be."""
        if self.protocol_path.suffix == ".json":
            return unusable(self.protocol_path, reason)
        return UserError(f"{self.name}: {self.protocol_path} is not a CUHK03 protocol file: {reason}; get it again")


class CUHK03Labeled(CUHK03):
    """CUHK03 with the new protocol and hand-drawn boxes; the rest as CUHK03."""

    boxes = "labeled"


class CUHK03Classic(DGCUHK03Detected):
    """CUHK03's first protocol: 20 splits with 100 people to test, everybody else being for training.

    Reference: as DGCUHK03Detected. Query: the test people's images of view 1; gallery: one image of view 2 of each.
    Files: splits_classic_detected.json, made from cuhk-03.mat by tools/prepare_datasets.py, and images_detected.
    """

    def train(self) -> Items:
        """Raises UserError: who is for training differs from split to split."""
        return ReidDataset.train(self)

    def test(self) -> TestSet:
        """The 20 splits."""
        items = DGCUHK03Detected.train(self)
        file_names = [self.relative_name(path) for path in items.paths.tolist()]
        path = self.path / f"splits_classic_{self.boxes}.json"
        if not path.is_file():
            raise UserError(
                f"{self.name}: the file {path} is missing: run 'python tools/prepare_datasets.py "
                f"{self.name}', which makes it from cuhk03_release/cuhk-03.mat"
            )
        splits = read_splits(path, file_names, count=NUM_CLASSIC_SPLITS)
        return TestSet(items, index_splits(splits, file_names))


class CUHK03ClassicLabeled(CUHK03Classic):
    """CUHK03's first protocol with hand-drawn boxes; the rest as CUHK03Classic."""

    boxes = "labeled"


def pair_pid_and_camid(match: re.Match) -> tuple[int, int]:
    """Identity and camera from the groups `pair`, `person` and `view` of a file name."""
    pair, person, view = int(match["pair"]), int(match["person"]), int(match["view"])
    return pair * PERSON_RANGE + person, 2 * (pair - 1) + view - 1
