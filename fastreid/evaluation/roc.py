"""True-positive rates at small false-positive rates, without building the ROC curve.

The pairs of a curve are all (query, gallery) pairs but those of the same identity and camera; queries without a true
match take part. Two families are computed, and they answer different questions:

`evaluate_roc`, the columns TPR@FPR of the published MetaBIN table, is scikit-learn's `roc_curve` with the distance as
score and the pairs of *different* identities as positives, read at the first point whose FPR is nearest the target.

`evaluate_tpr_at_fpr` is the usual verification rate: similarity as score, pairs of the *same* identity as positives,
the highest TPR among the thresholds whose FPR is at most the target.

Pairs of the same identity are few: they are sorted, and pairs of different identities are only counted against a few of
them. Both functions equal their definitions by scikit-learn to the last bit.
"""
import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from fastreid.evaluation.rank import SameIdentity, check_inputs, find_same_identity, no_match_error

logger = logging.getLogger(__name__)

FPR_TARGETS = (1e-4, 1e-3, 1e-2)
# Blocks of this many distances stay in the processor's cache while they are compared with several values.
BLOCK_ELEMENTS = 1 << 17
# So many same-identity distances around the target are looked at first; eight times more in each further pass.
FIRST_WINDOW = 8

Blocks = Callable[[], Iterable[np.ndarray]]


class SamePairs:
    """Sorted distances of the same-identity pairs of one matrix or of many blocks of rows.

    `true` holds those of different cameras (the true matches), `every` those of the same camera too; `different` is the
    number of pairs of different identities. Distances keep their type, so that they compare exactly with the matrix.
    """

    def __init__(self, pairs: int, distances: np.ndarray, kept: np.ndarray) -> None:
        self.every = np.sort(distances)
        self.true = np.sort(distances[kept])
        self.different = pairs - len(distances)

    @classmethod
    def of(cls, distmat: np.ndarray, same: SameIdentity) -> "SamePairs":
        """Collect them from a whole distance matrix (Q, G); raise UserError when there is no true match."""
        if not same.kept.any():
            raise no_match_error(len(distmat))
        return cls(distmat.size, distmat[same.queries(), same.columns], same.kept)


