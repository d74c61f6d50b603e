"""Pairs of images, their distances, and the numbers drawn from them."""

import csv
import itertools

import numpy as np
import pytest
import torch
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from fastreid.analysis import identity_distances as module
from fastreid.analysis.samples import SOURCE, Sample
from fastreid.data.datasets import Items
from fastreid.utils.errors import UserError


def make_sample(pids, camids, known=None, seed=0):
    rng = np.random.default_rng(seed)
    items = Items.from_rows([(f"{i}.jpg", p, c) for i, (p, c) in enumerate(zip(pids, camids))])
    known = np.ones(len(items), dtype=bool) if known is None else np.array(known)
    return Sample("set", SOURCE, items, known, torch.from_numpy(rng.normal(size=(len(items), 6)).astype(np.float32)))


def measure(sample, limit=100_000, metric="euclidean", seed=0):
    return module.identity_distances(sample, metric, limit, np.random.default_rng(seed))


def direct(sample, across=True):
    """All distances of one person and of two, by two loops."""
    found = [], []
    features, (pids, camids) = sample.features.numpy(), (sample.items.pids, sample.items.camids)
    for a, b in itertools.combinations(range(len(sample)), 2):
        same = pids[a] == pids[b]
        if not (sample.known[a] or sample.known[b]) or (same and across and camids[a] == camids[b]):
            continue
        found[0 if same else 1].append(np.linalg.norm(features[a] - features[b]))
    return [np.sort(part) for part in found]


def random_labels(people=7, count=40, cameras=3):
    rng = np.random.default_rng(5)
    return rng.integers(0, people, count), rng.integers(0, cameras, count)


def test_all_pairs_are_those_of_the_protocol():
    pids, camids = random_labels()
    sample = make_sample(pids, camids, known=pids > 1)
    found = measure(sample)
    for part, expected in zip((found.intra, found.inter), direct(sample)):
        np.testing.assert_allclose(np.sort(part), expected, rtol=1e-5)
    assert found.pairs == module.TWO_CAMERAS


def test_one_camera_gives_the_pairs_of_one_camera_and_says_so(caplog):
    pids, _ = random_labels()
    sample = make_sample(pids, np.zeros_like(pids))
    found = measure(sample)
    np.testing.assert_allclose(np.sort(found.intra), direct(sample, across=False)[0], rtol=1e-5)
    assert found.pairs == module.ONE_CAMERA and "nobody is seen by two cameras" in caplog.text


def test_pairs_are_sampled_without_repetition_and_seeded():
    sample = make_sample(*random_labels(people=3, count=60))
    every = measure(sample)
    few, again, other = (measure(sample, limit=20, seed=seed) for seed in (0, 0, 1))
    assert len(few.intra) == len(few.inter) == 20
    assert len(np.unique(few.inter)) == 20 and np.isin(few.inter, every.inter).all()
    assert (few.inter == again.inter).all() and (few.inter != other.inter).any()


def test_pairs_of_one_identity_with_very_many_images_are_not_listed():
    order = np.arange(100_000)
    sizes = np.array([100_000])
    first, second = module.random_pairs(order, sizes, lambda a, b: a >= 0, 50, np.random.default_rng(0))
    assert len(first) == 50 and (first < second).all() and second.max() < 100_000


def test_cosine_distances():
    sample = make_sample([0, 0, 1], [0, 1, 0])
    unit = torch.nn.functional.normalize(sample.features)
    found = measure(sample, metric="cosine")
    assert found.intra[0] == pytest.approx(1 - float(unit[0] @ unit[1]), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 6])  # with ties and without
def test_equal_error_rate_is_that_of_the_roc_curve(seed, decimals):
    rng = np.random.default_rng(seed)
    intra, inter = rng.normal(1, 0.4, 80).round(decimals), rng.normal(1.5, 0.5, 300).round(decimals)
    rate, threshold = module.equal_error_rate(intra, inter)
    labels = np.repeat([1, 0], [len(intra), len(inter)])
    accepted, kept, _ = roc_curve(labels, -np.concatenate([intra, inter]), drop_intermediate=False)
    expected = brentq(lambda x: 1 - x - interp1d(accepted, kept)(x), 0, 1)
    assert rate == pytest.approx(expected, abs=1e-6)
    assert np.mean(inter <= threshold) >= np.mean(intra > threshold)
    assert np.mean(inter < threshold) < np.mean(intra >= threshold)


@pytest.mark.parametrize("intra, inter, rate", [([1, 2], [3, 4], 0), ([3, 4], [1, 2], 1), ([1, 1], [1, 1], 0.5)])
def test_equal_error_rate_of_what_is_apart_swapped_or_equal(intra, inter, rate):
    assert module.equal_error_rate(np.array(intra), np.array(inter))[0] == rate


def test_threshold_at_a_share_of_false_acceptances():
    intra, inter = np.arange(100) / 100, np.arange(100) / 100 + 0.5
    kept, threshold = module.threshold_at(intra, inter, 0.05)
    assert np.mean(inter <= threshold) <= 0.05 and kept == np.mean(intra <= threshold)
    higher = np.sort(np.concatenate([intra, inter]))
    assert np.mean(inter <= higher[higher > threshold][0]) > 0.05


def test_no_threshold_where_the_smallest_distance_accepts_too_much():
    assert module.threshold_at(np.array([1, 2]), np.array([1, 1]), 0.01) == (0, None)


def test_overlap_of_two_histograms():
    edges = np.array([0, 1, 2, 3])
    assert module.overlap(np.array([0.5, 0.5, 1.5, 2.5]), np.array([1.5, 1.6]), edges) == 0.25
    assert module.overlap(np.array([0.5]), np.array([1.5]), edges) == 0
    assert module.overlap(np.array([0.5, 1.5]), np.array([0.1, 1.1]), edges) == 1


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_hold_the_numbers(tmp_path):
    sample = make_sample(*random_labels())
    found = measure(sample)
    rows = module.save_identity_distances(tmp_path, [found, module.pooled("all", [found, found])], "euclidean", bins=12)
    one, both = read(tmp_path / "identity_distances.csv")
    assert float(one["EER"]) == rows[0]["EER"] == module.equal_error_rate(found.intra, found.inter)[0]
    assert float(both["EER"]) == rows[0]["EER"] and int(both["intra pairs"]) == 2 * int(one["intra pairs"])
    bins = [row for row in read(tmp_path / "identity_histograms.csv") if row["data set"] == "set (source)"]
    assert len(bins) == 12
    for kind in ("intra", "inter"):
        assert sum(float(row[f"{kind} share"]) for row in bins) == pytest.approx(1)
    smaller = [min(float(row["intra share"]), float(row["inter share"])) for row in bins]
    assert float(one["overlap"]) == pytest.approx(sum(smaller))
    assert (tmp_path / "identity_distances.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "identity_distances.pdf").read_bytes().startswith(b"%PDF")


def test_one_identity_is_drawn_without_what_needs_two(tmp_path, caplog):
    found = measure(make_sample([4, 4, 4], [0, 1, 2]))
    (row,) = module.save_identity_distances(tmp_path, [found], "cosine", bins=5)
    assert "no pairs of two people" in caplog.text
    assert row["inter pairs"] == 0 and row["EER"] is None and row["overlap"] is None
    assert read(tmp_path / "identity_distances.csv")[0]["EER"] == ""


def test_no_pair_at_all_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="no pair of images"):
        module.save_identity_distances(tmp_path, [measure(make_sample([1], [0]))], "cosine", bins=5)
