"""tools/train_net.py from a data folder to the table: training, interruption, resuming and testing."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fastreid.engine.defaults import default_argument_parser, default_setup
from fastreid.engine.defaults import test_only as run_test  # by another name, or pytest takes it for a test
from tests.command_server import PATIENCE

ROOT = Path(__file__).parents[2]
SOURCES, TARGETS = [f"s{i}" for i in range(1, 6)], ["t1", "t2"]
ITERS_PER_EPOCH = 3

CONFIG = f"""
MODEL:
  DEVICE: cpu
  BACKBONE: {{NAME: build_mobilenet_v2_backbone, DEPTH: 2, PRETRAIN: False}}
  NORM: {{TYPE_BACKBONE: BIN_gate2}}
  HEADS: {{IN_FEAT: 1280}}
INPUT: {{SIZE_TRAIN: [32, 16], SIZE_TEST: [32, 16], PADDING: 2}}
DATASETS:
  NAMES: {[f"folder:{name}" for name in SOURCES]}
  TESTS: {[f"folder:{name}" for name in TARGETS]}
DATALOADER: {{NUM_WORKERS: 0, NUM_INSTANCE: 2}}
META:
  DATA: {{NAMES: {[f"folder:{name}" for name in SOURCES]}, MTRAIN_MINI_BATCH: 20, MTRAIN_NUM_INSTANCE: 2}}
  SOLVER: {{INIT: {{FIRST_INNER_LOOP: 2}}}}
SOLVER:
  {{BASE_LR: 0.001, IMS_PER_BATCH: 20, MAX_ITER: 1000, STEPS: [2], WARMUP_ITERS: 1, CHECKPOINT_PERIOD: 1,
   WRITE_PERIOD: 3, CHECKPOINT_SAME_AS_EVAL: False}}
