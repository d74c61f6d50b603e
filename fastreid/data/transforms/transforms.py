"""Image transforms that torchvision does not have, on float tensors (3, H, W), RGB 0..255.

All randomness comes from torch's generator, which loader workers seed.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class ToFloatTensor:
    """PIL image -> (3, H, W) float tensor, values kept in 0..255."""

    def __call__(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float()


class RandomPatch:
    """Paste a patch of an earlier image over a random place: RPT, after Zhou et al., arXiv 1910.06827.

    Patches of up to half the image's size are collected from the images that pass; pasting begins when `min_patches`
    are there. A pasted patch may be mirrored.

    Args:
        prob: probability of pasting.
        pool: patches that are kept.
        min_patches: patches needed to begin.
        area, ratio: range of a patch's share of the image's area, and of its width / height.
    """

    def __init__(
        self,
        prob: float,
        pool: int = 1000,
        min_patches: int = 10,
        area: tuple[float, float] = (0.01, 0.5),
        ratio: tuple[float, float] = (0.1, 10.0),
        flip_prob: float = 0.5,
    ):
        self.prob, self.min_patches, self.flip_prob = prob, min_patches, flip_prob
        self.area, self.ratio = area, ratio
        self.patches: deque[Tensor] = deque(maxlen=pool)

    def __call__(self, image: Tensor) -> Tensor:
        self.collect(image)
        if len(self.patches) < self.min_patches or torch.rand(1).item() >= self.prob:
            return image
        patch = self.patches[randint(len(self.patches))]
        if torch.rand(1).item() < self.flip_prob:
            patch = patch.flip(-1)
        height, width = min(patch.shape[1], image.shape[1]), min(patch.shape[2], image.shape[2])
        top, left = randint(image.shape[1] - height + 1), randint(image.shape[2] - width + 1)
        image = image.clone()
        image[:, top : top + height, left : left + width] = patch[:, :height, :width]
        return image

    def collect(self, image: Tensor) -> None:
        """Cut one patch out of an image and keep it, unless no try of ten fits into the image."""
        total = image.shape[1] * image.shape[2]
        for _ in range(10):
            area = total * uniform(*self.area)
            log_low, log_high = torch.tensor(self.ratio).log().tolist()
            ratio = torch.tensor(uniform(log_low, log_high)).exp().item()
            height, width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
            if 0 < height < image.shape[1] and 0 < width < image.shape[2]:
                top, left = randint(image.shape[1] - height + 1), randint(image.shape[2] - width + 1)
                self.patches.append(image[:, top : top + height, left : left + width].clone())
                return


def randint(high: int) -> int:
    """Return a random integer from 0 to high - 1."""
    return int(torch.randint(high, (1,)))


def uniform(low: float, high: float) -> float:
    """Return a random number between low and high."""
    return low + (high - low) * torch.rand(1).item()
