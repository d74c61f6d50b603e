"""The nearest gallery images of queries without identities: exactly, or through cells of faiss (extra `search`)."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from fastreid.evaluation.distance import distance_blocks, nearest
from fastreid.evaluation.streaming import BLOCK_SIZE, rows_per_block
from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_path

logger = logging.getLogger(__name__)

INDEXES = ("exact", "ivf")
TRAINING_POINTS = 39  # for each cell, below which faiss warns that cells are poor
RECALL_QUERIES = 200
Found = tuple[np.ndarray, np.ndarray]


def exact_search(
    q_feat: np.ndarray, g_feat: np.ndarray, k: int, metric: str = "cosine", block_size: int = BLOCK_SIZE
) -> Found:
    """Return the columns and distances (Q, min(k, G)) of each query's nearest gallery entries, nearest first.

    Equal distances are ordered by column. Memory holds one block of `block_size` distances beside the features.
    """
    if k < 1:
        raise UserError(f"the number of images to find must be at least 1, found {k}")
    rows = rows_per_block(block_size, len(g_feat))
    columns, distances = [], []
    for _, block in distance_blocks(torch.from_numpy(q_feat), torch.from_numpy(g_feat), metric, rows):
        columns.append(nearest(block.numpy(), k))
        distances.append(np.take_along_axis(block.numpy(), columns[-1], axis=1))
        # A name that is still bound would keep this block while the next one is computed.
        del block
    return np.concatenate(columns), np.concatenate(distances)


def import_faiss() -> ModuleType:
    """Return faiss; UserError when it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "the index ivf needs faiss, which is not installed: pip install faiss-cpu (or this project's extra, "
            'pip install -e ".[search]"), or search with the index exact, which needs nothing'
        ) from error
    return faiss


class IvfIndex:
    """Gallery features (G, D) float32 in cells of faiss, of which a search looks only at those nearest to the query.

    Args:
        nlist: cells; 0: 4 sqrt(G). No more than there are features for.
        nprobe: cells looked at for each query.
        folder: where the index is kept as `ivf_<hash of features and options>.faiss`, and taken from; None: nowhere.

    Raises:
        UserError: faiss is not installed, an option is out of its range, or a kept index is damaged.

    Johnson et al., "Billion-scale similarity search with GPUs" (IEEE Transactions on Big Data, 2021).
    """

    def __init__(
        self, g_feat: np.ndarray, metric: str = "cosine", nlist: int = 0, nprobe: int = 16, folder: Path | None = None
    ):
        self.faiss, self.metric = import_faiss(), metric
        if nlist < 0 or nprobe < 1:
            raise UserError(f"nlist must be at least 0 and nprobe at least 1, found {nlist} and {nprobe}")
        most = max(1, len(g_feat) // TRAINING_POINTS)
        if nlist > most:
            logger.warning(f"{nlist} cells are too many for {len(g_feat):,} features: {most} are made")
        self.nlist = min(nlist or round(4 * len(g_feat) ** 0.5), most)
        self.nprobe = min(nprobe, self.nlist)
        name = hashlib.sha256(f"{metric} {self.nlist} {g_feat.shape}".encode())
        name.update(np.ascontiguousarray(g_feat))
        path = folder / f"ivf_{name.hexdigest()[:16]}.faiss" if folder else None
        if path and path.is_file():
            self.index = self.read(path)
            logger.info(f"the index of {len(g_feat):,} features in {self.nlist:,} cells is from {path}")
        else:
            start = time.perf_counter()
            self.index = self.make(self.unit(g_feat))
            seconds = time.perf_counter() - start
            logger.info(f"made an index of {len(g_feat):,} features in {self.nlist:,} cells in {seconds:.1f} s")
            if path:
                with atomic_path(path) as temporary:
                    temporary.write_bytes(self.faiss.serialize_index(self.index).data)
        self.index.nprobe = self.nprobe

    def unit(self, features: np.ndarray) -> np.ndarray:
        """Return features as they are compared: of length 1 for the cosine, whose inner product it then is."""
        features = np.array(features, np.float32, order="C")
        if self.metric == "cosine":
            self.faiss.normalize_L2(features)
        return features

    def make(self, features: np.ndarray):
        """Return the index of features (G, D)."""
        flat, kind = self.faiss.IndexFlatL2, self.faiss.METRIC_L2
        if self.metric == "cosine":
            flat, kind = self.faiss.IndexFlatIP, self.faiss.METRIC_INNER_PRODUCT
        length = features.shape[1]
        index = self.faiss.IndexIVFFlat(flat(length), length, self.nlist, kind)
        index.train(features)
        index.add(features)
        return index

    def read(self, path: Path):
        """Return an index out of a file; UserError when it is damaged."""
        try:
            return self.faiss.read_index(str(path))
        except RuntimeError as error:
            raise UserError(f"{path} is no index that this faiss can read: remove it, it is made again") from error

    def search(self, q_feat: np.ndarray, k: int) -> Found:
        """Return columns and distances as `exact_search` does; column -1 where the cells held fewer than k entries."""
        found, columns = self.index.search(self.unit(q_feat), min(k, self.index.ntotal))
        # faiss gives inner products, and squares of euclidean distances.
        return columns, 1 - found if self.metric == "cosine" else np.sqrt(np.maximum(found, 0))


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Return which share of the exact nearest entries (Q, k) was found, 0..1."""
    return float(np.mean([np.isin(truth, row).mean() for row, truth in zip(found, exact)]))


def recall_queries(queries: int) -> np.ndarray:
    """Return the queries on which recall is measured: all, or some of many, the same each time."""
    if queries <= RECALL_QUERIES:
        return np.arange(queries)
    return np.sort(np.random.default_rng(0).choice(queries, RECALL_QUERIES, replace=False))
