"""k-reciprocal re-ranking: Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding" (CVPR 2017).

Neighbourhoods are rows of sparse matrices, and distances among all images are computed block by block: the square
matrix of all images is never held.
"""

import logging

import numpy as np
import torch
from scipy import sparse

from fastreid.evaluation.distance import distance_blocks, nearest, pair_distance
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)


def rerank_memory(queries: int, gallery: int, k1: int = 20, k2: int = 6, block_size: int = 256) -> int:
    """Return an upper estimate, in bytes, of what `re_ranking` holds beside the features."""
    images = queries + gallery
    result = 4 * queries * gallery
    # A block's distances, their squares, a partitioned copy and masks.
    block = 16 * min(block_size, images) * images
    # Each k-reciprocal neighbour may add its own, narrower, neighbourhood; averaging over k2 images multiplies both.
    neighbours = min(images, (k1 + 1) * (_half(k1) + 2) * k2)
    # Index and value of each neighbour, for all images and once more for the gallery by column.
    return result + block + 2 * 8 * images * neighbours


def check_reranking(k1: int, k2: int, lambda_value: float) -> None:
    """Raise UserError for impossible values of `re_ranking`'s options."""
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise UserError(
            "Re-ranking needs k1 >= 1, k2 >= 1 and lambda between 0 and 1: "
            f"found k1 {k1}, k2 {k2}, lambda {lambda_value}."
        )


def re_ranking(
    q_feat: torch.Tensor,
    g_feat: torch.Tensor,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: str = "cosine",
    block_size: int = 256,
) -> np.ndarray:
    """Return the re-ranked distances (Q, G), float32, of query (Q, D) and gallery (G, D) features.

    lambda_value * original + (1 - lambda_value) * Jaccard distance of the k-reciprocal neighbourhoods, where the
    original is the squared distance divided by the largest one of the query to any image. Equal distances are ordered
    by index, queries first. The memory needed is logged before the work starts.

    Raises:
        UserError: an unknown metric, features of different lengths or impossible values of k1, k2, lambda_value.
    """
    check_reranking(k1, k2, lambda_value)
    # Checks the lengths before the features are joined.
    distance_blocks(q_feat, g_feat, metric, block_size)
    queries, gallery = len(q_feat), len(g_feat)
    needed = rerank_memory(queries, gallery, k1, k2, block_size)
    logger.info("Re-ranking %d queries against %d gallery images needs up to %.0f MB.", queries, gallery, needed / 1e6)
    features = torch.cat([q_feat, g_feat])
    result = np.empty((queries, gallery), np.float32)
    neighbours, largest = _neighbourhoods(features, result, max(k1 + 1, k2), lambda_value, metric, block_size)
    members = _expanded_neighbourhoods(neighbours, k1)
    encoding = _encode(features, members, largest, metric, block_size)
    if k2 > 1:
        nearest_k2 = neighbours[:, :k2]
        encoding = _adjacency(nearest_k2, np.float32(1 / nearest_k2.shape[1])) @ encoding
    _add_jaccard(result, encoding, 1 - lambda_value)
    return result


def _half(k1: int) -> int:
    """Return half of k1, halves rounded to even as published."""
    return int(np.around(k1 / 2))


def _neighbourhoods(
    features: torch.Tensor, result: np.ndarray, k: int, lambda_value: float, metric: str, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's k nearest images (N, k) and its largest squared distance (N,); fill `result` by the way.

    `result` (Q, G) receives the queries' share of the original distance.
    """
    queries = len(result)
    neighbours, largest = [], []
    for start, block in distance_blocks(features, features, metric, block_size):
        distances = block.square_().cpu().numpy()
        largest.append(distances.max(axis=1))
        # Where all images are the same, distances stay 0.
        largest[-1][largest[-1] == 0] = 1
        neighbours.append(nearest(distances, k))
        part = result[start : start + len(block)]
        np.multiply(distances[: len(part), queries:], (lambda_value / largest[-1])[: len(part), None], out=part)
    return np.concatenate(neighbours), np.concatenate(largest)


def _adjacency(neighbours: np.ndarray, value: np.generic) -> sparse.csr_array:
    """Return the (N, N) matrix with `value` at each image's listed neighbours (N, k)."""
    images, k = neighbours.shape
    offsets = np.arange(0, images * k + 1, k)
    values = np.full(images * k, value, dtype=value.dtype)
    return sparse.csr_array((values, neighbours.ravel(), offsets), shape=(images, images))


def _reciprocal(neighbours: np.ndarray) -> sparse.csr_array:
    """Return 1 (int32) where two images are each among the other's listed neighbours."""
    listed = _adjacency(neighbours, np.int32(1))
    return (listed * listed.T).tocsr()


def _expanded_neighbourhoods(neighbours: np.ndarray, k1: int) -> sparse.csr_array:
    """Return the k-reciprocal sets of Section 3.2 of the paper, as the pattern of a sparse (N, N) matrix.

    A member's own reciprocal set of half the size joins when more than two thirds of it are members already.
    """
    wide = _reciprocal(neighbours[:, : k1 + 1])
    narrow = _reciprocal(neighbours[:, : _half(k1) + 1])
    common = ((wide @ narrow.T) * wide).tocoo()
    size = np.diff(narrow.indptr)
    accepted = 3 * common.data > 2 * size[common.col]
    joining = sparse.csr_array(
        (common.data[accepted], (common.row[accepted], common.col[accepted])), shape=common.shape
    )
    return (wide + joining @ narrow).tocsr()


def _encode(
    features: torch.Tensor, members: sparse.csr_array, largest: np.ndarray, metric: str, block_size: int
) -> sparse.csr_array:
    """Return the (N, N) matrix of Gaussian weights of each image's members, every row summing to 1, float32."""
    rows = np.repeat(np.arange(len(features)), np.diff(members.indptr))
    weights = np.empty(len(rows), np.float32)
    # A block of pairs then takes about as much memory as a block of distances.
    step = max(1, block_size * len(features) // (2 * features.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        first = torch.as_tensor(rows[part], dtype=torch.long, device=features.device)
        second = torch.as_tensor(members.indices[part], dtype=torch.long, device=features.device)
        distances = pair_distance(features[first], features[second], metric).square().cpu().numpy()
        weights[part] = np.exp(-distances / largest[rows[part]])
    weights /= np.bincount(rows, weights, minlength=len(features))[rows]
    return sparse.csr_array((weights, members.indices, members.indptr), shape=members.shape)


def _add_jaccard(result: np.ndarray, encoding: sparse.csr_array, share: float) -> None:
    """Add `share` times the Jaccard distance between query and gallery encodings to `result` (Q, G)."""
    queries, gallery = result.shape
    by_column = encoding[queries:].tocsc()
    for query in range(queries):
        entries = slice(encoding.indptr[query], encoding.indptr[query + 1])
        columns = encoding.indices[entries]
        begins = by_column.indptr[columns]
        lengths = by_column.indptr[columns + 1] - begins
        # The stored entries of these columns, one after the other: only they have a minimum above 0.
        ends = np.cumsum(lengths)
        places = np.arange(lengths.sum()) + np.repeat(begins - ends + lengths, lengths)
        smaller = np.minimum(by_column.data[places], np.repeat(encoding.data[entries], lengths))
        overlap = np.bincount(by_column.indices[places], smaller, minlength=gallery)
        result[query] += share * (1 - overlap / (2 - overlap))
