"""Search of a gallery without identities: exact, and through faiss's cells."""

import builtins
import logging

import numpy as np
import pytest
import torch

from fastreid.evaluation import compute_distance
from fastreid.evaluation.search import IvfIndex, exact_search, recall, recall_queries
from fastreid.utils.errors import UserError


@pytest.fixture
def features():
    """Features of 30 queries and 2,000 gallery images around 40 centres, of unlike lengths."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 16))
    q_feat, g_feat = (centres[rng.integers(0, 40, n)] + 0.4 * rng.normal(size=(n, 16)) for n in (30, 2000))
    return (q_feat * rng.uniform(1, 5, (30, 1))).astype(np.float32), g_feat.astype(np.float32)


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="faiss is not installed: pip install faiss-cpu")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block_size", [1, 7 * 2000, 10**9])
def test_the_exact_search_sorts_the_distances(features, metric, block_size):
    distmat = compute_distance(*map(torch.from_numpy, features), metric).numpy()
    columns, distances = exact_search(*features, 5, metric, block_size)
    np.testing.assert_array_equal(columns, np.argsort(distmat, axis=1, kind="stable")[:, :5])
    np.testing.assert_allclose(distances, np.sort(distmat, axis=1)[:, :5], atol=1e-5)


def test_a_gallery_smaller_than_the_list_is_given_whole(features):
    columns, distances = exact_search(features[0], features[1][:3], 10)
    assert columns.shape == distances.shape == (30, 3)


def test_impossible_requests_are_named(features, faiss):
    with pytest.raises(UserError, match="at least 1, found 0"):
        exact_search(*features, 0)
    with pytest.raises(UserError, match="nprobe at least 1, found 4 and 0"):
        IvfIndex(features[1], nlist=4, nprobe=0)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_all_cells_together_give_the_exact_neighbours(features, faiss, metric):
    columns, distances = exact_search(*features, 10, metric)
    found, values = IvfIndex(features[1], metric, nlist=8, nprobe=8).search(features[0], 10)
    np.testing.assert_array_equal(found, columns)
    np.testing.assert_allclose(values, distances, atol=1e-3)


def test_fewer_cells_find_less(faiss):
    features = [np.random.default_rng(n).normal(size=(n, 16)).astype(np.float32) for n in (30, 2000)]
    exact, _ = exact_search(*features, 10)
    shares = [recall(IvfIndex(features[1], nlist=40, nprobe=n).search(features[0], 10)[0], exact) for n in (1, 4, 40)]
    assert shares[0] < shares[1] < shares[2] == 1


def test_a_kept_index_is_used_again_for_the_same_features_only(features, faiss, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = IvfIndex(features[1], nlist=8, folder=tmp_path).search(features[0], 10)
    assert "made an index" in caplog.text
    caplog.clear()
    again = IvfIndex(features[1], nlist=8, folder=tmp_path).search(features[0], 10)
    assert "in 8 cells is from" in caplog.text
    np.testing.assert_array_equal(first[0], again[0])
    caplog.clear()
    IvfIndex(features[1] + 1, nlist=8, folder=tmp_path)
    assert "made an index" in caplog.text
    next(tmp_path.glob("*.faiss")).write_bytes(b"damaged")
    with pytest.raises(UserError, match="is no index"):
        for shift in (0, 1):
            IvfIndex(features[1] + shift, nlist=8, folder=tmp_path)


def test_too_many_cells_for_the_gallery_are_fewer(features, faiss, caplog):
    assert IvfIndex(features[1][:100], nlist=50).nlist == 2
    assert "50 cells are too many" in caplog.text
    assert IvfIndex(features[1][:5]).search(features[0], 10)[0].shape == (30, 5)


def test_without_faiss_the_message_says_what_to_install(features, monkeypatch):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "faiss":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        IvfIndex(features[1])


def test_recall_by_hand():
    assert recall(np.array([[1, 2], [3, -1]]), np.array([[2, 1], [4, 3]])) == 0.75
    assert recall(np.array([[1, 2], [3, -1]]), np.array([[2], [4]])) == 0.5


def test_recall_is_measured_on_some_of_many_queries():
    assert recall_queries(3).tolist() == [0, 1, 2]
    some = recall_queries(5000)
    assert len(set(some.tolist())) == 200 and some.max() < 5000
