"""Thresholds for one person or two, by hand and by brute force, and their intervals."""

import itertools

import numpy as np
import pytest
import torch

from fastreid.analysis.identity_distances import threshold_at
from fastreid.data.datasets import Items
from fastreid.evaluation import calibration
from fastreid.evaluation.calibration import People, Weighted, calibrate, nearest_pairs, resampled
from fastreid.evaluation.distance import compute_distance
from fastreid.utils.errors import UserError

BLOCK = 40  # distances: few rows at a time


def make_items(pids, camids):
    return Items(np.array([f"{i}.png" for i in range(len(pids))]), np.asarray(pids), np.asarray(camids))


def on_a_line(places, pids, camids):
    """Images whose euclidean distances are differences of `places`."""
    people = People(make_items(pids, camids), np.ones(len(pids), bool))
    return torch.tensor(places, dtype=torch.float32)[:, None], people


def random_problem(seed, images=30, ties=False):
    rng = np.random.default_rng(seed)
    pids, camids = rng.integers(0, 8, images), rng.integers(0, 3, images)
    known = ~np.isin(pids, [6, 7])  # distractors, some under one identity
    features = rng.normal(size=(images, 4)) + 0.8 * rng.normal(size=(8, 4))[pids]
    features = np.round(features) if ties else features
    return torch.from_numpy(features).float(), make_items(pids, camids), known


def brute_force(features, items, known, metric):
    """Return (distance, one person?, image, image) of every pair."""
    distances = compute_distance(features, features, metric).numpy()
    return [
        (distances[i, j], items.pids[i] == items.pids[j], i, j)
        for i, j in itertools.combinations(range(len(items)), 2)
        if items.camids[i] != items.camids[j] and (known[i] or known[j])
    ]


def test_the_threshold_by_hand():
    # One person: 1 and 2. Two people, from two cameras: 0 to 12 and 1 to 10. At 9 one of these two is accepted.
    features, people = on_a_line([0, 1, 10, 12], [0, 0, 1, 1], [0, 1, 0, 1])
    (row,) = calibrate(features, people, "euclidean", BLOCK, [0.5], resamples=1)
    assert (row["threshold"], row["measured_far"], row["tar"]) == (9, 0.5, 1)


def test_pairs_of_equal_distance_are_accepted_together_or_not_at_all():
    # Camera 0 has seen one image, at 0: three pairs of two people are 5 apart, and one may be accepted.
    rest = [0, 0, 1, 2, 3], [0, 1, 1, 1, 1]
    features, people = on_a_line([0, 1, 5, -5, 5], *rest)
    (row,) = calibrate(features, people, "euclidean", BLOCK, [0.5], resamples=1)
    assert (row["threshold"], row["measured_far"], row["tar"]) == (1, 0, 1)
    features, people = on_a_line([0, 8, 5, -5, 5], *rest)
    with pytest.raises(UserError, match="no threshold has a false accept rate of 0.5"):
        calibrate(features, people, "euclidean", BLOCK, [0.5], resamples=1)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("seed", range(5))
def test_points_are_those_of_every_pair_written_down(seed, metric, ties):
    features, items, known = random_problem(seed, ties=ties)
    people, pairs = People(items, known), brute_force(features, items, known, metric)
    same = np.array([d for d, one, *_ in pairs if one])
    different = np.array([d for d, one, *_ in pairs if not one])
    found = nearest_pairs(features, people, metric, 10**6)
    np.testing.assert_array_equal(found.same, np.sort(same))
    np.testing.assert_array_equal(found.different, np.sort(different))
    assert people.same.sum() == len(same) and people.different(np.ones(people.count, int)) == len(different)
    for far in (0.02, 0.1, 0.5):
        tar, threshold = threshold_at(same, different, far)
        if threshold is not None:
            (row,) = calibrate(features, people, metric, 10**6, [far], resamples=1)
            assert (row["threshold"], row["tar"]) == (threshold, pytest.approx(tar))
            assert row["measured_far"] == np.mean(different <= threshold) <= far


@pytest.mark.parametrize("ties", [False, True])
def test_a_resample_repeats_the_pairs_of_its_people(ties):
    features, items, known = random_problem(3, ties=ties)
    people, pairs = People(items, known), brute_force(features, items, known, "euclidean")
    kept = nearest_pairs(features, people, "euclidean", 10**6)
    grid = np.unique([d for d, *_ in pairs])
    for weights in resampled(people, 20, seed=1):
        times = {True: [], False: []}
        for distance, one, i, j in pairs:
            first, second = weights[people.person[[i, j]]]
            times[bool(one)].append((distance, first if one else first * second))
        distances, counts = (np.array(values) for values in zip(*times[False]))
        shares = np.array([counts[distances <= value].sum() / counts.sum() for value in grid])
        sample = Weighted(kept, people, weights)
        for far in (0.05, 0.3):
            allowed = grid[shares <= far]
            expected = allowed[-1] if len(allowed) else -np.inf
            assert sample.threshold(far) == expected
            tar = sum(n for d, n in times[True] if d <= expected) / sum(n for _, n in times[True])
            assert sample.rates(expected) == pytest.approx((max(shares[grid <= expected], default=0), tar))


