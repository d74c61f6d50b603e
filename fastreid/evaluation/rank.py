"""Rank-k (CMC), average precision and inverse negative penalty of a retrieval.

For each query the gallery entries of the same identity *and* camera are dropped; the remaining entries of the same
identity are its true matches. All measures follow from the ranks of the true matches among the kept gallery, ordered by
distance and, where distances are equal, by gallery index. Queries without a true match are left out of every mean.

AP and CMC are those of Zheng et al., "Scalable Person Re-identification: A Benchmark" (ICCV 2015); INP is that of
Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook" (TPAMI 2021).
"""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from fastreid.utils.errors import UserError

if TYPE_CHECKING:
    from fastreid.data.datasets import Items, Split

logger = logging.getLogger(__name__)


@functools.cache
def _compiled() -> ModuleType | None:
    """Return the compiled evaluator, or None after a warning (once) when it is not built."""
    try:
        from fastreid.evaluation.rank_cylib import rank_cy
    except ImportError as error:
        logger.warning(
            "The compiled evaluator is not available (%s): ranks are computed by the slower NumPy version, with the "
            "same result. To build it, run in the project's folder: pip install -e .",
            error,
        )
        return None
    return rank_cy


class Labels(NamedTuple):
    """Identities and cameras of Q queries and G gallery images, numbers or text, in the order of `evaluate_rank`.

    Attributes:
        q_pids, q_camids: (Q,).
        g_pids, g_camids: (G,).
    """

    q_pids: np.ndarray
    g_pids: np.ndarray
    q_camids: np.ndarray
    g_camids: np.ndarray

    @classmethod
    def of(cls, items: Items, split: Split) -> Labels:
        """Return those of a split, whose indices are of `items`."""
        return cls(*(array[index] for array in (items.pids, items.camids) for index in (split.query, split.gallery)))


@dataclass(frozen=True)
class SameIdentity:
    """The gallery entries of each query's identity, query after query, as a sparse matrix's rows.

    `columns[offsets[i]:offsets[i + 1]]` are the gallery indices of query i, ascending; `kept` is False where the camera
    is the query's too, so that the entry is dropped, and True for a true match. Indices are int64.
    """

    columns: np.ndarray
    offsets: np.ndarray
    kept: np.ndarray

    def rows(self, start: int, stop: int) -> SameIdentity:
        """Return the part of queries start..stop - 1, for evaluation by blocks of rows."""
        begin, end = self.offsets[start], self.offsets[stop]
        return SameIdentity(self.columns[begin:end], self.offsets[start : stop + 1] - begin, self.kept[begin:end])

    def queries(self) -> np.ndarray:
        """Return the query index of every entry of `columns`."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def matched(self) -> np.ndarray:
        """Tell which queries have a true match, (Q,) bool."""
        return np.diff(self.select(self.kept)[1]) > 0

    def select(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns where `mask` (as long as `columns`) is True, and their offsets."""
        counts = np.concatenate([[0], np.cumsum(mask)])
        return self.columns[mask], counts[self.offsets]


