"""TPR at small FPR against scikit-learn's curve, which the definitions are written in."""

import logging
import warnings

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from fastreid.evaluation import evaluate_roc, evaluate_tpr_at_fpr
from fastreid.evaluation.rank import Labels, find_same_identity
from fastreid.evaluation.roc import SamePairs, allowed_errors, published_tpr, usual_tpr
from fastreid.utils.errors import UserError

KINDS = ["continuous", "tied", "rounded", "constant", "perfect", "worst"]
# Small random problems have coarse curves: wider targets than the published ones reach every part of them.
TARGETS = (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.25, 0.5, 0.77, 0.95, 1.0)


def kept_pairs(distmat, q_pids, g_pids, q_camids, g_camids):
    same = np.asarray(q_pids)[:, None] == np.asarray(g_pids)
    kept = ~(same & (np.asarray(q_camids)[:, None] == np.asarray(g_camids)))
    return distmat[kept], same[kept]


def curve(positive, score, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a curve without pairs of different identities: NaN is what is expected
        return roc_curve(positive, score, **options)


def sklearn_published(case, targets):
    distances, same = kept_pairs(*case)
    fpr, tpr, _ = curve(~same, distances)
    return np.array([tpr[np.abs(fpr - target).argmin()] for target in targets])


def sklearn_usual(case, targets):
    distances, same = kept_pairs(*case)
    if same.all():
        return np.full(len(targets), np.nan)
    fpr, tpr, _ = curve(same, -distances, drop_intermediate=False)
    return np.array([tpr[fpr <= target].max() for target in targets])


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_reference_vectors(golden, metric):
    values = golden.values
    found = evaluate_roc(values[f"{metric}/distmat"], *golden.ids)
    np.testing.assert_allclose(found, values[f"{metric}/tpr_at_fpr_1e-4_1e-3_1e-2"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_rates_equal_scikit_learn_to_the_last_bit(kind, dtype, random_case):
    rng = np.random.default_rng(KINDS.index(kind))
    evaluated = 0
    for seed in range(60):
        sizes = rng.integers(1, 40), rng.integers(1, 120), rng.integers(1, 12), rng.integers(1, 4)
        case = random_case(seed, *sizes, kind, dtype)
        distmat, same = case[0], find_same_identity(Labels(*case[1:]))
        if not same.kept.any():
            continue
        evaluated += 1
        pairs = SamePairs.of(distmat, same)

        def blocks(distmat=distmat):
            return iter(np.array_split(distmat.ravel(), 3))

        np.testing.assert_array_equal(published_tpr(blocks, pairs, TARGETS), sklearn_published(case, TARGETS))
        np.testing.assert_array_equal(usual_tpr(blocks, pairs, TARGETS), sklearn_usual(case, TARGETS))
    assert evaluated > 20


@pytest.mark.parametrize("kind", KINDS)
def test_larger_problems_equal_scikit_learn_at_the_published_targets(kind, random_case):
    case = random_case(1, 150, 900, 12, 4, kind)
    published = (1e-4, 1e-3, 1e-2)
    np.testing.assert_array_equal(evaluate_roc(*case), sklearn_published(case, published))
    np.testing.assert_array_equal(evaluate_tpr_at_fpr(*case), sklearn_usual(case, published))


@pytest.mark.parametrize("farther", [0, 1, 2])
@pytest.mark.parametrize("levels", [1, 2, 5])
def test_the_first_and_the_last_point_stay_on_a_curve_that_is_a_straight_line(levels, farther):
    """At each distance one pair of each kind; `farther` pairs of two identities lie before them."""
    distances = np.concatenate([np.repeat(np.arange(levels), 2), levels + np.arange(farther)])[None].astype(np.float32)
    gallery = np.array([1, 2] * levels + [2] * farther)
    case = distances, [1], gallery, [0], np.ones_like(gallery)
    pairs = SamePairs.of(distances, find_same_identity(Labels(*case[1:])))
    targets = (0.0, 1e-4, 0.49 / levels, 0.51 / levels, 1 / levels, 1.4 / levels, 0.5, 0.99, 1.0)
    found = published_tpr(lambda: iter(distances), pairs, targets)
    np.testing.assert_array_equal(found, sklearn_published(case, targets))
    first = (farther + 1) / (farther + levels)  # the point after the largest distance at which both kinds are
    assert found[4] == first or farther and levels > 1  # where it lies on the line from the point before, it is dropped
    assert (found[0], found[-1]) == (0.0, 1.0)
    np.testing.assert_array_equal(usual_tpr(lambda: iter(distances), pairs, targets), sklearn_usual(case, targets))


def test_queries_without_a_match_take_part_in_the_curve(random_case):
    distmat, q_pids, g_pids, q_camids, g_camids = random_case(2, 40, 300, 5, 3)
    q_pids[:10] = 99
    case = (distmat, q_pids, g_pids, q_camids, g_camids)
    np.testing.assert_array_equal(evaluate_roc(*case), sklearn_published(case, (1e-4, 1e-3, 1e-2)))


def test_the_usual_rate_of_a_perfect_retrieval_is_one_and_the_published_one_is_not(random_case):
    case = random_case(3, 40, 300, 5, 3, "perfect")
    np.testing.assert_array_equal(evaluate_tpr_at_fpr(*case), [1, 1, 1])
    np.testing.assert_array_equal(evaluate_roc(*case), [0, 0, 0])


def test_text_identities(random_case):
    distmat, *ids = random_case(4, 30, 200, 5, 3)
    text = [values.astype(str) for values in ids]
    np.testing.assert_array_equal(evaluate_roc(distmat, *text), evaluate_roc(distmat, *ids))


@pytest.mark.parametrize("evaluate", [evaluate_roc, evaluate_tpr_at_fpr])
def test_without_pairs_of_different_identities_the_rates_are_undefined(evaluate, caplog):
    with caplog.at_level(logging.WARNING):
        rates = evaluate(np.array([[0.1, 0.2]]), [1], [1, 1], [0], [1, 2])
    assert np.isnan(rates).all()
    assert "undefined" in caplog.text


@pytest.mark.parametrize("evaluate", [evaluate_roc, evaluate_tpr_at_fpr])
def test_bad_input_is_one_clear_error(evaluate):
    with pytest.raises(UserError, match="None of the 1 queries has a true match"):
        evaluate(np.ones((1, 2)), [1], [2, 3], [0], [1, 1])
    with pytest.raises(UserError, match="is not a number"):
        evaluate(np.array([[0.5, np.nan]]), [1], [1, 3], [0], [1, 1])
    with pytest.raises(UserError, match="disagree"):
        evaluate(np.ones((2, 2)), [1], [1, 3], [0], [1, 1])
    with pytest.raises(UserError, match="gallery set is empty"):
        evaluate(np.ones((1, 0)), [1], [], [0], [])


@pytest.mark.parametrize("target", [0.0, 1e-4, 0.07, 0.29, 0.57, 1 / 3, 1.0])
def test_allowed_errors_are_the_most_that_do_not_exceed_the_target(target):
    """In 0.29 x 100 = 28.999... and 0.07 x 100 = 7.000...1 as well."""
    for different in range(1, 400):
        allowed = allowed_errors(target, different)
        assert allowed / different <= target < (allowed + 1) / different


@pytest.mark.parametrize("target, different, allowed", [(0.29, 100, 29), (0.07, 100, 7), (1.0, 49, 49), (0.0, 5, 0)])
def test_allowed_errors_reach_the_target(target, different, allowed):
    assert allowed_errors(target, different) == allowed
