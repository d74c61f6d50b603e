"""From a model and test sets to the table of results."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

from fastreid.data.build import build_test_loader, load_test_set
from fastreid.data.datasets import TestSet
from fastreid.evaluation.distance import compute_distance
from fastreid.evaluation.rank import evaluate_rank
from fastreid.evaluation.roc import evaluate_roc, evaluate_tpr_at_fpr
from fastreid.utils.errors import UserError
from fastreid.utils.files import write_json, write_text

logger = logging.getLogger(__name__)

Metrics = dict[str, float]

FPRS = ("0.0001", "0.001", "0.01")
COLUMNS = ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", *(f"TPR@FPR={fpr}" for fpr in FPRS))
ALL_AVERAGE = "** all_average **"


@dataclass
class Results:
    """Metrics in percent: of each split of each data set, and the rows of the table made from them."""

    splits: dict[str, dict[str, Metrics]] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, Metrics]:
        """`X_average` and `X_std` (population) over the splits of each data set, then the average of the averages."""
        rows: dict[str, Metrics] = {}
        for name, splits in self.splits.items():
            keys = next(iter(splits.values())).keys()
            values = {key: [metrics[key] for metrics in splits.values()] for key in keys}
            rows[f"{name}_average"] = {key: float(np.mean(v)) for key, v in values.items()}
            rows[f"{name}_std"] = {key: float(np.std(v)) for key, v in values.items()}
        averages = [rows[f"{name}_average"] for name in self.splits]
        rows[ALL_AVERAGE] = {key: float(np.mean([row[key] for row in averages])) for key in averages[0]}
        return rows

    def table(self) -> str:
        """Return the published pipe table."""
        rows = [[name, *(metrics[column] for column in COLUMNS)] for name, metrics in self.rows.items()]
        return tabulate(rows, headers=["Datasets", *COLUMNS], tablefmt="pipe", floatfmt=".2f", numalign="left")

    def save(self, folder: Path, **about: Any) -> None:
        """Write `results.json` (all metrics in percent, with `about` beside them) and `results.txt` (the table)."""
        write_json(folder / "results.json", {**about, "results": self.rows, "splits": self.splits})
        write_text(folder / "results.txt", self.table() + "\n")


def evaluate(cfg, model: nn.Module) -> Results:
    """Test a model on every data set of `DATASETS.TESTS`, each image's feature computed once.

    Raises:
        UserError: a data set is missing, an image is damaged, or no query has a match.
    """
    if not cfg.DATASETS.TESTS:
        raise UserError("DATASETS.TESTS names no data set to test on")
    results = Results()
    for name in cfg.DATASETS.TESTS:
        test_set = load_test_set(name)
        start = time.perf_counter()
        features = extract_features(cfg, model, test_set, name)
        extracted = time.perf_counter()
        results.splits[name] = evaluate_splits(features, test_set, cfg.TEST.METRIC)
        logger.info(
            f"{name}: {len(test_set.items):,} images in {extracted - start:.1f} s, {len(test_set.splits)} split(s) in "
            f"{time.perf_counter() - extracted:.1f} s"
        )
    return results


@torch.inference_mode()
def extract_features(cfg, model: nn.Module, test_set: TestSet, name: str = "") -> Tensor:
    """Return the test features of all images of a test set, (N, D) float32 on the CPU, in the set's order."""
    was_training = model.training
    model.eval()
    parts = []
    with tqdm(total=len(test_set.items), desc=name, unit="image", leave=False, disable=None) as progress:
        for batch in build_test_loader(cfg, test_set.items):
            parts.append(model(batch).float().cpu())
            progress.update(len(parts[-1]))
    model.train(was_training)
    return torch.cat(parts)


def evaluate_splits(features: Tensor, test_set: TestSet, metric: str) -> dict[str, Metrics]:
    """Return the metrics, in percent, of each split of a test set."""
    items = test_set.items
    bad = np.flatnonzero(~torch.isfinite(features).all(1).numpy())
    if len(bad):
        raise UserError(f"the feature of {items.paths[bad[0]]} is not finite ({len(bad)} images): the model has diverged")
    results = {}
    for split in test_set.splits:
        distances = compute_distance(features[split.query], features[split.gallery], metric).numpy()
        labels = [array[index] for array in (items.pids, items.camids) for index in (split.query, split.gallery)]
        results[split.name] = measure(distances, *labels)
    return results


def measure(distances: np.ndarray, q_pids, g_pids, q_camids, g_camids) -> Metrics:
    """Return every metric of a (Q, G) distance matrix in percent.

    "TPR@FPR" is the published table's definition, "TAR@FAR" the usual one: see `evaluate_roc` and
    `evaluate_tpr_at_fpr`.
    """
    labels = (q_pids, g_pids, q_camids, g_camids)
    cmc, average_precision, inp = evaluate_rank(distances, *labels)
    metrics = {f"Rank-{k}": cmc[min(k, len(cmc)) - 1] for k in (1, 5, 10)}
    metrics |= {"mAP": average_precision.mean(), "mINP": inp.mean()}
    metrics |= {f"TPR@FPR={fpr}": tpr for fpr, tpr in zip(FPRS, evaluate_roc(distances, *labels))}
    metrics |= {f"TAR@FAR={fpr}": tpr for fpr, tpr in zip(FPRS, evaluate_tpr_at_fpr(distances, *labels))}
    return {key: 100 * float(value) for key, value in metrics.items()}