@dataclass(frozen=True)
class MatchRanks:
    """The ranks (from 1, ascending) of each query's true matches: `ranks[offsets[i]:offsets[i + 1]]` for query i."""

    ranks: np.ndarray
    offsets: np.ndarray

    @classmethod
    def join(cls, parts: list[MatchRanks]) -> MatchRanks:
        """Join the ranks of consecutive blocks of queries."""
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(np.concatenate([part.ranks for part in parts]), np.concatenate([[0], np.cumsum(counts)]))

    def valid(self) -> np.ndarray:
        """Tell which queries have a true match, (Q,) bool."""
        return np.diff(self.offsets) > 0

    def summarize(self, max_rank: int, gallery: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return cmc (min(max_rank, gallery),), all_AP and all_INP (valid queries,) as `evaluate_rank` does."""
        counts = np.diff(self.offsets)
        valid = counts > 0
        if not valid.any():
            raise no_match_error(len(counts))
        counts, begins = counts[valid], self.offsets[:-1][valid]
        ends = begins + counts
        position = np.arange(len(self.ranks)) - np.repeat(begins, counts)
        precision = (position + 1) / self.ranks
        all_ap = np.add.reduceat(precision, begins) / counts
        all_inp = counts / self.ranks[ends - 1]
        length = min(max_rank, gallery)
        first = self.ranks[begins]
        cmc = np.cumsum(np.bincount(first[first <= length] - 1, minlength=length)) / len(counts)
        return cmc, all_ap, all_inp


def no_match_error(queries: int) -> UserError:
    """Return the error of a query set in which nothing can be evaluated."""
    return UserError(
        f"None of the {queries} queries has a true match, a gallery image of the same identity from another camera, "
        "so nothing can be evaluated. Check the identities and cameras of query and gallery."
    )


def check_shapes(shape: tuple[int, ...], labels: Labels) -> None:
    """Check identities and cameras against a distance matrix's shape.

    Raises:
        UserError: shapes disagree or a set is empty.
    """
    found = {name: np.shape(values) for name, values in labels._asdict().items()}
    queries, gallery = len(labels.q_pids), len(labels.g_pids)
    expected = {"q_pids": (queries,), "g_pids": (gallery,), "q_camids": (queries,), "g_camids": (gallery,)}
    if shape != (queries, gallery) or found != expected:
        shapes = ", ".join(f"{name} {shape}" for name, shape in found.items())
        raise UserError(
            "Distances, identities and cameras disagree: expected distmat (queries, gallery), q_pids and q_camids "
            f"(queries,), g_pids and g_camids (gallery,); found distmat {shape}, {shapes}."
        )
    if queries == 0 or gallery == 0:
        empty = "query" if queries == 0 else "gallery"
        raise UserError(f"The {empty} set is empty ({queries} queries, {gallery} gallery images): check the data set.")


def check_distances(distances: np.ndarray, first_query: int = 0) -> None:
    """Raise UserError when one of the distances (Q, G), of query `first_query` and the following, is NaN."""
    # The minimum of an array that holds a NaN is NaN: no mask of the whole matrix is needed.
    if np.isnan(distances.min()):
        row = int(np.flatnonzero(np.isnan(distances.min(axis=1)))[0])
        column = int(np.flatnonzero(np.isnan(distances[row]))[0])
        raise UserError(
            f"The distance of query {first_query + row} and gallery image {column} is not a number (NaN): "
            "the features of one of them are not finite. Check the model's weights and the two images."
        )


def check_matrix(distmat: np.ndarray, labels: Labels) -> tuple[np.ndarray, SameIdentity]:
    """Return `distmat` as a C-ordered (Q, G) array of float32 or float64, and its pairs of the same identity.

    Raises:
        UserError: shapes disagree, a set is empty, a distance is not a number, or labels cannot be compared.
    """
    distmat = np.asarray(distmat)
    check_shapes(distmat.shape, labels)
    if distmat.dtype not in (np.float32, np.float64):
        distmat = distmat.astype(np.float32 if distmat.dtype == np.float16 else np.float64)
    check_distances(distmat)
    return np.ascontiguousarray(distmat), find_same_identity(labels)


def _as_integers(query: np.ndarray, gallery: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Number the values of both arrays from 0, the same value getting the same number."""
    query, gallery = np.asarray(query), np.asarray(gallery)
    if (query.dtype.kind in "US") != (gallery.dtype.kind in "US"):
        raise UserError(
            f"The {name} of query ({query.dtype}) and gallery ({gallery.dtype}) cannot be compared: "
            "give both as numbers or both as text."
        )
    numbers = np.unique(np.concatenate([query, gallery]), return_inverse=True)[1]
    return numbers[: len(query)], numbers[len(query) :]


def find_same_identity(labels: Labels) -> SameIdentity:
    """Find for each query the gallery entries of its identity.

    Raises:
        UserError: query and gallery mix numbers and text.
    """
    q_pids, g_pids = _as_integers(labels.q_pids, labels.g_pids, "identities")
    q_camids, g_camids = _as_integers(labels.q_camids, labels.g_camids, "cameras")
    order = np.argsort(g_pids, kind="stable")
    ordered = g_pids[order]
    begins = np.searchsorted(ordered, q_pids, side="left")
    counts = np.searchsorted(ordered, q_pids, side="right") - begins
    offsets = np.concatenate([[0], np.cumsum(counts)])
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    columns = order[np.repeat(begins, counts) + within]
    kept = np.repeat(q_camids, counts) != g_camids[columns]
    return SameIdentity(columns.astype(np.int64), offsets.astype(np.int64), kept)


def match_ranks(
    distances: np.ndarray, same: SameIdentity, use_cython: bool = True, num_threads: int | None = None
) -> MatchRanks:
    """Rank the true matches of a block of queries among their kept gallery.

    `distances` is (Q, G), C-ordered, float32 or float64, complete in the gallery; `same` describes the same Q queries
    (`SameIdentity.rows`). The Cython version counts the smaller distances on `num_threads` threads (default: PyTorch's
    number), the NumPy version sorts; both give the same ranks, whatever the number of threads.
    """
    compiled = _compiled() if use_cython else None
    if compiled is None:
        return _match_ranks_numpy(distances, same)
    matches, offsets = same.select(same.kept)
    dropped, dropped_offsets = same.select(~same.kept)
    queries = np.repeat(np.arange(len(distances)), np.diff(offsets))
    cutoffs = distances[queries, matches]
    order = np.lexsort((matches, cutoffs, queries))
    ranks = np.empty(len(matches), np.int64)
    compiled.match_ranks(
        distances, cutoffs[order], matches[order], offsets, dropped, dropped_offsets, ranks,
        num_threads or torch.get_num_threads(),
    )  # fmt: skip
    return MatchRanks(ranks, offsets)


def _match_ranks_numpy(distances: np.ndarray, same: SameIdentity) -> MatchRanks:
    """Rank the true matches by sorting each query's kept gallery: the definition, written down."""
    all_ranks = []
    for i, row in enumerate(distances):
        columns = same.columns[same.offsets[i] : same.offsets[i + 1]]
        kept = same.kept[same.offsets[i] : same.offsets[i + 1]]
        is_match = np.zeros(len(row), bool)
        is_match[columns[kept]] = True
        in_gallery = np.ones(len(row), bool)
        in_gallery[columns[~kept]] = False
        order = np.argsort(row[in_gallery], kind="stable")
        all_ranks.append(np.flatnonzero(is_match[in_gallery][order]) + 1)
    return MatchRanks(np.concatenate(all_ranks), same.select(same.kept)[1])


def evaluate_rank(
    distmat: np.ndarray,
    q_pids: np.ndarray,
    g_pids: np.ndarray,
    q_camids: np.ndarray,
    g_camids: np.ndarray,
    max_rank: int = 50,
    use_cython: bool = True,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Evaluate a distance matrix (Q, G), smaller meaning more alike.

    Identities and cameras, (Q,) and (G,), are numbers or text. Returns `cmc` (min(max_rank, G),), the share of valid
    queries with a true match among the first 1, 2, ... entries, and the average precision and inverse negative penalty
    of each valid query, in query order. Equal distances are ordered by gallery index.

    Raises:
        UserError: shapes disagree, a set is empty, a distance is not a number, or no query has a true match.
    """
    if max_rank < 1:
        raise UserError(f"max_rank must be at least 1, found {max_rank}.")
    distmat, same = check_matrix(distmat, Labels(q_pids, g_pids, q_camids, g_camids))
    return match_ranks(distmat, same, use_cython).summarize(max_rank, distmat.shape[1])
