"""PRID 2011, single shot."""

from __future__ import annotations

import re

from fastreid.data.datasets.bases import Items, ReidDataset, TestSet
from fastreid.data.datasets.splits import NamedSplit, drawn_names, index_splits, shuffled, stored_splits, unusable
from fastreid.utils.errors import UserError

LAST_SHARED_PERSON = 200  # from 201 on, the same number in the two cameras means two different people
MAX_TEST_PEOPLE = 100


class PRID(ReidDataset):
    """PRID 2011: two cameras over a street and a crossing, one image per person and camera.

    Reference: M. Hirzer et al., "Person Re-identification by Descriptive and Discriminative Classification", SCIA 2011.
    URL: https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/PRID11/
    Statistics: 385 people in camera a and 749 in b, of whom the first 200 are in both; ten splits with 100 of these to
    test, camera a being the query, camera b with the 549 people of its own the gallery.
    Licence: for research use; see the page above.
    Files: single_shot/{cam_a,cam_b}/`person_0001.png`; the splits are kept in splits_single_shot.json, and a file of
    the published programs, with lists of people under train and test, is used as it is.
    """

    folder = "prid_2011"
    pattern = re.compile(r"person_(\d+)\.")
    example = "person_0001.png"

    def test(self) -> TestSet:
        """Ten splits: test people in camera a against themselves and the people seen by camera b only."""
        camera_a, camera_b = self.read_camera("cam_a", 0), self.read_camera("cam_b", 1)
        images_a, images_b = self.one_image_per_person(camera_a), self.one_image_per_person(camera_b)
        shared = [pid for pid in sorted(images_a) if pid in images_b and pid <= LAST_SHARED_PERSON]
        only_b = sorted(images_b.keys() - set(shared))
        splits_path = self.path / "splits_single_shot.json"

        def files_of(tested: list[int]) -> dict[str, list[str]]:
            return {
                "query": [images_a[pid] for pid in tested],
                "gallery": [images_b[pid] for pid in [*tested, *only_b]],
            }

        def draw() -> list[NamedSplit]:
            count = min(MAX_TEST_PEOPLE, len(shared) // 2)
            if not count:
                raise UserError(
                    f"{self.name}: the protocol needs 2 people with an image in both cameras, numbered up "
                    f"to {LAST_SHARED_PERSON}; found {len(shared)} in {self.path / 'single_shot'}"
                )
            return [
                NamedSplit(name, **files_of(sorted(shuffled(shared, f"PRID/{name}")[:count])))
                for name in drawn_names(self.name)
            ]

        def expand(entry: dict) -> dict:
            """Turn an entry of the published programs, lists of people, into file names."""
            if "test" not in entry:
                return entry
            tested = entry["test"]
            others = [pid for pid in tested if pid not in shared] if isinstance(tested, list) else [tested]
            if others or not tested:
                found = f"found {others[0]!r}, one of {len(others)} that are not" if others else "found nobody"
                raise unusable(
                    splits_path,
                    f"test must list people who are in both cameras, numbered up to {LAST_SHARED_PERSON}; {found}",
                )
            return files_of(tested)

        file_names = [*images_a.values(), *images_b.values()]
        splits = stored_splits(splits_path, file_names, draw, expand, keep=self.keeps_splits)
        return TestSet(Items.concatenate([camera_a, camera_b]), index_splits(splits, file_names))

    def read_camera(self, camera: str, camid: int) -> Items:
        """The images of one camera."""
        return self.read_images(
            self.subfolder("single_shot", camera), self.pattern, self.example, lambda match: (int(match[1]), camid)
        )
