"""The table over many runs: its numbers, its workbook and the config differences."""

import csv

import openpyxl
import pytest

from fastreid.config import get_cfg
from fastreid.report.comparison import base_config, config_differences, csv_rows, lines, write_comparison
from fastreid.report.runs import read_run
from fastreid.utils.errors import UserError
from fastreid.utils.files import write_csv


@pytest.fixture
def runs(made, tmp_path):
    folders = [
        made.write_numbers(tmp_path / "a"),
        made.write_numbers(tmp_path / "b", (50.0, 10.0), SOLVER__BASE_LR=0.5),
    ]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "results.json").write_text("{")
    return [read_run(folder) for folder in (*folders, tmp_path / "c")]


def test_a_run_has_a_line_for_each_data_set_after_the_average(made, runs):
    found = lines(runs[0])
    assert [line.data_set for line in found] == ["all_average", *made.SETS]
    assert {key: found[0].values[key] for key in ("best Rank-1", "best at Rank-1", "last Rank-1")} == {
        "best Rank-1": 40.0,
        "best at Rank-1": 200,
        "last Rank-1": 30.0,
    }


def test_a_broken_run_has_one_line_that_says_why(runs):
    [line] = lines(runs[2])
    assert line.status == "broken" and "does not hold results" in line.notes and set(line.values.values()) == {None}


def test_the_workbook_is_formatted_and_the_best_is_bold(runs, tmp_path):
    table = [line for run in runs for line in lines(run)]
    write_comparison(tmp_path / "all.xlsx", table, runs, get_cfg(), "defaults")
    book = openpyxl.load_workbook(tmp_path / "all.xlsx")
    results, configs = book["results"], book["config differences"]
    header = [cell.value for cell in results[1]]
    best, at, last = (header.index(name) + 1 for name in ("best Rank-1", "best at Rank-1", "last Rank-1"))
    assert results.freeze_panes == "C2" and results.cell(1, 1).font.bold and results.auto_filter.ref
    assert results.cell(2, best).number_format == "0.00" and results.cell(2, at).number_format == "#,##0"
    assert results.column_dimensions["A"].width > 3
    bold = {results.cell(row, 1).value: results.cell(row, best).font.bold for row in (2, 5, 8)}
    assert bold == {"a": False, "b": True, "c": False}
    assert results.cell(2, last).font.bold and not results.cell(5, last).font.bold
    rows = {row[0]: row[1:] for row in configs.iter_rows(values_only=True)}
    assert rows["Option"] == ("defaults", "a", "b", "c (no config)")
    assert rows["SOLVER.BASE_LR"] == ("0.01", "0.01", "0.5", None) and "OUTPUT_DIR" not in rows
    row = next(cells for cells in configs.iter_rows() if cells[0].value == "SOLVER.BASE_LR")
    assert row[3].fill.fgColor.rgb != row[2].fill.fgColor.rgb


def test_the_text_file_has_all_lines(runs, tmp_path):
    table = [line for run in runs for line in lines(run)]
    write_csv(tmp_path / "all.csv", csv_rows(table))
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Run"] for row in rows] == ["a"] * 3 + ["b"] * 3 + ["c"]
    assert rows[3]["best mAP"] == "65.0" and rows[3]["last mAP"] == "25.0" and rows[6]["best mAP"] == ""


def test_differences_are_between_the_base_and_any_config(made):
    base, other = get_cfg(), get_cfg()
    other.SOLVER.BASE_LR, other.OUTPUT_DIR = 0.5, "elsewhere"
    assert config_differences(base, [get_cfg(), None, other]) == {"SOLVER.BASE_LR": [0.01, 0.01, None, 0.5]}


def test_the_base_must_be_a_config(tmp_path):
    with pytest.raises(UserError, match="no config file"):
        base_config(tmp_path / "absent.yml")
