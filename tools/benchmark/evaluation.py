#!/usr/bin/env python3
"""Compare the evaluation with the plain way of doing it, side by side: seconds, memory, and whether the numbers agree.

    python tools/benchmark/evaluation.py                    # both parts, a few minutes
    python tools/benchmark/evaluation.py --parts ranks      # ranks and ROC of one matrix of Market-1501's size
    python tools/benchmark/evaluation.py --parts sets       # four targets x 10 splits, from image files to the table

The plain way sorts every distance row (NumPy's argsort and cumsum), builds the ROC curve of all pairs with
scikit-learn, and computes features again for each split. Every measurement runs in a process of its own; its memory is
the growth of the process's peak above what data and imports take. Synthetic images are made in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sklearn.metrics import roc_curve  # noqa: E402
from tabulate import tabulate  # noqa: E402

from fastreid.config import get_cfg  # noqa: E402
from fastreid.data.build import load_test_set  # noqa: E402
from fastreid.evaluation import FeatureDistances, Labels, compute_distance, evaluate_blocks, evaluate_rank, evaluate_roc  # noqa: E402
from fastreid.evaluation.extraction import extract_features  # noqa: E402
from fastreid.evaluation.reid_evaluation import evaluate  # noqa: E402
from fastreid.evaluation.results import FPRS  # noqa: E402
from fastreid.evaluation.roc import FPR_TARGETS  # noqa: E402
from fastreid.modeling import build_model  # noqa: E402
from fastreid.utils.memory import peak_memory_mb  # noqa: E402

QUERIES, GALLERY, IDENTITIES, CAMERAS, LENGTH = 3368, 15913, 751, 6, 256  # Market-1501; length of a feature
TARGETS = ("grid", "viper", "prid", "ilids")
WAYS = {
    "ranks": {"plain": "argsort, cumsum, roc_curve", "ours": "ours, of a matrix", "stream": "ours, distances included"},
    "sets": {"plain": "features per split, plain", "ours": "ours"},
}


def measured(work: Callable[[], dict[str, float]]) -> dict:
    """Run the work and return its seconds, the growth of the peak memory in MB, and its metrics."""
    before, start = peak_memory_mb(), time.perf_counter()
    metrics = work()
    return {"seconds": time.perf_counter() - start, "mb": peak_memory_mb() - before, "metrics": metrics}


def plain_metrics(distmat: np.ndarray, q_pids, g_pids, q_camids, g_camids) -> dict[str, float]:
    """Return Rank-1, mAP, mINP and the published TPRs by sorting every row and building the whole curve."""
    order = np.argsort(distmat, axis=1, kind="stable")
    first, precisions, penalties = [], [], []
    for query, row in enumerate(order):
        kept = ~((g_pids[row] == q_pids[query]) & (g_camids[row] == q_camids[query]))
        matches = g_pids[row[kept]] == q_pids[query]
        if not matches.any():
            continue
        found = matches.cumsum()
        places = np.flatnonzero(matches)
        first.append(matches[0])
        precisions.append((found / np.arange(1, len(matches) + 1))[matches].mean())
        penalties.append(len(places) / (places[-1] + 1))
    same = q_pids[:, None] == g_pids
    kept = ~(same & (q_camids[:, None] == g_camids))
    fpr, tpr, _ = roc_curve(~same[kept], distmat[kept])
    rates = [tpr[np.abs(fpr - target).argmin()] for target in FPR_TARGETS]
    return named(np.mean(first), np.mean(precisions), np.mean(penalties), rates)


def named(rank_1: float, precision: float, penalty: float, rates) -> dict[str, float]:
    """Return metrics in percent by their names in the table of results."""
    values = {"Rank-1": rank_1, "mAP": precision, "mINP": penalty}
    values |= {f"TPR@FPR={fpr}": rate for fpr, rate in zip(FPRS, rates)}
    return {name: 100 * float(value) for name, value in values.items()}


def measure_ranks(way: str) -> dict:
    """Measure ranks and ROC at Market-1501's size."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, high, size) for high in (IDENTITIES, CAMERAS) for size in (QUERIES, GALLERY)]
    generator = torch.Generator().manual_seed(0)
    looks = torch.randn(IDENTITIES, LENGTH, generator=generator)
    features = []
    for pids in ids[:2]:
        features.append(looks[torch.from_numpy(pids)])
        features[-1] += 2.5 * torch.randn(len(pids), LENGTH, generator=generator)
    if way == "stream":
        return measured(lambda: streamed(FeatureDistances(*features), ids))
    distmat = compute_distance(*features).numpy()
    if way == "plain":
        return measured(lambda: plain_metrics(distmat, *ids))
    # The compiled evaluator is loaded by its first call.
    evaluate_rank(distmat[:100], ids[0][:100], ids[1], ids[2][:100], ids[3])

    def ours() -> dict[str, float]:
        cmc, precision, penalty = evaluate_rank(distmat, *ids)
        return named(cmc[0], precision.mean(), penalty.mean(), evaluate_roc(distmat, *ids))

    return measured(ours)


