"""All measures of a retrieval in one or two passes over blocks of distances: the matrix is never held.

The first pass ranks the true matches and keeps the distances of the pairs of the same identity, which are few. The
second counts the other pairs against them for both families of verification rates. Distances that fit into one block
are computed once for both passes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from fastreid.evaluation.distance import distance_blocks
from fastreid.evaluation.rank import (
    Labels,
    MatchRanks,
    SameIdentity,
    check_distances,
    check_shapes,
    find_same_identity,
    match_ranks,
    no_match_error,
)
from fastreid.evaluation.roc import SamePairs, both_tprs
from fastreid.utils.errors import UserError

BLOCK_SIZE = 16_000_000


@dataclass(frozen=True)
class Retrieval:
    """The measures of one query and gallery set, as shares of 1.

    `cmc` (max_rank or G if smaller,); `average_precision`, `inverse_penalty` and `first_match`, the rank from 1 of the
    nearest true match, are of the valid queries, those where `valid` (Q,) is True. `published_tpr` and `usual_tpr` (3,)
    are at FPR 1e-4, 1e-3, 1e-2 (`evaluate_roc`, `evaluate_tpr_at_fpr`). `margin`, if asked for, is of the valid queries
    too: how much farther than the nearest true match the nearest image of another identity is, negative where a wrong
    image comes first. `nearest_other`, with it, is that image's number in the gallery.
    """

    cmc: np.ndarray
    average_precision: np.ndarray
    inverse_penalty: np.ndarray
    first_match: np.ndarray
    valid: np.ndarray
    published_tpr: np.ndarray
    usual_tpr: np.ndarray
    margin: np.ndarray | None
    nearest_other: np.ndarray | None


@dataclass
class FeatureDistances:
    """Distances (Q, G) between query and gallery features, computed block by block, again on every pass.

    `block_size` is the number of distances held at a time (one query's at least); what fits into one block is kept.
    """

    q_feat: torch.Tensor
    g_feat: torch.Tensor
    metric: str = "cosine"
    block_size: int = BLOCK_SIZE
    kept: np.ndarray | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # Checks the features now, not on the first pass.
        distance_blocks(self.q_feat, self.g_feat, self.metric)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.q_feat), len(self.g_feat)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first query, distances (rows, G) float32)."""
        if self.kept is not None:
            yield 0, self.kept
            return
        rows = rows_per_block(self.block_size, self.shape[1])
        blocks = distance_blocks(self.q_feat, self.g_feat, self.metric, rows)
        for start, block in blocks:
            distances = block.cpu().numpy()
            del block
            if rows >= self.shape[0]:
                self.kept = distances
            yield start, distances
            del distances


@dataclass(frozen=True)
class MatrixDistances:
    """A whole distance matrix (Q, G), C-ordered float32 or float64, passed over as one block."""

    distmat: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.distmat.shape

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (0, the matrix)."""
        yield 0, self.distmat


def rows_per_block(block_size: int, columns: int) -> int:
    """Return how many rows of `columns` distances make a block of at most `block_size`; 1 if a row is longer.

    Raises:
        UserError: the size is below 1.
    """
    if block_size < 1:
        raise UserError(f"TEST.BLOCK_SIZE, the number of distances in a block, must be at least 1, found {block_size}.")
    return max(1, block_size // max(1, columns))


def evaluate_blocks(
    distances: FeatureDistances | MatrixDistances, labels: Labels, max_rank: int = 50, margins: bool = False
) -> Retrieval:
    """Evaluate a retrieval block by block, with the numbers of `evaluate_rank`, `evaluate_roc`, `evaluate_tpr_at_fpr`.

    Beside what `distances` holds, memory grows with the images and the pairs of the same identity only.

    Raises:
        UserError: shapes disagree, a set is empty, a distance is not a number, or no query has a true match.
    """
    queries, gallery = distances.shape
    check_shapes(distances.shape, labels)
    same = find_same_identity(labels)
    if not same.kept.any():
        raise no_match_error(queries)
    ranks, pair_distances, others = [], [], []
    for start, block in distances.blocks():
        check_distances(block, start)
        part = same.rows(start, start + len(block))
        ranks.append(match_ranks(block, part))
        pair_distances.append(block[part.queries(), part.columns])
        if margins:
            others.append(nearest_but(block, part.queries(), part.columns))
        # A name that is still bound would keep this block while the next one is computed.
        del block
    joined, near = MatchRanks.join(ranks), np.concatenate(pair_distances)
    pairs = SamePairs(queries * gallery, near, same.kept)
    published, usual = both_tprs(partial(_flat_blocks, distances), pairs)
    valid = joined.valid()
    margin, nearest_other = None, None
    if margins:
        nearest_other, other_distances = (np.concatenate(parts)[valid] for parts in zip(*others))
        margin = other_distances - _nearest_match(same, near)[valid]
    return Retrieval(
        *joined.summarize(max_rank, gallery),
        first_match=joined.ranks[joined.offsets[:-1][valid]],
        valid=valid,
        published_tpr=published,
        usual_tpr=usual,
        margin=margin,
        nearest_other=nearest_other,
    )


def _flat_blocks(distances: FeatureDistances | MatrixDistances) -> Iterator[np.ndarray]:
    for _, block in distances.blocks():
        yield block.ravel()
        del block


def nearest_but(block: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's column of the smallest distance, and that, leaving some entries (rows, columns) out.

    Of equal distances the first is taken; the distance is infinite where no entry is left.
    """
    # Masked in place and put back: a masked copy would take as much memory as the block.
    left_out = block[rows, columns]
    block[rows, columns] = np.inf
    nearest = block.argmin(axis=1)
    distances = block[np.arange(len(block)), nearest]
    block[rows, columns] = left_out
    return nearest, distances


def _nearest_match(same: SameIdentity, pair_distances: np.ndarray) -> np.ndarray:
    """Return each query's distance to its nearest true match; infinite where there is none."""
    nearest = np.full(len(same.offsets) - 1, np.inf, pair_distances.dtype)
    np.minimum.at(nearest, same.queries()[same.kept], pair_distances[same.kept])
    return nearest
