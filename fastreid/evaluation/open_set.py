"""Open-set figures: queries of people who may not be in the gallery, as of a watch list.

The detection and identification rate (DIR) at a false alarm rate of Phillips, Grother and Micheals, "Evaluation Methods
in Face Recognition" (Handbook of Face Recognition, 2005), at rank 1, for re-identification as in Liao et al., "Open-set
Person Re-identification" (arXiv:1408.0872, 2014). A query is answered with its nearest gallery image if that is at most
a threshold away, and with nobody otherwise. A false alarm is an answer to a query without a true match; a query with
one is identified if the answer is right. Images of the query's identity and camera are left out, as in every measure.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from fastreid.data.datasets import Items, Split
from fastreid.evaluation.rank import Labels, check_distances, find_same_identity
from fastreid.evaluation.roc import allowed_errors
from fastreid.evaluation.streaming import FeatureDistances, MatrixDistances, nearest_but
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

KNOWN, UNKNOWN, GALLERY, RANK_1 = "queries with a match", "queries without", "gallery images", "Rank-1"


def check_open_set(unknown: float, rates: Sequence[float]) -> None:
    """Raise UserError for options of TEST.OPEN_SET out of their range."""
    if not 0 <= unknown < 1:
        raise UserError(f"TEST.OPEN_SET.UNKNOWN, a share of the people, must be from 0 to below 1; found {unknown}")
    if not rates or not all(0 < rate < 1 for rate in rates):
        raise UserError(
            f"TEST.OPEN_SET.FALSE_ALARM_RATES must be shares of the queries, each between 0 and 1; found {list(rates)}"
        )


def open_split(items: Items, split: Split, unknown: float, seed: int) -> Split:
    """Return a split without the gallery images of a share of the people who are asked for and have a match.

    Args:
        unknown: that share, 0 for the split as it is.
        seed: which people; the same for the same data and seed.

    Raises:
        UserError: afterwards no query, or every query, is without a match.
    """
    labels = Labels.of(items, split)
    matched = find_same_identity(labels).matched()
    people = np.unique(labels.q_pids[matched])
    removed = np.random.default_rng(seed).choice(people, round(unknown * len(people)), replace=False)
    known = int((matched & ~np.isin(labels.q_pids, removed)).sum())
    if known in (0, len(matched)):
        which = "no query has a match" if known == 0 else "every query has a match"
        advice = "lower" if known == 0 else "raise"
        raise UserError(
            f"TEST.OPEN_SET needs queries with and without a match; with {len(removed)} of {len(people)} people taken "
            f"out of the gallery, {which}: {advice} TEST.OPEN_SET.UNKNOWN ({unknown:g}), or set ENABLED False"
        )
    return Split(split.name, split.query, split.gallery[~np.isin(labels.g_pids, removed)])


def open_set_rates(
    distances: FeatureDistances | MatrixDistances, labels: Labels, rates: Sequence[float]
) -> dict[str, float]:
    """Return numbers of queries and gallery images, Rank-1, and at each rate `DIR@FAR=` in percent and its threshold.

    The threshold is the largest of the queries' nearest distances at which the share of false alarms is at most the
    rate. Both are NaN, after a warning, where fewer than one false alarm is allowed, as they cannot be measured then.
    Memory holds one block of distances.
    """
    same = find_same_identity(labels)
    known = same.matched()
    columns, nearest = [], []
    for start, block in distances.blocks():
        check_distances(block, start)
        part = same.rows(start, start + len(block))
        dropped = ~part.kept
        found = nearest_but(block, part.queries()[dropped], part.columns[dropped])
        columns.append(found[0])
        nearest.append(found[1])
        # A name that is still bound would keep this block while the next one is computed.
        del block
    distance = np.concatenate(nearest)
    right = known & (labels.g_pids[np.concatenate(columns)] == labels.q_pids)
    alarms = np.sort(distance[~known])
    row = {KNOWN: int(known.sum()), UNKNOWN: len(alarms), GALLERY: len(labels.g_pids)}
    row[RANK_1] = 100 * right[known].mean()
    for rate in rates:
        allowed = allowed_errors(rate, len(alarms))
        if not allowed:
            logger.warning(f"a false alarm rate of {rate:g} cannot be measured with {len(alarms)} queries of no match")
        below = distance < alarms[allowed]
        measured = allowed and below.any()
        row[f"DIR@FAR={rate:g}"] = 100 * (right & below)[known].mean() if measured else np.nan
        row[f"threshold@FAR={rate:g}"] = distance[below].max() if measured else np.nan
    return {key: value if isinstance(value, int) else float(value) for key, value in row.items()}
