#!/usr/bin/env python3
"""Draw ranked lists of a test data set: the query, the nearest images, right and wrong.

    python3 demo/visualize_result.py --config-file logs/Sample/DG-mobilenet --dataset-name ALL_GRID --output pages
    python3 demo/visualize_result.py --config-file logs/Sample/DG-mobilenet --rank-sort descending --num-vis 20
    python3 demo/visualize_result.py --config-file logs/Sample/DG-mobilenet --heat

Images of the query's identity and camera are left out, as in the evaluation; distances and average precision (AP) are
those of the evaluation with the same options of TEST. --heat shows below each image where the model looks.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

# On the CPU, OpenMP threads that wait by spinning take the cores from the loader's workers: see tools/train_net.py.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fastreid import Predictor
from fastreid.analysis.activation import activation_maps
from fastreid.analysis.pictures import SIGNS, draw_page, ranked_row
from fastreid.data.build import load_test_set
from fastreid.data.datasets import Split, TestSet
from fastreid.engine.predictor import add_model_arguments
from fastreid.evaluation.extraction import extract_features
from fastreid.evaluation.ranked_lists import RankedQuery, ranked_lists
from fastreid.evaluation.reid_evaluation import split_distances
from fastreid.utils.errors import UserError, run_command
from fastreid.utils.files import atomic_path, file_stem, home_path, require_folder
from fastreid.utils.logger import setup_logger

logger = logging.getLogger("fastreid.visualize_result")
ORDERS = {"ascending": "worst first", "descending": "best first"}


def main() -> None:
    args = parse_arguments()
    setup_logger()
    require_folder(args.output)
    predictor = Predictor(args.config_file, args.opts)
    names = [args.dataset_name] if args.dataset_name else predictor.cfg.DATASETS.TESTS
    for name in names:
        test_set = load_test_set(name)
        split = find_split(test_set, name, args.split)
        features = extract_features(predictor.cfg, predictor.model, test_set.items, name)
        distances = split_distances(predictor.cfg, features, split, predictor.device)
        lists = in_order(ranked_lists(distances, test_set.items, split, args.max_rank), args.rank_sort)
        draw_pages(lists, args, name, split.name, predictor)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draw ranked lists of a test data set.")
    add_model_arguments(parser)
    parser.add_argument("--dataset-name", metavar="NAME", help="a test data set (default: all of DATASETS.TESTS)")
    parser.add_argument("--split", metavar="NAME", help="the split to draw (default: the first)")
    parser.add_argument(
        "--output", default="ranked_lists", type=home_path, help="folder to write to (default: %(default)s)"
    )
    parser.add_argument("--num-vis", default=30, type=int, metavar="N", help="queries to draw (default: %(default)s)")
    orders = tuple(ORDERS)
    parser.add_argument("--rank-sort", choices=orders, default=orders[0], help="by AP: worst first, or best first")
    parser.add_argument("--max-rank", default=10, type=int, metavar="K", help="images of a list (default: %(default)s)")
    parser.add_argument("--per-page", default=6, type=int, metavar="N", help="queries on a page (default: %(default)s)")
    parser.add_argument("--heat", action="store_true", help="show where the model looks, by its last feature map")
    args = parser.parse_args()
    if min(args.num_vis, args.max_rank, args.per_page) < 1:
        parser.error("--num-vis, --max-rank and --per-page must be at least 1")
    return args


def find_split(test_set: TestSet, name: str, wanted: str | None) -> Split:
    """Return the split called `wanted`, or the first one."""
    splits = {split.name: split for split in test_set.splits}
    if wanted is None:
        return test_set.splits[0]
    if wanted not in splits:
        raise UserError(f"--split {wanted}: {name} has no such split, but {', '.join(splits)}")
    return splits[wanted]


def in_order(lists: list[RankedQuery], order: str) -> list[RankedQuery]:
    """Return the lists by average precision; queries without a true match, which have none, are left out."""
    measured = [ranked for ranked in lists if ranked.ap is not None]
    if len(measured) < len(lists):
        logger.warning(f"{len(lists) - len(measured)} of {len(lists)} queries have no true match and are left out")
    return sorted(measured, key=lambda ranked: ranked.ap, reverse=order == "descending")


def draw_pages(lists: list[RankedQuery], args: argparse.Namespace, name: str, split: str, predictor: Predictor) -> None:
    """Write pages of ranked lists, in the order given."""
    if not lists:
        raise UserError(
            f"{name}, {split}: no query has a true match, a gallery image of the same identity from another camera: "
            "check the data set's cameras and identities"
        )
    mean = 100 * sum(ranked.ap for ranked in lists) / len(lists)
    drawn = lists[: args.num_vis]
    heading = (
        f"{name}, {split}: {len(drawn)} of {len(lists)} queries, {ORDERS[args.rank_sort]}; mAP {mean:.1f} %      "
        f"{SIGNS['right']} same identity   {SIGNS['wrong']} another identity   below: rank, distance, camera"
    )
    heat = {}
    if args.heat:
        heading += "   bright: strong last feature map"
        shown = (image.path for ranked in drawn for image in (ranked, *ranked.items))
        heat = activation_maps(predictor.cfg, predictor.model, shown, name)
    for page, start in enumerate(range(0, len(drawn), args.per_page), start=1):
        rows = [ranked_row(ranked, heat) for ranked in drawn[start : start + args.per_page]]
        path = args.output / f"{file_stem(name)}_{split}_{args.rank_sort}_{page:03d}.png"
        with atomic_path(path) as temporary:
            draw_page(rows, heading).save(temporary)
    logger.info(f"{name}, {split}: {len(drawn)} of {len(lists)} ranked lists on {page} page(s) in {args.output}")


if __name__ == "__main__":
    run_command(main)
