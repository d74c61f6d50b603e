"""A trained model as one file that runs without this package: ONNX, or PyTorch's ExportedProgram (.pt2).

Input `images` (N, 3, H, W), RGB float32 0..255, any N, of the size INPUT.SIZE_TEST; pixels are normalized inside.
Output `features` (N, D) float32, not normalized, in full precision whatever SOLVER.AMP says.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import fastreid
from fastreid.engine.compile import use_kernels
from fastreid.engine.predictor import Predictor
from fastreid.evaluation.feature_cache import model_fingerprint
from fastreid.layers.passes import EAGER
from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_path

logger = logging.getLogger(__name__)

BATCH_SIZES = (1, 2, 7, 32)
TOLERANCE = 1e-3  # of the largest feature: what rounding in another order may change
ONNX, PROGRAM = ".onnx", ".pt2"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class FeatureModel(nn.Module):
    """A model whose input and output are single tensors, images -> features; `flip` averages mirror images in."""

    def __init__(self, model: nn.Module, flip: bool):
        super().__init__()
        self.model, self.flip = model, flip

    def forward(self, images: Tensor) -> Tensor:
        features = self.model({"images": images})
        if self.flip:
            features = (features + self.model({"images": images.flip(3)})) / 2
        return features


def check_output(path: Path) -> None:
    """Raise UserError if a model cannot be exported to a file of that name: another suffix, or packages are missing."""
    if path.suffix not in (ONNX, PROGRAM):
        raise UserError(f"a model is exported to a file ending in {ONNX} or {PROGRAM}; found {path}")
    missing = [name for name in ONNX_PACKAGES if path.suffix == ONNX and importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"an export to ONNX needs {', '.join(missing)}: pip install {' '.join(missing)} (or this project's extra, "
            'pip install -e ".[export]"), or export to .pt2'
        )


def export_model(predictor: Predictor, path: Path) -> dict[int, float]:
    """Write the model to `path`, whose suffix .onnx or .pt2 chooses the format, after checking it.

    The file holds `metadata`. Returns the largest absolute difference from the model's features by batch size.

    Raises:
        UserError: another suffix, a package that is not installed, or features that differ from the model's.
    """
    check_output(path)
    writers = {ONNX: write_onnx, PROGRAM: write_program}
    # A copy: the predictor stays where it is. Weights in the plain layout, as other programs expect them.
    plain = copy.deepcopy(predictor.model).to("cpu", memory_format=torch.contiguous_format)
    use_kernels(plain, EAGER)  # instead of a GPU's
    model = FeatureModel(plain, predictor.cfg.TEST.FLIP).eval()
    size = predictor.image_size
    about = metadata(predictor)
    with torch.no_grad(), atomic_path(path) as temporary:
        run = writers[path.suffix](model, size, about, temporary)
        differences, largest = check_features(model, run, size)
        difference = max(differences.values())
        if not difference <= TOLERANCE * largest:
            raise UserError(
                f"the exported model's features differ by {difference:.2g} from the model's, whose largest is "
                f"{largest:.2g}: {path} is not written. Try another version of PyTorch or onnxruntime"
            )
    return differences


def metadata(predictor: Predictor) -> dict:
    """Return what a file of the model says about itself."""
    height, width = predictor.image_size
    cfg = predictor.cfg
    return {
        "input": {"name": "images", "shape": ["batch", 3, height, width], "type": "float32", "values": "RGB, 0..255"},
        "output": {"name": "features", "shape": ["batch", predictor.feature_size], "type": "float32"},
        "flip": cfg.TEST.FLIP,
        "metric": cfg.TEST.METRIC,
        "checkpoint": predictor.checkpoint.name,
        "weights_sha256": model_fingerprint(cfg, predictor.model)["weights"],
        "config_sha256": hashlib.sha256(cfg.dump().encode()).hexdigest(),
        "fastreid": fastreid.__version__,
    }


def trace(model: FeatureModel, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """Return the model's graph for any number of images."""
    # Two images: 1 would be taken for a constant.
    images = sample_images(2, size)
    return torch.export.export(model, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}})


def write_program(model: FeatureModel, size: tuple[int, int], about: dict, path: Path) -> Callable[[Tensor], Tensor]:
    """Write an ExportedProgram with `metadata.json` in it, and return the file as a function of images."""
    # By way of memory: PyTorch's own writer aborts the process when the disk is full.
    buffer = io.BytesIO()
    torch.export.save(trace(model, size), buffer, extra_files={"metadata.json": json.dumps(about)})
    path.write_bytes(buffer.getvalue())
    return torch.export.load(path).module()


def write_onnx(model: FeatureModel, size: tuple[int, int], about: dict, path: Path) -> Callable[[Tensor], Tensor]:
    """Write an ONNX file with metadata properties, and return it, run by onnxruntime, as a function of images."""
    import onnxruntime

    program = torch.onnx.export(
        trace(model, size), (), input_names=["images"], output_names=["features"], dynamo=True, verbose=False
    )
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    program.model.metadata_props.update(texts)
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])


def check_features(
    model: FeatureModel, run: Callable[[Tensor], Tensor], size: tuple[int, int]
) -> tuple[dict[int, float], float]:
    """Return the largest difference of features by batch size, and the largest feature."""
    differences, largest = {}, 0.0
    for number in BATCH_SIZES:
        images = sample_images(number, size)
        expected = model(images)
        differences[number] = (run(images) - expected).abs().max().item()
        largest = max(largest, expected.abs().max().item())
    return differences, largest


def sample_images(number: int, size: tuple[int, int]) -> Tensor:
    """Return images (N, 3, H, W) of unlike brightness and contrast, so that statistics of a batch are no image's own.

    None is of one colour: dividing by its standard deviation of nothing would make rounding the whole feature.
    """
    rng = np.random.default_rng(number)
    noise = rng.uniform(-1, 1, (number, 3, *size))
    brightness = rng.uniform(40, 215, (number, 3, 1, 1))
    contrast = rng.uniform(5, 120, (number, 1, 1, 1))
    return torch.from_numpy((brightness + contrast * noise).clip(0, 255)).float()
