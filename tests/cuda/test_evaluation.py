"""Features and exported models of a GPU against those of the CPU."""

import numpy as np
import torch

from fastreid.engine.export import export_model
from fastreid.engine.predictor import Predictor


def test_features_are_those_of_the_cpu(run_folder, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 20, 3), dtype=np.uint8) for _ in range(5)]
    features = [Predictor(run_folder, ["MODEL.DEVICE", device])(images).cpu() for device in ("cuda", "cpu")]
    assert torch.nn.functional.cosine_similarity(*features).min() > 0.999


def test_a_model_on_a_gpu_is_exported(run_folder, tmp_path):
    differences = export_model(Predictor(run_folder, ["MODEL.DEVICE", "cuda"]), tmp_path / "model.pt2")
    assert max(differences.values()) < 1e-2
