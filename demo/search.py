#!/usr/bin/env python3
"""Rank a gallery of images against query images.

    python3 demo/search.py --config-file logs/Sample/DG-mobilenet --query suspect.jpg --gallery station/ --output found
    python3 demo/search.py --config-file logs/Sample/DG-mobilenet --query queries/ --gallery feats.npz --index ivf

Writes results.csv and a picture for each query. The gallery's features are kept in gallery.npz of the output folder,
and only those of new and changed images are computed the next time. A gallery of features that demo.py wrote is taken
as it is; the images that it names are read only for the pictures.

    python3 demo/search.py --config-file logs/Sample/DG-mobilenet --query queries/ --gallery station/ --threshold

With the threshold.json that tools/calibrate.py has written beside the checkpoint, each query is answered: "same" if its
nearest image is near enough to show the same person, "nobody" if not. The answers are in answers.csv and the pictures.
"""

import argparse
import logging
import os
import sys
import time
from pathlib import Path

# On the CPU, OpenMP threads that wait by spinning take the cores from the loader's workers: see tools/train_net.py.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from fastreid import Predictor
from fastreid.analysis.pictures import Row, Tile, draw_page
from fastreid.data.image_files import PICTURES, RESULTS, RESULTS_HEADER, find_images
from fastreid.engine.predictor import add_model_arguments
from fastreid.evaluation.calibration import Threshold, load_threshold
from fastreid.evaluation.feature_files import ImageFeatures, compute_features, reuse_features
from fastreid.evaluation.search import INDEXES, Found, IvfIndex, exact_search, import_faiss, recall, recall_queries
from fastreid.utils.errors import UserError, run_command
from fastreid.utils.files import atomic_path, home_path, require_folder, write_rows
from fastreid.utils.logger import setup_logger
from fastreid.utils.text import file_part, spreadsheet_text

logger = logging.getLogger("fastreid.search")
ANSWERS, SAME, NOBODY = "answers.csv", "same", "nobody"


def main() -> None:
    args = parse_arguments()
    setup_logger()
    if args.index == "ivf":
        import_faiss()  # now, not after the features
    require_folder(args.output)
    predictor = Predictor(args.config_file, args.opts)
    # Before the features: a threshold of another model is refused at once.
    threshold = None if args.threshold is None else load_threshold(predictor, args.threshold or None, args.far)
    gallery = load_gallery(predictor, args.gallery, args.output)
    queries = compute_features(predictor, find_images(args.query), "queries")
    found = search(predictor.cfg, queries.features, gallery.features, args)
    write_results(args.output / RESULTS, queries.paths, gallery.paths, found)
    answers = None
    if threshold is not None:
        answers = answer(found, threshold)
        write_answers(args.output / ANSWERS, queries.paths, gallery.paths, found, answers, threshold)
    draw_results(args.output / PICTURES, queries.paths[: args.pictures], gallery.paths, found, answers)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Rank a gallery of images against query images.")
    add_model_arguments(parser)
    parser.add_argument("--query", nargs="+", required=True, metavar="PATH", help="images, folders or quoted globs")
    parser.add_argument("--gallery", nargs="+", required=True, metavar="PATH", help="the same, or one .npz of demo.py")
    parser.add_argument("--output", default="search", type=home_path, help="folder to write to (default: %(default)s)")
    parser.add_argument("--top-k", default=10, type=int, metavar="K", help="images found for a query (default: 10)")
    parser.add_argument("--pictures", default=50, type=int, metavar="N", help="draw the first N queries (default: 50)")
    parser.add_argument("--index", choices=INDEXES, default="exact", help="ivf: approximate, through faiss")
    parser.add_argument("--nlist", default=0, type=int, metavar="N", help="cells of ivf (default: 4 sqrt(gallery))")
    parser.add_argument("--nprobe", default=16, type=int, metavar="N", help="cells looked at for a query (default: 16)")
    beside = "of tools/calibrate.py: answer same or nobody (default: threshold.json beside the checkpoint)"
    # False: without FILE. (argparse would make a path of a text.)
    parser.add_argument("--threshold", nargs="?", const=False, type=home_path, metavar="FILE", help=beside)
    parser.add_argument("--far", type=float, metavar="RATE", help="its false accept rate, where that file has several")
    args = parser.parse_args()
    if args.far is not None and args.threshold is None:
        parser.error("--far says which threshold: add --threshold")
    if args.top_k < 1 or args.pictures < 0:
        parser.error("--top-k must be at least 1 and --pictures at least 0")
    return args


def load_gallery(predictor: Predictor, inputs: list[str], output: Path) -> ImageFeatures:
    """Return the gallery's features, out of a file of demo.py or of images."""
    if not any(entry.endswith(".npz") for entry in inputs):
        return reuse_features(predictor, find_images(inputs), output / "gallery.npz", "gallery")
    if len(inputs) > 1:
        raise UserError("--gallery takes images, folders and globs, or one .npz file of features, not both")
    gallery = ImageFeatures.load(Path(inputs[0]))
    gallery.check_model(predictor, Path(inputs[0]))
    return gallery


