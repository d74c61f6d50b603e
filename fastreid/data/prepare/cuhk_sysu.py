"""CUHK-SYSU: crops out of whole scenes.

Format of annotation/Person.mat (MATLAB v5): Person, a vector of structs with idname ('p00001'), nAppear and scene, a
vector of nAppear structs with imname ('s00001.jpg', in Image/SSM), idlocate (x y w h) and ishard. A box is the pixels
x..x+w and y..y+h, counted from 1, both ends included, so that its crop is w + 1 wide and h + 1 high; boxes may reach
over the scene's edge, where they are clipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from fastreid.data.datasets.cuhk_sysu import CUHKSYSU
from fastreid.data.datasets.files import inside, load_mat
from fastreid.data.decode import read_image
from fastreid.data.prepare.base import Part, Preparation, listed
from fastreid.data.prepare.jobs import run_jobs
from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_path

Box = tuple[int, int, int, int]  # x, y, w, h as in the annotation


@dataclass
class Scene:
    """A scene image and the crops to be cut from it: file name -> box."""

    image: Path
    crops: dict[str, Box] = field(default_factory=dict)


def clipped(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """A box as left, top, right, bottom in pixels from 0, the last two excluded, within an image of width x height.

    Right is not above left, or bottom not above top, if the box is outside.
    """
    x, y, w, h = box
    return max(x, 1) - 1, max(y, 1) - 1, min(x + w, width), min(y + h, height)


def cut(scene: Scene, folder: Path) -> list[tuple[str, str]]:
    """Write the crops of a scene; returns (crop, reason) of those that cannot be cut."""
    try:
        # As MATLAB reads it, in whose pixels the boxes are.
        image = read_image(str(scene.image), upright=False)
    except UserError as error:
        return [(name, str(error)) for name in scene.crops]
    failures = []
    for name, box in scene.crops.items():
        left, top, right, bottom = clipped(box, *image.size)
        if right <= left or bottom <= top:
            failures.append(
                (
                    name,
                    f"its box {' '.join(map(str, box))} is outside {scene.image}, "
                    f"{image.width} x {image.height}: get annotation/Person.mat and the scene again",
                )
            )
            continue
        with atomic_path(folder / name) as temporary:
            image.crop((left, top, right, bottom)).save(temporary, compress_level=3)
    return failures


def read_annotation(path: Path, scenes: Path) -> list[Scene]:
    """All scenes with people in them; raises UserError if the file is not as expected."""
    people = load_mat("CUHK-SYSU", path, ["Person"])["Person"].ravel()
    found: dict[str, Scene] = {}
    for position, person in enumerate(people, start=1):
        try:
            pid = number_in(person["idname"])
            for appearance, scene in enumerate(person["scene"].ravel(), start=1):
                image, hard = str(scene["imname"].item()), int(np.asarray(scene["ishard"]).item())
                if not inside(image) or hard not in (0, 1):
                    raise ValueError(f"imname {image[:80]!r} or ishard {hard}")
                x, y, w, h = (
                    int(round(number)) for number in np.asarray(scene["idlocate"], dtype=float).ravel().tolist()
                )
                name = f"p{pid:05d}_n{appearance:02d}_s{number_in(image):05d}_hard{hard}.png"
                found.setdefault(image, Scene(scenes / image)).crops[name] = (x, y, w, h)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"{path}: element {position} of Person is not a struct with idname and scene (imname "
                f"in Image/SSM, idlocate, ishard 0 or 1) ({error}): get the file again"
            ) from error
    return list(found.values())


def number_in(text: Any) -> int:
    """The number in a name such as 'p00001' or 's1.jpg'; ValueError if there is none."""
    text = str(np.asarray(text).item())
    match = re.search(r"(?<!\d)\d{1,9}(?!\d)", text)
    if match is None:
        raise ValueError(f"no number, of nine digits at most, in {text[:80]!r}")
    return int(match[0])


class PrepareCUHKSYSU(Preparation):
    """Crops of all people in all scenes."""

    name, folder = "cuhk_sysu", CUHKSYSU.folder
    archive_folders = ("CUHK-SYSU_nomosaic",)
    train_readers = ("DG_CUHK_SYSU",)
    published, expected = {"images": 34_574, "people": 11_934}, "34,574 / 11,934"

    def parts(self) -> list[Part]:
        """The folder of crops."""
        return [
            Part(
                "cropped_image",
                CUHKSYSU.pattern,
                CUHKSYSU.example,
                advice=f"put annotation/Person.mat and Image/SSM into {self.path} and run this tool",
            )
        ]

    @cached_property
    def raw(self) -> Path | None:
        """The folder with annotation/ and Image/, which the archive may hold under the name dataset/."""
        places = (self.path, self.path / "dataset")
        return next((place for place in places if (place / "annotation" / "Person.mat").is_file()), None)

    def prepare(self) -> None:
        """Cut the crops that are not there yet, if the annotation is there."""
        if self.raw is None:
            return
        folder, source = self.path / "cropped_image", self.raw / "Image" / "SSM"
        scenes = read_annotation(self.raw / "annotation" / "Person.mat", source)
        total = sum(len(scene.crops) for scene in scenes)
        present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        todo = []
        for scene in scenes:
            scene.crops = {name: box for name, box in scene.crops.items() if name not in present}
            todo += [scene] if scene.crops else []
        missing = sum(len(scene.crops) for scene in todo)
        if missing and self.check_only:
            self.is_prepared = False
            self.add(
                "not prepared",
                f"{folder.name}/ lacks {missing:,} of the {total:,} crops in "
                f"annotation/Person.mat: run this tool without --check",
            )
        elif missing:
            self.cut_all(todo, folder, source, missing)

    def cut_all(self, todo: list[Scene], folder: Path, source: Path, missing: int) -> None:
        """Cut all crops; scenes that are missing and crops that cannot be cut are problems."""
        absent = [str(scene.image) for scene in todo if not scene.image.is_file()]
        if absent:
            self.add(
                "scene missing",
                f"{listed(absent, source)}, not in {source}: unpack Image/SSM again, whole, then run this tool again",
                files=absent,
            )
        folder.mkdir(exist_ok=True)
        self.remove_leftovers(folder)
        there = [scene for scene in todo if str(scene.image) not in set(absent)]
        failures = [
            failure
            for failed in run_jobs(
                partial(cut, folder=folder), there, self.workers, f"{self.name}: cropping", "scene", chunk=4
            )
            for failure in failed
        ]
        if failures:
            names = sorted(name for name, _ in failures)
            reason = dict(failures)[names[0]]
            self.add("cannot be cropped", f"{listed(names, folder)}: {reason}", files=names)
        made = missing - len(failures) - sum(len(scene.crops) for scene in todo if str(scene.image) in set(absent))
        if made:
            self.report.made.append(f"{made:,} crops in {folder}")
