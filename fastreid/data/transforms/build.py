"""The transforms of training and test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image
from torch import Tensor

from fastreid.data.transforms.transforms import RandomPatch, ToFloatTensor
from fastreid.utils.errors import UserError

PADDING_MODES = ("constant", "edge", "reflect", "symmetric")


def build_resize(size: Sequence[int]) -> Callable[[Image.Image], Image.Image]:
    """Return the function that resizes a PIL image to (height, width)."""
    from torchvision.transforms import InterpolationMode, Resize  # imported late: it takes as long as PyTorch

    return Resize(list(size), InterpolationMode.BICUBIC)


def build_transforms(cfg, is_train: bool, resized: bool = False) -> Callable[[Image.Image], Tensor]:
    """Return the function PIL image (RGB) -> (3, H, W) float tensor, 0..255, that the options of INPUT describe.

    Args:
        resized: the images come resized, out of a cache. With DO_AUTOAUG, which precedes the resize, they must not.

    Raises:
        UserError: an option is out of its range; the message names it.
    """
    from torchvision import transforms as T

    node = cfg.INPUT
    check_ranges(node)
    resize = [] if resized else [build_resize(node.SIZE_TRAIN if is_train else node.SIZE_TEST)]
    if not is_train:
        return T.Compose([*resize, ToFloatTensor()])
    steps: list[Callable] = []
    if node.DO_AUTOAUG:
        steps.append(T.AutoAugment(T.AutoAugmentPolicy.IMAGENET))
    steps += resize
    if node.DO_FLIP:
        steps.append(T.RandomHorizontalFlip(node.FLIP_PROB))
    if node.DO_PAD:
        steps += [T.Pad(node.PADDING, padding_mode=node.PADDING_MODE), T.RandomCrop(node.SIZE_TRAIN)]
    if node.CJ.ENABLED:
        jitter = T.ColorJitter(node.CJ.BRIGHTNESS, node.CJ.CONTRAST, node.CJ.SATURATION, node.CJ.HUE)
        steps.append(T.RandomApply([jitter], node.CJ.PROB))
    if node.DO_AUGMIX:
        steps.append(T.AugMix())
    steps.append(ToFloatTensor())
    if node.REA.ENABLED:
        # Share of the image and width / height of an erased rectangle as in arXiv 1708.04896.
        erasing = T.RandomErasing(node.REA.PROB, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value=list(node.REA.MEAN))
        steps.append(erasing)
    if node.RPT.ENABLED:
        steps.append(RandomPatch(node.RPT.PROB))
    return T.Compose(steps)


def check_ranges(node) -> None:
    """Raise UserError for the first option of `cfg.INPUT` that is out of its range."""
    probabilities = {
        "FLIP_PROB": node.FLIP_PROB,
        "CJ.PROB": node.CJ.PROB,
        "REA.PROB": node.REA.PROB,
        "RPT.PROB": node.RPT.PROB,
    }
    jitter = {f"CJ.{key}": node.CJ[key] for key in ("BRIGHTNESS", "CONTRAST", "SATURATION")}
    sizes = {"SIZE_TRAIN": node.SIZE_TRAIN, "SIZE_TEST": node.SIZE_TEST}
    wanted = {
        **{key: (0 <= value <= 1, "from 0 to 1") for key, value in probabilities.items()},
        **{key: (value >= 0, "0 or above") for key, value in jitter.items()},
        **{key: (len(value) == 2 and min(value) > 0, "[height, width] in pixels") for key, value in sizes.items()},
        "CJ.HUE": (0 <= node.CJ.HUE <= 0.5, "from 0 to 0.5"),
        "PADDING": (node.PADDING >= 0, "0 or above"),
        "PADDING_MODE": (node.PADDING_MODE in PADDING_MODES, f"one of {', '.join(PADDING_MODES)}"),
        "REA.MEAN": (len(node.REA.MEAN) == 3, "one value for each of R, G and B"),
    }
    for key, (fits, meaning) in wanted.items():
        if not fits:
            value = node[key] if "." not in key else node[key.split(".")[0]][key.split(".")[1]]
            raise UserError(f"INPUT.{key} must be {meaning}; found {value!r}")
