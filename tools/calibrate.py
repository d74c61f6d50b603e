#!/usr/bin/env python3
"""Find the distance up to which two images count as one person, from labelled images of the place where it is used.

    python3 tools/calibrate.py --config-file configs/Demo/synthetic.yml --dataset folder:station --far 0.01 0.001
    python3 tools/calibrate.py --config-file configs/Demo/synthetic.yml --dataset folder:campus \\
        --apply logs/Demo/synthetic/threshold.json

The first writes threshold.json beside the checkpoint, for `demo/search.py --threshold` and `Predictor.same_person`. The
second writes nothing: it says what rates the thresholds of such a file have on other images. All pairs of images from
two cameras are compared; intervals are of resamples of the people. The people must not be those that the model was
trained on. Query expansion and re-ranking take no part: two images alone are compared.
"""

import argparse
import os
import sys
from pathlib import Path

# On the CPU, OpenMP threads that wait by spinning take the cores from the loader's workers: see tools/train_net.py.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from tabulate import tabulate

from fastreid.analysis.model_figures import images_asked_for
from fastreid.data.datasets import Items, build_dataset, datasets_root
from fastreid.engine.defaults import add_checkpoint_arguments, default_setup, load_model
from fastreid.evaluation.calibration import (
    CONFIDENCE,
    MEASURED,
    People,
    calibrate,
    model_record,
    read_thresholds,
    require_model,
)
from fastreid.evaluation.checked_sets import check_test_options
from fastreid.evaluation.extraction import extract_features
from fastreid.evaluation.reid_evaluation import check_finite
from fastreid.utils import run_files
from fastreid.utils.errors import UserError, run_command
from fastreid.utils.files import home_path, write_json


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Find the distance up to which two images count as one person.")
    add_checkpoint_arguments(parser)
    labelled = "labelled images: folder:<name>, or a test data set"
    parser.add_argument("--dataset", required=True, metavar="NAME", help=labelled)
    parser.add_argument("--train", action="store_true", help="take its training images, not query and gallery")
    rates = "wanted false accept rates: share of the pairs of two people that are taken for one (default: 0.01)"
    parser.add_argument("--far", nargs="+", type=float, default=[0.01], metavar="RATE", help=rates)
    people = "of people, for the intervals (default: 1000)"
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help=people)
    parser.add_argument("--seed", type=int, default=0, help="of the resamples (default: 0)")
    where = parser.add_mutually_exclusive_group()
    beside = f"file to write (default: {run_files.THRESHOLDS} beside the checkpoint)"
    where.add_argument("--output", type=home_path, metavar="FILE", help=beside)
    there = "measure the thresholds of this file; nothing is written"
    where.add_argument("--apply", type=home_path, metavar="FILE", help=there)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="options over the config, before --far")
    args = parser.parse_intermixed_args(arguments)
    args.eval_only = True
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    if args.resamples < 1 or args.seed < 0:
        raise UserError("--resamples must be at least 1 and --seed at least 0")
    given = read_thresholds(args.apply) if args.apply else None
    fars = [] if given else sorted(set(args.far), reverse=True)
    cfg = default_setup(args)
    check_test_options(cfg)
    items, known = read_images(args.dataset, args.train)
    people = People(items, known)
    people.check(args.dataset, fars)
    model, checkpoint = load_model(cfg, args.resume or args.num_pth is not None, args.num_pth, args.trust_checkpoint)
    record = model_record(cfg, model, str(checkpoint or cfg.MODEL.WEIGHTS))
    points = []
    if given:
        require_model(given, record, args.apply)
        points = [row["threshold"] for row in given["thresholds"]]
    features = extract_features(cfg, model, items, args.dataset)
    check_finite(features, items)
    rows = calibrate(features, people, cfg.TEST.METRIC, cfg.TEST.BLOCK_SIZE, fars, points, args.resamples, args.seed)
    about = {
        "data_set": args.dataset,
        "part": "train" if args.train else "query and gallery",
        "images": len(items),
        "people": len(np.unique(items.pids[known])),
        "pairs_of_one_person": int(people.same.sum()),
        "pairs_of_two_people": people.different(np.ones(people.count, np.int64)),
        "intervals": {"confidence": CONFIDENCE, "resamples_of_people": args.resamples, "seed": args.seed},
    }
    print(
        f"{args.dataset}: {about['images']:,} images of {about['people']:,} people, {about['pairs_of_one_person']:,} "
        f"pairs of one person and {about['pairs_of_two_people']:,} of two, from two cameras; {record['metric']} "
        f"distance of {record['checkpoint']}"
    )
    print(table(rows, given))
    if given is None:
        path = args.output or (checkpoint.parent if checkpoint else Path(cfg.OUTPUT_DIR)) / run_files.THRESHOLDS
        write_json(path, {**record, **about, "thresholds": rows})
        print(f"wrote {path}")


def read_images(name: str, train: bool) -> tuple[Items, np.ndarray]:
    """Return a data set's images, and which of them show people that a query asks for."""
    if not train:
        return images_asked_for(name)
    items = build_dataset(name, datasets_root()).train()
    return items, np.ones(len(items), bool)


def table(rows: list[dict], given: dict | None) -> str:
    """Return thresholds, and rates in percent, with their intervals."""
    lines = []
    for wanted, row in zip(given["thresholds"] if given else rows, rows):
        cells = [with_interval(row, key, *form) for key, form in zip(MEASURED, ((1, 4), (100, 2), (100, 2)))]
        lines.append([f"{100 * wanted['far']:g} %", *cells])
    headers = ["calibrated for" if given else "wanted FAR", "threshold", "FAR here (%)", "TAR here (%)"]
    return tabulate(lines, headers, tablefmt="pipe", disable_numparse=True)


def with_interval(row: dict, key: str, scale: float, digits: int) -> str:
    """Return a number and its interval as text; a number that was given has none."""
    low, high = row[f"{key}_interval"]
    texts = ["none" if number is None else f"{scale * number:.{digits}f}" for number in (row[key], low, high)]
    return texts[0] if low == high == row[key] else f"{texts[0]} ({texts[1]} to {texts[2]})"


if __name__ == "__main__":
    run_command(main)
