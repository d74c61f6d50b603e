"""Layouts of the synthetic data sets: which image of whom goes where, under the file names of the real sets.

No image is made here. A plan lists shots for `scenes.py` and holds the few files that are not images.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from tools.synthetic.people import stream
from tools.synthetic.scenes import WIDE, Shot

NOBODY = 100_000  # identity numbers from here on are distractors and junk, not people of the set
MIN_IDS, MIN_IMAGES = 5, 4  # CUHK02 has five groups of people; an identity needs a query and a match in two cameras
SCALES = {"tiny": (6, 4, 8), "demo": (24, 8, 60)}  # people per training set, images of each, people per test set
CUHK02_PAIRS, CUHK03_PAIRS = (971, 306, 107, 193, 239), (843, 440, 77, 58, 49)
PRID_SHARED = 200  # people with a number up to this one are in both cameras
SYSU_PLACES = 24  # scenes share this many synthetic cameras

# What the real sets hold, under the names that the layout functions below use.
PUBLISHED: dict[str, dict[str, int]] = {
    "market1501": {
        "train_ids": 751,
        "train": 12936,
        "test_ids": 750,
        "query": 3368,
        "gallery": 13115,
        "distractors": 2798,
        "junk": 3819,
    },
    "dukemtmc": {
        "train_ids": 702,
        "train": 16522,
        "test_ids": 702,
        "query": 2228,
        "gallery_only_ids": 408,
        "gallery": 17661,
    },
    "cuhk02": {"ids": 1816, "images": 7264},
    "cuhk03": {"ids": 1467, "train_ids": 767, "detected": 14097, "labeled": 14096},
    "cuhk_sysu": {"ids": 11934, "images": 34574},
    "grid": {"ids": 250, "distractors": 775},
    "prid": {"ids": PRID_SHARED, "only_a": 185, "only_b": 549},
    "ilids": {"ids": 119, "images": 476},
    "viper": {"ids": 632},
    "msmt17": {"train_ids": 1041, "train": 30248, "val": 2373, "test_ids": 3060, "query": 11659, "gallery": 82161},
}


def counts_for(name: str, ids: int, images: int, test_ids: int) -> dict[str, int]:
    """Sizes of a set with `ids` people of `images` images each (training sets) or `test_ids` people (test sets)."""
    train_ids, held_out, query = ids - ids // 2, ids // 2, max(2, images // 4)
    split = {"train_ids": train_ids, "train": train_ids * images, "test_ids": held_out, "query": held_out * query}
    rest = held_out * (images - query)
    extra = max(1, ids // 4)
    return {
        "market1501": {**split, "gallery": rest, "distractors": extra, "junk": extra},
        "dukemtmc": {**split, "gallery_only_ids": extra, "gallery": rest + extra * (images - query)},
        "cuhk02": {"ids": ids, "images": ids * images},
        "cuhk03": {"ids": ids, "train_ids": train_ids, "detected": ids * images, "labeled": ids * images},
        "cuhk_sysu": {"ids": ids, "images": ids * images},
        "grid": {"ids": test_ids, "distractors": test_ids // 2},
        "prid": {"ids": min(test_ids, PRID_SHARED), "only_a": test_ids // 4, "only_b": test_ids // 2},
        "ilids": {"ids": test_ids, "images": 4 * test_ids},
        "viper": {"ids": test_ids},
        "msmt17": {**split, "val": train_ids, "gallery": rest},
    }.get(name, {**split, "gallery": rest})


def spread(total: int, parts: int) -> list[int]:
    """Share a total evenly: `parts` numbers that differ by one at most and add up to it."""
    return [total // parts + (k < total % parts) for k in range(parts)]


def proportional(total: int, weights: tuple[int, ...]) -> list[int]:
    """Share a total (of at least one each) by weights; the weights themselves if they add up to it."""
    left = total - len(weights)
    ends = [round(left * sum(weights[:k]) / sum(weights)) for k in range(len(weights) + 1)]
    return list(weights) if total == sum(weights) else [1 + b - a for a, b in zip(ends, ends[1:])]


@dataclass
class Plan:
    """One data set to be written: its folder under the root, its images, and the contents of its other files."""

    folder: str
    domain: str
    shots: list[Shot] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)  # by path relative to the root

    def add(self, path: str, identity: int, camera: int, looseness: float = 1.0) -> None:
        """Plan one image at a path relative to the folder."""
        self.shots.append(Shot(f"{self.folder}/{path}", self.domain, identity, camera, len(self.shots), looseness))


def visited(seed: int, domain: str, identity: int, cameras: int) -> list[int]:
    """The cameras, from 0, in the order in which an identity passes them."""
    return stream(seed, "visits", domain, identity).permutation(cameras).tolist()


def plan_people(
    plan: Plan, seed: int, counts: dict[str, int], cameras: int, place: Callable[[str, int, int, int], str]
) -> None:
    """Training people (train, val) and test people (query, gallery); place(part, pid, camera, number) gives paths."""
    number = 0
    for part in ("train", "val"):
        for pid, images in enumerate(spread(counts.get(part, 0), counts["train_ids"])):
            cams = visited(seed, plan.domain, pid, cameras)
            for k in range(images):
                camera = cams[k % cameras]
                plan.add(place(part, pid, camera, number), pid, camera)
                number += 1
    first, queried, only = counts["train_ids"], counts["test_ids"], counts.get("gallery_only_ids", 0)
    queries = spread(counts["query"], queried) + [0] * only
    for k, (query, gallery) in enumerate(zip(queries, spread(counts["gallery"], queried + only), strict=True)):
        cams = visited(seed, plan.domain, first + k, cameras)
        stops = max(2, query)
        for part, images in (("query", query), ("gallery", gallery)):
            for j in range(images):
                camera = cams[j % stops]
                plan.add(place(part, first + k, camera, number), first + k, camera)
                number += 1


def plan_market1501(seed: int, counts: dict[str, int]) -> Plan:
    """Market-1501: three folders, with distractors (identity 0000) and junk (-1) in the last."""
    plan = Plan("Market-1501-v15.09.15", "market1501")
    folders = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}

    def name(pid: str, camera: int, number: int) -> str:
        return f"{pid}_c{camera + 1}s{1 + number % 6}_{451 + 25 * number:06d}_{1 + number % 4:02d}.jpg"

    plan_people(
        plan,
        seed,
        counts,
        6,
        lambda part, pid, camera, number: f"{folders[part]}/{name(f'{pid + 1:04d}', camera, number)}",
    )
    for pid, images, loose in (("0000", counts["distractors"], 1.5), ("-1", counts["junk"], 5.0)):
        for k in range(images):
            n = len(plan.shots)
            plan.add(f"bounding_box_test/{name(pid, k % 6, n)}", NOBODY + n, k % 6, loose)
    return plan


def plan_dukemtmc(seed: int, counts: dict[str, int]) -> Plan:
    """DukeMTMC-reID: three folders; some people are in the gallery only."""
    plan = Plan("DukeMTMC-reID", "dukemtmc")
    folders = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
    plan_people(
        plan,
        seed,
        counts,
        8,
        lambda part, pid, camera, number: f"{folders[part]}/{pid + 1:04d}_c{camera + 1}_f{46182 + 7 * number:07d}.jpg",
    )
    return plan


def plan_cuhk02(seed: int, counts: dict[str, int]) -> Plan:
    """CUHK02: five pairs of cameras, people numbered from 1 in each."""
    plan = Plan("cuhk02", "cuhk02")
    shares, identity = spread(counts["images"], counts["ids"]), 0
    for pair, people in enumerate(proportional(counts["ids"], CUHK02_PAIRS)):
        for person in range(1, people + 1):
            for k in range(shares[identity]):
                number = f"{person:03d}_{len(plan.shots) + 1:07d}.png"
                plan.add(f"P{pair + 1}/cam{k % 2 + 1}/{number}", identity, 2 * pair + k % 2)
            identity += 1
    return plan


def plan_cuhk03(seed: int, counts: dict[str, int]) -> Plan:
    """CUHK03 as extracted images, with the two files of the new protocol (half of the people to test)."""
    plan = Plan("cuhk03", "cuhk03")
    trained = set(stream(seed, "cuhk03 protocol").permutation(counts["ids"])[: counts["train_ids"]].tolist())
    # The detector's boxes sit less well than those by hand.
    for boxes, looseness in (("detected", 1.6), ("labeled", 0.7)):
        shares, identity = spread(counts[boxes], counts["ids"]), 0
        names, labels, views = [], [], []
        index = {"train_idx": [], "query_idx": [], "gallery_idx": []}
        for pair, people in enumerate(proportional(counts["ids"], CUHK03_PAIRS)):
            for person in range(1, people + 1):
                first = (shares[identity] + 1) // 2  # images of view 1; those of view 2 are numbered from 6
                for view, start, images in ((1, 1, first), (2, max(6, first + 1), shares[identity] - first)):
                    for k in range(images):
                        part = "train_idx" if identity in trained else "gallery_idx" if k else "query_idx"
                        names.append(f"{pair + 1}_{person:03d}_{view}_{start + k:02d}.png")
                        labels.append(identity + 1)
                        views.append(view)
                        index[part].append(len(names))  # MATLAB counts from 1
                        plan.add(f"images_{boxes}/{names[-1]}", identity, 2 * pair + view - 1, looseness)
                identity += 1
        filelist = np.empty((len(names), 1), dtype=object)
        filelist[:, 0] = names
        columns = {
            key: np.array(values, dtype=float)[:, None]
            for key, values in {**index, "labels": labels, "camId": views}.items()
        }
        mat = mat_bytes({"filelist": filelist, **columns})
        plan.files[f"cuhk03/cuhk03_new_protocol_config_{boxes}.mat"] = mat
    return plan


def plan_cuhk_sysu(seed: int, counts: dict[str, int]) -> Plan:
    """CUHK-SYSU as crops; each scene counts as a camera."""
    plan = Plan("CUHK-SYSU", "cuhk_sysu")
    shares = spread(counts["images"], counts["ids"])
    scenes = max(shares[0], counts["images"] // 2)  # so many that nobody is in one twice
    for identity, images in enumerate(shares):
        for k in range(images):
            scene = len(plan.shots) % scenes
            name = f"p{identity + 1:05d}_n{k + 1:02d}_s{scene + 1:05d}_hard{int(k % 5 == 4)}.png"
            plan.add(f"cropped_image/{name}", identity, scene % SYSU_PLACES)
    return plan


def plan_grid(seed: int, counts: dict[str, int]) -> Plan:
    """GRID: pairs, distractors (0000) and the .mat file with ten splits."""
    plan, people = Plan("GRID", "grid"), counts["ids"]

    def name(pid: int, camera: int) -> str:
        n = len(plan.shots)
        return f"{pid:04d}_{camera + 1}_{25004 + 3 * n}_{20 + n % 180}_{10 + n % 90}_{90 + n % 40}_{200 + n % 60}.jpeg"

    for k in range(people):
        for folder, camera in zip(("probe", "gallery"), visited(seed, "grid", k, 8)[:2], strict=True):
            plan.add(f"{folder}/{name(k + 1, camera)}", k, camera)
    for k in range(counts["distractors"]):
        plan.add(f"gallery/{name(0, k % 8)}", NOBODY + k, k % 8)
    partitions = np.empty((1, 10), dtype=object)
    for split in range(10):
        trained = np.sort(stream(seed, "grid split", split).permutation(people)[: people // 2]) + 1
        partitions[0, split] = {
            "numPeople": float(people),
            "numTrain": float(people // 2),
            "trainPeople": trained.astype(float)[None],
        }
    plan.files["GRID/features_and_partitions.mat"] = mat_bytes({"trainIdxAll": partitions})
    return plan


def plan_prid(seed: int, counts: dict[str, int]) -> Plan:
    """PRID 2011, single shot: some people are in one camera only."""
    plan, shared = Plan("prid_2011", "prid"), counts["ids"]
    # As in the real set, numbers above 200 may name two different people; below, a number is one person.
    start_b = shared if shared == PRID_SHARED else shared + counts["only_a"]
    cameras = (("cam_a", 0, shared, counts["only_a"]), ("cam_b", 1, start_b, counts["only_b"]))
    for folder, camera, start, alone in cameras:
        for number in (*range(1, shared + 1), *range(start + 1, start + alone + 1)):
            identity = number if number <= shared else number + 10_000 * (camera + 1)
            plan.add(f"single_shot/{folder}/person_{number:04d}.png", identity, camera)
    return plan


def plan_ilids(seed: int, counts: dict[str, int]) -> Plan:
    """QMUL i-LIDS: the image number is the camera."""
    plan = Plan("QMUL-iLIDS", "ilids")
    for identity, images in enumerate(spread(counts["images"], counts["ids"])):
        cams = visited(seed, "ilids", identity, 5)
        for k in range(images):
            plan.add(f"images/{identity + 1:04d}{k + 1:03d}.jpg", identity, cams[k % 5])
    return plan


def plan_viper(seed: int, counts: dict[str, int]) -> Plan:
    """VIPeR: the second number of a file name is the angle of view."""
    plan = Plan("viper", "viper")
    for identity in range(counts["ids"]):
        for folder, camera, angle in (("cam_a", 0, 45), ("cam_b", 1, 90 + 45 * (identity % 3))):
            plan.add(f"{folder}/{identity:03d}_{angle}.bmp", identity, camera)
    return plan


def plan_msmt17(seed: int, counts: dict[str, int]) -> Plan:
    """MSMT17 version 1, with its list files."""
    plan = Plan("MSMT17_V1", "msmt17")
    lists: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}

    def place(part: str, pid: int, camera: int, number: int) -> str:
        pid -= 0 if part in ("train", "val") else counts["train_ids"]  # numbered from 0 again in the test part
        time = ("0303morning", "0303noon", "0303afternoon")[number % 3]
        file = f"{pid:04d}/{pid:04d}_{number:03d}_{camera + 1:02d}_{time}_{15 + number:04d}_{number % 3}.jpg"
        lists[part].append(f"{file} {pid}\n")
        return f"{'train' if part in ('train', 'val') else 'test'}/{file}"

    plan_people(plan, seed, counts, 15, place)
    plan.files = {f"MSMT17_V1/list_{part}.txt": "".join(lines).encode() for part, lines in lists.items()}
    return plan


def plan_folder(name: str, seed: int, counts: dict[str, int], wide: bool = False) -> Plan:
    """A set in the layout that `folder:<name>` reads, its style like the sources' or from a wider range."""
    plan = Plan(name, WIDE + name if wide else name)
    plan_people(
        plan, seed, counts, 4, lambda part, pid, camera, number: f"{part}/{pid + 1:04d}_c{camera + 1}_{number:03d}.jpg"
    )
    return plan


PLANS: dict[str, Callable[[int, dict[str, int]], Plan]] = {
    "market1501": plan_market1501,
    "dukemtmc": plan_dukemtmc,
    "cuhk02": plan_cuhk02,
    "cuhk03": plan_cuhk03,
    "cuhk_sysu": plan_cuhk_sysu,
    "grid": plan_grid,
    "prid": plan_prid,
    "ilids": plan_ilids,
    "viper": plan_viper,
    "msmt17": plan_msmt17,
}


def mat_bytes(variables: dict[str, np.ndarray]) -> bytes:
    """A MATLAB v5 file; its header text, which would hold the time of day, is replaced by a fixed one."""
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, variables)
    return b"MATLAB 5.0 MAT-file, drawn data".ljust(116) + buffer.getvalue()[116:]