def test_blocks_and_kept_pairs_change_nothing(monkeypatch):
    features, items, known = random_problem(4, images=60)
    people = People(items, known)
    passes = []
    run = calibration.nearest_pairs
    monkeypatch.setattr(calibration, "nearest_pairs", lambda *a, **k: passes.append(a[4:]) or run(*a, **k))
    whole = nearest_pairs(features, people, "euclidean", 10**6)
    few = nearest_pairs(features, people, "euclidean", 10**6, keep=7)
    assert len(few.different) == 7 and few.limit == whole.different[6]
    by_rows = nearest_pairs(features, people, "euclidean", BLOCK, keep=7)
    np.testing.assert_allclose(by_rows.different, few.different, rtol=1e-5)
    np.testing.assert_array_equal(np.sort([by_rows.first, by_rows.second], 0), np.sort([few.first, few.second], 0))
    monkeypatch.setattr(calibration, "KEPT", 1)
    narrow = calibrate(features, people, "euclidean", 10**6, [0.05], resamples=50)
    assert len(passes) > 1  # some resample's threshold lay beyond
    monkeypatch.setattr(calibration, "KEPT", 1000)
    assert narrow == calibrate(features, people, "euclidean", 10**6, [0.05], resamples=50)


def test_the_interval_is_of_people_and_repeats():
    features, items, known = random_problem(5, images=60)
    people = People(items, known)
    rows = [calibrate(features, people, "cosine", 10**6, [0.1], resamples=200, seed=seed) for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]
    (row,) = rows[0]
    for key in ("threshold", "measured_far", "tar"):
        low, high = row[f"{key}_interval"]
        assert low <= row[key] <= high and low < high
    # Each image twice says nothing new. It makes four times the pairs, of which an interval would be half as wide.
    twice = [torch.cat([features, features]), *(np.tile(array, 2) for array in (items.pids, items.camids, known))]
    again_people = People(make_items(*twice[1:3]), twice[3])
    (again,) = calibrate(twice[0], again_people, "cosine", 10**6, [0.1], resamples=200)
    narrow, wide = (np.ptp(found["measured_far_interval"]) for found in (again, row))
    assert narrow > 0.7 * wide


def test_a_given_threshold_is_measured():
    features, items, known = random_problem(6)
    people, pairs = People(items, known), brute_force(features, items, known, "euclidean")
    given = 2.0
    (row,) = calibrate(features, people, "euclidean", 10**6, given=[given], resamples=20)
    rates = [np.mean([d <= given for d, one, *_ in pairs if one == kind]) for kind in (False, True)]
    assert [row["measured_far"], row["tar"]] == rates and row["threshold_interval"] == [given, given]
    assert "far" not in row


@pytest.mark.parametrize(
    ("pids", "camids", "fars", "words"),
    [
        ([1, 1, 1], [0, 1, 2], [0.5], "no pair of images of two people from two cameras among 3 images of 1 people"),
        ([1, 1, 2, 2], [0, 0, 0, 0], [0.5], "no pair of images of one person from two cameras"),
        ([1, 2, 3, 4], [0, 1, 0, 1], [0.5], "no pair of images of one person"),
        ([1, 1, 2, 2], [0, 1, 0, 1], [0.0], "must be between 0 and 1; found 0"),
        ([1, 1, 2, 2], [0, 1, 0, 1], [1.0], "must be between 0 and 1; found 1"),
        ([1, 1, 2, 2], [0, 1, 0, 1], [0.5, 1e-4], "0.0001 cannot be measured with 2 pairs of two people, .* 10,000"),
    ],
)
def test_what_cannot_be_calibrated_is_said(pids, camids, fars, words):
    with pytest.raises(UserError, match=words):
        People(make_items(pids, camids), np.ones(len(pids), bool)).check("folder:x", fars)


def test_few_errors_are_warned_of(caplog):
    pids, camids = np.repeat(np.arange(10), 2), np.tile([0, 1], 10)
    People(make_items(pids, camids), np.ones(20, bool)).check("folder:x", [0.1])
    assert "0.1 is 9 of 90 pairs of two people: below 30" in caplog.text


def test_distractors_make_no_pairs_among_themselves():
    # Images 2 and 3 are of nobody asked for, one identity and two cameras.
    people = People(make_items([0, 0, 5, 5], [0, 1, 0, 1]), np.array([True, True, False, False]))
    assert people.count == 3 and people.same.sum() == 1
    assert people.different(np.ones(3, int)) == 2  # 0 with 3, 1 with 2
    features = torch.arange(4.0)[:, None]
    assert nearest_pairs(features, people, "euclidean", BLOCK).different.tolist() == [1, 3]
