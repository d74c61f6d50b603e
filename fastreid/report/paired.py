"""Is one run better than another, or were its queries kinder? Differences on the same queries, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastreid.evaluation.ranked_lists import RankedQuery
from fastreid.report.html import fill

DRAWS, LEVEL = 1000, 95  # of the bootstrap, and percent that its interval covers
AT_A_TIME = 2**22  # numbers drawn at a time
SEED = 0
MEASURES = ("mAP", "Rank-1")
AVERAGE = "all_average"

# Measures of the queries of one split that have a true match: (queries, 2), see `MEASURES`, in percent.
Measured = np.ndarray
Measures = dict[str, list[Measured]]  # of each split, by data set


class Difference(NamedTuple):
    """A mean difference and its interval, percentage points, by measure (2,)."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def measured(queries: Sequence[RankedQuery]) -> Measured:
    """Return the average precision, and whether the first rank is right, of each query with a true match."""
    values = [[query.ap, query.first_match == 1] for query in queries if query.ap is not None]
    return 100 * np.array(values, dtype=float).reshape(-1, len(MEASURES))


def resampled(splits: Sequence[Measured], rng: np.random.Generator, draws: int = DRAWS) -> np.ndarray:
    """Return the means of `draws` bootstrap samples, (draws, 2), of a data set's splits.

    Each sample draws as many splits as there are with replacement and, in each, as many queries as it has: the mean
    over splits of their means, as tables have it. Splits share images, which
    the interval does not allow for.
    """
    chosen = rng.integers(0, len(splits), (draws, len(splits)))
    means = np.empty((*chosen.shape, len(MEASURES)))
    for number, values in enumerate(splits):
        places = np.argwhere(chosen == number)
        step = max(1, AT_A_TIME // len(values))
        for start in range(0, len(places), step):
            rows, columns = places[start : start + step].T
            means[rows, columns] = values[rng.integers(0, len(values), (len(rows), len(values)))].mean(1)
    return means.mean(1)


def differences(first: Measures, other: Measures, draws: int = DRAWS) -> dict[str, Difference]:
    """Return by data set, and for the average of several, how much better the other run is than the first.

    Args:
        first, other: of the same queries in the same order; what only one of them has is left out, and so are data sets
            of other queries.
    """
    rng, means, samples = np.random.default_rng(SEED), [], []
    found = {}
    for name in first:
        pairs = list(zip(first[name], other.get(name, ())))
        complete = 0 < len(first[name]) == len(other.get(name, ()))
        if complete and all(a.shape == b.shape and len(a) for a, b in pairs):
            splits = [b - a for a, b in pairs]
            means.append(np.mean([split.mean(0) for split in splits], axis=0))
            samples.append(resampled(splits, rng, draws))
            found[name] = interval(means[-1], samples[-1])
    if len(found) > 1:
        found[AVERAGE] = interval(np.mean(means, axis=0), np.mean(samples, axis=0))
    return found


def interval(mean: np.ndarray, samples: np.ndarray) -> Difference:
    """Return a mean with the middle `LEVEL` percent of its bootstrap samples (draws, 2)."""
    outside = (100 - LEVEL) / 2
    return Difference(mean, *np.percentile(samples, (outside, 100 - outside), axis=0))


def differences_section(runs: Sequence[Measures], names: Sequence[str]) -> str:
    """Return the table of the differences of all runs from the first that has measures; '' where there are not two."""
    usable = [number for number, run in enumerate(runs) if run]
    if len(usable) < 2:
        return ""
    base, *others = usable
    found = {number: differences(runs[base], runs[number]) for number in others}
    return fill(
        "differences.html",
        groups={
            data_set: {number: found[number][data_set] for number in others if data_set in found[number]}
            for data_set in dict.fromkeys(name for by_set in found.values() for name in by_set)
        },
        base=names[base],
        names=names,
        measures=list(MEASURES),
        level=LEVEL,
        draws=f"{DRAWS:,}",
        zip=zip,
    )