TEST: {{EVAL_PERIOD: 2}}
"""


@pytest.fixture(scope="module")
def work(python, tmp_path_factory):
    """A folder with synthetic data sets and a config."""
    folder = tmp_path_factory.mktemp("run")
    tool = [python, str(ROOT / "tools" / "make_synthetic_datasets.py"), "--root", str(folder / "datasets")]
    size = ["--ids", "8", "--images", "4", "--size", "32x16", "--workers", "1"]
    subprocess.run([*tool, "--folder", *SOURCES, *TARGETS, *size], check=True, capture_output=True, timeout=PATIENCE)
    (folder / "configs").mkdir()
    (folder / "configs" / "tiny.yml").write_text(CONFIG)
    (folder / "python3").symlink_to(python)
    return folder


def start(work, *words, launcher=()):
    """Start the command in the work folder; `launcher` is the module with its arguments that runs it."""
    environment = {**os.environ, "FASTREID_DATASETS": str(work / "datasets"), "OMP_NUM_THREADS": "1"}
    environment["PYTHON_EXEC"] = python = str(work / "python3")  # torchrun's own name for what starts its processes
    return subprocess.Popen(
        [python, *launcher, str(ROOT / "tests" / "short_mobilenet.py"), "--config-file", "configs/tiny.yml", *words],
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        # Tests that run in the background of a shell ignore Ctrl-C, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process, status=0):
    """Wait for the end of the command and return what it printed."""
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == status, output
    return output


def table(output):
    """Return the pipe table at the end of what was printed."""
    lines = output.splitlines()
    first = max(i for i, line in enumerate(lines) if line.startswith("| Datasets"))
    rows = [line for line in lines[first:] if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        f"folder:{name}"
        for name in TARGETS  # of one split
    ]
    return rows


def test_train_interrupt_resume_and_test(work):
    logs = work / "logs" / "tiny"
    last = logs / "last_checkpoint"

    # Interrupted some time after the first checkpoint, in a run that would last for long.
    process = start(work)
    deadline = time.monotonic() + PATIENCE
    while not last.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output = finish(process, status=130)
    saved = last.read_text()
    assert output.endswith(f"stopped by SIGINT: the same command with --resume goes on from {saved}\n")
    assert "Traceback" not in output
    iteration = int(saved.removeprefix("model_").removesuffix(".pth"))
    assert not (logs / "model_final.pth").exists()

    # Resumed, it goes on with the next iteration, here for two more epochs.
    epochs = iteration // ITERS_PER_EPOCH + 3
    total = epochs * ITERS_PER_EPOCH
    ends = ["SOLVER.MAX_ITER", str(epochs)]
    output = finish(start(work, "--resume", *ends))
    assert f"{saved} at iteration {iteration + 1}" in output
    assert f"training from iteration {iteration + 1} to {total}" in output
    written = {path.name for path in logs.iterdir()}
    assert {
        "model_final.pth",
        "last_checkpoint",
        "metrics.json",
        "result.png",
        "results.json",
        "results.txt",
    } <= written
    next_end = ((iteration + 1) // ITERS_PER_EPOCH + 1) * ITERS_PER_EPOCH - 1
    assert {"config.yaml", "log.txt", saved, f"model_{next_end:07d}.pth", "model_best.pth"} <= written
    assert any(name.startswith("events.out") for name in written) and not any(".tmp" in name for name in written)
    assert last.read_text() == "model_final.pth"
    assert (logs / "result.png").read_bytes().startswith(b"\x89PNG")
    records = [json.loads(line) for line in (logs / "metrics.json").read_text().splitlines()]
    iterations = [record["iteration"] for record in records]
    assert iterations == sorted(iterations) and set(iterations) >= {total - 1 - ITERS_PER_EPOCH, total - 1}
    groups = {name.split("/")[0] for record in records for name in record}
    assert groups >= {"base", "mtrain", "mtest", "test", "gate", "lr", "lr_gate", "inner_ratio"}
    results = json.loads((logs / "results.json").read_text())
    assert set(results["splits"]) == {f"folder:{name}" for name in TARGETS} and results["iteration"] == total
    trained = table(output)

    # Testing gives the same table, and resuming what is complete trains no further.
    weights = (logs / "model_final.pth").read_bytes()
    for process in [start(work, "--eval-only", "--resume"), start(work, "--resume", *ends)]:
        output = finish(process)
        assert table(output) == trained and "training from iteration" not in output
    assert f"ended at iteration {total} already" in output
    assert (logs / "model_final.pth").read_bytes() == weights
    assert json.loads((logs / "results.json").read_text())["results"] == results["results"]


def test_missing_data_are_one_line_and_status_2(work):
    untrained = ["--eval-only", "MODEL.WEIGHTS", "untrained"]
    words = [*untrained, "OUTPUT_DIR", str(work / "logs" / "wrong"), "DATASETS.TESTS", "folder:none"]
    output = finish(start(work, *words), status=2)
    assert "Traceback" not in output
    message = output.splitlines()[-1]
    assert message.startswith("error: ") and str(work / "datasets" / "none") in message


def test_two_processes_train_and_test_as_one_run(work, monkeypatch, one_thread, short_mobilenet):
    folder = work / "logs" / "two"
    # Batches of 4, of which each process's share is a multiple: features are then the same to the last bit. The model
    # is hardly trained, so that all features are nearly equal and rounding would change the table.
    options = ["OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", "1", "TEST.IMS_PER_BATCH", "4"]
    output = finish(start(work, "--num-gpus", "2", *options))
    assert "process 1]" not in output and output.count("training from iteration 0 to 3") == 1
    names = {path.name for path in folder.iterdir()}
    assert {"model_final.pth", "metrics.json", "result.png", "results.json", "config.yaml", "log.txt"} <= names
    assert len([name for name in names if name.startswith("events.out")]) == 1
    records = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert any("base/loss_cls" in record and "mtest/loss_triplet_mtest" in record for record in records)

    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    test = ["--eval-only", "--resume", *options]
    shared = table(finish(start(work, *test, launcher=torchrun)))
    assert table(output) == shared

    monkeypatch.setenv("FASTREID_DATASETS", str(work / "datasets"))
    config = str(work / "configs" / "tiny.yml")
    args = default_argument_parser().parse_intermixed_args(["--config-file", config, *test])
    assert run_test(default_setup(args), resume=True).table().splitlines() == shared
