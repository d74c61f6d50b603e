"""What a log tells: tables and the iterations they belong to, in our format and the published program's."""

import math

import pytest

from fastreid.report.run_log import parse_log, parse_table, percentage


def rank1s(log):
    return [(found.iteration, found.rows["** all_average **"]["Rank-1"]) for found in log.evaluations]


def test_a_table_belongs_to_the_next_line_of_progress_and_the_last_one_to_the_end(made):
    log = parse_log(made.log_of([20, 40, 30]))
    assert rank1s(log) == [(100, 20.0), (200, 40.0), (300, 30.0)]
    assert (log.done, log.total, log.tests) == (300, 300, [])


def test_the_published_format_is_read(made):
    lines = [
        "[06/01 10:00:00 fastreid]: Rank of current process: 0. World size: 1",
        "[06/01 10:00:01 fastreid.engine.train_loop]: Starting training from iteration 0",
        "[06/01 10:09:00 fastreid.evaluation.testing]: Evaluation results in csv format: ",
        *(f"\x1b[36m{line}\x1b[0m" for line in made.table_of(49.68).splitlines()),
        "[06/01 10:10:00 fastreid.utils.events]: eta: 1:00:00  iter: 199  total_loss: 2.3  lr: 1.0e-02  max_mem: 900M",
    ]
    log = parse_log("\n".join(lines))
    assert rank1s(log) == [(200, 49.68)] and log.done == 200 and log.total is None


def test_a_training_from_the_beginning_makes_what_is_above_another_runs(made):
    log = parse_log(made.log_of([90, 95]) + made.log_of([10]))
    assert rank1s(log) == [(100, 10.0)] and log.done == 100


def test_a_resumed_training_replaces_what_lies_beyond_its_first_iteration(made):
    resumed = made.log_of([11, 22]).replace("from iteration 0", "from iteration 100").replace("100/200", "150/200")
    log = parse_log(made.log_of([20, 40]) + resumed)
    assert rank1s(log) == [(100, 20.0), (150, 11.0), (200, 22.0)]


def test_a_later_test_is_no_evaluation_of_training(made):
    test = "[2026-01-02] fastreid INFO: config configs/x.yml, output folder logs/x, seed 1\n" + made.table_of(77)
    log = parse_log(made.log_of([20]) + test)
    assert rank1s(log) == [(100, 20.0)]
    assert [found.rows["** all_average **"]["Rank-1"] for found in log.tests] == [77.0]


def test_a_table_that_was_being_written_keeps_its_whole_rows(made):
    lines = made.table_of(20).splitlines()
    rows = parse_table([*lines[:3], lines[3][:20]])
    assert list(rows) == ["folder:here_average"] and rows["folder:here_average"]["mAP"] == 35.0


def test_other_tables_are_passed_over():
    assert parse_table(["| set | images |", "|:--|:--|", "| a | 3 |"]) == {}


@pytest.mark.parametrize(("text", "value"), [("49.68", 49.68), ("49.68%", 49.68), ("nan", math.nan), ("-", math.nan)])
def test_cells(text, value):
    assert percentage(text) == pytest.approx(value, nan_ok=True)


def test_data_sets_of_one_split_have_averages_in_the_report_though_not_in_the_table():
    lines = [
        "| Datasets | Rank-1 | mAP |",
        "|:--|:--|:--|",
        "| Market1501 | 80.00% | 60.00% |",
        "| DukeMTMC | 40.00% | 30.00% |",
    ]
    rows = parse_table(lines)
    assert list(rows) == ["Market1501_average", "DukeMTMC_average", "** all_average **"]
    assert rows["** all_average **"] == {"Rank-1": 60.0, "mAP": 45.0}
    mixed = parse_table([*lines, "| ALL_GRID_average | 50.00% | 40.00% |", "| ** all_average ** | 50.00% | 40.00% |"])
    assert mixed["** all_average **"] == mixed["ALL_GRID_average"] == {"Rank-1": 50.0, "mAP": 40.0}
