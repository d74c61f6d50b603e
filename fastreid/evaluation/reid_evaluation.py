"""From a model and test sets to results."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastreid.data.datasets import Items, Split, TestSet
from fastreid.evaluation.checked_sets import load_test_sets
from fastreid.evaluation.extraction import extract_features
from fastreid.evaluation.feature_cache import FeatureCache, fingerprint
from fastreid.evaluation.open_set import open_set_rates, open_split
from fastreid.evaluation.query_expansion import average_query_expansion
from fastreid.evaluation.rank import Labels
from fastreid.evaluation.rerank import re_ranking
from fastreid.evaluation.result_files import QueryRow
from fastreid.evaluation.results import FPRS, Counts, Metrics, Results
from fastreid.evaluation.streaming import FeatureDistances, MatrixDistances, Retrieval, evaluate_blocks, rows_per_block
from fastreid.utils.errors import UserError
from fastreid.utils.processes import num_processes, process_rank

logger = logging.getLogger(__name__)

# Rows of features looked at together, so that the mask stays small.
FINITE_ROWS = 4096


def evaluate(
    cfg, model: nn.Module, cache: FeatureCache | None = None, test_sets: dict[str, TestSet] | None = None
) -> Results:
    """Test a model on every data set of `DATASETS.TESTS`, each image's feature computed once for all splits.

    With several processes they share the images, process 0 evaluates, and all return its results.

    Args:
        cache: where features are saved, or read from instead of being computed.
        test_sets: of `load_test_sets`, if they were loaded before.

    Raises:
        UserError: a data set is missing, an image is damaged, saved features are stale, or no query has a match.
    """
    test_sets = load_test_sets(cfg) if test_sets is None else test_sets
    results, device = Results(), next(model.parameters()).device
    for name, test_set in test_sets.items():
        features = _features(cfg, model, test_set, name, cache)
        start = time.perf_counter()
        _on_process_zero(lambda: evaluate_test_set(cfg, features, test_set, name, results, device))
        if process_rank() == 0:
            logger.info(f"{name}: {len(test_set.splits)} split(s) evaluated in {time.perf_counter() - start:.1f} s")
    return _broadcast(results)


def _features(cfg, model: nn.Module, test_set: TestSet, name: str, cache: FeatureCache | None) -> Tensor | None:
    """Return the features of a test set's images, in process 0; save them, or read them, if there is a cache."""
    if cache is not None and cache.reuse:
        return _on_process_zero(lambda: cache.load(name, fingerprint(cfg, model, test_set.items)))
    features = extract_features(cfg, model, test_set.items, name)
    if cache is not None:
        _on_process_zero(lambda: cache.save(name, features, fingerprint(cfg, model, test_set.items)))
    return features


def _on_process_zero(work):
    """Return what `work` returns in process 0, None in the others; its UserError is raised in all of them."""
    result, error = None, None
    if process_rank() == 0:
        try:
            result = work()
        except UserError as problem:
            if num_processes() == 1:
                raise
            error = str(problem)
    error = _broadcast(error)
    if error:
        raise UserError(error)
    return result


def _broadcast(value):
    """Return process 0's value in every process."""
    if num_processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def evaluate_test_set(
    cfg, features: Tensor, test_set: TestSet, name: str, results: Results, device: torch.device = torch.device("cpu")
) -> None:
    """Evaluate each split of a test set from the features (N, D) of its images, and add it to the results.

    Distances are computed on `device`.

    Raises:
        UserError: a feature is not finite, a split has no query or gallery, or no query of it has a match.
    """
    check_finite(features, test_set.items)
    results.splits[name], results.cmc[name], results.counts[name] = {}, [], {}
    for split in test_set.splits:
        try:
            found = evaluate_split(cfg, features, test_set, split, device)
        except UserError as error:
            raise UserError(f"{name}, {split.name}: {error}") from error
        results.splits[name][split.name] = metrics(found)
        results.cmc[name].append(found.cmc)
        results.counts[name][split.name] = counts(found, test_set.items, split)
        if cfg.TEST.OPEN_SET.ENABLED:
            results.open_set.setdefault(name, {})[split.name] = evaluate_open_set(
                cfg, features, test_set, split, device
            )
        if cfg.TEST.PER_QUERY:
            results.queries.setdefault(name, []).extend(query_rows(found, test_set, split))
    warn_of_queries_left_out(name, results.counts[name])


def counts(found: Retrieval, items: Items, split: Split) -> Counts:
    """Return how many images of a split the measures are of, and how many are left out."""
    asked = np.isin(items.pids[split.gallery], items.pids[split.query])
    return Counts(len(found.valid), int((~found.valid).sum()), len(asked), int((~asked).sum()))


