"""MSMT17, versions 1 and 2: nothing to prepare, the list files say what must be there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import numpy as np

from fastreid.data.datasets import Items
from fastreid.data.datasets.files import inside
from fastreid.data.datasets.msmt17 import EXAMPLE, IMAGE_FOLDERS, LINE, TEST_PEOPLE
from fastreid.data.prepare.base import Part, Preparation, listed

LISTS = {"train": 0, "val": 0, "query": 1, "gallery": 1}  # each with the position of its image folder


class MSMT17Version(Preparation):
    """One version of the set."""

    published: ClassVar[dict[str, int]] = {"images": 126_441, "people": 4101}
    expected = "126,441 / 4,101"
    source_reader: ClassVar[str]

    def parts(self) -> list[Part]:
        """The folders of training and of test images; what is in them the lists say."""
        return [Part(folder, LINE, EXAMPLE) for folder in IMAGE_FOLDERS[self.folder]]

    def scan(self) -> dict[str, Items]:
        """The images that the lists name, by folder."""
        rows = {part.folder: [] for part in self.parts() if self.is_part_there(part)}
        present: dict[Path, set[str]] = {}
        for name, position in LISTS.items():
            folder = IMAGE_FOLDERS[self.folder][position]
            listed_rows = self.read_list(f"list_{name}.txt", position)
            if folder not in rows:
                continue
            absent = []
            for path, pid, camid in listed_rows:
                name_in_list, _, file_name = path.rpartition("/")
                parent = self.path / folder / name_in_list
                if parent not in present:
                    present[parent] = set(os.listdir(parent)) if parent.is_dir() else set()
                if file_name in present[parent]:
                    rows[folder].append((f"{self.path / folder}/{path}", pid, camid))
                else:
                    absent.append(f"{self.path / folder}/{path}")
            if absent:
                self.add(
                    "image missing",
                    f"list_{name}.txt names {listed(absent, self.path)}, not there: unpack the set again, whole",
                    files=absent,
                )
        return {folder: Items.from_rows(found) for folder, found in rows.items()}

    def read_list(self, list_name: str, position: int) -> list[tuple[str, int, int]]:
        """(file, pid, camid) of each line that can be read; a missing list and other lines are problems."""
        path = self.path / list_name
        if not path.is_file():
            only_all = "val" in list_name  # which the source of all images alone reads
            without = f"; {self.source_reader} cannot be used without it, {self.folder} can" if only_all else ""
            self.add("list missing", f"no file {path}: unpack the set again, whole{without}", fatal=not only_all)
            return []
        rows, strange = [], []
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(), start=1):
            match = LINE.fullmatch(line)
            if match is not None and inside(match["file"]):
                rows.append((match["file"], int(match["pid"]) + position * TEST_PEOPLE, int(match["camid"])))
            elif line.strip():
                strange.append(f"line {number}, {line!r}")
        if strange:
            self.add(
                "line cannot be read",
                f"{list_name} {listed(strange, self.path)}, expected lines like {EXAMPLE!r}: unpack the list again",
                files=strange,
            )
        return rows

    def read(self) -> None:
        """The reader of the parts, and that of all images if their lists are there."""
        super().read()
        if (self.path / "list_val.txt").is_file():
            self.read_with(self.source_reader, train=True)

    def count(self, items: dict[str, Items]) -> dict[str, int]:
        """Images and people of all lists."""
        everything = Items.concatenate(list(items.values()))
        return {"images": len(np.unique(everything.paths)), "people": len(np.unique(everything.pids))}


class PrepareMSMT17V1(MSMT17Version):
    """Version 1."""

    name, folder = "msmt17_v1", "MSMT17_V1"
    train_readers, test_readers, source_reader = ("MSMT17_V1",), ("MSMT17_V1",), "DG_MSMT17_V1"


class PrepareMSMT17V2(MSMT17Version):
    """Version 2, with other people masked."""

    name, folder = "msmt17_v2", "MSMT17_V2"
    train_readers, test_readers, source_reader = ("MSMT17_V2",), ("MSMT17_V2",), "DG_MSMT17_V2"
