"""Images on disk as PyTorch data sets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastreid.data.decode import read_image
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)


class ImageDataset(Dataset):
    """Items as dictionaries of images (3, H, W), targets, camids, domains and img_paths.

    Args:
        paths: (N,) unicode.
        targets, camids, domains: (N,) int64. Arrays, so that worker processes share their memory.
        transform: PIL image -> tensor.
        cache: item index -> image of the size that the transform expects; None: the files are read.
    """

    def __init__(
        self,
        paths: np.ndarray,
        targets: np.ndarray,
        camids: np.ndarray,
        domains: np.ndarray,
        transform: Callable[[Image.Image], Tensor],
        cache: Callable[[int], Image.Image] | None = None,
    ):
        self.paths, self.targets, self.camids, self.domains = paths, targets, camids, domains
        self.transform = transform
        self.cache = cache

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.item(index, self.read(index))

    def read(self, index: int) -> Image.Image:
        """Return the image of item `index`.

        Raises:
            UserError: it cannot be read; the message names the file.
        """
        return read_image(str(self.paths[index])) if self.cache is None else self.cache(index)

    def item(self, index: int, image: Image.Image) -> dict[str, Any]:
        """Return item `index` with its image transformed."""
        return {
            "images": self.transform(image),
            "targets": int(self.targets[index]),
            "camids": int(self.camids[index]),
            "domains": int(self.domains[index]),
            "img_paths": str(self.paths[index]),
        }


class TrainDataset(ImageDataset):
    """Items by (position in the stream of images, item index), as `SharedBatches` gives them.

    The random numbers of an image's transform depend on the seed and its position alone, so that a run does not depend
    on the number of workers or processes. (RandomPatch is the exception: its patches are those that a worker has seen.)

    Args:
        seed: of the stream.
        skip_corrupt: show another image of the same identity in the place of one that cannot be read, and log their
            number; False raises UserError.
    """

    def __init__(self, *args, seed: int, skip_corrupt: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed = seed
        # Shared, so that the workers count together.
        self.corrupt = torch.zeros(len(self), dtype=torch.bool).share_memory_() if skip_corrupt else None

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        position, index = key
        index, image = self.readable(index)
        with torch.random.fork_rng(devices=[]):  # without workers this is the process that trains
            torch.default_generator.manual_seed(int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0]))
            return self.item(index, image)

    def readable(self, index: int) -> tuple[int, Image.Image]:
        """Return an item and its image: `index`, or with skip_corrupt the first of its `substitutes` that can be read.

        Raises:
            UserError: the image cannot be read and must not be skipped, or no other of the identity can be read.
        """
        if self.corrupt is None:
            return index, self.read(index)
        for candidate in chain([index], self.substitutes(index)):
            if self.corrupt[candidate]:
                continue
            try:
                return candidate, self.read(candidate)
            except UserError as error:
                self.corrupt[candidate] = True
                logger.warning(
                    f"{error}. DATALOADER.SKIP_CORRUPT shows another image of that identity instead; unreadable images "
                    f"so far: {int(self.corrupt.sum())}"
                )
        raise UserError(
            f"DATALOADER.SKIP_CORRUPT: no image of the identity of {self.paths[index]} can be read: replace them"
        )

    def substitutes(self, index: int) -> Iterator[int]:
        """Yield the other items of the identity of item `index`, those of its domain first, the next ones first."""
        same = np.flatnonzero(self.targets == self.targets[index])
        order = np.lexsort(((same - index) % len(self), self.domains[same] != self.domains[index]))
        yield from same[order][1:].tolist()


def collate(items: list[dict[str, Any]]) -> dict[str, Tensor | list[str]]:
    """Return a batch: images (N, 3, H, W), long tensors of numbers, a list of paths."""
    batch: dict[str, Tensor | list[str]] = {"images": torch.stack([item["images"] for item in items])}
    for key in ("targets", "camids", "domains"):
        batch[key] = torch.tensor([item[key] for item in items])
    batch["img_paths"] = [item["img_paths"] for item in items]
    return batch
