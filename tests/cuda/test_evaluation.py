"""Features and exported models of a GPU against those of the CPU."""

import numpy as np
import pytest
import torch

from fastreid.engine.export import export_model
from fastreid.engine.predictor import Predictor
from fastreid.layers.passes import EAGER

pytestmark = pytest.mark.usefixtures("short_mobilenet")


def test_features_are_those_of_the_cpu(run_folder, monkeypatch):
    from fastreid.layers.kernels import TRITON  # which needs Triton

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 20, 3), dtype=np.uint8) for _ in range(5)]
    predictors = [Predictor(run_folder, ["MODEL.DEVICE", device]) for device in ("cuda", "cpu")]
    used = [{layer.kernels for layer in p.model.modules() if hasattr(layer, "kernels")} for p in predictors]
    assert used == [{TRITON}, {EAGER}]
    features = [predictor(images).cpu() for predictor in predictors]
    assert torch.nn.functional.cosine_similarity(*features).min() > 0.999


def test_a_model_on_a_gpu_is_exported(run_folder, tmp_path):
    differences = export_model(Predictor(run_folder, ["MODEL.DEVICE", "cuda"]), tmp_path / "model.pt2")
    assert max(differences.values()) < 1e-2
