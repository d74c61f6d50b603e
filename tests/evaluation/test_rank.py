"""Ranks, CMC, AP and INP, by the NumPy and the compiled evaluator."""

import logging
import sys

import numpy as np
import pytest

from fastreid.evaluation import evaluate_rank, rank_cylib
from fastreid.evaluation import rank as rank_module
from fastreid.evaluation.rank import Labels, MatchRanks, find_same_identity, match_ranks
from fastreid.utils.errors import UserError

KINDS = ["continuous", "tied", "rounded", "constant", "perfect", "worst"]


@pytest.fixture(params=[False, True], ids=["numpy", "cython"])
def use_cython(request):
    if request.param:
        pytest.importorskip("fastreid.evaluation.rank_cylib.rank_cy", reason="not built: pip install -e .")
    return request.param


@pytest.fixture
def rank_cy():
    return pytest.importorskip("fastreid.evaluation.rank_cylib.rank_cy", reason="not built: pip install -e .")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reference_vectors(golden, metric, dtype, use_cython):
    values = golden.values
    distmat = values[f"{metric}/distmat"].astype(dtype)
    cmc, all_ap, all_inp = evaluate_rank(distmat, *golden.ids, max_rank=50, use_cython=use_cython)
    np.testing.assert_allclose(cmc, values[f"{metric}/cmc"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(all_ap, values[f"{metric}/valid_AP"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(all_inp, values[f"{metric}/valid_INP"], atol=1e-6, rtol=0)
    assert all_ap.mean() == pytest.approx(values[f"{metric}/mAP_over_valid_queries"], abs=1e-6)


def test_small_example_by_hand(use_cython):
    # Query 0: gallery 0 is dropped (same camera); the order is 2 (other), 1 (match), 3 (match).
    # Query 1: its only match is gallery 4, behind four others. Query 2 has no match.
    distmat = np.array([[0.0, 0.2, 0.1, 0.3, 0.9], [0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.2, 0.3, 0.4, 0.5]])
    q_pids, g_pids = np.array([1, 2, 3]), np.array([1, 1, 7, 1, 2])
    q_camids, g_camids = np.array([0, 0, 0]), np.array([0, 1, 1, 2, 1])
    cmc, all_ap, all_inp = evaluate_rank(distmat, q_pids, g_pids, q_camids, g_camids, use_cython=use_cython)
    np.testing.assert_array_equal(cmc, [0, 0.5, 0.5, 0.5, 1])
    np.testing.assert_allclose(all_ap, [(1 / 2 + 2 / 3) / 2, 1 / 5])
    np.testing.assert_allclose(all_inp, [2 / 3, 1 / 5])


@pytest.mark.parametrize("match", [0, 2, 4])
def test_equal_distances_are_ordered_by_gallery_index(match, use_cython):
    g_pids = np.zeros(5, int)
    g_pids[match] = 1
    cmc, all_ap, _ = evaluate_rank(np.ones((1, 5)), [1], g_pids, [0], np.ones(5, int), use_cython=use_cython)
    np.testing.assert_array_equal(cmc, np.arange(5) >= match)
    assert all_ap[0] == 1 / (match + 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("identities", [1, 3, 25])
def test_compiled_ranks_equal_the_sorted_ones(kind, dtype, identities, random_case, rank_cy):
    # One identity in 400 images has more matches than are counted by scanning.
    distmat, *ids = random_case(identities, 20, 400, identities, 3, kind, dtype)
    same = find_same_identity(Labels(*ids))
    expected = match_ranks(distmat, same, use_cython=False)
    for threads in (1, 2, 5):
        found = match_ranks(distmat, same, num_threads=threads)
        np.testing.assert_array_equal(found.ranks, expected.ranks)
        np.testing.assert_array_equal(found.offsets, expected.offsets)


def test_blocks_of_rows_give_the_ranks_of_the_whole(random_case, use_cython):
    distmat, *ids = random_case(4, 23, 60, 9, 3)
    same = find_same_identity(Labels(*ids))
    whole = match_ranks(distmat, same, use_cython)
    parts = [match_ranks(distmat[i : i + 7], same.rows(i, min(i + 7, 23)), use_cython) for i in range(0, 23, 7)]
    joined = MatchRanks.join(parts)
    np.testing.assert_array_equal(joined.ranks, whole.ranks)
    np.testing.assert_array_equal(joined.offsets, whole.offsets)


@pytest.mark.parametrize("convert", [lambda v: v.astype(np.int32), lambda v: np.char.add("id", v.astype(str)), list])
def test_identities_may_be_int32_text_or_lists(convert, random_case, use_cython):
    distmat, *ids = random_case(5, 12, 40, 6, 3)
    expected = evaluate_rank(distmat, *ids, use_cython=use_cython)
    found = evaluate_rank(distmat, *[convert(values) for values in ids], use_cython=use_cython)
    for left, right in zip(found, expected):
        np.testing.assert_array_equal(left, right)


def test_distances_may_be_a_transposed_view_or_half_precision(random_case, use_cython):
    distmat, *ids = random_case(6, 12, 40, 6, 3, "tied")
    expected = evaluate_rank(distmat, *ids, use_cython=use_cython)
    for other in (np.asfortranarray(distmat), distmat.astype(np.float16), distmat.astype(np.int64)):
        for left, right in zip(evaluate_rank(other, *ids, use_cython=use_cython), expected):
            np.testing.assert_array_equal(left, right)


def test_cmc_is_as_long_as_the_smaller_of_max_rank_and_gallery(random_case, use_cython):
    case = random_case(7, 12, 40, 6, 3)
    assert len(evaluate_rank(*case, max_rank=10, use_cython=use_cython)[0]) == 10
    assert len(evaluate_rank(*case, max_rank=50, use_cython=use_cython)[0]) == 40
    assert len(evaluate_rank(*case, max_rank=1, use_cython=use_cython)[0]) == 1


def test_a_query_without_a_true_match_is_left_out_of_the_means(random_case, use_cython):
    distmat, q_pids, g_pids, q_camids, g_camids = random_case(8, 12, 60, 4, 3)
    expected = evaluate_rank(distmat[1:], q_pids[1:], g_pids, q_camids[1:], g_camids, use_cython=use_cython)
    q_pids[0] = 99
    found = evaluate_rank(distmat, q_pids, g_pids, q_camids, g_camids, use_cython=use_cython)
    for left, right in zip(found, expected):
        np.testing.assert_array_equal(left, right)


def test_no_true_match_at_all_is_an_error(use_cython):
    with pytest.raises(UserError, match="None of the 2 queries has a true match"):
        evaluate_rank(np.ones((2, 3)), [1, 2], [1, 1, 5], [0, 0], [0, 0, 1], use_cython=use_cython)


def test_empty_gallery_is_an_error():
    with pytest.raises(UserError, match="gallery set is empty"):
        evaluate_rank(np.ones((2, 0)), [1, 2], [], [0, 0], [])


def test_empty_query_set_is_an_error():
    with pytest.raises(UserError, match="query set is empty"):
        evaluate_rank(np.ones((0, 2)), [], [1, 2], [], [0, 0])


@pytest.mark.parametrize("shape, q_camids", [((3, 2), [0, 0]), ((2, 3), [0]), ((6,), [0, 0])])
def test_shapes_that_disagree_are_an_error(shape, q_camids):
    with pytest.raises(UserError, match="disagree.*found distmat"):
        evaluate_rank(np.ones(shape), [1, 2], [1, 2, 3], q_camids, [1, 1, 1])


def test_a_nan_distance_is_named(random_case):
    distmat, *ids = random_case(9, 5, 8, 2, 2)
    distmat[3, [6, 7]] = distmat[4, 2] = np.nan  # the first of them
    with pytest.raises(UserError, match="query 3 and gallery image 6 is not a number"):
        evaluate_rank(distmat, *ids)


def test_text_and_number_identities_do_not_mix():
    with pytest.raises(UserError, match="identities of query .* cannot be compared"):
        evaluate_rank(np.ones((1, 2)), ["1"], [1, 2], [0], [1, 1])


def test_max_rank_below_one_is_an_error(random_case):
    with pytest.raises(UserError, match="max_rank"):
        evaluate_rank(*random_case(9, 5, 8, 2, 2), max_rank=0)


def test_without_the_extension_numpy_is_used_after_one_warning(random_case, monkeypatch, caplog):
    case = random_case(10, 12, 40, 6, 3)
    expected = evaluate_rank(*case, use_cython=False)
    monkeypatch.delattr(rank_cylib, "rank_cy", raising=False)
    monkeypatch.setitem(sys.modules, "fastreid.evaluation.rank_cylib.rank_cy", None)
    rank_module._compiled.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            found = [evaluate_rank(*case) for _ in range(2)]
    finally:
        rank_module._compiled.cache_clear()
    assert [r.getMessage() for r in caplog.records if "pip install -e ." in r.getMessage()] == [caplog.messages[0]]
    for result in found:
        for left, right in zip(result, expected):
            np.testing.assert_array_equal(left, right)
