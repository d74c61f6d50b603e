"""Distances between features, whole and in blocks."""

import numpy as np
import pytest
import torch

from fastreid.evaluation import compute_distance, distance_blocks
from fastreid.evaluation.distance import DISTANCE_METRICS, nearest, pair_distance
from fastreid.utils.errors import UserError


@pytest.mark.parametrize("metric", DISTANCE_METRICS)
def test_reference_vectors(golden, metric):
    q_feat, g_feat = (torch.from_numpy(golden.values[name]) for name in ("q_feat", "g_feat"))
    distmat = compute_distance(q_feat, g_feat, metric)
    assert distmat.dtype == torch.float32
    expected = golden.values[f"{metric}/distmat"]
    # Euclidean distances are around 8 here, so that float32 itself is no finer than 1e-6 of them.
    np.testing.assert_allclose(distmat.numpy(), expected, atol=1e-6, rtol=1e-6 if metric == "euclidean" else 0)


@pytest.mark.parametrize("metric", DISTANCE_METRICS)
def test_blocks_cover_the_queries_in_order(metric):
    q_feat, g_feat = torch.randn(11, 6), torch.randn(9, 6)
    blocks = list(distance_blocks(q_feat, g_feat, metric, block_size=4))
    assert [(start, tuple(block.shape)) for start, block in blocks] == [(0, (4, 9)), (4, (4, 9)), (8, (3, 9))]
    joined = torch.cat([block for _, block in blocks])
    torch.testing.assert_close(joined, compute_distance(q_feat, g_feat, metric))


@pytest.mark.parametrize("metric", DISTANCE_METRICS)
def test_pairs_have_the_distances_of_the_matrix(metric):
    features = torch.randn(8, 6)
    rows, columns = torch.tensor([0, 3, 7]), torch.tensor([5, 1, 2])
    expected = compute_distance(features, features, metric)[rows, columns]
    torch.testing.assert_close(pair_distance(features[rows], features[columns], metric), expected)


@pytest.mark.parametrize("metric", DISTANCE_METRICS)
def test_features_are_neither_changed_nor_made_nan_by_zeros(metric):
    features = torch.randn(5, 4)
    features[2] = 0
    before = features.clone()
    assert torch.isfinite(compute_distance(features, features, metric)).all()
    torch.testing.assert_close(features, before, rtol=0, atol=0)


def test_double_and_half_features_give_float32_distances():
    features = torch.randn(5, 4)
    for other in (features.double(), features.half()):
        assert compute_distance(other, other).dtype == torch.float32


def test_unknown_metric_names_the_known_ones():
    with pytest.raises(UserError, match="'manhattan'.*cosine, euclidean"):
        compute_distance(torch.ones(1, 2), torch.ones(1, 2), "manhattan")


def test_features_of_different_lengths_are_an_error():
    with pytest.raises(UserError, match=r"found \(1, 2\) and \(1, 3\)"):
        compute_distance(torch.ones(1, 2), torch.ones(1, 3))


def test_an_empty_block_is_an_error():
    with pytest.raises(UserError, match="at least 1, found 0"):
        distance_blocks(torch.ones(1, 2), torch.ones(1, 2), block_size=0)


@pytest.mark.parametrize("k", [1, 3, 7, 30])
@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_nearest_orders_ties_by_column(k, levels):
    distances = np.random.default_rng(k).integers(0, levels, (12, 20)).astype(np.float32)
    np.testing.assert_array_equal(nearest(distances, k), np.argsort(distances, axis=1, kind="stable")[:, :k])
