"""Is one run better than another, or were its queries kinder? Differences on the same queries, with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastreid.evaluation.ranked_lists import RankedQuery
from fastreid.report.html import element, swatch, table, text

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
    bodies = []
    for data_set in dict.fromkeys(name for by_set in found.values() for name in by_set):
        rows = [f'<tr><th scope="rowgroup" colspan="{1 + len(MEASURES)}">{text(data_set)}</th></tr>']
        for number in others:
            if data_set in found[number]:
                cells = "".join(cell(*values) for values in zip(*found[number][data_set]))
                label = f"{swatch(number)} {text(names[number])}"
                rows.append(f'<tr data-run="{number}"><th scope="row">{label}</th>{cells}</tr>')
        bodies.append(element("tbody", {"class": "group", "data-set": data_set}, "".join(rows)))
    note = (
        f"Less {text(names[base])}, on the same queries of all splits: percentage points, and the {LEVEL} % interval "
        f"of {DRAWS:,} bootstrap samples of splits and queries. Bold: 0 is outside. Training again may differ by more."
    )
    header = [f'<th scope="col">{name}</th>' for name in ("Data set", *MEASURES)]
    return f'<p class="note">{note}</p>{table(header, bodies, "Differences between runs")}'


def cell(mean: float, low: float, high: float) -> str:
    """Return a cell with a difference and its interval."""
    shown = f"{mean:+.2f}"
    if low > 0 or high < 0:
        shown = f'<span class="best">{shown}</span>'
    return f"<td>{shown} <small>{low:+.2f} to {high:+.2f}</small></td>"
