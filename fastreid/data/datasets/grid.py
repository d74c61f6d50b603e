"""QMUL underGround Re-IDentification (GRID)."""

from __future__ import annotations

import re

import numpy as np

from fastreid.data.datasets.bases import Items, ReidDataset, TestSet
from fastreid.data.datasets.files import load_mat
from fastreid.data.datasets.splits import NUM_SPLITS, NamedSplit, index_splits, stored_splits
from fastreid.utils.errors import UserError

DISTRACTOR = 0
PEOPLE_FIELD = 2  # the struct's third field lists the training people


class GRID(ReidDataset):
    """GRID: eight cameras in an underground station.

    Reference: C. C. Loy et al., "Multi-Camera Activity Correlation Analysis", CVPR 2009.
    URL: http://personal.ie.cuhk.edu.hk/~ccloy/downloads_qmul_underground_reid.html
    Statistics: 250 pairs and 775 gallery images of other people; ten splits into 125 people to train and 125 to test.
    Licence: for research use; see the page above.
    Files: {probe,gallery}/`0001_1_25004_107_32_106_221.jpeg` = person 1 (0 in the gallery: other people), camera 1;
    features_and_partitions.mat, whose trainIdxAll[0, s][0, 0] is a struct with the training people of split s. The
    splits that follow from it are kept in splits.json; with that file, or the one of the published programs, whose rows
    are [path, person, camera], the .mat is not needed.
    """

    folder = "GRID"
    pattern = re.compile(r"(?P<pid>\d+)_(?P<camid>\d+)_")
    example = "0001_1_25004_107_32_106_221.jpeg"

    def test(self) -> TestSet:
        """Ten splits: the probes of the test people against their gallery images and those of other people."""
        probe = self.read_images(self.subfolder("probe"), self.pattern, self.example)
        gallery = self.read_images(self.subfolder("gallery"), self.pattern, self.example)
        matched = set(gallery.pids[gallery.pids != DISTRACTOR].tolist()).intersection(probe.pids.tolist())
        items = Items.concatenate([probe, gallery])
        file_names = np.array([self.relative_name(path) for path in items.paths.tolist()])

        def draw() -> list[NamedSplit]:
            splits = []
            for number, trained in enumerate(self.training_people(), start=1):
                tested = sorted(matched.difference(trained))
                if not tested:
                    raise UserError(
                        f"{self.name}: split {number} has nobody to test: of the {len(matched)} people in "
                        f"both probe and gallery of {self.path}, all are training people in the .mat file"
                    )
                query = file_names[: len(probe)][np.isin(probe.pids, tested)]
                in_gallery = file_names[len(probe) :][np.isin(gallery.pids, [DISTRACTOR, *tested])]
                splits.append(NamedSplit(f"split_{number}", query.tolist(), in_gallery.tolist()))
            return splits

        splits = stored_splits(self.path / "splits.json", file_names.tolist(), draw, keep=self.keeps_splits)
        return TestSet(items, index_splits(splits, file_names.tolist()))

    def training_people(self) -> list[list[int]]:
        """The training people of each split; raises UserError if the partition file is not as expected."""
        path = self.path / "features_and_partitions.mat"
        # The file also holds large features; only the named variable is read.
        partitions = load_mat(self.name, path, ["trainIdxAll"])["trainIdxAll"]
        try:
            people = [
                partitions[0, split][0, 0][PEOPLE_FIELD].ravel().astype(np.int64).tolist()
                for split in range(partitions.shape[1])
            ]
        except (IndexError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.name}: trainIdxAll in {path} must be a 1 x {NUM_SPLITS} cell of structs whose "
                f"third field lists the training people ({error}); unpack the file again"
            ) from error
        if len(people) != NUM_SPLITS:
            raise UserError(
                f"{self.name}: trainIdxAll in {path} must hold {NUM_SPLITS} splits, found {len(people)}; "
                f"unpack the file again"
            )
        return people
