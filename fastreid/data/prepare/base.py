"""What the preparation of every data set has in common: find it, prepare it, read it, verify it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from fastreid.data.datasets import Items, build_dataset
from fastreid.data.datasets.bases import pid_and_camid
from fastreid.data.datasets.files import list_images, tool_advice
from fastreid.data.prepare.images import unreadable
from fastreid.data.prepare.layout import missing_part, missing_set_folder
from fastreid.data.prepare.report import Problem, Report
from fastreid.utils.errors import UserError

LEFTOVER_SECONDS = 60  # a file is being written for milliseconds; one that is older is of a run that was killed


@dataclass(frozen=True)
class Part:
    """A folder of images that belongs to a data set, and how its file names are read."""

    folder: str
    pattern: re.Pattern
    example: str
    decode: Callable[[re.Match], tuple[int, int]] = pid_and_camid  # the match -> (pid, camid)
    aliases: tuple[str, ...] = ()  # names that the folder has in the publishers' archive
    advice: str = "unpack the set again, whole"  # if it is missing


class Preparation:
    """One data set: `run` prepares (unless check_only), verifies, and returns the report.

    Args:
        name: as in the command line.
        train_readers, test_readers: names in DATASETS whose readers must be able to read the set.
        published: the publishers' counts, under names of the set's own.
    """

    name: ClassVar[str]
    train_readers: ClassVar[tuple[str, ...]] = ()
    test_readers: ClassVar[tuple[str, ...]] = ()
    folder: ClassVar[str]
    archive_folders: ClassVar[tuple[str, ...]] = ()
    split_files: ClassVar[tuple[str, ...]] = ()  # written by the readers when they are not there
    published: ClassVar[dict[str, int]]
    expected: ClassVar[str]  # the same, for the summary table

    def __init__(self, root: Path, check_only: bool, workers: int) -> None:
        self.root, self.check_only, self.workers = root, check_only, workers
        self.path = root / self.folder
        self.report = Report(self.name, str(self.path), self.expected, self.published)
        self.is_prepared = True  # False if the folders that `prepare` makes are known not to be there

    # What a data set defines

    def parts(self) -> list[Part]:
        """The folders of images that must be there."""
        raise NotImplementedError

    def is_absent(self) -> bool:
        """Whether nothing of this set is in its folder, which another set shares."""
        return False

    def prepare(self) -> None:
        """Make what can be made from the publishers' files and is not there yet; with check_only say what is not."""

    def count(self, items: dict[str, Items]) -> dict[str, int]:
        """What there is of the numbers in `published`, from the images by folder."""
        return {"images": self.report.images, "people": self.report.identities}

    def counted(self, items: Items) -> Items:
        """The images that the report's total counts, out of all."""
        return items

    def num_people(self, items: Items) -> int:
        """The number of identities in the report's total."""
        return len(np.unique(items.pids))

    # The run

    def run(self) -> Report:
        """Prepare and verify; problems are in the report, none is raised."""
        problem = missing_set_folder(self.root, self.folder, self.archive_folders, self.top_folders())
        if problem is not None:
            self.report.present = problem.fatal
            self.report.problems.append(problem)
            return self.report
        if self.is_absent():
            self.report.present = False
            self.add("not there", f"{self.path} has no files of it", fatal=False)
            return self.report
        try:
            self.prepare()
        except UserError as error:
            self.is_prepared = False
            self.add("cannot be prepared", self.text(error))
        try:
            items = self.scan()
            self.verify_images(items)
            self.fill_counts(items)
        except UserError as error:
            self.add("cannot be read", self.text(error))
        if self.report.usable:
            self.read()
        if self.report.usable:
            self.compare()
        return self.report

    def top_folders(self) -> list[str]:
        """The folders directly in the data set's folder that hold its images."""
        return list(dict.fromkeys(part.folder.split("/")[0] for part in self.parts()))

    def scan(self) -> dict[str, Items]:
        """The images with names that can be read, by folder; missing and empty folders and other names are problems."""
        items = {}
        for part in self.parts():
            if self.is_part_there(part):
                items[part.folder] = self.scan_part(part)
        return items

    def is_part_there(self, part: Part) -> bool:
        """Whether a folder is there; if not, a problem says so, unless one has said it already."""
        problem = missing_part(self.root, self.path, part.folder, part.aliases, part.advice)
        # Several parts may lack the same outer folder.
        if problem is not None and self.is_prepared and problem not in self.report.problems:
            self.report.problems.append(problem)
        return problem is None

    def scan_part(self, part: Part) -> Items:
        """The images of one folder; raises UserError if it cannot be listed."""
        folder = self.path / part.folder
        file_names, others = list_images(self.name, folder)
        if not file_names:
            self.add("no images", f"{folder} has none, and {others} other files: unpack the set again, whole")
        rows, strange = [], []
        for file_name in file_names:
            match = part.pattern.match(file_name)
            if match is None:
                strange.append(f"{folder}/{file_name}")
            else:
                rows.append((f"{folder}/{file_name}", *part.decode(match)))
        if strange:
            self.add(
                "name cannot be read",
                f"{listed(strange, self.path)}, expected names like {part.example}: rename or remove",
                files=strange,
            )
        return Items.from_rows(rows)

    def verify_images(self, items: dict[str, Items]) -> None:
        """Decode every image once."""
        paths = [path for part in items.values() for path in part.paths.tolist()]
        empty = [path for path in paths if not Path(path).stat().st_size]
        if empty:
            self.add("empty file", f"{listed(empty, self.path)} of 0 bytes: get it from the archive again", files=empty)
        damaged = unreadable(sorted(set(paths).difference(empty)), self.workers, f"{self.name}: reading")
        if damaged:
            files = [path for path, _ in damaged]
            self.add(
                "unreadable image",
                f"{listed(files, self.path)} ({damaged[0][1]}): get it from the archive again",
                files=files,
            )

    def fill_counts(self, items: dict[str, Items]) -> None:
        """Enter what was found into the report."""
        counted, report = self.counted(Items.concatenate(list(items.values()))), self.report
        report.images, report.identities = len(counted), self.num_people(counted)
        report.cameras = len(np.unique(counted.camids))
        if set(items) == {part.folder for part in self.parts()}:
            report.counts = self.count(items)

    def read(self) -> None:
        """Have each reader read the set, which also draws splits; what a reader cannot do is a problem."""
        before = {name for name in self.split_files if (self.path / name).exists()}
        for name in dict.fromkeys([*self.train_readers, *self.test_readers]):
            self.read_with(name, name in self.train_readers, name in self.test_readers)
        made = [name for name in self.split_files if name not in before and (self.path / name).exists()]
        self.report.made += [str(self.path / name) for name in made]

    def read_with(self, name: str, train: bool = False, test: bool = False) -> None:
        """Have one reader read its training part, its test part, or both."""
        dataset = build_dataset(name, self.root)
        dataset.keeps_splits = not self.check_only
        try:
            if train:
                dataset.train()
            if test:
                dataset.test()
        except UserError as error:
            self.add("cannot be used", self.text(error, name))

    def compare(self) -> None:
        """Counts other than the published ones are worth a note, though the set can be used."""
        others = [
            f"{self.report.counts[key]:,} {key} (published {published:,})"
            for key, published in self.published.items()
            if self.report.counts[key] != published
        ]
        if others:
            self.add(
                "other counts than published",
                f"{', '.join(others)}: it can be used, but if it should be the whole set, unpack it again",
                fatal=False,
            )

    # Helpers

    def add(self, kind: str, message: str, fatal: bool = True, files: Iterable[str] = ()) -> None:
        """Enter a problem into the report."""
        self.report.problems.append(Problem(kind, message, fatal, tuple(files)))

    def text(self, error: UserError, reader: str = "") -> str:
        """An error's line without the name of the set, which the report gives, and the advice to run this tool."""
        text = str(error).replace(tool_advice(reader), "") if reader else str(error)
        for name in (reader, self.name):
            text = text.removeprefix(f"{name}: ")
        return text

    def remove_leftovers(self, folder: Path) -> None:
        """Remove the hidden files that a killed run was writing."""
        for path in folder.glob(".*.tmp.*"):
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                path.unlink(missing_ok=True)


def listed(paths: list[str], folder: Path) -> str:
    """ "a.jpg", or "a.jpg and 4 more", relative to the folder."""
    first = paths[0].removeprefix(f"{folder}/")
    return first if len(paths) == 1 else f"{first} and {len(paths) - 1} more"
