"""The command that collects all runs."""

import csv

import openpyxl
import pytest

from fastreid.utils.errors import UserError


def test_all_runs_of_a_folder_in_one_table(made, find_results_tool, tmp_path, capsys):
    logs = tmp_path / "logs"
    made.write_numbers(logs / "group" / "good", (20.0, 40.0, 30.0))
    (logs / "bad").mkdir()
    (logs / "bad" / "results.json").write_text("{")
    find_results_tool.main([str(logs)])
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("| group/good"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "group/good",
        "ended at iteration 300 of 300",
        "40.00",
        "200",
        "30.00",
        "55.00",
        "200",
        "45.00",
    ]
    assert "bad: " in printed and "does not hold results" in printed and "2 run(s), 1 of them broken" in printed
    assert openpyxl.load_workbook(logs / "all_results.xlsx").sheetnames == ["results", "config differences"]
    with (logs / "all_results.csv").open(newline="") as file:
        assert [row["Run"] for row in csv.DictReader(file)] == ["bad", *["group/good"] * 3]


def test_output_and_base_can_be_named(made, find_results_tool, tmp_path):
    made.write_numbers(tmp_path / "logs" / "run")
    base = tmp_path / "mine.yml"
    base.write_text("SOLVER: {BASE_LR: 0.7}\n")
    find_results_tool.main([str(tmp_path / "logs"), "--output", str(tmp_path / "v1.0"), "--base", str(base)])
    sheet = openpyxl.load_workbook(tmp_path / "v1.0.xlsx")["config differences"]
    rows = {row[0]: row[1:] for row in sheet.iter_rows(values_only=True)}
    assert rows["Option"] == ("mine", "run") and rows["SOLVER.BASE_LR"] == ("0.7", "0.01")


@pytest.mark.parametrize("name", ["results", "per_query/target"])
def test_a_file_that_a_run_wrote_is_no_output(made, find_results_tool, tmp_path, name):
    run = tmp_path / "logs" / "run"
    made.write_numbers(run)
    kept = [run / "results.xlsx", run / "per_query" / "target.csv"]
    kept[1].parent.mkdir(exist_ok=True)
    for path in kept:
        path.write_text("of the run")
    with pytest.raises(UserError, match="which this command reads and would replace"):
        find_results_tool.main([str(tmp_path / "logs"), "--output", str(run / name)])
    assert [path.read_text() for path in kept] == ["of the run"] * 2


def test_a_folder_without_runs_is_an_error(find_results_tool, tmp_path):
    with pytest.raises(UserError, match="no run below"):
        find_results_tool.main([str(tmp_path)])
    with pytest.raises(UserError, match="no folder"):
        find_results_tool.main([str(tmp_path / "absent")])
