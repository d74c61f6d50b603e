"""Features of any images in a file: `.npz` with `features` (N, D) float32 and `paths` (N,), and what they depend on."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastreid.data.image_files import file_states
from fastreid.evaluation.feature_cache import model_fingerprint, read_arrays
from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_path

if TYPE_CHECKING:
    from fastreid.engine.predictor import Predictor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Features of images and what they were computed from.

    Attributes:
        features: (N, D) float32.
        paths: (N,) unicode, as they were named.
        sizes, times: (N,) int64, the files' bytes and times of change in nanoseconds.
        weights, options: of the model, see `model_fingerprint`.
    """

    features: np.ndarray
    paths: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    weights: str
    options: str

    def __len__(self) -> int:
        return len(self.paths)

    def save(self, path: Path) -> None:
        """Write a file that `load` and `numpy.load` read."""
        with atomic_path(path) as temporary:
            np.savez(temporary, **{field.name: getattr(self, field.name) for field in fields(self)})
        logger.info(f"saved {self.features.shape[0]:,} features of length {self.features.shape[1]} in {path}")

    @classmethod
    def load(cls, path: Path) -> ImageFeatures:
        """Read a file of `save`.

        Raises:
            UserError: it is missing, or not such a file.
        """
        if not path.is_file():
            raise UserError(f"no file of features {path}: python3 demo/demo.py writes one")
        arrays = read_arrays(path, [field.name for field in fields(cls)], "make it again with demo/demo.py")
        features = arrays["features"]
        if features.ndim != 2 or len({len(features), *(len(arrays[name]) for name in ("paths", "sizes", "times"))}) > 1:
            shapes = f"features {features.shape} and paths {arrays['paths'].shape}"
            raise UserError(f"{path}: {shapes} disagree: make it again with demo/demo.py")
        return cls(**{**arrays, "weights": str(arrays["weights"]), "options": str(arrays["options"])})

    def check_model(self, predictor: Predictor, path: Path) -> None:
        """Raise UserError when features read from `path` are not those of this model."""
        length = self.features.shape[1]
        if length != predictor.feature_size:
            raise UserError(
                f"{path} holds features of length {length}, but the model {predictor.checkpoint} gives "
                f"{predictor.feature_size}: use the model they were computed with, or compute them again"
            )
        other = [key for key, value in model_state(predictor).items() if getattr(self, key) != value]
        if other:
            raise UserError(
                f"{path} holds features of a model with other {' and '.join(other)} than {predictor.checkpoint}: use "
                "that model, or compute them again"
            )


def model_state(predictor: Predictor) -> dict[str, str]:
    """Return the `weights` and `options` of a model's features."""
    return model_fingerprint(predictor.cfg, predictor.model)


def compute_features(predictor: Predictor, paths: list[str], name: str = "images") -> ImageFeatures:
    """Return the features of image files, and log the speed.

    Raises:
        UserError: there is no image, or one cannot be read.
    """
    start = time.perf_counter()
    # Before the images are read, so that one that changes meanwhile is known to have changed.
    states = file_states(paths)
    features = predictor(paths, name).numpy()
    seconds = time.perf_counter() - start
    logger.info(f"{name}: features of {len(paths):,} images in {seconds:.1f} s, {len(paths) / seconds:.1f} images/s")
    return ImageFeatures(features, np.array(paths), *states, **model_state(predictor))


def reuse_features(predictor: Predictor, paths: list[str], file: Path, name: str = "images") -> ImageFeatures:
    """Return the features of image files, out of `file` where it holds them, and write `file` if it lacks any.

    A feature is used again if the model and its options are the same and the image's path, size and time of change are.

    Raises:
        UserError: the file is damaged, there is no image, or one cannot be read.
    """
    sizes, times = file_states(paths)
    known: dict[tuple, int] = {}
    state = model_state(predictor)
    if file.is_file():
        old = ImageFeatures.load(file)
        if (old.weights, old.options) == (state["weights"], state["options"]):
            keys = zip(old.paths.tolist(), old.sizes.tolist(), old.times.tolist())
            known = {key: row for row, key in enumerate(keys)}
        else:
            logger.warning(f"{file} holds features of another model or of other options: they are computed again")
    rows = np.array([known.get(key, -1) for key in zip(paths, sizes.tolist(), times.tolist())])
    missing = np.flatnonzero(rows < 0)
    logger.info(f"{name}: {len(paths) - len(missing):,} of {len(paths):,} features are from {file}")
    if not len(missing) and np.array_equal(rows, np.arange(len(old))):
        return old
    if len(missing) == len(paths):
        found = compute_features(predictor, paths, name)
    else:
        features = old.features[rows]
        if len(missing):
            features[missing] = compute_features(predictor, [paths[i] for i in missing], name).features
        found = ImageFeatures(features, np.array(paths), sizes, times, **state)
    found.save(file)
    return found
