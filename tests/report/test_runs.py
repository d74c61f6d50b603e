"""Run folders: what they hold, how far they came, and those that are broken."""

import json
import os
import time

import pytest

from fastreid.report.runs import STOPPED_AFTER_SECONDS, find_runs, read_run, run_names
from fastreid.utils.errors import UserError

AVERAGE = "** all_average **"


def test_a_run_that_ended(made, tmp_path):
    run = read_run(made.write_numbers(tmp_path / "run"))
    assert (run.status, run.done, run.total, run.problems) == ("ended", 300, 300, [])
    assert run.best(AVERAGE, "Rank-1") == (40.0, 200) and run.last[AVERAGE]["Rank-1"] == 30.0
    assert run.data_sets == list(made.SETS) and run.config.MODEL.BACKBONE.DEPTH == 5


def test_every_metric_of_the_log_has_a_best_value(made, tmp_path):
    run = read_run(made.write_numbers(tmp_path / "run"))
    assert run.best("folder:there_average", "TPR@FPR=0.01") == (75.0, 200)


def test_metrics_json_has_more_digits_than_the_log(made, tmp_path):
    folder = made.write_numbers(tmp_path / "run")
    text = (
        (folder / "metrics.json")
        .read_text()
        .replace('"test/all_average Rank-1": 40.0', '"test/all_average Rank-1": 40.004')
    )
    (folder / "metrics.json").write_text(text)
    assert read_run(folder).best(AVERAGE, "Rank-1") == (40.004, 200)


@pytest.mark.parametrize("kept", ["log.txt", "metrics.json", "results.json"])
def test_one_file_is_enough(made, tmp_path, kept):
    folder = made.write_numbers(tmp_path / "run")
    for path in folder.iterdir():
        if path.name != kept:
            path.unlink()
    run = read_run(folder)
    assert run.problems == [] and run.last[AVERAGE]["Rank-1"] == 30.0


@pytest.mark.parametrize(("age", "status"), [(0, "running"), (STOPPED_AFTER_SECONDS + 60, "stopped")])
def test_a_run_on_its_way_is_running_until_it_is_silent(made, tmp_path, age, status):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "log.txt").write_text(made.log_of([20], total=300))
    os.utime(folder / "log.txt", (time.time() - age,) * 2)
    run = read_run(folder)
    assert run.status == status and run.about_progress() == f"{status} at iteration 100 of 300"


def test_a_trained_run_that_is_started_again_and_only_tests_has_that_result(made, tmp_path):
    folder = made.write_numbers(tmp_path / "run")
    with (folder / "log.txt").open("a") as file:
        file.write(
            "[now] fastreid INFO: config configs/x.yml, output folder logs/x, seed 1\n" + made.table_of(31.0) + "\n"
        )
    content = {"iteration": 300, "results": made.rows_of(31.5)}
    (folder / "results.json").write_text(json.dumps(content))
    run = read_run(folder)
    assert run.problems == [] and run.about["iteration"] == 300 and run.last[AVERAGE]["Rank-1"] == 31.5


def test_a_folder_of_tests_was_not_trained(made, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"checkpoint": "a.pth", "results": made.rows_of(9)}))
    run = read_run(tmp_path)
    assert run.status == "tested" and run.about == {"checkpoint": "a.pth"} and run.best(AVERAGE, "mAP") == (24.0, None)


def test_results_of_an_earlier_run_in_the_folder_are_left_out(made, tmp_path):
    folder = made.write_numbers(tmp_path / "run")
    (folder / "results.json").write_text(json.dumps({"iteration": 900, "results": made.rows_of(99)}))
    run = read_run(folder)
    assert run.last[AVERAGE]["Rank-1"] == 30.0 and "earlier run (iteration 900)" in run.problems[0]


BROKEN = {
    "metrics.json": [b"\x00\xff", b"[1]\n", b'{"lr": 1}\n', b"torn"],
    "results.json": [b"{", b"[]", b'{"results": {"a": 3}}', b'{"results": 3}'],
    "config.yaml": [b"a: [", b"- 1"],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name, texts in BROKEN.items() for content in texts])
def test_a_broken_file_is_said_and_the_others_are_used(made, tmp_path, name, content):
    folder = made.write_numbers(tmp_path / "run")
    (folder / name).write_bytes(content)
    run = read_run(folder)
    assert len(run.problems) == 1 and str(folder / name) in run.problems[0]
    assert run.status == "ended" and run.best(AVERAGE, "Rank-1") == (40.0, 200)


@pytest.mark.parametrize("content", [b"", b"\x00\xff"])
def test_a_run_of_nothing_but_a_broken_file_is_broken(tmp_path, content):
    (tmp_path / "metrics.json").write_bytes(content)
    run = read_run(tmp_path)
    assert run.status == "broken" and not run.usable and run.problems


def test_a_folder_that_is_no_run_says_so(tmp_path):
    assert "not a run's folder" in read_run(tmp_path).problems[0]
    assert "no such folder" in read_run(tmp_path / "absent").problems[0]


def test_runs_are_found_at_any_depth(made, tmp_path):
    for name in ("b/inner", "a"):
        made.write_numbers(tmp_path / name)
    (tmp_path / "empty").mkdir()
    folders = find_runs(tmp_path)
    assert run_names(folders, tmp_path) == ["a", "b/inner"]
    with pytest.raises(UserError, match="no folder"):
        find_runs(tmp_path / "absent")


def test_runs_of_linked_folders_are_found_each_once_by_its_own_name(made, tmp_path):
    for name in ("logs/z", "far/x", "far/y/w"):
        made.write_numbers(tmp_path / name)
    logs = tmp_path / "logs"
    (logs / "best").symlink_to(logs / "z")
    (logs / "link").symlink_to(tmp_path / "far")
    (logs / "loop").symlink_to(logs)
    assert run_names(find_runs(logs), logs) == ["link/x", "link/y/w", "z"]
    assert run_names(find_runs(logs / "link"), logs / "link") == ["x", "y/w"]
    assert run_names(find_runs(logs / "best"), logs / "best") == ["z"]


def test_names_are_as_short_as_they_may_be(tmp_path):
    assert run_names([tmp_path / "x" / "run", tmp_path / "y" / "run"]) == ["x/run", "y/run"]
    assert run_names([tmp_path / "x" / "one", tmp_path / "y" / "two"]) == ["one", "two"]
