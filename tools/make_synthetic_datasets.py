"""Draw people into the layouts of all data sets, so that everything can be tried without a download.

    python tools/make_synthetic_datasets.py --root datasets                      # the demo's size, a few seconds
    python tools/make_synthetic_datasets.py --root datasets --sets market1501 grid --ids 100 --images 12
    python tools/make_synthetic_datasets.py --root datasets --scale published    # as many images as the real sets
    python tools/make_synthetic_datasets.py --root datasets --folder mine        # for folder:mine
    python tools/make_synthetic_datasets.py --root datasets --raw                # to try prepare_datasets.py on

Folders and file names are those of the real sets, the pictures are drawings. The same seed gives the same bytes,
whatever the number of workers. An interrupted run goes on where it stopped when it is started again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import shutil
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a checkout that is not installed

from fastreid.data.datasets import datasets_root
from fastreid.utils.errors import UserError, run_command, shield_pool_worker
from fastreid.utils.files import home_path
from fastreid.utils.machine import num_cores
from tools.synthetic.layouts import MIN_IDS, MIN_IMAGES, NOBODY, PLANS, PUBLISHED, SCALES, Plan, counts_for, plan_folder
from tools.synthetic.raw import NUM_VIEWS, RAW_FILES, pack
from tools.synthetic.scenes import GAP, WIDE, WIDEST, Gap, Shot, save_shot

MARKER = ".made_by_make_synthetic_datasets.json"
DRAWING_VERSION = 1  # to be raised when the same options give other bytes
MIN_SIZE = (32, 16)
OLD_GAP = "old"
STAGING = ".drawn"  # where images wait in a set's folder to be packed into the publishers' files


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Command line; argparse itself ends the program with status 2 for an option it does not know."""
    parser = argparse.ArgumentParser(description="Draw people into the layouts of the re-identification data sets.")
    parser.add_argument(
        "--root", type=home_path, default=datasets_root(), help="data root (default: $FASTREID_DATASETS, or datasets)"
    )
    parser.add_argument(
        "--sets", nargs="+", metavar="NAME", help=f"any of {' '.join(PLANS)} (default: all; none if a folder is given)"
    )
    parser.add_argument(
        "--folder",
        nargs="+",
        metavar="NAME",
        default=[],
        help="sets to be read as folder:NAME, of styles like the sources'",
    )
    parser.add_argument(
        "--wide-folder",
        nargs="+",
        metavar="NAME",
        default=[],
        help="the same, of styles from a wider range, as unseen targets have them",
    )
    parts = ", ".join(f"{name}={value:g}" for name, value in asdict(GAP).items())
    parser.add_argument(
        "--gap",
        nargs="+",
        metavar="PART=X",
        default=[],
        help="what the sets of --folder and --wide-folder differ in, see Gap in tools/synthetic/scenes.py; "
        f"{OLD_GAP}: the range of before, all in colour (default: {parts})",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--scale", choices=[*SCALES, "published"], default="demo", help="number of people and images")
    size.add_argument("--ids", type=int, metavar="N", help="people per set")
    parser.add_argument("--images", type=int, metavar="N", help="images of each person of a training set")
    parser.add_argument("--size", default="128x64", metavar="HxW", help="height and width of the images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=num_cores(), help="processes (default: one per core)")
    parser.add_argument(
        "--raw",
        action="store_true",
        help="cuhk03 and cuhk_sysu as the publishers give them, to be prepared by prepare_datasets.py",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace sets that this tool made with other options")
    return parser.parse_args(argv)


def checked_size(text: str) -> tuple[int, int]:
    """(height, width) of "HxW"; raises UserError."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or not all(low <= int(n) <= 2048 for n, low in zip(match.groups(), MIN_SIZE, strict=True)):
        raise UserError(
            f"--size {text}: expected height x width in pixels, such as 128x64, at least {MIN_SIZE[0]}x{MIN_SIZE[1]}"
        )
    return int(match[1]), int(match[2])


def read_gap(words: list[str]) -> Gap:
    """The parts of --gap over the default, or over the range of before; raises UserError."""
    gap = GAP
    for word in words:
        name, equals, value = word.partition("=")
        if word == OLD_GAP:
            gap = WIDEST
        elif not equals or name not in asdict(GAP):
            raise UserError(f"--gap {word}: expected {OLD_GAP}, or PART=X with a part out of {', '.join(asdict(GAP))}")
        elif not re.fullmatch(r"\d+(\.\d*)?", value) or name == "background" and float(value) > 1:
            raise UserError(f"--gap {word}: expected a number from 0 on, of background at most 1")
        else:
            gap = replace(gap, **{name: float(value)})
    return gap


def gap_note(domain: str, gap: Gap) -> dict:
    """What of --gap a set's marker has to say: nothing where its images are those of before."""
    of_all = ("wardrobe", "vividness", "light")
    parts = {name: value for name, value in asdict(gap).items() if domain.startswith(WIDE) or name in of_all}
    is_own = domain not in PLANS and parts != {name: asdict(WIDEST)[name] for name in parts}
    return {"gap": parts} if is_own else {}


def make_plans(args: argparse.Namespace) -> list[tuple[Plan, dict[str, int]]]:
    """The plans that the options ask for, each with its counts; raises UserError for options that make no sense."""
    names = args.sets if args.sets is not None else [] if args.folder or args.wide_folder else list(PLANS)
    for name in names:
        if name not in PLANS:
            raise UserError(f"--sets {name}: there is no such set, choose among {', '.join(PLANS)}")
    published = args.ids is None and args.scale == "published"
    if published and (args.folder or args.wide_folder or args.images is not None):
        raise UserError("--scale published: the numbers are those of the real sets, so leave out --images and --folder")
    ids, images, test_ids = SCALES["demo" if published else args.scale]
    if args.ids is not None:
        ids = test_ids = args.ids
    images = images if args.images is None else args.images
    for option, value, low in (
        ("--ids", ids, MIN_IDS),
        ("--images", images, MIN_IMAGES),
        ("--seed", args.seed, 0),
        ("--workers", args.workers, 1),
    ):
        if value < low:
            raise UserError(f"{option} {value}: expected {low} or more")
    if args.raw and images > NUM_VIEWS and "cuhk03" in names:
        raise UserError(
            f"--images {images}: cuhk-03.mat has room for {NUM_VIEWS} images of a person; give fewer, or "
            f"leave out --raw"
        )
    planned = []
    for name in dict.fromkeys(names):
        counts = PUBLISHED[name] if published else counts_for(name, ids, images, test_ids)
        planned.append((PLANS[name](args.seed, counts), counts))
    taken = {make(0, counts_for(name, MIN_IDS, MIN_IMAGES, MIN_IDS)).folder for name, make in PLANS.items()}
    twice = set(args.folder) & set(args.wide_folder)
    if twice:
        raise UserError(f"--wide-folder {sorted(twice)[0]}: the same name is given with --folder")
    for option, folders in (("--folder", args.folder), ("--wide-folder", args.wide_folder)):
        for name in dict.fromkeys(folders):
            if not re.fullmatch(r"\w[\w.-]*", name) or name in taken or name in PLANS:
                raise UserError(
                    f"{option} {name}: expected a plain name that is none of the known sets' or their folders'"
                )
            counts = counts_for(name, ids, images, test_ids)
            planned.append((plan_folder(name, args.seed, counts, wide=option == "--wide-folder"), counts))
    return planned


def must_be_replaced(folder: Path, options: dict, overwrite: bool) -> bool:
    """Whether the folder holds a set of other options; raises UserError if nothing may be written there."""
    marker = folder / MARKER
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"{folder} is a file, but a data set's folder belongs there: move it away or use another --root"
        )
    if marker.is_file():
        if marker.read_text(encoding="utf-8") == json.dumps(options):
            return False
        if not overwrite:
            # The demo's data look like any others: whoever wants to replace a set must know what it is.
            raise UserError(
                f"{folder} was made with other options ({changed_options(marker, options)}), and is left as "
                f"it is, as it may be another run's, such as that of make demo: use another --root. Only "
                f"--overwrite deletes the set and makes it again"
            )
        return True
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{folder} is not empty and was not made by this tool, so it is left alone: move it away or "
            f"use another --root"
        )
    return False


def changed_options(marker: Path, options: dict) -> str:
    """What a set was made with and what is asked for now, where they differ."""
    try:
        drawn = json.loads(marker.read_text(encoding="utf-8"))
        keys = [key for key in drawn | options if drawn.get(key) != options.get(key)]
        return "; ".join(f"{key} {drawn.get(key)}, now {options.get(key)}" for key in keys)
    except (ValueError, TypeError, AttributeError):
        return "its note of them cannot be read"


def staged(plan: Plan) -> Plan:
    """The same images in a folder of their own, to be packed when all are made."""
    shots = [replace(shot, path=shot.path.replace(plan.folder, f"{plan.folder}/{STAGING}", 1)) for shot in plan.shots]
    return replace(plan, shots=shots)


def pack_staged(plan: Plan, folder: Path, seed: int) -> None:
    """Turn the synthetic images of a set into the publishers' files."""
    drawn = folder / STAGING
    if drawn.is_dir():
        pack(plan.domain, drawn, folder, seed)
        shutil.rmtree(drawn)


def draw(root: Path, shots: list[Shot], seed: int, size: tuple[int, int], workers: int, gap: Gap) -> None:
    """Make all images, with a progress bar."""
    for folder in sorted({(root / shot.path).parent for shot in shots}):
        folder.mkdir(parents=True, exist_ok=True)
    job = partial(save_shot, root, seed=seed, size=size, gap=gap)
    with tqdm(total=len(shots), unit="image", desc="drawing", disable=None) as bar:
        if workers == 1:
            for shot in shots:
                job(shot)
                bar.update()
            return
        with multiprocessing.Pool(workers, shield_pool_worker) as pool:
            for _ in pool.imap_unordered(job, shots, chunksize=16):
                bar.update()


def summary(rows: list[tuple]) -> str:
    """Text table of what there is now."""
    table = [("set", "folder", "images", "people", "cameras", "made now"), *rows]
    widths = [max(len(str(row[k])) for row in table) for k in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            f"{value!s:<{width}}" if k < 2 else f"{value!s:>{width}}"
            for k, (value, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    )


def run(args: argparse.Namespace) -> str:
    """Plan, check, draw; returns the summary. Raises UserError before anything is written, or if writing fails."""
    size, planned, gap = checked_size(args.size), make_plans(args), read_gap(args.gap)
    options = [
        {"version": DRAWING_VERSION, "seed": args.seed, "size": args.size, "counts": counts}
        | ({"raw": True} if args.raw and plan.domain in RAW_FILES else {})
        | ({"wide": True} if plan.domain.startswith(WIDE) else {})
        | gap_note(plan.domain, gap)
        for plan, counts in planned
    ]
    folders = [args.root / plan.folder for plan, _ in planned]
    stale = [must_be_replaced(folder, mine, args.overwrite) for folder, mine in zip(folders, options, strict=True)]
    rows, todo = [], []
    try:
        for (plan, _), folder, mine, old in zip(planned, folders, options, stale, strict=True):
            if old:
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MARKER).write_text(json.dumps(mine), encoding="utf-8")
            for path, content in plan.files.items():
                (args.root / path).write_bytes(content)
            packed = "raw" in mine and (folder / RAW_FILES[plan.domain]).exists()
            shots = staged(plan).shots if "raw" in mine else plan.shots
            missing = [] if packed else [shot for shot in shots if not (args.root / shot.path).exists()]
            todo += sorted(missing, key=lambda shot: shot.camera)  # a worker prepares a camera once
            people = {shot.identity for shot in plan.shots if shot.identity < NOBODY}
            cameras = {shot.camera for shot in plan.shots}
            rows.append(
                (plan.domain.removeprefix(WIDE), folder, len(plan.shots), len(people), len(cameras), len(missing))
            )
        draw(args.root, todo, args.seed, size, args.workers, gap)
        for (plan, _), folder, mine in zip(planned, folders, options, strict=True):
            if "raw" in mine:
                pack_staged(plan, folder, args.seed)
    except OSError as error:
        raise UserError(
            f"cannot write {error.filename or args.root}: {error.strerror or error}; check the disk's free "
            f"space and the permissions, then start again"
        ) from error
    return summary(rows)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; 0 done, 2 wrong input (one line on stderr), 130 interrupted."""
    args = parse_args(argv)
    try:
        print(run(args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    run_command(lambda: sys.exit(main()))
