#!/usr/bin/env python3
"""Evaluate 1,000 queries against a gallery of a million images and show how little memory it takes.

    python tools/benchmark/million_gallery.py
    python tools/benchmark/million_gallery.py --gallery 200000 --length 256 --metric euclidean

Features are random, made in place; each query has matches at three distances among the first gallery entries, the
others are distractors. The distance matrix would take 4 GB, its sorting order 8 GB more. The exit status is 1 when the
evaluation takes more than --limit MB beside the features.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from fastreid.evaluation import FeatureDistances, Labels, evaluate_blocks
from fastreid.evaluation.rank import find_same_identity, match_ranks
from fastreid.evaluation.results import FPRS
from fastreid.evaluation.streaming import BLOCK_SIZE
from fastreid.utils.memory import peak_memory_mb

NOISE = (0.5, 2.0, 4.0)  # of each query's matches, against features of variance 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluate against a very large gallery.")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--gallery", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=512, help="of a feature")
    parser.add_argument("--metric", choices=["cosine", "euclidean"], default="cosine")
    parser.add_argument("--block-size", type=int, default=BLOCK_SIZE, help="as TEST.BLOCK_SIZE")
    parser.add_argument("--limit", type=float, default=200, metavar="MB", help="memory allowed beside the features")
    args = parser.parse_args()
    queries, gallery = args.queries, args.gallery
    if queries < 1 or gallery < len(NOISE) * queries:
        parser.error(f"--queries must be at least 1 and --gallery at least {len(NOISE)} times as large")

    torch.manual_seed(0)
    q_feat = torch.empty(queries, args.length).normal_()
    g_feat = torch.empty(gallery, args.length).normal_()
    g_pids = np.arange(gallery)
    for number, noise in enumerate(NOISE):
        rows = slice(number * queries, (number + 1) * queries)
        g_feat[rows].mul_(noise).add_(q_feat)
        g_pids[rows] = np.arange(queries)
    labels = Labels(np.arange(queries), g_pids, np.zeros(queries, np.int64), np.ones(gallery, np.int64))
    # What libraries set up on their first call is no part of the evaluation.
    match_ranks(np.ones((1, 2), np.float32), find_same_identity(Labels([1], [1, 2], [0], [1, 1])))
    torch.mm(q_feat[:1], g_feat[:1].T)
    features = 4 * (q_feat.numel() + g_feat.numel()) / 2**20
    before, start = peak_memory_mb(), time.perf_counter()
    found = evaluate_blocks(FeatureDistances(q_feat, g_feat, args.metric, args.block_size), labels)
    seconds, extra = time.perf_counter() - start, peak_memory_mb() - before

    print(f"{queries:,} x {gallery:,}, {args.length} numbers each, {torch.get_num_threads()} thread(s)")
    print(f"features {features:,.0f} MB; evaluation {extra:,.0f} MB more, {seconds:.1f} s")
    print(f"the matrix would take {4 * queries * gallery / 2**20:,.0f} MB")
    mean_ap, mean_inp = found.average_precision.mean(), found.inverse_penalty.mean()
    print(f"Rank-1 {found.cmc[0]:.2%}, mAP {mean_ap:.2%}, mINP {mean_inp:.2%}")
    for name, rates in (("TPR@FPR", found.published_tpr), ("TAR@FAR", found.usual_tpr)):
        print(", ".join(f"{name}={fpr} {rate:.2%}" for fpr, rate in zip(FPRS, rates)))
    return int(extra > args.limit)


if __name__ == "__main__":
    sys.exit(main())
