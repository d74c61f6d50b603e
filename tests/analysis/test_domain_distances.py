"""Distances between domains against direct computations."""

import csv

import numpy as np
import pytest
import torch

from fastreid.analysis.domain_distances import domain_distances, groups, save_domain_distances
from fastreid.analysis.samples import SOURCE, TARGET, Sample
from fastreid.data.datasets import Items


def make_sample(name, role, count, shift=0.0):
    items = Items.from_rows([(f"{i}.jpg", i, 0) for i in range(count)])
    return Sample(name, role, items, np.ones(count, dtype=bool), torch.randn(count, 5) + shift)


@pytest.fixture
def samples():
    return [make_sample("a", SOURCE, 6), make_sample("b", SOURCE, 4, shift=2), make_sample("c", TARGET, 5, shift=-1)]


def test_mean_distances_are_over_all_pairs_of_different_images(samples):
    found = domain_distances(samples, "euclidean")
    for a, first in enumerate(samples):
        for b, second in enumerate(samples):
            pairs = [
                torch.dist(x, y).item()
                for i, x in enumerate(first.features)
                for j, y in enumerate(second.features)
                if a != b or i != j
            ]
            assert found.mean[a, b] == pytest.approx(np.mean(pairs), rel=1e-5)
    assert len(found.values[0, 0]) == 15 and len(found.values[0, 1]) == 24


def test_the_gap_is_the_squared_distance_of_means_for_cosine(samples):
    found = domain_distances(samples, "cosine")
    for a, b in ((0, 1), (0, 2), (1, 2)):
        first, second = (torch.nn.functional.normalize(samples[i].features).double() for i in (a, b))
        # Expectations within a domain leave an image's distance 0 to itself out, which takes off a share of the spread.
        spread = sum((1 - part.mean(0).square().sum()) / (len(part) - 1) for part in (first, second))
        expected = (first.mean(0) - second.mean(0)).square().sum() - spread
        assert found.gap[a, b] == pytest.approx(float(expected), abs=1e-5)
    assert (np.diag(found.gap) == 0).all() and (found.gap == found.gap.T).all()


def test_other_domains_by_role(samples):
    assert list(groups(domain_distances(samples, "cosine"), 1).values()) == [[(1, 1)], [(0, 1)], [(1, 2)]]


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_hold_the_numbers(tmp_path, samples):
    found = domain_distances(samples, "cosine")
    save_domain_distances(tmp_path, found, "cosine", bins=7)
    rows = read(tmp_path / "domain_distances.csv")
    assert len(rows) == 6 and rows[2]["domain"] == "a (source)" and rows[2]["other domain"] == "c (target)"
    assert float(rows[2]["mean distance"]) == found.mean[0, 2] and float(rows[2]["gap"]) == found.gap[0, 2]
    assert len(read(tmp_path / "domain_histograms.csv")) == 6 * 7
    written = {path.name for path in tmp_path.iterdir()}
    assert {"domain_matrix.png", "domain_matrix.pdf", "domain_histograms.png", "domain_histograms.pdf"} <= written


def test_one_domain(tmp_path, samples):
    save_domain_distances(tmp_path, domain_distances(samples[:1], "cosine"), "cosine", bins=7)
    assert len(read(tmp_path / "domain_distances.csv")) == 1


def test_a_domain_of_one_image_has_no_distance_within(tmp_path, samples):
    found = domain_distances([make_sample("single", SOURCE, 1), *samples], "cosine")
    save_domain_distances(tmp_path, found, "cosine", bins=7)
    first, second = read(tmp_path / "domain_distances.csv")[:2]
    assert first["mean distance"] == second["gap"] == "" and float(second["mean distance"]) == found.mean[0, 1]
