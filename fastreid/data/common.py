"""Images on disk as a PyTorch data set."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fastreid.utils.errors import UserError


def read_image(path: str) -> Image.Image:
    """Return the image at `path` as RGB.

    Raises:
        UserError: it cannot be read as an image; the message names the file.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    # What PIL's decoders raise for damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image ({' '.join(str(error).split())}): replace or remove it") from error


class ImageDataset(Dataset):
    """Items as dictionaries of images (3, H, W), targets, camids, domains and img_paths.

    Args:
        paths: (N,) unicode. targets, camids, domains: (N,) int64. Arrays, so that worker processes share their memory.
        transform: PIL image -> tensor.
    """

    def __init__(self, paths: np.ndarray, targets: np.ndarray, camids: np.ndarray, domains: np.ndarray, transform: Callable):
        self.paths, self.targets, self.camids, self.domains = paths, targets, camids, domains
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = str(self.paths[index])
        return {
            "images": self.transform(read_image(path)),
            "targets": int(self.targets[index]),
            "camids": int(self.camids[index]),
            "domains": int(self.domains[index]),
            "img_paths": path,
        }


def collate(items: list[dict[str, Any]]) -> dict[str, Tensor | list[str]]:
    """Return a batch: images (N, 3, H, W), long tensors of numbers, a list of paths."""
    batch: dict[str, Tensor | list[str]] = {"images": torch.stack([item["images"] for item in items])}
    for key in ("targets", "camids", "domains"):
        batch[key] = torch.tensor([item[key] for item in items])
    batch["img_paths"] = [item["img_paths"] for item in items]
    return batch