def search(cfg, q_feat: np.ndarray, g_feat: np.ndarray, args: argparse.Namespace) -> Found:
    """Return columns and distances (Q, k); with ivf say what the cells gave up."""
    metric, block_size = cfg.TEST.METRIC, cfg.TEST.BLOCK_SIZE
    if args.index == "exact":
        start = time.perf_counter()
        found = exact_search(q_feat, g_feat, args.top_k, metric, block_size)
    else:
        index = IvfIndex(g_feat, metric, args.nlist, args.nprobe, args.output)
        start = time.perf_counter()
        found = index.search(q_feat, args.top_k)
    seconds = time.perf_counter() - start
    logger.info(f"{len(q_feat):,} queries x {len(g_feat):,} images searched in {seconds:.2f} s ({args.index})")
    if args.index == "ivf":
        some = recall_queries(len(q_feat))
        start = time.perf_counter()
        exact, _ = exact_search(q_feat[some], g_feat, args.top_k, metric, block_size)
        seconds = time.perf_counter() - start
        listed, first = (100 * recall(found[0][some], truth) for truth in (exact, exact[:, :1]))
        logger.info(
            f"{index.nprobe} of {index.nlist} cells looked at: of the exact {exact.shape[1]} nearest images "
            f"{listed:.1f} % were found, of the nearest {first:.1f} % ({len(some)} queries; exact search of these "
            f"{seconds:.2f} s)"
        )
    return found


def write_results(path: Path, queries: np.ndarray, gallery: np.ndarray, found: Found) -> None:
    """Write a line for each query and image found, nearest first."""
    # A relative path that looks like a formula to a spreadsheet is written as the same path that does not.
    query_names, names = ([spreadsheet_text(name, "./") for name in part.tolist()] for part in (queries, gallery))
    write_rows(
        path,
        RESULTS_HEADER,
        (
            (query, rank, names[column], f"{value:.6f}")
            for query, *ranked in zip(query_names, *found)
            for rank, (column, value) in enumerate(zip(*ranked), start=1)
            if column >= 0
        ),
    )
    logger.info(f"wrote {path}")


def answer(found: Found, threshold: Threshold) -> list[str]:
    """Return "same" for each query whose nearest image is at most the threshold away, "nobody" for the others."""
    columns, distances = (part[:, 0] for part in found)
    return [SAME if near else NOBODY for near in (columns >= 0) & (distances <= threshold.distance)]


def write_answers(
    path: Path, queries: np.ndarray, gallery: np.ndarray, found: Found, answers: list[str], threshold: Threshold
) -> None:
    """Write a line for each query: same or nobody, the nearest image, its distance, and the threshold."""
    query_names, names = ([spreadsheet_text(name, "./") for name in part.tolist()] for part in (queries, gallery))
    nearest = zip(*(part[:, 0].tolist() for part in found))
    write_rows(
        path,
        ("query", "answer", "nearest", "distance", "threshold"),
        (
            (
                query,
                said,
                *((names[column], f"{value:.6f}") if column >= 0 else (None, None)),
                f"{threshold.distance:.6f}",
            )
            for query, said, (column, value) in zip(query_names, answers, nearest)
        ),
    )
    logger.info(
        f"at threshold {threshold.distance:.4f}, {answers.count(SAME)} queries are answered {SAME}, "
        f"{answers.count(NOBODY)} {NOBODY}: {path}"
    )
    logger.info(
        f"{threshold.far:g} is the false accept rate of one pair of images: with {len(gallery):,} images in the "
        f"gallery up to {100 * threshold.most_alarms(len(gallery)):.3g} % of the queries of people not in it may be "
        f"answered {SAME}"
    )


def draw_results(
    folder: Path, queries: np.ndarray, gallery: np.ndarray, found: Found, answers: list[str] | None = None
) -> None:
    """Draw each query with the images that were found, and its answer if there is one."""
    for number, query in enumerate(queries.tolist()):
        pairs = [(column, value) for column, value in zip(*(part[number] for part in found)) if column >= 0]
        tiles = [
            Tile(str(gallery[column]), (f"{rank}   {value:.3f}", Path(gallery[column]).stem))
            for rank, (column, value) in enumerate(pairs, start=1)
        ]
        words = "query" if answers is None else f"query: {answers[number]}"
        page = draw_page([Row(query, Tile(query, (words,), "query"), tiles)])
        with atomic_path(folder / f"{number + 1:04d}_{file_part(Path(query).stem)}.png") as temporary:
            page.save(temporary)
    if len(queries):
        logger.info(f"drew {len(queries)} pictures in {folder}")


if __name__ == "__main__":
    run_command(main)
