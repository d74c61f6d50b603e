"""A trained model as a function from images to features.

from fastreid import Predictor
predictor = Predictor("logs/Sample/DG-mobilenet")
features = predictor(["a.jpg", "b.jpg"])
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastreid.config import CfgNode, get_cfg
from fastreid.data.build import worker_options
from fastreid.data.decode import DECODER_ERRORS, read_image, reason, to_rgb
from fastreid.data.stream import SharedCollate
from fastreid.data.transforms import build_transforms
from fastreid.engine.defaults import build_from_checkpoint, output_folder
from fastreid.evaluation.calibration import load_threshold
from fastreid.evaluation.checked_sets import check_test_options
from fastreid.evaluation.distance import pair_distance
from fastreid.evaluation.extraction import forward_batches
from fastreid.utils import run_files
from fastreid.utils.checkpoint import checkpoint_names, last_checkpoint
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

# Type and channels of arrays that are images: RGB, RGBA, gray of 8 and of 16 bits.
ARRAYS = [(np.uint8, (3,)), (np.uint8, (4,)), (np.uint8, ()), (np.uint16, ())]
OneImage = str | Path | Image.Image | np.ndarray | Tensor


class Predictor:
    """Images -> test features (N, D), those that an evaluation of the same model computes.

    Args:
        source: a run's folder or its config.yaml (its last checkpoint), a checkpoint with the run's config.yaml beside
            it, a config file (the last checkpoint of its output folder, or its MODEL.WEIGHTS), or a config (its
            MODEL.WEIGHTS, or the last checkpoint of its OUTPUT_DIR).
        opts: options over the config, `["MODEL.DEVICE", "cpu", "TEST.FLIP", "True"]`; MODEL.WEIGHTS among them is the
            checkpoint.

    Attributes:
        cfg, checkpoint (a path), device: as found.
        model: in evaluation mode.
        image_size: (height, width).
        feature_size: D.

    Raises:
        UserError: there is no config or checkpoint, or they do not fit each other.
    """

    def __init__(self, source: CfgNode | str | Path, opts: Sequence[str] = ()):
        self.cfg, self.checkpoint = find_run(source, opts)
        check_test_options(self.cfg)
        self.model = build_from_checkpoint(self.cfg, self.checkpoint).eval()
        self.device = next(self.model.parameters()).device
        self.image_size = tuple(self.cfg.INPUT.SIZE_TEST)
        reduction = self.cfg.META.BOTTLENECK
        self.feature_size: int = reduction.REDUCTION_DIM if reduction.DO_IT else self.model.backbone.out_channels
        self.transform = build_transforms(self.cfg, is_train=False)

    def __call__(self, images: OneImage | Sequence[OneImage], name: str = "images") -> Tensor:
        """Return the features (N, D), float32 on the CPU, in the images' order, as the network gives them.

        They are not normalized: compare them with `fastreid.evaluation.compute_distance`, whose cosine distance is, or
        normalize them with `torch.nn.functional.normalize`. `TEST.IMS_PER_BATCH` images at a time are computed.

        Args:
            images: one image or any number, each a path, a PIL image, an array or a tensor (3, H, W) RGB; (N, H, W, 3)
                and (N, 3, H, W) hold N images. An array is uint8 RGB (H, W, 3), RGBA (H, W, 4), or gray (H, W), which
                may be uint16 too. All are read as files are: see `fastreid.data.decode`, and resized as in a test, but
                for float tensors, values 0..255, which must have the size `image_size` already.
            name: stands beside the progress bar.

        Raises:
            UserError: there is no image, or one is of no such kind, or cannot be read.
        """
        images = as_list(images)
        for number, image in enumerate(images):
            check_image(image, number, self.image_size)
        cfg = self.cfg
        options = worker_options(cfg)
        if len(images) <= cfg.TEST.IMS_PER_BATCH:
            # Starting processes takes longer than reading one batch.
            options |= {"num_workers": 0, "timeout": 0, "multiprocessing_context": None}
        options["collate_fn"] = SharedCollate(collate_images)
        loader = DataLoader(ImageList(images, self.transform), batch_size=cfg.TEST.IMS_PER_BATCH, **options)
        return forward_batches(cfg, self.model, loader, len(images), name)

    def same_person(
        self,
        first: OneImage | Sequence[OneImage],
        second: OneImage | Sequence[OneImage],
        thresholds: str | Path | None = None,
        far: float | None = None,
    ) -> Tensor:
        """Tell for each pair of images, `first[i]` and `second[i]`, whether they show one person, (N,) bool.

        They do if their distance (`TEST.METRIC`) is at most the threshold that tools/calibrate.py has found. A
        threshold belongs to the place where it was calibrated.

        Args:
            thresholds: its file; None: threshold.json beside the checkpoint.
            far: the false accept rate, where the file has thresholds for several.

        Raises:
            UserError: as `__call__`, the numbers of images differ, or the file is missing, of another model or options.
        """
        limit = load_threshold(self, None if thresholds is None else Path(thresholds), far)
        first, second = as_list(first), as_list(second)
        if len(first) != len(second):
            raise UserError(f"pairs of images need as many first as second ones, found {len(first)} and {len(second)}")
        return pair_distance(self(first), self(second), self.cfg.TEST.METRIC) <= limit.distance


class ImageList(Dataset):
    """Images of any kind that `Predictor` takes, as tensors (3, H, W) of the network's input size."""

    def __init__(self, images: Sequence[OneImage], transform):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        image = self.images[index]
        if isinstance(image, (str, Path)):
            return self.transform(read_image(str(image)))
        if isinstance(image, Tensor) and image.is_floating_point():
            return image.float()
        if isinstance(image, Tensor):
            image = image.permute(1, 2, 0).numpy()
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        try:
            return self.transform(to_rgb(image))
        except DECODER_ERRORS as error:
            raise UserError(f"image {index} cannot be read as RGB of 8 bits: {reason(error)}") from error


