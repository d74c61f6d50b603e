"""What a table's files say of runs whose numbers are known."""

import csv
import statistics

import pytest
from matplotlib.figure import Figure

from tools.table.experiment import read_experiment
from tools.table.figure import plot_curves, plot_table
from tools.table.numbers import measure, pipe_table, write_tables
from tools.table.runs import plan_runs, training_seconds

GROUPS = {"seen": ["folder:a"], "unseen": ["folder:b", "folder:c"]}
# Rank-1 by row, seed and test set.
RANK1 = {("BN", 1): (50, 10, 20), ("BN", 4): (60, 30, 42), ("Meta BIN", 1): (40, 33, 34), ("Meta BIN", 4): (44, 35, 35)}


def finished(tables, project, left_out=(), **changes):
    """Return a table, and its runs, which are finished except those left out."""
    experiment = read_experiment(tables.write_table(project, **changes), project)
    runs = plan_runs(experiment)
    for run in runs:
        if (run.row.name, run.seed) not in left_out:
            tables.finish(run, RANK1[run.row.name, run.seed])
            run.look()
    return experiment, runs


def read_csv(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def columns_of(text, first):
    """Return the cells of the pipe table whose header has the text `first`, by row and heading."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|") and first in line)
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 4]]
    return {row[0]: dict(zip(header, row)) for row in rows}


def test_mean_and_sample_deviation_over_the_seeds(tables, project):
    experiment, runs = finished(tables, project, groups=GROUPS, gap=["seen", "unseen"])
    write_tables(experiment, runs)
    keys = ("row", "kind", "name", "metric")
    found = {tuple(row[key] for key in keys): row for row in read_csv(experiment.output / "table.csv")}
    expected = {("group", "unseen"): (15, 36), ("gap", "seen − unseen"): (35, 24), ("test set", "folder:c"): (20, 42)}
    for (kind, name), values in expected.items():
        for metric, factor in (("Rank-1", 1), ("mAP", 2)):
            row = found["BN", kind, name, metric]
            assert float(row["mean"]) == pytest.approx(factor * statistics.mean(values))
            assert float(row["std"]) == pytest.approx(factor * statistics.stdev(values))
            assert row["seeds"] == "2" and row["published"] == ""
    assert len(found) == 2 * 2 * (2 + 1 + 3)
    raw = read_csv(experiment.output / "runs.csv")
    assert len(raw) == 2 * len(found)
    wanted = {"row": "Meta BIN", "seed": "4", "kind": "test set", "name": "folder:a", "metric": "mAP", "value": "88.0"}
    assert wanted in raw


def test_the_text_has_the_best_in_bold_and_published_figures_beside(tables, project):
    rows = tables.tree_of()["rows"]
    rows[0]["published"] = {"unseen": {"Rank-1": 64.69}, "seen": {"Rank-1": 70}, "folder:b": {"mAP": 7}}
    experiment, runs = finished(tables, project, groups=GROUPS, gap=["seen", "unseen"], rows=rows)
    write_tables(experiment, runs)
    text = (experiment.output / "table.md").read_text(encoding="utf-8")
    assert "# Two rows\n" in text and "seeds 1, 4" in text and "sample standard deviation" in text and "a test" in text
    assert "- unseen: mean over folder:b, folder:c" in text and "finished" not in text
    groups = columns_of(text, "unseen Rank-1")
    assert groups["BN"]["unseen Rank-1"] == "25.50 ± 14.85"
    assert groups["Meta BIN"]["unseen Rank-1"] == "**34.25 ± 1.06**"
    assert groups["BN"]["seen mAP"] == "**110.00 ± 14.14**"
    # Two runs of four iterations of 1.5 s; no column of a gap is bold.
    assert groups["BN"]["training time"] == "0:00:12" and groups["BN"]["iterations"] == "4"
    assert groups["Meta BIN"]["seen − unseen Rank-1"] == "7.75 ± 1.77"
    lines = text.splitlines()
    assert "| published |" in next(line for line in lines if "unseen Rank-1" in line).replace("  ", "")
    first = next(line for line in lines if line.startswith("| BN"))
    assert [word for word in ("64.69", "70.00", "5.31") if word in first] == ["64.69", "70.00", "5.31"]
    assert columns_of(text[text.index("mAP on each") :], "folder:b")["BN"]["published"] == "7.00"


def test_unfinished_runs_are_counted_and_left_out(tables, project):
    left_out = [("BN", 4), ("Meta BIN", 1), ("Meta BIN", 4)]
    experiment, runs = finished(tables, project, left_out)
    table = write_tables(experiment, runs)
    assert table["BN", "group", "all", "Rank-1"].std is None
    text = (experiment.output / "table.md").read_text(encoding="utf-8")
    assert "1 of 4 runs are finished" in text
    rows = columns_of(text, "all Rank-1")
    assert rows["BN"]["all Rank-1"] == "26.67" and rows["BN"]["seeds"] == "1 of 2"
    assert [rows["Meta BIN"][name] for name in ("seeds", "iterations", "all mAP")] == ["0 of 2", "–", "–"]
    empty = [row for row in read_csv(experiment.output / "table.csv") if row["row"] == "Meta BIN"]
    assert {(row["mean"], row["std"], row["seeds"]) for row in empty} == {("", "", "0")}


def test_rows_may_be_tested_on_different_sets(tables, project):
    rows = tables.tree_of()["rows"]
    rows[1]["options"]["DATASETS.TESTS"] = ["folder:c", "folder:d", "folder:e"]
    experiment, runs = finished(tables, project, rows=rows)
    table = measure(experiment, runs)
    assert table["Meta BIN", "group", "all", "Rank-1"].mean == pytest.approx((107 / 3 + 114 / 3) / 2)
    write_tables(experiment, runs)
    text = (experiment.output / "table.md").read_text(encoding="utf-8")
    assert "which are not the same for all rows" in text
    assert columns_of(text, "folder:d")["BN"]["folder:d"] == "–"
    # Rows of different sets are not compared, but where they have one in common.
    assert "**" not in text[: text.index("on each test set")]
    assert columns_of(text, "folder:d")["Meta BIN"]["folder:c"] == "**42.00 ± 2.83**"


def test_a_metric_that_was_not_measured_is_empty(tables, project):
    experiment, runs = finished(tables, project, metrics=["mINP"])
    assert {found.text() for found in write_tables(experiment, runs).values()} == {"–"}


def test_the_figure_has_means_seeds_and_published_figures(tables, project, monkeypatch):
    rows = tables.tree_of()["rows"]
    rows[0]["published"] = {"unseen": {"Rank-1": 64.69}}
    experiment, runs = finished(tables, project, groups=GROUPS, gap=["seen", "unseen"], rows=rows)
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *a, **k: (figures.append(figure), save(figure, *a, **k)))
    plot_table(experiment.output / "table.png", experiment, measure(experiment, runs))
    assert (experiment.output / "table.png").read_bytes().startswith(b"\x89PNG")
    rank1, _, gap, last = figures[0].axes
    assert [label.get_text() for label in rank1.get_yticklabels()] == ["BN", "Meta BIN"]
    drawn = {label: [] for label in ("seen", "unseen")}
    handles, labels = rank1.get_legend_handles_labels()
    for handle, label in zip(handles, labels):
        if label in drawn:
            drawn[label].append(float(handle.lines[0].get_xdata()[0]))
    assert drawn == {"seen": [55, 42], "unseen": [25.5, 34.25]}
    dots = sorted(x for line in rank1.lines if line.get_label() == "single seeds" for x in line.get_xdata())
    assert dots == sorted([50, 60, 15, 36, 40, 44, 33.5, 35])
    assert [line.get_xdata() for line in rank1.lines if line.get_label() == "published"] == [[64.69]]
    assert gap.get_xlabel() == "seen (%)"
    assert [text.get_text() for text in last.get_legend().get_texts()] == ["BN", "Meta BIN"]


@pytest.mark.parametrize("gap", [{}, {"groups": GROUPS, "gap": ["seen", "unseen"]}])
def test_a_figure_of_nothing_is_empty(tables, project, gap):
    experiment, runs = finished(tables, project, list(RANK1), **gap)
    plot_table(experiment.output / "table.png", experiment, measure(experiment, runs))
    assert (experiment.output / "table.png").is_file()


def test_curves_are_those_of_the_finished_runs(tables, project, monkeypatch):
    names = ["base/loss_cls", "test/all_average Rank-1", "loss_of_nobody"]
    experiment, runs = finished(tables, project, [("BN", 4)], curves=names)
    of_runs = [run.run.records for run in runs if run.run]
    for values, (first, last) in zip([[7, 5], [5, 0.01], [4, 0]], of_runs):
        first["base/loss_cls"], last["base/loss_cls"] = values
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: (figures.append(figure), path.touch()))
    plot_curves(experiment.output / "curves.png", experiment, runs)
    assert (experiment.output / "curves.png").is_file()
    losses, rank1, nothing = figures[0].axes[:3]
    assert [axis.get_title() for axis in (losses, rank1, nothing)] == names
    assert [list(line.get_xdata()) for line in losses.lines] == [[2, 4]] * 3
    assert [list(line.get_ydata()) for line in losses.lines] == [[7, 5], [5, 0.01], [4, 0]]
    colours = [line.get_color() for line in losses.lines]
    assert colours[1] == colours[2] != colours[0]
    assert [axis.get_yscale() for axis in (losses, rank1)] == ["log", "linear"]
    assert rank1.xaxis.get_tick_params()["labelbottom"], "below it is an empty place"
    assert not any(len(line.get_ydata()) for line in nothing.lines)
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["BN", "Meta BIN"]


def test_training_time_is_the_means_times_the_iterations():
    records = [{"iteration": 9, "time": 0.5}, {"iteration": 12, "loss": 3}, {"iteration": 19, "time": 1.0}]
    assert training_seconds(records) == pytest.approx(10 * 0.5 + 10 * 1.0)


def test_a_name_with_a_pipe_is_one_cell():
    assert r"w/o \|a\|" in pipe_table(["", "Rank-1"], [["w/o |a|", "1"]])