def streamed(distances: FeatureDistances, ids: list[np.ndarray]) -> dict[str, float]:
    """Return the metrics of distances that are computed block by block."""
    found = evaluate_blocks(distances, Labels(*ids))
    return named(found.cmc[0], found.average_precision.mean(), found.inverse_penalty.mean(), found.published_tpr)


def measure_sets(way: str) -> dict:
    """Measure the test of a model on four targets with ten splits each, image files to metrics."""
    cfg = get_cfg()
    cfg.merge_from_file(ROOT / "configs/Demo/synthetic-mobilenet.yml")
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", "0", "MODEL.HEADS.NUM_CLASSES", "1"])
    torch.manual_seed(0)
    model = build_model(cfg)
    extract_features(cfg, model, load_test_set(cfg.DATASETS.TESTS[0]).items[:8])
    if way == "ours":
        return measured(lambda: evaluate(cfg, model).overall)

    def plain() -> dict[str, float]:
        averages = []
        for name in cfg.DATASETS.TESTS:
            test_set, splits = load_test_set(name), []
            for split in test_set.splits:
                items = test_set.items[np.concatenate([split.query, split.gallery])]
                features, queries = extract_features(cfg, model, items, name), len(split.query)
                parts = slice(queries), slice(queries, None)
                labels = [array[part] for array in (items.pids, items.camids) for part in parts]
                splits.append(plain_metrics(compute_distance(*(features[part] for part in parts)).numpy(), *labels))
            averages.append({key: np.mean([row[key] for row in splits]) for key in splits[0]})
        return {key: float(np.mean([row[key] for row in averages])) for key in averages[0]}

    return measured(plain)


def run_child(part: str, way: str, root: str) -> dict:
    """Return the measurement of one way, made in a process of its own."""
    command = [sys.executable, __file__, "--child", part, way]
    environment = {**os.environ, "FASTREID_DATASETS": root}
    return json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)


def report(part: str, results: dict[str, dict]) -> str:
    """Return a table of one part's measurements, every way against the plain one."""
    plain = results["plain"]
    rows = []
    for way, found in results.items():
        apart = max(abs(found["metrics"][key] - value) for key, value in plain["metrics"].items())
        factor, share = plain["seconds"] / found["seconds"], found["mb"] / plain["mb"]
        rows.append([WAYS[part][way], found["seconds"], f"{factor:.1f}x", found["mb"], f"{share:.3f}", f"{apart:.1e}"])
    headers = ["way", "seconds", "faster", "extra MB", "of plain", "largest difference (%)"]
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the evaluation with the plain way of doing it.")
    parser.add_argument("--parts", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--scale", choices=["demo", "published"], default="published", help="size of the targets")
    parser.add_argument("--child", nargs=2, metavar=("PART", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        part, way = args.child
        print(json.dumps({"ranks": measure_ranks, "sets": measure_sets}[part](way)))
        return
    with tempfile.TemporaryDirectory() as root:
        for part in args.parts:
            title = f"ranks and ROC, {QUERIES:,} x {GALLERY:,}"
            if part == "sets":
                tool = [sys.executable, ROOT / "tools/make_synthetic_datasets.py", "--root", root, "--size", "64x32"]
                subprocess.run([*tool, "--scale", args.scale, "--sets", *TARGETS], check=True, stdout=subprocess.PIPE)
                title = "four targets x 10 splits, image files to metrics"
            results = {way: run_child(part, way, root) for way in WAYS[part]}
            print(f"\n{title}, {torch.get_num_threads()} thread(s)\n\n{report(part, results)}", flush=True)


if __name__ == "__main__":
    main()