def warn_of_queries_left_out(name: str, found: Mapping[str, Counts]) -> None:
    """Log how many queries have no match, and in which split the most: the numbers say nothing of them."""
    without = sum(counts.without_match for counts in found.values())
    if without:
        queries = sum(counts.queries for counts in found.values())
        split = max(found, key=lambda split: found[split].without_match / found[split].queries)
        most = (
            f", the most in {split}, {found[split].without_match} of {found[split].queries}" if len(found) > 1 else ""
        )
        logger.warning(
            f"{name}: {without:,} of {queries:,} queries have no match, a gallery image of the same identity from "
            f"another camera{most}: they are left out of every number. Check identities and cameras of query "
            "and gallery"
        )


def evaluate_split(cfg, features: Tensor, test_set: TestSet, split: Split, device: torch.device) -> Retrieval:
    """Evaluate one split with the options of TEST: metric, block size, query expansion, re-ranking."""
    distances = split_distances(cfg, features, split, device)
    return evaluate_blocks(distances, Labels.of(test_set.items, split), margins=cfg.TEST.PER_QUERY)


def evaluate_open_set(cfg, features: Tensor, test_set: TestSet, split: Split, device: torch.device) -> dict[str, float]:
    """Return the open-set figures of a split with some people taken out of its gallery: see TEST.OPEN_SET."""
    items, options = test_set.items, cfg.TEST.OPEN_SET
    # Before the distances, so that query expansion and re-ranking see nothing of those who are taken out.
    split = open_split(items, split, options.UNKNOWN, cfg.SEED)
    distances = split_distances(cfg, features, split, device)
    return open_set_rates(distances, Labels.of(items, split), options.FALSE_ALARM_RATES)


def split_distances(
    cfg, features: Tensor, split: Split, device: torch.device = torch.device("cpu")
) -> FeatureDistances | MatrixDistances:
    """Return the distances of a split's query and gallery with the options of TEST, from the features of all images."""
    test = cfg.TEST
    q_feat, g_feat = (select_rows(features, index).to(device) for index in (split.query, split.gallery))
    if not (len(q_feat) and len(g_feat)):
        # Nothing to compute: the evaluation says which set is empty.
        return MatrixDistances(np.empty((len(q_feat), len(g_feat)), np.float32))
    rows = rows_per_block(test.BLOCK_SIZE, len(q_feat) + len(g_feat))
    if test.AQE.ENABLED:
        q_feat, g_feat = average_query_expansion(q_feat, g_feat, test.AQE.QE_TIME, test.AQE.QE_K, test.AQE.ALPHA, rows)
    if test.RERANK.ENABLED:
        options = test.RERANK.K1, test.RERANK.K2, test.RERANK.LAMBDA, test.METRIC, rows
        return MatrixDistances(re_ranking(q_feat, g_feat, *options))
    return FeatureDistances(q_feat, g_feat, test.METRIC, test.BLOCK_SIZE)


def select_rows(features: Tensor, index: np.ndarray) -> Tensor:
    """Return rows of the features; rows that follow each other are a view, so that a large gallery is not copied."""
    if len(index) and index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        return features[int(index[0]) : int(index[-1]) + 1]
    return features[torch.from_numpy(index)]


def metrics(found: Retrieval) -> Metrics:
    """Return the measures of a retrieval in percent.

    "TPR@FPR" is the published table's definition, "TAR@FAR" the usual one: see `evaluate_roc` and
    `evaluate_tpr_at_fpr`.
    """
    values = {f"Rank-{k}": found.cmc[min(k, len(found.cmc)) - 1] for k in (1, 5, 10)}
    values |= {"mAP": found.average_precision.mean(), "mINP": found.inverse_penalty.mean()}
    values |= {f"TPR@FPR={fpr}": tpr for fpr, tpr in zip(FPRS, found.published_tpr)}
    values |= {f"TAR@FAR={fpr}": tpr for fpr, tpr in zip(FPRS, found.usual_tpr)}
    return {key: 100 * float(value) for key, value in values.items()}


def query_rows(found: Retrieval, test_set: TestSet, split: Split) -> list[QueryRow]:
    """Return one row for each query of a split."""
    items, measured = test_set.items, {}
    columns = found.average_precision, found.first_match, found.margin, found.nearest_other
    for query, *values in zip(np.flatnonzero(found.valid), *columns):
        average_precision, rank, margin, other = (value.item() for value in values)
        confused = (margin, *items[split.gallery[other]]) if np.isfinite(margin) else (None,) * 4
        measured[query] = average_precision, rank, *confused
    unmeasured = (None,) * 6
    return [
        QueryRow(split.name, *items[index], *measured.get(query, unmeasured)) for query, index in enumerate(split.query)
    ]


def check_finite(features: Tensor, items: Items) -> None:
    """Raise UserError, with the first image's path, when features are not finite."""
    if len(features) != len(items):
        raise UserError(f"there are {len(features)} features for {len(items)} images: compute them again")
    finite = [part.isfinite().all(dim=1) for part in features.split(FINITE_ROWS)]
    bad = np.flatnonzero(~torch.cat(finite).numpy())
    if len(bad):
        raise UserError(
            f"the feature of {items.paths[bad[0]]} is not finite ({len(bad)} of {len(features)} images): the "
            "model has diverged, or the checkpoint is damaged"
        )
