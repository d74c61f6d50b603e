"""Finding the folders of a data set, and the likely mistake where one is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastreid.data.datasets.files import likely_mistake, names_alike
from fastreid.data.prepare.report import Problem

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
MOVE_UP = "move it up one level"


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def archives_in(folder: Path, names: Sequence[str] = ()) -> list[Path]:
    """The archives in a folder, sorted; only those that are named like one of `names`, if any are given."""
    found = sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in ARCHIVES and entry.is_file())
    return [path for path in found if not names or any(names_alike(path.stem, name) for name in names)]


def missing_set_folder(root: Path, folder: str, archive_folders: Sequence[str], parts: Sequence[str]) -> Problem | None:
    """Why the data set's folder is not in the root; None if it is there.

    Args:
        archive_folders: names that the folder has in the publishers' archive.
        parts: folders that belong into it. The problem is fatal if the set is there under another name, and not if
            there is nothing of it or only one level deeper.
    """
    path = root / folder
    if path.is_dir():
        return None
    mistake = likely_mistake(path)
    if path.is_symlink():
        return Problem("broken link", f"{path}{mistake}: mount its disk, or link it again")
    if path.exists():
        return Problem("file in a folder's place", f"{path} is a file, expected a folder: unpack it, or move it away")
    if mistake:
        return Problem("wrong folder name", f"in {root}{_bare(mistake)}: rename it")
    for name in archive_folders:
        if (root / name).is_dir():
            return Problem("wrong folder name", f"in {root} found {name}/, expected {folder}/: rename it")
    archives = archives_in(root, [folder, *archive_folders])
    if archives:
        return Problem("archive not unpacked", f"found {archives[0]}, expected the folder {path}: unpack it there")
    if names_alike(root.name, folder) and any((root / part).is_dir() for part in parts):
        return Problem("wrong root", f"{root} seems to be the set itself: give the folder above it as --root")
    if parts and all((root / part).is_dir() for part in parts):
        return Problem(
            "one level too high",
            f"found {parts[0]}/ in {root} itself, expected {path / parts[0]}/: if "
            f"they are this set's, make {folder}/ and move them into it",
            fatal=False,
        )
    for outer in folders_in(root):
        inner = next((outer / name for name in (folder, *archive_folders) if (outer / name).is_dir()), None)
        if inner is not None:
            where = f"found {outer.name}/{inner.name}/, expected {folder}/ in {root}"
            return Problem("one level too deep", f"{where}: {MOVE_UP}, or give --root {outer}", fatal=False)
    return Problem(
        "not there", f"no folder {path}: put the set there or link it (layouts: datasets/README.md)", fatal=False
    )


def missing_part(root: Path, path: Path, part: str, aliases: Sequence[str], advice: str) -> Problem | None:
    """Why the folder `part` is not in the data set's folder `path`; None if it is there.

    Args:
        aliases: names that it has in the publishers' archive.
        advice: what to do if there is no trace of it.
    """
    wanted = path / part
    if wanted.is_dir():
        return None
    # The outermost folder that is missing is the one to talk about.
    first = next(folder for folder in [*reversed(wanted.parents), wanted] if not folder.is_dir())
    parent = first.parent
    if first.is_symlink():
        return Problem("broken link", f"{first}{likely_mistake(first)}: mount its disk, or link it again")
    if first.exists():
        return Problem("file in a folder's place", f"{first} is a file, expected a folder: unpack the set again")
    mistake = likely_mistake(first)
    if mistake:
        return Problem("wrong folder name", f"in {parent}{_bare(mistake)}: rename it")
    for name in aliases:
        if (parent / name).is_dir():
            return Problem("wrong folder name", f"in {parent} found {name}/, expected {first.name}/: rename it")
    for outer in folders_in(parent):
        if (outer / first.name).is_dir():
            return Problem(
                "one level too deep",
                f"in {parent} found {outer.name}/ with the set's folders in it, "
                f"expected them in {parent} itself: move what is in {outer.name}/ "
                f"up one level",
            )
    outside = root / first.relative_to(path)
    if outside.is_dir():
        return Problem("one level too high", f"found {outside}/, expected {first}/: move it there")
    archives = archives_in(path)
    if archives:
        return Problem("archive not unpacked", f"found {archives[0]}, expected {first}/: unpack it there")
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in parent.iterdir() if not entry.name.startswith("."))
    holds = f"it holds {', '.join(entries[:4])}{', ...' if len(entries) > 4 else ''}" if entries else "it is empty"
    return Problem("folder missing", f"{parent} has no {first.name}/ ({holds}): {advice}")


def _bare(mistake: str) -> str:
    """A remark of `likely_mistake` without its brackets."""
    return mistake.replace(" (", " ", 1).removesuffix(")")
