"""Ranked lists against the evaluator's measures, and the protocol's exclusion of the query's camera."""

import numpy as np
import pytest
import torch

from fastreid.data.datasets import Items, Split
from fastreid.evaluation import FeatureDistances, MatrixDistances, evaluate_rank
from fastreid.evaluation.ranked_lists import ranked_lists
from fastreid.utils.errors import UserError


def by_hand(distmat, q, g):
    """Ranked lists of a small matrix; q and g are (pid, camid) rows."""
    items = Items.from_rows((f"{number}.png", *row) for number, row in enumerate([*q, *g]))
    split = Split("split_1", np.arange(len(q)), np.arange(len(q), len(q) + len(g)))
    return lambda k=10: ranked_lists(MatrixDistances(np.array(distmat, np.float32)), items, split, k)


def test_a_list_by_hand():
    lists = by_hand([[0.0, 0.4, 0.3, 0.9]], q=[(1, 0)], g=[(1, 0), (1, 1), (2, 0), (1, 2)])
    found = lists(2)[0]
    assert (found.path, found.pid, found.camid, found.first_match) == ("0.png", 1, 0, 2)
    assert found.ap == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert [(item.path, item.match) for item in found.items] == [("3.png", False), ("2.png", True)]
    assert [item.distance for item in found.items] == pytest.approx([0.3, 0.4])
    assert len(lists(10)[0].items) == 3


def test_a_query_without_a_true_match_has_a_list_but_no_measures():
    found = by_hand([[0.2, 0.1]], q=[(1, 0)], g=[(1, 0), (2, 1)])()[0]
    assert (found.ap, found.first_match) == (None, None)
    assert [item.path for item in found.items] == ["2.png"]


def test_distances_are_left_as_they_were():
    distmat = np.array([[0.0, 0.4]], np.float32)
    items = Items.from_rows([("q", 1, 0), ("a", 1, 0), ("b", 1, 1)])
    ranked_lists(MatrixDistances(distmat), items, Split("split_1", np.array([0]), np.array([1, 2])))
    np.testing.assert_array_equal(distmat, np.array([[0.0, 0.4]], np.float32))


@pytest.mark.parametrize("block_size", [1, 300 * 7, 10**9])
def test_measures_are_the_evaluators(random_case, block_size):
    _, *ids = random_case(3, 50, 300, 12, 3)
    q_pids, g_pids, q_camids, g_camids = ids
    # Small integers: no rounding, many equal distances.
    q_feat, g_feat = torch.randint(-3, 4, (50, 8)).float(), torch.randint(-3, 4, (300, 8)).float()
    items = Items(np.array([str(i) for i in range(350)]), np.r_[q_pids, g_pids], np.r_[q_camids, g_camids])
    distances = FeatureDistances(q_feat, g_feat, "euclidean", block_size)
    lists = ranked_lists(distances, items, Split("split_1", np.arange(50), np.arange(50, 350)), k=20)
    distmat = np.concatenate([block for _, block in distances.blocks()])
    cmc, all_ap, _ = evaluate_rank(distmat, *ids, max_rank=20)
    valid = [found for found in lists if found.ap is not None]
    np.testing.assert_array_equal([found.ap for found in valid], all_ap)
    first = np.array([found.first_match for found in valid])
    np.testing.assert_allclose([(first <= rank).mean() for rank in range(1, 21)], cmc)
    for found in valid:
        shown = [rank for rank, item in enumerate(found.items, start=1) if item.match]
        assert shown[:1] == [found.first_match] * (found.first_match <= 20)
        assert all((item.pid, item.camid) != (found.pid, found.camid) for item in found.items)
        assert all(item.match == (item.pid == found.pid) for item in found.items)
    for row, found in enumerate(lists):
        kept = np.flatnonzero((g_pids != q_pids[row]) | (g_camids != q_camids[row]))
        order = kept[np.argsort(distmat[row, kept], kind="stable")][:20]
        assert [item.path for item in found.items] == [str(50 + column) for column in order]


def test_an_empty_gallery_and_a_short_list_are_named():
    with pytest.raises(UserError, match="gallery set is empty"):
        by_hand(np.empty((1, 0)), q=[(1, 0)], g=[])()
    with pytest.raises(UserError, match="at least 1, found 0"):
        by_hand([[0.1]], q=[(1, 0)], g=[(1, 1)])(0)
