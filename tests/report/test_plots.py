"""`result.png` and the records it is drawn from."""

import json
import warnings

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from fastreid.report.figures import use_style
from fastreid.report.plots import draw_lines, plot_result, read_metrics, series

LOSSES = {"base/loss_cls": 2.0, "base/loss_triplet": 0.5, "mtrain/loss_stc": 0.1, "mtest/loss_triplet_mtest": 0.2}
RATES = {"lr": 0.01, "lr_gate": 0.1, "inner_ratio": 0.02}
GATES = {"gate/layer1.bn": 0.9, "gate/layer2.0.conv1.bn": 0.4}
TESTS = {"test/ALL_GRID Rank-1": 40.0, "test/ALL_GRID mAP": 50.0}


def written(folder, *records, end=""):
    path = folder / "metrics.json"
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + end, encoding="utf-8")
    return path


def record(iteration, *parts):
    joined = {"iteration": iteration}
    for part in parts:
        joined |= part
    return joined


def test_records_come_in_the_order_of_iterations(tmp_path):
    path = written(tmp_path, record(1, {"lr": 1.0}), record(0, {"lr": 0.5}))
    assert read_metrics(path) == [{"iteration": 0, "lr": 0.5}, {"iteration": 1, "lr": 1.0}]


def test_of_two_records_of_an_iteration_the_later_holds_and_new_names_are_added(tmp_path):
    path = written(tmp_path, record(3, {"lr": 1.0, "a": 1.0}), record(3, {"lr": 2.0}, TESTS))
    assert read_metrics(path) == [{"iteration": 3, "lr": 2.0, "a": 1.0, **TESTS}]


def test_a_half_written_last_line_is_passed_over(tmp_path):
    path = written(tmp_path, record(0, {"lr": 1.0}), end='{"iteration": 1, "base/lo')
    assert read_metrics(path) == [{"iteration": 0, "lr": 1.0}]


def test_a_half_written_line_that_a_resumed_run_went_on_in_is_passed_over(tmp_path):
    rest = json.dumps(record(2, {"lr": 0.5})) + "\n" + json.dumps(record(3, {"lr": 0.25})) + "\n"
    path = written(tmp_path, record(0, {"lr": 1.0}), end='{"iteration": 1, "base/lo' + rest)
    records = read_metrics(path)
    assert records[0] == {"iteration": 0, "lr": 1.0} and records[-1] == {"iteration": 3, "lr": 0.25}


def test_a_series_counts_iterations_from_1_and_leaves_gaps_out():
    records = [{"iteration": 9, "a": 1.0}, {"iteration": 19}, {"iteration": 29, "a": 3.0}]
    assert series(records, "a") == ([10, 30], [1.0, 3.0])
    assert series(records, "b") == ([], [])


RUNS = {
    "a whole run": [record(9, LOSSES, RATES, GATES), record(19, LOSSES, RATES, GATES), record(19, TESTS, GATES)],
    "one record": [record(0, LOSSES, RATES, GATES)],
    "no gates": [record(0, LOSSES, RATES), record(1, LOSSES, RATES, TESTS)],
    "no meta step": [record(0, {"base/loss_cls": 2.0}, {"lr": 0.01})],
    "an evaluation alone": [record(0, TESTS)],
    "nothing": [],
}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_is_drawn_without_a_warning_whatever_it_recorded(tmp_path, run):
    path = written(tmp_path, *RUNS[run])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        plot_result(path, tmp_path / "result.png")
    with Image.open(tmp_path / "result.png") as image:
        assert image.format == "PNG" and image.width > 1000 and image.height > 600
        assert len(image.convert("RGB").getcolors(1 << 20)) > 2
    assert plt.get_fignums() == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["metrics.json", "result.png"]


def test_the_four_panels_show_losses_rates_evaluations_and_gates(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    plot_result(written(tmp_path, *RUNS["a whole run"]), tmp_path / "result.png")
    monkeypatch.undo()
    [figure] = figures
    losses, rates, evaluations, gates = figure.axes
    assert [line.get_label() for line in losses.lines] == list(LOSSES)
    assert [line.get_label() for line in rates.lines] == list(RATES) and rates.get_yscale() == "log"
    lines = [(line.get_linestyle(), line.get_xydata().tolist()) for line in evaluations.lines]
    assert lines == [("-", [[20.0, 40.0]]), ("--", [[20.0, 50.0]])]
    assert [text.get_text() for text in evaluations.get_legend().get_texts()] == ["ALL_GRID"]
    assert [list(line.get_xdata()) for line in gates.lines][0] == [1, 2]
    assert [list(line.get_ydata()) for line in gates.lines][0] == [0.9, 0.4]
    plt.close(figure)


def test_no_two_of_many_lines_look_the_same():
    use_style()
    figure, axis = plt.subplots()
    draw_lines(axis, [{"iteration": 0}], [f"line {number}" for number in range(20)], "title")
    looks = {(line.get_color(), line.get_linestyle()) for line in axis.lines}
    plt.close(figure)
    assert len(looks) == 20
