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

from fastreid.evaluation.rank import Labels, SameIdentity, check_matrix, no_match_error

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


class _Windows:
    """Counts the different-identity pairs below and equal to each value of a few windows (ascending, distinct)."""

    def __init__(self, windows: list[np.ndarray], pairs: SamePairs) -> None:
        self.windows, self.pairs = windows, pairs
        self.below = [0] * len(windows)
        # Bin 2p counts distances between values p - 1 and p, bin 2p + 1 those equal to value p.
        self.bins = [np.zeros(2 * len(values), np.int64) for values in windows]

    def add(self, block: np.ndarray) -> None:
        """Count a flat array of distances, pairs of the same identity among them."""
        for i, values in enumerate(self.windows):
            not_above = block <= values[-1]
            less = block < values[0]
            num_less = np.count_nonzero(less)
            self.below[i] += num_less
            if np.count_nonzero(not_above) > num_less:
                inside = block[not_above ^ less]
                place = np.searchsorted(values, inside)
                self.bins[i] += np.bincount(2 * place + (values[place] == inside), minlength=len(self.bins[i]))

    def counts(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return for each window the pairs below each value, and those equal to it."""
        result = []
        for values, start, counts in zip(self.windows, self.below, self.bins):
            left, right = (np.searchsorted(self.pairs.every, values, side=side) for side in ("left", "right"))
            result.append((start + np.cumsum(counts)[::2] - left, counts[1::2] - (right - left)))
        return result


class _Published:
    """The published family: finds, over one or more passes, the curve's point nearest each target."""

    def __init__(self, pairs: SamePairs, targets: tuple[float, ...]) -> None:
        self.pairs = pairs
        # Going down from the largest distance, the curve's FPR grows at the distances of true matches only ("steps"),
        # and the first point of a given FPR lies on such a step. Step 0 stands for the curve's origin.
        values, counts = np.unique(pairs.true, return_counts=True)
        self.values, self.multiplicity = values[::-1], counts[::-1]
        false_positives = np.concatenate([[0], np.cumsum(self.multiplicity)])
        fpr = false_positives / false_positives[-1]
        self.orders = [np.argsort(np.abs(fpr - target), kind="stable") for target in targets]
        self.result = np.full(len(targets), np.nan)
        self.size = FIRST_WINDOW
        self._open_windows()

    def _open_windows(self) -> None:
        self.open_targets = np.flatnonzero(np.isnan(self.result))
        self.candidates = [self.orders[i][: self.size] for i in self.open_targets]
        # Step s has the value values[s - 1]; whether it stays on the curve depends on the next lower value too.
        self.ranges = [(max(s.min() - 1, 0), min(s.max() + 1, len(self.values))) for s in self.candidates]
        self.windows = _Windows([self.values[a:b][::-1] for a, b in self.ranges], self.pairs)

    def add(self, block: np.ndarray) -> None:
        """Count a flat array of distances."""
        self.windows.add(block)

    def end_pass(self) -> bool:
        """Settle what one pass over all distances allows; tell whether every target is settled."""
        counted = self.windows.counts()
        for i, steps, (a, b), (less, equal) in zip(self.open_targets, self.candidates, self.ranges, counted):
            equal = equal[::-1]
            at_least = self.pairs.different - less[::-1]
            dropped = _collinear(self.multiplicity[a:b], equal, at_least, includes_first=a == 0)
            for step in steps:
                if step == 0:
                    self.result[i] = 0.0
                elif not dropped[step - 1 - a]:
                    self.result[i] = at_least[step - 1 - a] / self.pairs.different
                else:
                    continue
                break
        if not np.isnan(self.result).any():
            return True
        self.size *= 8
        self._open_windows()
        return False


class _Usual:
    """The usual family: counts, at each true match's distance, the pairs of different identities up to it.

    Only distances up to the first match that is already behind too many of them need counting: soon few are left.
    """

    def __init__(self, pairs: SamePairs, targets: tuple[float, ...]) -> None:
        self.allowed = [allowed_errors(target, pairs.different) for target in targets]
        self.most = max((k for k in self.allowed if k < pairs.different), default=-1)
        self.values, counts = np.unique(pairs.true, return_counts=True)
        self.accepted = np.concatenate([[0], np.cumsum(counts)])
        self.same = np.searchsorted(pairs.every, self.values, side="right")
        self.different = pairs.different
        if self.most < 0:
            self.values = self.values[:0]
        # Bin j counts the pairs above value j - 1, up to value j.
        self.bins = np.zeros(len(self.values), np.int64)
        self.uncounted = 0

    def add(self, block: np.ndarray) -> None:
        """Count a flat array of distances, pairs of the same identity among them."""
        if not len(self.values):
            return
        inside = block[block <= self.values[-1]]
        # Sorted, so that neighbours are looked up in the same part of the table.
        inside.sort()
        self.bins += np.bincount(np.searchsorted(self.values, inside), minlength=len(self.bins))
        self.uncounted += len(inside)
        if 4 * self.uncounted > self.most:
            self.uncounted = 0
            self._shorten()

    def _errors(self) -> np.ndarray:
        return np.cumsum(self.bins) - self.same[: len(self.bins)]

    def _shorten(self) -> None:
        """Forget the matches that are behind too many pairs of different identities."""
        # In the middle of a pass this is too small a number, as all pairs of the same identity are subtracted already.
        behind = self._errors() > self.most
        if behind.any():
            length = int(behind.argmax())
            self.values, self.bins = self.values[:length], self.bins[:length]

    def end_pass(self) -> bool:
        """Compute the rates from one pass over all distances."""
        errors = self._errors()
        matches = [np.searchsorted(errors, k, side="right") if k < self.different else -1 for k in self.allowed]
        self.result = self.accepted[matches] / self.accepted[-1]
        return True


def _run(blocks: Blocks, pairs: SamePairs, targets: tuple[float, ...], kinds: tuple[type, ...]) -> list[np.ndarray]:
    """Return the rates of each kind, all counted in the same passes over the distances."""
    if pairs.different == 0:
        logger.warning("Verification rates are undefined (NaN): the gallery holds no pair of different identities.")
        return [np.full(len(targets), np.nan) for _ in kinds]
    families = [kind(pairs, targets) for kind in kinds]
    unfinished = families
    while unfinished:
        for block in blocks():
            for start in range(0, len(block), BLOCK_ELEMENTS):
                for family in unfinished:
                    family.add(block[start : start + BLOCK_ELEMENTS])
        unfinished = [family for family in unfinished if not family.end_pass()]
    return [family.result for family in families]


def published_tpr(blocks: Blocks, pairs: SamePairs, targets: tuple[float, ...] = FPR_TARGETS) -> np.ndarray:
    """Return what `evaluate_roc` does, from one or more passes over blocks of distances.

    Every call of `blocks` yields the same distances, all of them, as flat arrays in any order. One pass is enough
    unless more than a few neighbouring points around a target are dropped from the curve.
    """
    return _run(blocks, pairs, targets, (_Published,))[0]


def usual_tpr(blocks: Blocks, pairs: SamePairs, targets: tuple[float, ...] = FPR_TARGETS) -> np.ndarray:
    """Return what `evaluate_tpr_at_fpr` does, from one pass over blocks of distances (see `published_tpr`)."""
    return _run(blocks, pairs, targets, (_Usual,))[0]


def both_tprs(
    blocks: Blocks, pairs: SamePairs, targets: tuple[float, ...] = FPR_TARGETS
) -> tuple[np.ndarray, np.ndarray]:
    """Return `published_tpr` and `usual_tpr`, counted in the same passes."""
    published, usual = _run(blocks, pairs, targets, (_Published, _Usual))
    return published, usual


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


def allowed_errors(target: float, different: int) -> int:
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

    Raises:
        UserError: shapes disagree, a set is empty, a distance is not a number, or no query has a true match.
    """
    distmat, same = check_matrix(distmat, Labels(q_pids, g_pids, q_camids, g_camids))
    return published_tpr(lambda: _row_blocks(distmat), SamePairs.of(distmat, same))


def evaluate_tpr_at_fpr(
    distmat: np.ndarray, q_pids: np.ndarray, g_pids: np.ndarray, q_camids: np.ndarray, g_camids: np.ndarray
) -> np.ndarray:
    """Return the usual verification rate at FPR 1e-4, 1e-3 and 1e-2, (3,), of a distance matrix (Q, G).

    Score = similarity, positives = pairs of the same identity: the highest share of true matches that a distance
    threshold accepts while it accepts at most the target's share of the pairs of different identities. Otherwise as
    `evaluate_roc`.
    """
    distmat, same = check_matrix(distmat, Labels(q_pids, g_pids, q_camids, g_camids))
    return usual_tpr(lambda: _row_blocks(distmat), SamePairs.of(distmat, same))
