"""CMC with one gallery image of each identity."""

import numpy as np
import pytest

from fastreid.evaluation import eval_cuhk03, evaluate_rank
from fastreid.utils.errors import UserError


def test_with_one_image_of_each_identity_it_is_the_usual_curve(random_case):
    distmat, q_pids, _, q_camids, _ = random_case(1, 30, 40, 50, 1, "tied")
    ids = q_pids, np.arange(40), q_camids, np.ones(40, int)
    for found, expected in zip(eval_cuhk03(distmat, *ids), evaluate_rank(distmat, *ids)):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_share_of_draws_is_their_chance():
    # The query's match (0.5) is behind the other identity in one of its four images.
    distmat = np.array([[0.5, 0.1, 0.9, 0.9, 0.9]])
    cmc, _, _ = eval_cuhk03(distmat, [1], [1, 2, 2, 2, 2], [0], [1, 1, 1, 1, 1], repeats=20_000)
    assert cmc[0] == pytest.approx(0.75, abs=0.02)
    assert cmc[1] == 1


def test_images_of_the_query_camera_are_never_drawn():
    cmc, _, _ = eval_cuhk03(np.array([[0.0, 0.9, 0.5]]), [1], [1, 1, 2], [0], [0, 1, 1])
    np.testing.assert_array_equal(cmc, [0, 1])


def test_the_seed_decides_and_a_query_keeps_its_draws(random_case):
    case = random_case(2, 40, 300, 12, 3)
    cmc = eval_cuhk03(*case)[0]
    np.testing.assert_array_equal(cmc, eval_cuhk03(*case)[0])
    assert (cmc != eval_cuhk03(*case, seed=1)[0]).any()
    assert len(cmc) == 12 and cmc[-1] == 1


def test_precision_is_that_of_the_whole_gallery(random_case):
    case = random_case(3, 100, 600, 20, 3)
    for found, expected in zip(eval_cuhk03(*case)[1:], evaluate_rank(*case)[1:]):
        np.testing.assert_array_equal(found, expected)


def test_text_identities_and_queries_without_a_match(random_case):
    distmat, q_pids, g_pids, q_camids, g_camids = random_case(4, 30, 100, 6, 3)
    q_pids[0] = 99
    expected = eval_cuhk03(distmat, q_pids, g_pids, q_camids, g_camids)
    text = eval_cuhk03(distmat, q_pids.astype(str), g_pids.astype(str), q_camids, g_camids)
    assert len(text[1]) == len(expected[1]) < 30
    np.testing.assert_array_equal(text[0], expected[0])


def test_bad_input_is_one_clear_error():
    with pytest.raises(UserError, match="None of the 1 queries has a true match"):
        eval_cuhk03(np.ones((1, 2)), [1], [2, 3], [0], [1, 1])
