"""QMUL i-LIDS."""

from __future__ import annotations

import re
from collections import defaultdict

from fastreid.data.datasets.bases import ReidDataset, TestSet
from fastreid.data.datasets.splits import NamedSplit, drawn_names, index_splits, shuffled, stored_splits
from fastreid.utils.errors import UserError


class ILIDS(ReidDataset):
    """QMUL i-LIDS: people in an airport arrival hall.

    Reference: W.-S. Zheng et al., "Associating Groups of People", BMVC 2009.
    URL: http://www.eecs.qmul.ac.uk/~jason/data/i-LIDS_Pedestrian.tgz
    Statistics: 476 images of 119 people; ten splits into 59 people to train and 60 to test, with one random query and
    one random gallery image for each of the latter.
    Licence: for research use; the footage belongs to the UK Home Office.
    Files: images/`0001001.jpg` = person 1, image 1; the image number stands for the camera. The splits are kept in
    splits.json; a file of the published programs, with bare file names, is used as it is.
    """

    folder = "QMUL-iLIDS"
    pattern = re.compile(r"(?P<pid>\d{4})(?P<camid>\d{3})\.")
    example = "0001001.jpg (four digits of the person, three of the image)"

    def test(self) -> TestSet:
        """Ten splits: a random image of each test person against another one."""
        items = self.read_images(self.subfolder("images"), self.pattern, self.example)
        file_names = [self.relative_name(path) for path in items.paths.tolist()]
        images = defaultdict(list)
        for pid, file_name in zip(items.pids.tolist(), file_names, strict=True):
            images[pid].append(file_name)

        def draw() -> list[NamedSplit]:
            single = [pid for pid in sorted(images) if len(images[pid]) < 2]
            if single or len(images) < 2:
                found = f"person {single[0]} has 1" if single else f"found {len(images)} people"
                raise UserError(
                    f"{self.name}: the protocol needs 2 people or more with 2 images each in "
                    f"{self.path / 'images'}; {found}: check that the data set was unpacked whole"
                )
            return [draw_one(name) for name in drawn_names(self.name)]

        def draw_one(name: str) -> NamedSplit:
            tested = sorted(shuffled(sorted(images), f"iLIDS/{name}")[len(images) // 2 :])
            pairs = [shuffled(images[pid], f"iLIDS/{name}/person {pid}")[:2] for pid in tested]
            return NamedSplit(name, [pair[0] for pair in pairs], [pair[1] for pair in pairs])

        splits = stored_splits(self.path / "splits.json", file_names, draw, keep=self.keeps_splits)
        return TestSet(items, index_splits(splits, file_names))
