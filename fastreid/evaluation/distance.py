"""Distances between feature vectors, block by block of rows, in float32 on the features' device."""

from collections.abc import Iterator

import numpy as np
import torch

from fastreid.utils.errors import UserError

DISTANCE_METRICS = ("cosine", "euclidean")
# Keeps the norm of an all-zero feature from dividing by zero, and the root of a rounded-off negative square real.
EPSILON = 1e-12


def _check_features(q_feat: torch.Tensor, g_feat: torch.Tensor, metric: str) -> None:
    if metric not in DISTANCE_METRICS:
        raise UserError(f"Unknown distance metric {metric!r}: expected one of {', '.join(DISTANCE_METRICS)}.")
    if q_feat.dim() != 2 or g_feat.dim() != 2 or q_feat.shape[1] != g_feat.shape[1]:
        raise UserError(
            "Query and gallery features must be (Q, D) and (G, D) with the same D: "
            f"found {tuple(q_feat.shape)} and {tuple(g_feat.shape)}. Were both computed by the same model?"
        )


def distance_blocks(
    q_feat: torch.Tensor, g_feat: torch.Tensor, metric: str = "cosine", block_size: int = 256
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (first query, distances (up to block_size, G) float32) over the queries, in order.

    `metric` is `cosine` (1 - cosine similarity) or `euclidean`. Beside the features, memory holds one block and one
    number per gallery entry.

    Raises:
        UserError: the metric is unknown, or features have different lengths.
    """
    _check_features(q_feat, g_feat, metric)
    if block_size < 1:
        raise UserError(f"The number of queries per block of distances must be at least 1, found {block_size}.")
    return _distance_blocks(q_feat.detach().float(), g_feat.detach().float(), metric, block_size)


def _distance_blocks(
    q_feat: torch.Tensor, g_feat: torch.Tensor, metric: str, block_size: int
) -> Iterator[tuple[int, torch.Tensor]]:
    g_norm = torch.linalg.vector_norm(g_feat, dim=1)
    # The product is scaled instead of the gallery, so that the gallery is never copied.
    column = g_norm.clamp(min=EPSILON).reciprocal() if metric == "cosine" else g_norm.square()
    for start in range(0, len(q_feat), block_size):
        query = q_feat[start : start + block_size]
        if metric == "cosine":
            block = torch.nn.functional.normalize(query, eps=EPSILON) @ g_feat.T
            block.mul_(column).neg_().add_(1)
        else:
            block = (query @ g_feat.T).mul_(-2).add_(column).add_(query.square().sum(dim=1, keepdim=True))
            block.clamp_(min=EPSILON).sqrt_()
        yield start, block
        # Otherwise two blocks would be held while the next one is computed.
        del block


def compute_distance(q_feat: torch.Tensor, g_feat: torch.Tensor, metric: str = "cosine") -> torch.Tensor:
    """Return the whole (Q, G) float32 distance matrix; see `distance_blocks` for the metrics and errors."""
    distmat = torch.empty(len(q_feat), len(g_feat), device=q_feat.device)
    for start, block in distance_blocks(q_feat, g_feat, metric):
        distmat[start : start + len(block)] = block
    return distmat


def pair_distance(first: torch.Tensor, second: torch.Tensor, metric: str = "cosine") -> torch.Tensor:
    """Return the distances (M,) between the rows of two (M, D) arrays, float32."""
    _check_features(first, second, metric)
    first, second = first.detach().float(), second.detach().float()
    if metric == "cosine":
        return 1 - torch.nn.functional.cosine_similarity(first, second, eps=EPSILON)
    return torch.linalg.vector_norm(first - second, dim=1)


def nearest(distances: np.ndarray, k: int) -> np.ndarray:
    """Return the column indices (R, min(k, C)) of each row's k smallest distances, nearest first.

    Equal distances are ordered by column, also where only some of them are among the first k.
    """
    k = min(k, distances.shape[1])
    limit = np.partition(distances, k - 1, axis=1)[:, k - 1 : k]
    chosen = distances <= limit
    for row in np.flatnonzero(np.count_nonzero(chosen, axis=1) > k):
        surplus = np.flatnonzero(distances[row] == limit[row])
        chosen[row, surplus[k - np.count_nonzero(chosen[row]) :]] = False
    columns = np.nonzero(chosen)[1].reshape(-1, k)
    order = np.argsort(np.take_along_axis(distances, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)
