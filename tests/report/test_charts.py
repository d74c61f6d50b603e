"""Charts as SVG: what is drawn, what is left out, and that names cannot break the page."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from fastreid.report.charts import HEIGHT, MOST_POINTS, WIDTH, Series, line_chart, number
from fastreid.report.gates import gate_charts, gate_map, gates_of
from fastreid.report.runs import Run


def lines_of(chart):
    return [group for group in ET.fromstring(chart).iter("g") if group.get("class") == "series"]


def points_of(group):
    return [tuple(map(float, pair.split())) for pair in group.find("path").get("d")[1:].split("L")]


def test_points_lie_on_the_chart_and_larger_values_higher():
    [line] = lines_of(line_chart("loss", [Series(0, "run", [1, 2, 3], [5.0, 1.0, 9.0])]))
    places = points_of(line)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert places[0][0] < places[1][0] < places[2][0] and places[2][1] < places[0][1] < places[1][1]


@pytest.mark.parametrize("log", [False, True])
def test_values_that_are_not_finite_are_left_out(log):
    [line] = lines_of(line_chart("loss", [Series(0, "run", [1, 2, 3, 4], [5.0, math.nan, math.inf, 1.0])], log=log))
    assert len(points_of(line)) == 2


def test_a_logarithmic_chart_leaves_zero_out():
    [line] = lines_of(line_chart("lr", [Series(0, "run", [1, 2, 3], [0.0, 0.1, 0.01])], log=True))
    assert len(points_of(line)) == 2


@pytest.mark.parametrize("ys", [[], [math.nan]])
def test_a_chart_of_nothing_says_so(ys):
    chart = line_chart("loss", [Series(0, "run", [1][: len(ys)], ys)])
    assert "Not recorded" in chart and "<svg" not in chart


def test_a_single_point_is_marked():
    [line] = lines_of(line_chart("mAP", [Series(2, "run", [400], [30.0])]))
    assert line.get("data-run") == "2" and line.get("data-points") == "400,30" and line.find("circle") is not None


def test_a_long_training_is_thinned_out():
    ys = np.sin(np.arange(10_000))
    [line] = lines_of(line_chart("loss", [Series(0, "run", range(1, 10_001), ys)]))
    assert len(points_of(line)) == MOST_POINTS


def test_names_are_escaped():
    chart = line_chart("<i>&", [Series(0, '"><script>', [1], [1.0])], data={"data-set": 'a"b'})
    root = ET.fromstring(chart)
    assert root.get("data-set") == 'a"b' and root.find("figcaption").text == "<i>&" and "<script" not in chart


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (200, "200"), (12_000, "12k"), (0.00025, "2.5e-4"), (0.5, "0.5")]
)
def test_numbers_are_short(value, shown):
    assert number(value) == shown


def test_gates_by_layer_and_record(tmp_path):
    records = [{"iteration": i, "gate/a.bn": 0.9, "gate/b.bn": 0.1 * i} for i in range(3)] + [
        {"iteration": 9, "lr": 1.0}
    ]
    layers, iterations, means = gate_map(records)
    assert (
        layers == ["a.bn", "b.bn"] and iterations == [1, 2, 3] and means[1].tolist() == pytest.approx([0.0, 0.1, 0.2])
    )
    runs = [Run(tmp_path, "one", records=records), Run(tmp_path, "two")]
    charts = gate_charts(runs)
    assert charts.count("<figure") == 2 and charts.count('data-run="1"') == 0


def test_gates_that_metrics_json_lacks_are_those_of_the_checkpoints(made, tmp_path):
    made.write_checkpoint(tmp_path)
    layers, iterations, means = gates_of(Run(tmp_path, "one"))
    assert layers[0] == "layer1.bn" and iterations == [300] and means.shape == (len(layers), 1)
    assert "iteration 300" in gate_charts([Run(tmp_path, "one")])


def test_runs_without_gates_say_so(tmp_path):
    assert gate_map([{"iteration": 0, "lr": 1.0}]) is None
    assert "No run has gates" in gate_charts([Run(tmp_path, "one")])
