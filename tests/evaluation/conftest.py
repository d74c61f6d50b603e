"""Reference vectors of the evaluation, and small random retrieval problems."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastreid.config import get_cfg

VECTORS = Path(__file__).parents[1] / "golden" / "evaluation.npz"


@pytest.fixture(params=["market_like", "grid_like", "one_positive", "cam_removes_all"])
def golden(request):
    """One case of the reference vectors: `golden["cosine/cmc"]`, ..., and `golden.ids` for the evaluators."""
    prefix = request.param + "/"
    with np.load(VECTORS) as vectors:
        case = {name.removeprefix(prefix): vectors[name] for name in vectors.files if name.startswith(prefix)}
    ids = [case[name] for name in ("q_pids", "g_pids", "q_camids", "g_camids")]
    return SimpleNamespace(values=case, ids=ids)


def _random_case(seed, queries, gallery, identities, cameras, kind="continuous", dtype=np.float32):
    rng = np.random.default_rng(seed)
    q_pids, g_pids = rng.integers(0, identities, queries), rng.integers(0, identities, gallery)
    q_camids, g_camids = rng.integers(0, cameras, queries), rng.integers(0, cameras, gallery)
    same = q_pids[:, None] == g_pids
    distmat = rng.random((queries, gallery))
    if kind == "tied":
        distmat = np.floor(distmat * 6)
    elif kind == "rounded":
        distmat = np.round(distmat - 0.3 * same, 2)
    elif kind == "constant":
        distmat[:] = 0.5
    elif kind == "perfect":
        distmat += 2 * ~same
    elif kind == "worst":
        distmat += 2 * same
    return distmat.astype(dtype), q_pids, g_pids, q_camids, g_camids


@pytest.fixture(scope="session")
def random_case():
    """Make (distmat, q_pids, g_pids, q_camids, g_camids); `kind` says how distances and identities are related."""
    return _random_case


class TinyModel(nn.Module):
    """Image (3, 16, 8) -> 24 channel means of 4 x 4 tiles, standing in for a network."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 24))

    def forward(self, batch):
        return nn.functional.avg_pool2d(batch["images"], 4).flatten(1) * self.scale


@pytest.fixture
def tiny_model():
    """A model of the batches of `small_cfg`, with features that a mirrored image changes."""
    return TinyModel()


@pytest.fixture
def small_cfg(tmp_path, monkeypatch):
    """A config that tests on `folder:people`: images 16 x 8, four people, three gallery images of each."""
    root = tmp_path / "data"
    monkeypatch.setenv("FASTREID_DATASETS", str(root))
    rng = np.random.default_rng(0)
    looks = rng.integers(0, 256, (4, 4, 2, 3))
    for part, cameras in (("query", [1]), ("gallery", [1, 2, 3])):
        (root / "people" / part).mkdir(parents=True)
        for person, look in enumerate(looks):
            for camera in cameras:
                pixels = np.kron(look, np.ones((4, 4, 1))) + rng.normal(0, 60, (16, 8, 3))
                image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                image.save(root / "people" / part / f"p{person}_c{camera}.png")
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "INPUT.SIZE_TEST", "[16, 8]", "DATASETS.TESTS", "folder:people"]
        + ["TEST.IMS_PER_BATCH", "3", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", str(tmp_path / "logs")]
    )
    return cfg
