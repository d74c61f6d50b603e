"""Detection and identification rates, by hand and by brute force, and what TEST.OPEN_SET adds to a test."""

import json
import math

import numpy as np
import pytest

from fastreid.data.datasets import Items, Split
from fastreid.evaluation.checked_sets import load_test_sets
from fastreid.evaluation.open_set import open_set_rates, open_split
from fastreid.evaluation.rank import Labels
from fastreid.evaluation.reid_evaluation import evaluate
from fastreid.evaluation.streaming import MatrixDistances
from fastreid.utils.errors import UserError


def rates(distmat, *labels, at):
    return open_set_rates(MatrixDistances(np.array(distmat, np.float32)), Labels(*map(np.array, labels)), at)


def test_rates_by_hand():
    # Queries 0 and 1 have a match: 0 finds it at 2, 1 finds another person at 3. Queries 2 to 5 have none, and their
    # nearest images are 1, 4, 5 and 6 away.
    distmat = [[2, 9, 9], [3, 5, 9], [1, 9, 9], [9, 4, 9], [9, 9, 5], [9, 9, 6]]
    found = rates(distmat, [0, 1, 7, 7, 8, 9], [0, 1, 2], [0] * 6, [1] * 3, at=[0.25, 0.5, 0.1])
    counts = ("queries with a match", "queries without", "gallery images")
    assert [found[key] for key in counts] == [2, 4, 3] and found["Rank-1"] == 50
    # One of four may be answered: up to the nearest distance below 4, which is 3.
    assert (found["DIR@FAR=0.25"], found["threshold@FAR=0.25"]) == (50, 3)
    assert (found["DIR@FAR=0.5"], found["threshold@FAR=0.5"]) == (50, 4)
    assert math.isnan(found["DIR@FAR=0.1"])  # less than one of four


def test_false_alarms_of_equal_distance_come_together():
    found = rates([[1], [3], [3], [3]], [0, 5, 6, 7], [0], [0] * 4, [1], at=[0.5])
    assert (found["DIR@FAR=0.5"], found["threshold@FAR=0.5"]) == (100, 1)


def test_images_of_the_querys_identity_and_camera_are_left_out():
    # Query 1's identity is in the gallery in its own camera only: it has no match, and its nearest image is 6 away.
    matrix = MatrixDistances(np.array([[2, 8, 9], [7, 1, 6]], np.float32))
    before = matrix.distmat.copy()
    labels = [0, 1], [0, 1, 2], [0, 0], [1, 0, 1]
    found = open_set_rates(matrix, Labels(*map(np.array, labels)), [0.99])
    assert (found["queries without"], found["Rank-1"]) == (1, 100)
    assert math.isnan(found["DIR@FAR=0.99"])
    np.testing.assert_array_equal(matrix.distmat, before)


def test_random_cases_are_those_of_sorted_lists(random_case):
    measured = 0
    for seed in range(8):
        distmat, *labels = random_case(seed, 40, 25, 30, 3)
        q_pids, g_pids, q_camids, g_camids = labels
        found = open_set_rates(MatrixDistances(distmat), Labels(*labels), [0.2])
        answers = []
        for i in range(40):
            kept = np.flatnonzero((g_pids != q_pids[i]) | (g_camids != q_camids[i]))
            first = kept[np.argmin(distmat[i, kept])]
            answers.append((distmat[i, first], g_pids[first] == q_pids[i], (g_pids[kept] == q_pids[i]).any()))
        distances, right, known = map(np.array, zip(*answers))
        assert found["Rank-1"] == pytest.approx(100 * right[known].mean())
        allowed = [t for t in distances if np.mean(distances[~known] <= t) <= 0.2]
        if allowed:
            measured += 1
            assert found["threshold@FAR=0.2"] == max(allowed)
            assert found["DIR@FAR=0.2"] == pytest.approx(100 * np.mean((right & (distances <= max(allowed)))[known]))
    assert measured


def people(count):
    numbers = np.arange(count)
    items = Items(np.array([f"{i}" for i in range(2 * count)]), np.tile(numbers, 2), np.repeat([0, 1], count))
    return items, Split("all", numbers, numbers + count)


def test_a_share_of_the_people_is_taken_out_of_the_gallery_by_seed():
    items, split = people(20)
    parts = [open_split(items, split, 0.3, seed).gallery.tolist() for seed in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2] and len(parts[0]) == 14
    assert set(parts[0]) < set(split.gallery.tolist())


@pytest.mark.parametrize(("unknown", "words"), [(0, "every query has a match"), (0.9, "no query has a match")])
def test_a_split_of_one_kind_of_query_is_refused(unknown, words):
    items, split = people(3)
    with pytest.raises(UserError, match=f"{words}: .*TEST.OPEN_SET.UNKNOWN"):
        open_split(items, split, unknown, 0)


def test_the_figures_stand_beside_the_table_only_when_asked_for(small_cfg, tiny_model, tmp_path):
    for name, options in (
        ("plain", []),
        (
            "open",
            [
                "TEST.OPEN_SET.ENABLED",
                "True",
                "TEST.OPEN_SET.UNKNOWN",
                "0.5",
                "TEST.OPEN_SET.FALSE_ALARM_RATES",
                "[0.5]",
            ],
        ),
    ):
        small_cfg.merge_from_list(options)
        results = evaluate(small_cfg, tiny_model)
        results.save(tmp_path / name)
    plain, found = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("plain", "open"))
    assert found.pop("open_set")["folder:people"]["split_1"]["queries without"] == 2
    assert found == plain
    texts = [(tmp_path / name / "results.txt").read_text() for name in ("plain", "open")]
    assert texts[1].startswith(texts[0].rstrip("\n")) and texts[1].count("DIR@FAR=0.5") == 1
    assert "open" not in texts[0].lower()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [("UNKNOWN", "1.0", "below 1"), ("UNKNOWN", "0.0", "folder:people, split_1: .*every query"),
     ("FALSE_ALARM_RATES", "[0.0]", "between 0 and 1"), ("FALSE_ALARM_RATES", "[]", "between 0 and 1")],
)  # fmt: skip
def test_options_are_looked_at_before_features(small_cfg, option, value, words):
    small_cfg.merge_from_list(["TEST.OPEN_SET.ENABLED", "True", f"TEST.OPEN_SET.{option}", value])
    with pytest.raises(UserError, match=words):
        load_test_sets(small_cfg)