def _row_blocks(distmat: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, BLOCK_ELEMENTS // distmat.shape[1])
    for start in range(0, len(distmat), rows):
        yield distmat[start : start + rows].ravel()


def _count_different(
    blocks: Blocks, windows: list[np.ndarray], pairs: SamePairs
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Count the different-identity pairs below and equal to each value of each window (ascending, distinct)."""
    below = [0] * len(windows)
    # Bin 2p counts distances between values p - 1 and p, bin 2p + 1 those equal to value p.
    bins = [np.zeros(2 * len(values), np.int64) for values in windows]
    for block in blocks():
        for i, values in enumerate(windows):
            not_above = block <= values[-1]
            less = block < values[0]
            num_less = np.count_nonzero(less)
            below[i] += num_less
            if np.count_nonzero(not_above) > num_less:
                inside = block[not_above ^ less]
                place = np.searchsorted(values, inside)
                bins[i] += np.bincount(2 * place + (values[place] == inside), minlength=len(bins[i]))
    result = []
    for values, start, counts in zip(windows, below, bins):
        left, right = np.searchsorted(pairs.every, values), np.searchsorted(pairs.every, values, side="right")
        result.append((start + np.cumsum(counts)[::2] - left, counts[1::2] - (right - left)))
    return result


def published_tpr(blocks: Blocks, pairs: SamePairs, targets: tuple[float, ...] = FPR_TARGETS) -> np.ndarray:
    """Return what `evaluate_roc` does, from one or more passes over blocks of distances.

    Every call of `blocks` yields the same distances, all of them, as flat arrays in any order. One pass is enough
    unless more than a few neighbouring points around a target are dropped from the curve.
    """
    different = pairs.different
    if different == 0:
        logger.warning("TPR@FPR is undefined (NaN): the gallery holds no pair of different identities.")
        return np.full(len(targets), np.nan)
    # Going down from the largest distance, the curve's FPR grows at the distances of true matches only ("steps"), and
    # the first point of a given FPR lies on such a step. Step 0 stands for the curve's origin.
    values, counts = np.unique(pairs.true, return_counts=True)
    values, counts = values[::-1], counts[::-1]
    false_positives = np.concatenate([[0], np.cumsum(counts)])
    fpr = false_positives / false_positives[-1]
    orders = [np.argsort(np.abs(fpr - target), kind="stable") for target in targets]
    result = np.full(len(targets), np.nan)
    size = FIRST_WINDOW
    while np.isnan(result).any():
        open_targets = np.flatnonzero(np.isnan(result))
        candidates = [orders[i][:size] for i in open_targets]
        # Step s has the value values[s - 1]; whether it stays on the curve depends on the next lower value too.
        ranges = [(max(steps.min() - 1, 0), min(steps.max() + 1, len(values))) for steps in candidates]
        counted = _count_different(blocks, [values[a:b][::-1] for a, b in ranges], pairs)
        for i, steps, (a, b), (less, equal) in zip(open_targets, candidates, ranges, counted):
            equal = equal[::-1]
            at_least = different - less[::-1]
            dropped = _collinear(counts[a:b], equal, at_least, includes_first=a == 0)
            for step in steps:
                if step == 0:
                    result[i] = 0.0
                elif not dropped[step - 1 - a]:
                    result[i] = at_least[step - 1 - a] / different
                else:
                    continue
                break
        size *= 8
    return result


def _collinear(counts: np.ndarray, equal: np.ndarray, at_least: np.ndarray, includes_first: bool) -> np.ndarray:
    """Tell which steps `roc_curve` drops: those where the next lower distance adds as many pairs of both kinds.

    Arrays run from large to small distances: same-identity pairs at each value, different-identity pairs at it, and
    different-identity pairs at or above it. The curve's first and last point always stay.
    """
    dropped = np.zeros(len(counts), bool)
    nothing_between = at_least[1:] - equal[1:] == at_least[:-1]
    dropped[:-1] = (counts[1:] == counts[:-1]) & (equal[1:] == equal[:-1]) & nothing_between
    if includes_first and at_least[0] == equal[0]:
        dropped[0] = False
    return dropped


def _smallest(blocks: Blocks, count: int) -> np.ndarray:
    """Return the `count` smallest distances, sorted, holding at most about twice as many."""
    parts, size, cutoff = [], 0, None
    for block in blocks():
        parts.append(block if cutoff is None else block[block < cutoff])
        size += len(parts[-1])
        if size >= 2 * count:
            parts = [np.partition(np.concatenate(parts), count - 1)[:count]]
            size, cutoff = count, parts[0][-1]
    return np.sort(np.concatenate(parts))[:count]


def usual_tpr(blocks: Blocks, pairs: SamePairs, targets: tuple[float, ...] = FPR_TARGETS) -> np.ndarray:
    """Return what `evaluate_tpr_at_fpr` does, from one pass over blocks of distances (see `published_tpr`)."""
    different = pairs.different
    if different == 0:
        logger.warning("The verification rate is undefined (NaN): the gallery holds no pair of different identities.")
        return np.full(len(targets), np.nan)
    allowed = [_allowed_errors(target, different) for target in targets]
    most = max((k for k in allowed if k < different), default=0)
    # The nearest pairs of any kind include the `most` + 1 nearest of different identities.
    nearest = _smallest(blocks, most + 1 + len(pairs.every))
    errors = np.searchsorted(nearest, nearest, side="right") - np.searchsorted(pairs.every, nearest, side="right")
    result = np.ones(len(targets))
    for i, k in enumerate(allowed):
        if k < different:
            # The threshold must stay below the distance that would accept one more pair of different identities.
            limit = nearest[np.argmax(errors > k)]
            result[i] = np.searchsorted(pairs.true, limit) / len(pairs.true)
    return result


def _allowed_errors(target: float, different: int) -> int:
    """Return the largest k with k / different <= target, as floating-point numbers compare."""
    k = int(target * different)
    while k / different > target:
        k -= 1
    while (k + 1) / different <= target:
        k += 1
    return k


def evaluate_roc(
    distmat: np.ndarray, q_pids: np.ndarray, g_pids: np.ndarray, q_camids: np.ndarray, g_camids: np.ndarray
) -> np.ndarray:
    """Return the published table's TPR at FPR 1e-4, 1e-3 and 1e-2, (3,), of a distance matrix (Q, G).

    Scikit-learn's `roc_curve` (its dropping of collinear points included) over all kept pairs, score = distance,
    positives = pairs of different identities; the TPR at the first point whose FPR is nearest the target.
    Identities and cameras are numbers or text. NaN, after a warning, when no pair has different identities.
    Raises UserError on shapes that disagree, an empty set, NaN distances, or when no query has a true match.
    """
    distmat = check_inputs(distmat, q_pids, g_pids, q_camids, g_camids)
    same = find_same_identity(q_pids, g_pids, q_camids, g_camids)
    return published_tpr(lambda: _row_blocks(distmat), SamePairs.of(distmat, same))


def evaluate_tpr_at_fpr(
    distmat: np.ndarray, q_pids: np.ndarray, g_pids: np.ndarray, q_camids: np.ndarray, g_camids: np.ndarray
) -> np.ndarray:
    """Return the usual verification rate at FPR 1e-4, 1e-3 and 1e-2, (3,), of a distance matrix (Q, G).

    Score = similarity, positives = pairs of the same identity: the highest share of true matches that a distance
    threshold accepts while it accepts at most the target's share of the pairs of different identities. Otherwise as
    `evaluate_roc`.
    """
    distmat = check_inputs(distmat, q_pids, g_pids, q_camids, g_camids)
    same = find_same_identity(q_pids, g_pids, q_camids, g_camids)
    return usual_tpr(lambda: _row_blocks(distmat), SamePairs.of(distmat, same))
