"""Evaluation by blocks of distances against the functions of the whole matrix, to the last bit."""

import tracemalloc

import numpy as np
import pytest
import torch

from fastreid.evaluation import (
    FeatureDistances,
    Labels,
    MatrixDistances,
    compute_distance,
    evaluate_blocks,
    evaluate_rank,
    evaluate_roc,
    evaluate_tpr_at_fpr,
)
from fastreid.evaluation.streaming import rows_per_block
from fastreid.utils.errors import UserError


def equal_to_the_matrix(found, distmat, ids):
    cmc, all_ap, all_inp = evaluate_rank(distmat, *ids)
    np.testing.assert_array_equal(found.cmc, cmc)
    np.testing.assert_array_equal(found.average_precision, all_ap)
    np.testing.assert_array_equal(found.inverse_penalty, all_inp)
    np.testing.assert_array_equal(found.published_tpr, evaluate_roc(distmat, *ids))
    np.testing.assert_array_equal(found.usual_tpr, evaluate_tpr_at_fpr(distmat, *ids))


@pytest.fixture
def problem(random_case):
    """Features of small integers, whose distances have no rounding and many ties, and their identities."""
    _, *ids = random_case(3, 70, 400, 15, 3)
    return torch.randint(-3, 4, (70, 8)).float(), torch.randint(-3, 4, (400, 8)).float(), ids


@pytest.mark.parametrize("block_size", [1, 401, 7 * 400, 69 * 400, 70 * 400, 10**9])
def test_any_block_size_gives_the_numbers_of_the_whole_matrix(problem, block_size):
    q_feat, g_feat, ids = problem
    whole = compute_distance(q_feat, g_feat, "euclidean").numpy()
    distances = FeatureDistances(q_feat, g_feat, "euclidean", block_size)
    equal_to_the_matrix(evaluate_blocks(distances, Labels(*ids)), whole, ids)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_real_valued_features_give_the_numbers_of_the_same_blocks_joined(random_case, metric):
    _, *ids = random_case(5, 90, 500, 12, 3)
    centres = torch.randn(12, 16)
    q_feat, g_feat = (centres[torch.from_numpy(pids)] + 0.9 * torch.randn(len(pids), 16) for pids in ids[:2])
    distances = FeatureDistances(q_feat, g_feat, metric, 13 * 500)
    blocks = [block for _, block in distances.blocks()]
    assert len(blocks) == 7
    equal_to_the_matrix(evaluate_blocks(distances, Labels(*ids)), np.concatenate(blocks), ids)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["continuous", "tied", "perfect", "worst", "constant"])
def test_a_matrix_gives_the_same_numbers(random_case, kind, dtype):
    distmat, *ids = random_case(6, 60, 700, 9, 3, kind, dtype)
    before = distmat.copy()
    equal_to_the_matrix(evaluate_blocks(MatrixDistances(distmat), Labels(*ids), margins=True), distmat, ids)
    np.testing.assert_array_equal(distmat, before)


def test_what_fits_into_one_block_is_computed_once(problem, monkeypatch):
    q_feat, g_feat, ids = problem
    passes = []
    distances = FeatureDistances(q_feat, g_feat, block_size=70 * 400)
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda *args: passes.append(1) or product(*args))
    evaluate_blocks(distances, Labels(*ids))
    assert len(passes) == 1


def test_two_passes_over_the_blocks_are_enough(problem, monkeypatch):
    q_feat, g_feat, ids = problem
    products = []
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda *args: products.append(1) or product(*args))
    evaluate_blocks(FeatureDistances(q_feat, g_feat, block_size=35 * 400), Labels(*ids))
    assert len(products) == 4


def test_first_match_and_margin_by_hand():
    # Query 0: gallery 0 is dropped; the nearest match is 1 (0.4), the nearest other 2 (0.3). Query 1 has no match.
    distmat = np.array([[0.0, 0.4, 0.3, 0.9], [0.1, 0.2, 0.3, 0.4]])
    found = evaluate_blocks(MatrixDistances(distmat), Labels([1, 5], [1, 1, 2, 3], [0, 0], [0, 1, 1, 1]), margins=True)
    np.testing.assert_array_equal(found.valid, [True, False])
    np.testing.assert_array_equal(found.first_match, [2])
    np.testing.assert_allclose(found.margin, [-0.1])
    np.testing.assert_array_equal(found.nearest_other, [2])


def test_the_margin_is_infinite_without_another_identity():
    found = evaluate_blocks(MatrixDistances(np.array([[0.1, 0.2]])), Labels([1], [1, 1], [0], [0, 1]), margins=True)
    assert found.margin[0] == np.inf


def test_the_matrix_is_never_held(random_case):
    _, *ids = random_case(1, 1000, 3000, 300, 3)
    distances = FeatureDistances(torch.randn(1000, 4), torch.randn(3000, 4), block_size=30_000)
    assert [block.shape for _, block in distances.blocks()] == [(10, 3000)] * 100
    tracemalloc.start()
    evaluate_blocks(distances, Labels(*ids))
    beside_the_block = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The matrix would take 12 MB.
    assert beside_the_block < 2e6


@pytest.mark.parametrize("convert", [lambda v: v.astype(np.int32), lambda v: np.char.add("id", v.astype(str)), list])
def test_identities_may_be_int32_text_or_lists(problem, convert):
    q_feat, g_feat, ids = problem
    expected = evaluate_blocks(FeatureDistances(q_feat, g_feat), Labels(*ids))
    found = evaluate_blocks(FeatureDistances(q_feat, g_feat), Labels(*[convert(values) for values in ids]))
    np.testing.assert_array_equal(found.average_precision, expected.average_precision)
    np.testing.assert_array_equal(found.published_tpr, expected.published_tpr)


def test_bad_input_is_one_clear_error(problem):
    q_feat, g_feat, ids = problem
    with pytest.raises(UserError, match="same D: found .70, 7. and .400, 8."):
        FeatureDistances(q_feat[:, 1:], g_feat)
    with pytest.raises(UserError, match=r"disagree.*found distmat \(69, 400\)"):
        evaluate_blocks(FeatureDistances(q_feat[1:], g_feat), Labels(*ids))
    with pytest.raises(UserError, match="gallery set is empty"):
        evaluate_blocks(FeatureDistances(q_feat, g_feat[:0]), Labels(ids[0], [], ids[2], []))
    with pytest.raises(UserError, match="None of the 70 queries has a true match"):
        evaluate_blocks(FeatureDistances(q_feat, g_feat), Labels(ids[0] + 100, *ids[1:]))
    with pytest.raises(UserError, match="identities of query .* cannot be compared"):
        evaluate_blocks(FeatureDistances(q_feat, g_feat), Labels(ids[0].astype(str), *ids[1:]))
    g_feat[11, 0] = torch.nan
    with pytest.raises(UserError, match="query 0 and gallery image 11 is not a number"):
        evaluate_blocks(FeatureDistances(q_feat, g_feat, block_size=800), Labels(*ids))


def test_a_nan_in_a_later_block_is_named(problem):
    q_feat, g_feat, ids = problem
    q_feat[33] = torch.inf
    with pytest.raises(UserError, match="query 33 and gallery"):
        evaluate_blocks(FeatureDistances(q_feat, g_feat, block_size=10 * 400), Labels(*ids))


def test_a_block_holds_one_query_at_least_and_a_positive_number_of_distances():
    assert (rows_per_block(100, 30), rows_per_block(10, 30)) == (3, 1)
    with pytest.raises(UserError, match="TEST.BLOCK_SIZE.*found 0"):
        rows_per_block(0, 30)
