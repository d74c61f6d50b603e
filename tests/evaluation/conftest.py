"""Reference vectors of the evaluation, and small random retrieval problems."""
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

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
