"""Running a table's runs: in which order, what is not run again, what stops and what fails."""

import json
import logging
import os
import re
import signal
import time
from pathlib import Path

import pytest

from fastreid.utils.errors import Stopped, UserError
from fastreid.utils.locks import lock_file
from tools.table import runs as table_runs
from tools.table.experiment import read_experiment
from tools.table.numbers import measure
from tools.table.places import places_for
from tools.table.runs import Child, TableRunner, plan_runs

LONG = 400  # iterations: some ten seconds
TIMEOUT = 60  # seconds


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    monkeypatch.setattr(table_runs, "POLL", 0.02)


def plan(tables, project, words=(), **changes):
    return plan_runs(read_experiment(tables.write_table(project, **changes), project, words))


def run_table(tables, project, words=(), places=({},), finished=lambda: None, **changes):
    """Run a table and return its runs, and those that failed."""
    runs = plan(tables, project, words, **changes)
    with lock_file(project / "lock") as lock:
        return runs, TableRunner(runs, project, places, lock, finished).run_all()


def starts(runs):
    """Return the process ids of each run's starts."""
    return [[line.split()[0] for line in (run.folder / "starts.txt").read_text().splitlines()] for run in runs]


def has_ended(pid):
    """Tell whether a process is gone, or waits only to be counted by a parent that is busy."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def wait_for(condition):
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.01)


def wait_for_iterations(run, number):
    metrics = run.folder / "metrics.json"
    wait_for(lambda: metrics.is_file() and len(metrics.read_text().splitlines()) >= number)


def test_runs_go_seed_by_seed_and_the_table_is_written_after_each(tables, project):
    order = []
    runs = plan(tables, project)
    with lock_file(project / "lock") as lock:
        runner = TableRunner(runs, project, [{}], lock, lambda: order.append([r.name for r in runs if r.run]))
        assert runner.run_all() == {}
    names = ["BN, seed 1", "Meta BIN, seed 1", "BN, seed 4", "Meta BIN, seed 4"]
    assert order == [names[:count] for count in (1, 2, 3, 4)]
    assert [run.folder.relative_to(project / "logs" / "Table" / "two").as_posix() for run in runs] == [
        "BN/seed1",
        "Meta-BIN/seed1",
        "BN/seed4",
        "Meta-BIN/seed4",
    ]
    table = measure(read_experiment(tables.write_table(project), project), runs)
    assert table["Meta BIN", "group", "all", "Rank-1"].values == {1: 27.0, 4: 30.0}
    # Nothing is left to run.
    before = starts(runs)
    again, failed = run_table(tables, project)
    assert {run.state for run in again} == {"finished"} and not failed and starts(again) == before


def test_several_at_a_time_share_the_cores(tables, project, monkeypatch):
    monkeypatch.setattr("tools.table.places.num_cores", lambda: 6)
    runs, failed = run_table(tables, project, places=places_for(2, None))
    assert not failed
    assert {(run.folder / "starts.txt").read_text().split()[1] for run in runs} == {"3"}
    assert places_for(1, None) == [{}]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert places_for(2, None) == [{}, {}]


def test_a_run_has_a_gpu_of_its_own(tables, project, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    runs, failed = run_table(tables, project, places=places_for(1, "0,2"), seeds=[1])
    assert not failed
    assert sorted((run.folder / "starts.txt").read_text().split()[2] for run in runs) == ["0", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b,GPU-c")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places_for(1, "2,0")] == ["GPU-c", "GPU-a"]


@pytest.mark.parametrize(("gpus", "message"), [("0,3", "there is no GPU 3"), ("0,0", "different"), ("a", "numbers")])
def test_gpus_that_are_not_there(monkeypatch, gpus, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    with pytest.raises(UserError, match=message):
        places_for(1, gpus)
    with pytest.raises(UserError, match="--jobs must be at least 1"):
        places_for(0, None)


def test_a_run_that_fails_leaves_the_others_alone_and_is_tried_again(tables, project):
    rows = tables.tree_of()["rows"]
    rows.insert(1, {"name": "gone", "config": "configs/tiny.yml", "options": {"MODEL.WEIGHTS": "missing"}})
    rows.insert(2, {"name": "down", "config": "configs/tiny.yml", "options": {"MODEL.WEIGHTS": "crash"}})
    runs, failed = run_table(tables, project, rows=rows, seeds=[1])
    assert failed == {
        "gone, seed 1": "error: no checkpoint missing: check the path",
        "down, seed 1": "ValueError: the network is down",
    }
    assert [run.state for run in runs] == ["finished", "to do", "to do", "finished"]
    # With what was wrong put right it runs: nothing was trained that would be lost.
    rows[1]["options"] = rows[2]["options"] = {}
    runs, failed = run_table(tables, project, rows=rows, seeds=[1])
    assert not failed and {run.state for run in runs} == {"finished"}
    assert list(map(len, starts(runs))) == [1, 2, 2, 1]


def test_a_run_that_is_killed_says_so(tables, project):
    runs = plan(tables, project, ["SOLVER.MAX_ITER", str(LONG)], seeds=[1])[:1]
    pid = os.fork()
    if pid == 0:  # as the tool would run them, so that this process can kill
        with lock_file(project / "lock") as lock:
            failed = TableRunner(runs, project, [{}], lock, lambda: None).run_all()
        (project / "failed.json").write_text(json.dumps(failed))
        os._exit(0)
    wait_for_iterations(runs[0], 2)
    os.kill(int(starts(runs)[0][0]), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert json.loads((project / "failed.json").read_text())["BN, seed 1"].startswith("killed by SIGKILL; ")


def test_options_of_the_machine_may_be_others(tables, project):
    run_table(tables, project, seeds=[1])
    runs = plan(tables, project, ["DATALOADER.NUM_WORKERS", "1", "SOLVER.CHECKPOINT_KEEP", "2"], seeds=[1])
    assert [run.state for run in runs] == ["finished", "finished"]


def test_other_options_are_refused_by_name(tables, project):
    run_table(tables, project, seeds=[1])
    with pytest.raises(UserError) as error:
        plan(tables, project, ["SOLVER.MAX_ITER", "9", "SOLVER.BASE_LR", "3"])
    message = str(error.value)
    assert "BN/seed1 holds a run with other options: SOLVER." in message
    assert "SOLVER.BASE_LR 1.0, asked for 3.0" in message and "SOLVER.MAX_ITER 4, asked for 9" in message
    (project / "logs/Table/two/BN/seed1/config.yaml").write_text("[")
    with pytest.raises(UserError, match="BN/seed1 has no readable config.yaml"):
        plan(tables, project)


def test_how_far_a_run_is(tables, project):
    (run,) = plan(tables, project, seeds=[1], rows=tables.tree_of()["rows"][:1])
    assert run.about_state() == "to do"
    tables.finish(run, (1, 2, 3))
    run.look()
    assert run.about_state() == "finished, 4 iterations"
    # Ended between the last checkpoint and its test: the results are of an evaluation on the way.
    results = json.loads((run.folder / "results.json").read_text())
    (run.folder / "results.json").write_text(json.dumps(results | {"iteration": 2}))
    run.look()
    assert run.about_state() == "trained, to be tested"
    (run.folder / "last_checkpoint").write_text("model_0001233.pth")
    (run.folder / "model_0001233.pth").touch()
    run.look()
    assert run.about_state() == "to resume at iteration 1,234"
    # A run that was started again by hand, without a checkpoint yet.
    (run.folder / "last_checkpoint").unlink()
    run.look()
    assert run.about_state() == "to do"


def test_a_signal_stops_the_runs_and_the_next_start_goes_on(tables, project):
    words = ["SOLVER.MAX_ITER", "40"]
    runs = plan(tables, project, words)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            run_table(tables, project, words)
        except Stopped as stopped:
            (project / "message").write_text(str(stopped))
            status = 128 + stopped.signum
        finally:
            os._exit(status)
    wait_for_iterations(runs[1], 3)  # the second run
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 143
    assert "1 of 4 runs are finished: the same command goes on" in (project / "message").read_text()
    for run in runs:
        run.look()
    assert [run.state for run in runs] == ["finished", "begun", "to do", "to do"]
    assert 3 <= runs[1].done < 40

    runs, failed = run_table(tables, project, words)
    assert not failed and list(map(len, starts(runs))) == [1, 2, 1, 1]
    # Every iteration was run once.
    records = [json.loads(line) for line in (runs[1].folder / "metrics.json").read_text().splitlines()]
    assert [record["iteration"] for record in records if "time" in record] == list(range(40))
    table = measure(read_experiment(tables.write_table(project), project), runs)
    assert table["BN", "group", "all", "Rank-1"].values == {1: 12.0, 4: 15.0}


def test_runs_of_a_tool_that_was_killed_stop_and_are_not_started_twice(tables, project):
    words = ["SOLVER.MAX_ITER", str(LONG)]
    runs = plan(tables, project, words, seeds=[1])[:1]
    pid = os.fork()
    if pid == 0:
        try:
            run_table(tables, project, words)
        finally:
            os._exit(1)
    wait_for_iterations(runs[0], 2)
    with pytest.raises(UserError, match=f"is in use by process {pid}, or by one that it started"):
        with lock_file(project / "lock"):
            pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with lock_file(project / "lock"):  # which waits for the run to stop
        (child,) = starts(runs)[0]
        wait_for(lambda: has_ended(child))
        runs[0].look()
        assert runs[0].state == "begun"


def test_what_runs_is_told_now_and_then(tables, project, monkeypatch, caplog):
    monkeypatch.setattr(table_runs, "REPORT_PERIOD", 0.0)
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    with caplog.at_level(logging.INFO):
        run_table(tables, project, ["SOLVER.MAX_ITER", "30"], seeds=[1])
    assert "BN, seed 1: starting after 0.0 min" in caplog.messages
    assert any(re.match(r"BN, seed 1: running at iteration \d+", message) for message in caplog.messages)


def test_time_left_is_told_from_runs_of_the_same_row(tables, project):
    runs = plan(tables, project)
    for run in runs[:2]:
        tables.finish(run, (1, 2, 3), seconds={"BN": 10, "Meta BIN": 100}[run.row.name])
        run.look()
    runner = TableRunner(runs, project, [{}], 0, lambda: None)
    assert runner.about_rest() == ", eta 0:07:20"  # 4 iterations each
    del runner.seconds["Meta BIN"]
    assert runner.about_rest() == ", eta 0:01:20"
    runner.estimates["Meta BIN"] = 60.0  # as its first run goes
    assert runner.about_rest() == ", eta 0:01:40"
    # One that runs knows best itself when it ends; the others wait for it.
    runner.running[0] = Child(runner.waiting.popleft(), None, None, 0, end=time.monotonic() + 5)
    assert runner.about_rest() == ", eta 0:01:05"
    runner.seconds, runner.estimates = {}, {}
    assert runner.about_rest() == ""
