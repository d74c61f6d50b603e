"""tools/run_table.py with real training: two rows, two seeds, a stop on the way, and the numbers of the table."""

import csv
import importlib.util
import json
import os
import re
import signal
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastreid.utils.errors import UserError, run_command
from tests.command_server import PATIENCE
from tools.table import runs as table_runs

ROOT = Path(__file__).parents[2]

CONFIG = """
MODEL:
  DEVICE: cpu
  BACKBONE: {NAME: build_mobilenet_v2_backbone, DEPTH: 2, PRETRAIN: False}
  NORM: {TYPE_BACKBONE: BN}
  HEADS: {IN_FEAT: 1280}
META: {DATA: {NAMES: ''}}
INPUT: {SIZE_TRAIN: [32, 16], SIZE_TEST: [32, 16], PADDING: 2}
DATASETS: {NAMES: ['folder:s1', 'folder:s2'], TESTS: ['folder:t1', 'folder:t2']}
DATALOADER: {NUM_WORKERS: 0, NUM_INSTANCE: 2}
SOLVER: {BASE_LR: 0.001, IMS_PER_BATCH: 8, STEPS: [9], WARMUP_ITERS: 1, CHECKPOINT_PERIOD: 3, MAX_ITER: 12}
TEST: {EVAL_PERIOD: 0}
"""
TABLE = """
title: Two layers
seeds: [1, 2]
groups: {one: ['folder:t1'], both: ['folder:t1', 'folder:t2']}
rows:
  - {name: BN, config: configs/tiny.yml}
  - {name: IN, config: configs/tiny.yml, options: {MODEL.NORM.TYPE_BACKBONE: IN}, published: {both: {mAP: 50}}}
"""

spec = importlib.util.spec_from_file_location("run_table", ROOT / "tools" / "run_table.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.fixture(scope="module")
def work(python, tmp_path_factory):
    """A project with data sets, a config and two equal tables, whose training commands start in moments."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("s1", "s2", "t1", "t2"):
        draw(folder / "datasets" / name, ("query", "gallery") if name[0] == "t" else ("train",))
    for name in ("configs", "tools"):
        (folder / name).mkdir()
    (folder / "configs" / "tiny.yml").write_text(CONFIG)
    for name in ("disturbed", "undisturbed"):
        (folder / "configs" / f"{name}.yml").write_text(TABLE)
    words = f"[{python!r}, {str(ROOT / 'tools' / 'train_net.py')!r}, *sys.argv[1:]]"
    (folder / "tools" / "train_net.py").write_text(f"import os, sys\nos.execv({python!r}, {words})\n")
    return folder


def draw(folder, parts):
    """Draw a data set of 4 people, each of one colour in noise, with 2 images in each part."""
    rng = np.random.default_rng(len(folder.parts) + ord(folder.name[1]))
    colours = rng.integers(60, 196, (4, 3))
    for camera, part in enumerate(parts, start=1):
        (folder / part).mkdir(parents=True)
        for person, colour in enumerate(colours):
            for k in range(2):
                pixels = colour + rng.integers(-60, 60, (32, 16, 3))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / part / f"{person}_c{camera + k}_{k}.png")


@pytest.fixture
def project(work, monkeypatch):
    monkeypatch.chdir(work)
    monkeypatch.setattr(tool, "PROJECT", work)
    monkeypatch.setattr(table_runs, "POLL", 0.02)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("FASTREID_DATASETS", str(work / "datasets"))
    monkeypatch.setenv("WITHOUT_PICTURES", "1")
    return work


def start(*words):
    """Run the tool in a process of its own, which is forked: nothing must be loaded again."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            run_command(lambda: tool.main(list(words)))
            status = 0
        except SystemExit as end:
            status = end.code
        finally:
            os._exit(status)
    return pid


def stop_in_second_run(pid, logs):
    """Send SIGTERM when the second run has a checkpoint, and return the exit status."""
    deadline = time.monotonic() + PATIENCE
    while not (logs / "IN" / "seed1" / "last_checkpoint").is_file() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_table_that_was_stopped_ends_as_one_that_was_not(project, capsys):
    logs = project / "logs"
    words = ["configs/disturbed.yml"]
    assert stop_in_second_run(start(*words), logs / "disturbed") == 143
    assert "1 of 4 runs are finished" in (logs / "disturbed" / "table.md").read_text()
    tool.main([*words, "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and "finished, 12 iterations" in lines[0] and "to resume at iteration" in lines[1]
    assert "to do" in lines[2] and "to do" in lines[3]
    weights = (logs / "disturbed" / "BN" / "seed1" / "model_final.pth").stat().st_mtime_ns

    tool.main(words)
    assert (logs / "disturbed" / "BN" / "seed1" / "model_final.pth").stat().st_mtime_ns == weights
    assert capsys.readouterr().out.splitlines()[-1].startswith("4 of 4 runs are finished")
    # Of the run that was stopped; what was not touched need not be run again.
    tool.main(["configs/undisturbed.yml", "--only", "IN", "--seeds", "1"])
    ours, expected = ((logs / folder / "runs.csv").read_text() for folder in ("disturbed", "undisturbed"))
    stopped = [line for line in ours.splitlines() if line.startswith("IN,1,")]
    assert len(stopped) == 8 and expected.splitlines()[1:] == stopped
    assert (logs / "disturbed" / "table.png").read_bytes().startswith(b"\x89PNG")

    # The numbers, from the runs' own files.
    values = []
    for seed in (1, 2):
        found = json.loads((logs / "disturbed" / "IN" / f"seed{seed}" / "results.json").read_text())["splits"]
        values.append(statistics.mean(next(iter(found[f"folder:{name}"].values()))["mAP"] for name in ("t1", "t2")))
    with (logs / "disturbed" / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["row"], row["name"], row["metric"]): row for row in csv.DictReader(file) if row["kind"] == "group"}
    row = rows["IN", "both", "mAP"]
    assert (float(row["mean"]), float(row["std"])) == pytest.approx((statistics.mean(values), statistics.stdev(values)))
    assert row["seeds"] == "2" and row["published"] == "50"
    shown = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    text = (logs / "disturbed" / "table.md").read_text(encoding="utf-8")
    assert shown in text and re.search(r"Machine: .+ \d+ cores\.", text)

    # Only what is left is run, and other options would not be these runs.
    (logs / "disturbed" / "table.md").unlink()
    tool.main([*words, "--collect"])
    assert (logs / "disturbed" / "table.md").is_file()
    with pytest.raises(UserError, match="SOLVER.MAX_ITER 12, asked for 2"):
        tool.main([*words, "SOLVER.MAX_ITER", "2"])


def test_rows_and_seeds_can_be_chosen_and_failures_end_with_status_1(project, capsys):
    (project / "configs" / "failing.yml").write_text(TABLE.replace("TYPE_BACKBONE: IN", "TYPE_BACKBONE: none"))
    words = ["configs/failing.yml", "--seeds", "5", "--only", "IN"]
    with pytest.raises(SystemExit) as end:
        tool.main(words)
    assert re.match(r"1 run\(s\) failed:\nIN, seed 5: error: .*TYPE_BACKBONE", str(end.value))
    assert "0 of 2 runs are finished" in capsys.readouterr().out
    assert not (project / "logs" / "failing" / "BN").exists()
    with pytest.raises(UserError, match="--only AN: there is no such row; found BN, IN"):
        tool.main(["configs/failing.yml", "--only", "AN"])
