"""A bounded number of images of each data set, with their features: what the analyses look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fastreid.data.datasets import Items

SOURCE, TARGET = "source", "target"


@dataclass(frozen=True, eq=False)
class Sample:
    """Images of a data set, or of a domain, with features (N, D) float32 in the items' order.

    Attributes:
        known: (N,) bool, False for images of people that no query asks for. Among them are distractors, which data sets
            file under one identity though they show many people.
    """

    name: str
    role: str
    items: Items
    known: np.ndarray
    features: Tensor

    def __len__(self) -> int:
        return len(self.items)

    @property
    def label(self) -> str:
        """The name with the role, as figures show it."""
        return f"{self.name} ({self.role})"

    def subset(self, index: np.ndarray, name: str = "") -> Sample:
        """Return the sample of the images `index`, by another name if one is given."""
        features = self.features[torch.from_numpy(index)]
        return Sample(name or self.name, self.role, self.items[index], self.known[index], features)

    def unit_features(self, metric: str) -> Tensor:
        """Return features whose Euclidean distances are in the order of the metric's: of length 1 for cosine."""
        return normalize(self.features) if metric == "cosine" else self.features


def sample_images(
    pids: np.ndarray, known: np.ndarray, count: int, per_identity: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the sorted indices of at most `count` images, by identity: pairs of images of one person are kept.

    Identities come in random order, each with at most `per_identity` images. Where these are too few for `count`,
    other images of the same identities follow. Each image that is not `known` counts as an identity of its own.
    """
    total = len(pids)
    if total <= count:
        return np.arange(total)
    _, person = np.unique(np.where(known, pids, pids.max() + 1 + np.arange(total)), return_inverse=True)
    shuffled = rng.permutation(total)
    by_person = shuffled[np.argsort(person[shuffled], kind="stable")]
    sizes = np.bincount(person)
    rank = np.empty(total, dtype=np.int64)
    rank[by_person] = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    turn = rng.permutation(len(sizes))[person]
    return np.sort(np.lexsort((rank, turn, rank >= per_identity))[:count])


def domains(samples: Sequence[Sample], camera_to_domain: bool) -> list[Sample]:
    """Return the samples, with `camera_to_domain` each source divided into its cameras."""
    found = []
    for sample in samples:
        if not (camera_to_domain and sample.role == SOURCE):
            found.append(sample)
            continue
        for camera in np.unique(sample.items.camids).tolist():
            found.append(sample.subset(np.flatnonzero(sample.items.camids == camera), f"{sample.name} c{camera}"))
    return found