def collate_images(images: list[Tensor]) -> dict[str, Tensor]:
    """Return a batch of images (N, 3, H, W) as the model takes it."""
    return {"images": torch.stack(images)}


def as_list(images: OneImage | Sequence[OneImage]) -> list[OneImage]:
    """Return one image or any number as a list; UserError when there is none."""
    single = isinstance(images, (str, Path, Image.Image))
    if isinstance(images, (np.ndarray, Tensor)):
        single = images.ndim <= 3
    images = [images] if single else list(images)
    if not images:
        raise UserError("there are no images to compute features of: the list is empty")
    return images


def check_image(image: OneImage, number: int, size: tuple[int, int]) -> None:
    """Raise UserError when an image is of no kind that `Predictor` takes, or has no such shape, type or values."""
    if isinstance(image, (str, Path, Image.Image)):
        return
    if isinstance(image, np.ndarray) and (image.dtype, image.shape[2:]) in ARRAYS and image.size:
        return
    height, width = size
    if isinstance(image, Tensor) and image.ndim == 3 and len(image) == 3:
        if image.dtype == torch.uint8:
            return
        if image.is_floating_point() and image.shape[1:] == (height, width):
            return check_values(image, number)
    what = f"{type(image).__name__}"
    if isinstance(image, (np.ndarray, Tensor)):
        what += f" {tuple(image.shape)} {image.dtype}"
    raise UserError(
        f"image {number} must be a path, a PIL image, an array (H, W, 3) uint8 (or RGBA, or gray), a tensor (3, H, W) "
        f"uint8 or a tensor (3, {height}, {width}) float, RGB 0..255; found {what}"
    )


def check_values(image: Tensor, number: int) -> None:
    """Raise UserError for values that no image 0..255 has, among them those of one that was scaled to 0..1."""
    low, high = image.min().item(), image.max().item()
    if not (low >= 0 and high <= 255) or 0 < high <= 1:
        raise UserError(f"image {number}: float values must be RGB 0..255, not scaled; found {low:.4g}..{high:.4g}")


def find_run(source: CfgNode | str | Path, opts: Sequence[str] = ()) -> tuple[CfgNode, Path]:
    """Return the frozen config and the checkpoint that `Predictor(source, opts)` uses; see there."""
    cfg, checkpoint = (source.clone(), None) if isinstance(source, CfgNode) else read_run(Path(source).expanduser())
    cfg.defrost()
    cfg.merge_from_list(list(opts))
    if checkpoint is None or "MODEL.WEIGHTS" in opts[0::2]:
        checkpoint = Path(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None
    if checkpoint is None and cfg.OUTPUT_DIR:
        checkpoint = last_checkpoint(Path(cfg.OUTPUT_DIR))
    if checkpoint is None:
        folder = Path(cfg.OUTPUT_DIR)
        found = ", ".join(checkpoint_names(folder)) or "none"
        raise UserError(
            f"no trained model: {folder / run_files.LAST_CHECKPOINT} names none (checkpoints there: {found}). Train "
            "first, or name a checkpoint with MODEL.WEIGHTS"
        )
    cfg.freeze()
    return cfg, checkpoint


def read_run(path: Path) -> tuple[CfgNode, Path | None]:
    """Return the config of a run's folder, checkpoint or config file, and the run's checkpoint if there is one.

    A run's OUTPUT_DIR is where its folder lies, which may have been moved.
    """
    cfg = get_cfg()
    if path.suffix in (".yaml", ".yml") and path.name != run_files.CONFIG:
        cfg.merge_from_file(path)
        cfg.OUTPUT_DIR = cfg.OUTPUT_DIR or str(output_folder(path))
        return cfg, last_checkpoint(Path(cfg.OUTPUT_DIR))
    if not path.exists():
        raise UserError(f"no run {path}: expected a run's folder, a checkpoint (.pth) or a config file (.yml, .yaml)")
    folder = path if path.is_dir() else path.parent
    if not (folder / run_files.CONFIG).is_file():
        raise UserError(
            f"{folder} has no {run_files.CONFIG}, which training writes: name the config file, and the checkpoint with "
            "MODEL.WEIGHTS"
        )
    cfg.merge_from_file(folder / run_files.CONFIG)
    cfg.OUTPUT_DIR = str(folder)
    cfg.MODEL.WEIGHTS = ""  # where the run started from
    return cfg, last_checkpoint(folder) if path in (folder, folder / run_files.CONFIG) else path


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a trained model: `Predictor(args.config_file, args.opts)`."""
    run = "a run's folder, a checkpoint in one, or a config file"
    parser.add_argument("--config-file", required=True, metavar="RUN", help=run)
    options = "options over the config; last on the line"
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help=options)
