"""Features on disk, and the fingerprint that tells whether they are still those of this model and these images."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fastreid.data.datasets import Items
from fastreid.data.decode import DECODER
from fastreid.data.image_files import file_states
from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_path, file_stem

logger = logging.getLogger(__name__)


class FeatureCache:
    """`<folder>/<data set>.npz`: `features` (N, D) float32 and the fingerprint of what they were computed from.

    Args:
        reuse: read the files instead of computing features; otherwise the files are written.
    """

    def __init__(self, folder: Path, reuse: bool):
        self.folder, self.reuse = folder, reuse

    def path(self, name: str) -> Path:
        """Return the file of a data set."""
        return self.folder / f"{file_stem(name)}.npz"

    def save(self, name: str, features: Tensor, found: dict[str, str]) -> None:
        """Write the features of a data set with their fingerprint."""
        path = self.path(name)
        with atomic_path(path) as temporary:
            np.savez(temporary, features=features.numpy(), **found)
        logger.info(f"saved the features of {name} in {path}")

    def load(self, name: str, expected: dict[str, str]) -> Tensor:
        """Return the features of a data set.

        Raises:
            UserError: there is no file, it is damaged, or it is of other weights, options or images than `expected`.
        """
        path = self.path(name)
        if not path.is_file():
            raise UserError(f"--features: no saved features {path}: run once with --save-features instead")
        arrays = read_arrays(path, ["features", *expected], "run again with --save-features")
        stale = [key for key in expected if str(arrays[key]) != expected[key]]
        if stale:
            raise UserError(
                f"the features in {path} were computed with other {' and '.join(stale)} than those of this run: "
                "run again with --save-features in place of --features"
            )
        logger.info(f"the features of {name} are from {path}")
        return torch.from_numpy(arrays["features"])


def read_arrays(path: Path, names: Sequence[str], advice: str) -> dict[str, np.ndarray]:
    """Return some arrays of an .npz file of features; UserError, ending in `advice`, if it is none or lacks one."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise ValueError("it is a single array")
        with content:
            return {name: content[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a file of saved features ({error}): {advice}") from error


def fingerprint(cfg, model: nn.Module, items: Items) -> dict[str, str]:
    """Return hashes of what test features depend on: the model's weights, options, and the images.

    An image is another one if its path, its size or its time of change is.

    Raises:
        UserError: an image is missing.
    """
    paths = items.paths.tolist()
    images = hashlib.sha256(b"\0".join(map(os.fsencode, paths)))
    for states in file_states(paths):
        images.update(states)
    return {**model_fingerprint(cfg, model), "images": images.hexdigest()}


def model_fingerprint(cfg, model: nn.Module) -> dict[str, str]:
    """Return the hash of a model's weights and the options that change its test features."""
    weights = hashlib.sha256()
    for name, value in model.state_dict().items():
        weights.update(name.encode())
        weights.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    options = {
        "decoder": DECODER,
        "SIZE_TEST": list(cfg.INPUT.SIZE_TEST),
        "FLIP": cfg.TEST.FLIP,
        "LAST_STRIDE": cfg.MODEL.BACKBONE.LAST_STRIDE,
        "TYPE_BACKBONE": cfg.MODEL.NORM.TYPE_BACKBONE,
        "IN_FC_MULTIPLY": cfg.MODEL.NORM.IN_FC_MULTIPLY,
        "POOL_LAYER": cfg.MODEL.HEADS.POOL_LAYER,
    }
    return {"weights": weights.hexdigest(), "options": json.dumps(options)}
