"""Ranked lists: for each query the nearest gallery images, right or wrong, as the measures of a retrieval see them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fastreid.data.datasets import Items, Split
from fastreid.evaluation.distance import nearest
from fastreid.evaluation.rank import (
    Labels,
    SameIdentity,
    check_distances,
    check_shapes,
    find_same_identity,
    match_ranks,
)
from fastreid.evaluation.streaming import FeatureDistances, MatrixDistances
from fastreid.utils.errors import UserError


@dataclass(frozen=True)
class RankedItem:
    """One gallery image in a ranked list; `match` tells whether it is of the query's identity."""

    path: str
    pid: int
    camid: int
    distance: float
    match: bool


@dataclass(frozen=True)
class RankedQuery:
    """One query and its nearest gallery images, nearest first.

    Attributes:
        ap: average precision, 0..1.
        first_match: rank of the nearest true match, from 1, which may lie beyond `items`. Both are None for a query
            without a true match.
    """

    path: str
    pid: int
    camid: int
    ap: float | None
    first_match: int | None
    items: list[RankedItem]


def ranked_lists(
    distances: FeatureDistances | MatrixDistances, items: Items, split: Split, k: int = 10
) -> list[RankedQuery]:
    """Return each query's list of its k nearest gallery images (fewer if the gallery is smaller), in query order.

    As in `evaluate_rank`, gallery images of the query's identity *and* camera are left out and equal distances are
    ordered by gallery index. Memory holds one block of distances and k images for each query.

    Args:
        distances: of the split's query and gallery (Q, G); `split_distances` computes them as the evaluation does.
        items: the images that the split's indices are of.

    Raises:
        UserError: k is below 1, the shapes disagree, a set is empty or a distance is not a number.
    """
    if k < 1:
        raise UserError(f"the length of a ranked list must be at least 1, found {k}")
    labels = Labels.of(items, split)
    check_shapes(distances.shape, labels)
    same = find_same_identity(labels)
    lists = []
    for start, block in distances.blocks():
        check_distances(block, start)
        part = same.rows(start, start + len(block))
        measures = _measures(block, part)
        for row, (columns, values) in enumerate(_nearest_kept(block, part, k)):
            query = items[split.query[start + row]]
            ranked = [items[index] for index in split.gallery[columns]]
            found = [RankedItem(*entry, float(value), entry[1] == query[1]) for entry, value in zip(ranked, values)]
            lists.append(RankedQuery(*query, *measures[row], found))
        # A name that is still bound would keep this block while the next one is computed.
        del block
    return lists


def _measures(block: np.ndarray, same: SameIdentity) -> list[tuple[float | None, int | None]]:
    """Return the average precision and the first true match's rank of each query of a block."""
    ranks = match_ranks(block, same)
    valid = ranks.valid()
    if not valid.any():
        return [(None, None)] * len(block)
    _, average_precision, _ = ranks.summarize(1, block.shape[1])
    first = ranks.ranks[ranks.offsets[:-1][valid]]
    measured = dict(zip(np.flatnonzero(valid).tolist(), zip(average_precision.tolist(), first.tolist())))
    return [measured.get(row, (None, None)) for row in range(len(block))]


def _nearest_kept(block: np.ndarray, same: SameIdentity, k: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield for each query of a block the columns of its nearest kept entries and their distances, nearest first."""
    dropped = same.queries()[~same.kept], same.columns[~same.kept]
    before = block[dropped]
    # Masked in place and put back: a masked copy would take as much memory as the block.
    block[dropped] = np.inf
    columns = nearest(block, k)
    values = np.take_along_axis(block, columns, axis=1)
    block[dropped] = before
    for chosen, found in zip(columns, values):
        kept = found < np.inf
        yield chosen[kept], found[kept]
