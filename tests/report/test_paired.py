"""Differences between runs on the same queries: against known intervals, and on the page."""

import numpy as np
import pytest

from fastreid.evaluation.ranked_lists import RankedQuery
from fastreid.report.paired import AVERAGE, LEVEL, differences, differences_section, measured, resampled


def made(rng, better, queries=400, splits=1):
    """Two runs' splits, the second better by so many points on average, by 20 more or less in each query."""
    first = [rng.uniform(20, 80, (queries, 2)) for _ in range(splits)]
    return first, [values + better + rng.normal(0, 20, values.shape) for values in first]


def test_measures_are_of_the_queries_with_a_match():
    found = (("a", 0.5, 2), ("b", None, None), ("c", 1.0, 1))
    queries = [RankedQuery(path, 1, 1, precision, rank, []) for path, precision, rank in found]
    assert measured(queries).tolist() == [[50.0, 0.0], [100.0, 100.0]]
    assert measured(queries[1:2]).shape == (0, 2)


def test_the_interval_is_as_wide_as_the_normal_one_whatever_the_runs_have_in_common():
    first, second = made(np.random.default_rng(0), better=3)
    found = differences({"x": first}, {"x": second})["x"]
    error = 20 / np.sqrt(400)  # the queries' own spread, 17, is in both runs
    np.testing.assert_allclose(found.mean, (second[0] - first[0]).mean(0))
    np.testing.assert_allclose(found.high - found.low, 2 * 1.96 * error, rtol=0.15)
    assert (found.low < found.mean).all() and (found.mean < found.high).all()


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), []
    for _ in range(150):
        first, second = made(rng, better=3, queries=60)
        found = differences({"x": first}, {"x": second}, draws=200)["x"]
        covered += ((found.low < 3) & (found.high > 3)).tolist()
    assert np.mean(covered) == pytest.approx(LEVEL / 100, abs=0.04)


def test_splits_are_drawn_too():
    rng = np.random.default_rng(2)
    unlike = [np.full((50, 2), value, dtype=float) for value in (0, 0, 10, 10)]  # queries do not differ, splits do
    samples = resampled(unlike, rng, 4000)
    assert samples.mean() == pytest.approx(5, abs=0.2) and samples.std() == pytest.approx(5 / 2, abs=0.2)
    assert resampled(unlike[:1], rng, 10).std() == 0


def test_the_average_is_of_the_data_sets_and_what_is_not_comparable_is_left_out():
    rng = np.random.default_rng(3)
    small, large = made(rng, better=8, queries=20, splits=3), made(rng, better=0, queries=500)
    five, six, none = ([np.zeros((number, 2))] for number in (5, 6, 0))
    first = {"small": small[0], "large": large[0], "other": five, "gone": five, "none": none}
    second = {"small": small[1], "large": large[1], "other": six, "none": none}
    found = differences(first, second)
    assert list(found) == ["small", "large", AVERAGE]
    np.testing.assert_allclose(found[AVERAGE].mean, (found["small"].mean + found["large"].mean) / 2)
    again = differences(first, second)
    assert all(np.array_equal(found[name], again[name]) for name in found), "another page each time"
    assert list(differences({"x": first["large"]}, {"x": second["large"]})) == ["x"]


def test_the_section_marks_differences_that_are_not_chance():
    rng = np.random.default_rng(4)
    base, better = made(rng, better=9)
    noise = rng.normal(0, 20, base[0].shape)
    like = [base[0] + noise - noise.mean(0)]
    section = differences_section([{}, {"x": base}, {"x": better}, {"x": like}], ["a", "base", "<b>", "c"])
    assert "Less base, on the same queries" in section and "&lt;b&gt;" in section
    rows = {number: section.split(f'<tr data-run="{number}">')[1].split("</tr>")[0] for number in (2, 3)}
    assert rows[2].count('class="best">+') == 2 and 'class="best"' not in rows[3]
    assert 'data-run="1"' not in section and 'data-set="x"' in section
    assert differences_section([{"x": base}, {}], ["a", "b"]) == ""
