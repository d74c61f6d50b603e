#!/usr/bin/env python3
"""Measure the data side: start-up at full size, and images per second without and with the image cache.

    python tools/benchmark/data.py
    python tools/benchmark/data.py --images 4000 --source 128x64 --workers 0 2 4
    python tools/benchmark/data.py --only start-up

Start-up is measured on items as many as the five published sources have (121,765 images of 18,530 people), beside a
plain program with lists of tuples and dictionaries of lists. Images are random JPEG files in a temporary folder.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also runs from a checkout that is not installed

from fastreid.config import get_cfg
from fastreid.data.build import build_loader, build_sampler, number_items
from fastreid.data.datasets.bases import Items

# Images, identities and cameras of the five sources of the published multi-source runs.
SOURCES = {
    "DG_CUHK02": (7264, 1816, 2),
    "DG_CUHK03_detected": (14097, 1467, 2),
    "DG_Market1501": (29419, 1501, 6),
    "DG_DukeMTMC": (36411, 1812, 8),
    "DG_CUHK_SYSU": (34574, 11934, 6000),
}
BATCH, INSTANCES, REPEATS = 80, 4, 5
LIMITS = {"number the identities": 0.5, "first batch of an epoch, naive": 0.1, "first batch of an epoch, balanced": 0.1}

Item = tuple[str, int, int, int]  # path, identity, camera, domain


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure start-up, loading and the image cache.")
    parser.add_argument("--only", choices=["start-up", "images"], help="one of the two tables")
    parser.add_argument("--images", type=int, default=2000, metavar="N", help="JPEG files for images per second")
    parser.add_argument("--source", default="384x160", metavar="HxW", help="their size (DukeMTMC's are about so)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], metavar="N", help="numbers of loader workers")
    args = parser.parse_args()
    if args.images < 3 * BATCH:
        parser.error(f"--images must be at least {3 * BATCH}")
    return args


# ---------------------------------------------------------------------------------------------------- start-up


def published_sizes(rng: np.random.Generator) -> list[Items]:
    """Return items as many as the sources have: every identity once, the other images dealt at random."""
    parts = []
    for name, (images, identities, cameras) in SOURCES.items():
        pids = np.sort(np.concatenate([np.arange(identities), rng.integers(0, identities, images - identities)]))
        paths = np.array([f"datasets/{name}/bounding_box_train/{pid:05d}_{i:06d}.jpg" for i, pid in enumerate(pids)])
        parts.append(Items(paths, pids, rng.integers(0, cameras, images)))
    return parts


def plain_numbering(parts: list[list[tuple[str, int, int]]]) -> list[Item]:
    """Number the identities of lists of (path, pid, camid) with a dictionary."""
    everybody = sorted({(domain, pid) for domain, part in enumerate(parts) for _, pid, _ in part})
    number = {identity: i for i, identity in enumerate(everybody)}
    rows = ((domain, row) for domain, part in enumerate(parts) for row in part)
    return [(path, number[domain, pid], camid, domain) for domain, (path, pid, camid) in rows]


class PlainSampler:
    """P identities x K images by dictionaries of lists: one pool of identities, or one for each domain."""

    def __init__(self, items: list[Item], balanced: bool):
        self.pools: dict[int, dict[int, list[int]]] = {}
        for index, (_, pid, _, domain) in enumerate(items):
            self.pools.setdefault(domain if balanced else 0, {}).setdefault(pid, []).append(index)
        self.share = BATCH // INSTANCES // len(self.pools)

    def groups(self, pool: dict[int, list[int]]) -> dict[int, list[list[int]]]:
        """Shuffle every identity's images, pad them by repetition and cut them into groups of K."""
        groups = {}
        for pid, indices in pool.items():
            shuffled = list(indices)
            random.shuffle(shuffled)
            while len(shuffled) % INSTANCES:
                shuffled.append(random.choice(indices))
            groups[pid] = [shuffled[i : i + INSTANCES] for i in range(0, len(shuffled), INSTANCES)]
        return groups

    def epoch(self) -> Iterator[list[int]]:
        left = {domain: self.groups(pool) for domain, pool in self.pools.items()}
        ran_out: set[int] = set()
        while True:
            batch = []
            for domain, pool in self.pools.items():
                if len(left[domain]) < self.share:
                    ran_out.add(domain)
                    if len(ran_out) == len(self.pools):
                        return
                    left[domain] = self.groups(pool)
                for pid in random.sample(list(left[domain]), self.share):
                    batch += left[domain][pid].pop()
                    if not left[domain][pid]:
                        del left[domain][pid]
            yield batch


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median time of a call, without the garbage collector, which strikes the plain program at random."""
    times = []
    for _ in range(repeats):
        gc.collect()
        gc.disable()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
        gc.enable()
    return float(np.median(times))


def measure_start_up() -> None:
    """Print the times of ours and of the plain program, side by side."""
    names, parts = list(SOURCES), published_sizes(np.random.default_rng(0))
    lists = [list(zip(part.paths.tolist(), part.pids.tolist(), part.camids.tolist())) for part in parts]
    data, items = number_items(names, parts, False), plain_numbering(lists)
    epochs = iter(range(10**6))
    pairs: dict[str, tuple[Callable, Callable]] = {
        "number the identities": (lambda: number_items(names, parts, False), lambda: plain_numbering(lists))
    }
    for kind in ("naive", "balanced"):
        naive = kind == "naive"
        ours, plain = build_sampler(data, BATCH, INSTANCES, naive, False, 0), PlainSampler(items, not naive)
        pairs |= {
            f"build the sampler, {kind}": (
                lambda naive=naive: build_sampler(data, BATCH, INSTANCES, naive, False, 0),
                lambda naive=naive: PlainSampler(items, not naive),
            ),
            f"first batch of an epoch, {kind}": (
                lambda ours=ours: next(ours.epoch(next(epochs))),
                lambda plain=plain: next(plain.epoch()),
            ),
            f"a whole epoch of batches, {kind}": (
                lambda ours=ours: sum(1 for _ in ours.epoch(next(epochs))),
                lambda plain=plain: sum(1 for _ in plain.epoch()),
            ),
        }
    rows = []
    for name, (ours, plain) in pairs.items():
        repeats = 1 if "whole" in name else REPEATS
        mine, other = seconds(ours, repeats), seconds(plain, repeats)
        limit = LIMITS.get(name)
        verdict = "" if limit is None else f"{limit} s: {'kept' if mine < limit else 'MISSED'}"
        rows.append([name, f"{mine:.4f}", f"{other:.4f}", f"{other / mine:.1f} x", verdict])
    print(f"\nStart-up: {len(data.paths):,} images, {data.num_classes:,} identities, {data.num_domains} domains\n")
    print(tabulate(rows, ["", "ours, s", "plain, s", "plain / ours", "limit"], tablefmt="pipe"))


# -------------------------------------------------------------------------------------------------- images / s


def draw_jpegs(folder: Path, number: int, height: int, width: int) -> Items:
    """Write smooth random pictures with some noise, which compress like photographs; `INSTANCES` to an identity."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
        noise = rng.normal(0, 6, (height, width, 3))
        pixels = np.clip(np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) + noise, 0, 255)
        path = folder / f"{index:06d}.jpg"
        Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)
        rows.append((str(path), index // INSTANCES, 0))
    return Items.from_rows(rows)


def epoch_rates(items: Items, cache: str, workers: int) -> list[float]:
    """Return the images per second of two epochs of training batches, as trained on."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATALOADER.CACHE, cfg.DATALOADER.NUM_WORKERS = cache, workers
    data = number_items(["jpegs"], [items], False)
    loader = build_loader(cfg, data, build_sampler(data, BATCH, INSTANCES, True, False, 0), 0)
    batches, number = iter(loader), len(items) // BATCH
    next(batches)  # starting the workers is not the subject
    rates = []
    for _ in range(2):
        start = time.perf_counter()
        count = sum(len(batch["images"]) for batch in islice(batches, number - 1))
        rates.append(count / (time.perf_counter() - start))
        next(batches)
    return rates


def measure_images(number: int, size: tuple[int, int], workers: list[int]) -> None:
    """Print the images per second without cache, in the epoch that fills it, and in the next one."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "jpegs").mkdir()
        items = draw_jpegs(Path(folder) / "jpegs", number, *size)
        rows = []
        for count in workers:
            without = max(epoch_rates(items, "", count))
            filling, filled = epoch_rates(items, str(Path(folder) / f"cache{count}"), count)
            # A set of its own for each number of workers: the caches in memory live as long as the process.
            copy = Path(folder) / f"jpegs{count}"
            copy.mkdir()
            in_memory = draw_jpegs(copy, number, *size)
            ram_filling, ram_filled = epoch_rates(in_memory, "ram", count)
            rates = (without, filling, filled, ram_filling, ram_filled)
            rows.append([count, *(f"{rate:,.0f}" for rate in rates), f"{filled / without:.1f} x"])
    print(
        f"\nImages per second of a training loader: {number:,} JPEG files of {size[0]}x{size[1]}, resized to "
        f"256x128, flipped, padded, cropped; batches of {BATCH}; files in the system's page cache\n"
    )
    header = ["workers", "no cache", "filling a folder", "folder filled", "filling ram", "ram filled", "filled / none"]
    print(tabulate(rows, header, tablefmt="pipe"))


def main() -> None:
    args = parse_args()
    height, _, width = args.source.partition("x")
    if args.only != "images":
        measure_start_up()
    if args.only != "start-up":
        measure_images(args.images, (int(height), int(width)), args.workers)


if __name__ == "__main__":
    main()
