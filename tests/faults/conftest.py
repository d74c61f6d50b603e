"""Runs of tools/train_net.py that are made to fail."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.command_server import PATIENCE, start

ROOT = Path(__file__).parents[2]
ITERS_PER_EPOCH = 4
SOURCES = [f"folder:{name}" for name in "abc"]

CONFIG = f"""
MODEL:
  DEVICE: cpu
  BACKBONE: {{NAME: build_mobilenet_v2_backbone, DEPTH: 2, PRETRAIN: False}}
  NORM: {{TYPE_BACKBONE: BIN_gate2}}
  HEADS: {{IN_FEAT: 1280}}
INPUT: {{SIZE_TRAIN: [32, 16], SIZE_TEST: [32, 16], PADDING: 2, CJ: {{ENABLED: True}}, REA: {{ENABLED: True}}}}
DATASETS: {{NAMES: {SOURCES}, TESTS: ["folder:target"]}}
DATALOADER: {{NUM_WORKERS: 0, NUM_INSTANCE: 2}}
META:
  DATA: {{NAMES: {SOURCES}, MTRAIN_MINI_BATCH: 12, MTRAIN_NUM_INSTANCE: 2}}
  SOLVER: {{INIT: {{FIRST_INNER_LOOP: 2}}, MTRAIN: {{NUM_DOMAIN: 2}}}}
SOLVER:
  {{BASE_LR: 0.001, IMS_PER_BATCH: 6, MAX_ITER: 1000, STEPS: [2], WARMUP_ITERS: 1, CHECKPOINT_PERIOD: 1,
   WRITE_PERIOD: 4}}
TEST: {{EVAL_PERIOD: 0}}
"""


def write_data(root):
    """Draw three sources of 5 people with 2 images each, and a target."""
    rng = np.random.default_rng(0)
    for name, parts in {"a": ["train"], "b": ["train"], "c": ["train"], "target": ["query", "gallery"]}.items():
        for part in parts:
            folder = root / name / part
            folder.mkdir(parents=True)
            for person in range(5):
                for k in range(2):
                    camera = {"query": 1, "gallery": 2}.get(part, k)
                    pixels = rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / f"{person}_c{camera}_{k}.png")


class Command:
    """One process of the training command, and what it prints."""

    def __init__(self, server, path, **request):
        self.path = path
        with open(path, "w") as output:
            self.pid, self.status = start(server, [output.fileno()] * 2, PATIENCE, **request)

    def finish(self, status=0):
        """Wait for the end and return what was printed."""
        try:
            found = int(self.status.readline())
        except TimeoutError:
            os.killpg(self.pid, signal.SIGKILL)
            found = "none: it was still running"
        output = self.path.read_text(encoding="utf-8")
        assert found == status, f"status {found}\n{output}"
        return output

    def workers(self):
        """Return the process ids of its loaders' workers."""
        return [int(word) for word in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


class Work:
    """A folder with data sets, a config, and runs in folders of their own.

    `reference` is a run of `epochs` epochs that nothing disturbed.
    """

    def __init__(self, folder, server, epochs, reference=None):
        self.folder, self.server, self.started = folder, server, []
        self.epochs, self.reference = epochs, reference
        self.data = folder / "datasets"
        write_data(self.data)
        self.config = folder / "tiny.yml"
        self.config.write_text(CONFIG)

    def start(self, run, *words, **limits):
        """Start the command with the output folder `run` and options; epochs 1000 unless they say otherwise.

        Args:
            limits: those of `tests.command_server.command`.
        """
        script, path = ROOT / "tests" / "short_mobilenet.py", self.folder / f"output{len(self.started)}.txt"
        options = ["--config-file", str(self.config), "OUTPUT_DIR", str(self.folder / run), *map(str, words)]
        environment = {"FASTREID_DATASETS": str(self.data), "WITHOUT_PICTURES": "1", "OMP_NUM_THREADS": "1"}
        request = {"words": [str(script), *options], "folder": str(self.folder), "environment": environment}
        command = Command(self.server, path, **request, **limits)
        self.started.append(command.pid)
        return command

    def complete(self, run, epochs, *words, status=0):
        """Train until the end of some epochs and return what was printed."""
        return self.start(run, "SOLVER.MAX_ITER", epochs, *words).finish(status)

    def train_until(self, run, checkpoint, *words):
        """Train until a checkpoint is there, which takes less time than to the end; return what was printed."""
        command = self.start(run, *words)
        deadline = time.monotonic() + PATIENCE
        while self.last(run) < checkpoint and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(command.pid, signal.SIGKILL)
        return command.finish(status=-signal.SIGKILL)

    def last(self, run):
        """Return the name in last_checkpoint, '' without one."""
        path = self.folder / run / "last_checkpoint"
        return path.read_text() if path.is_file() else ""

    def wait_for_checkpoint(self, run, other_than=""):
        """Wait until last_checkpoint names another file than before."""
        deadline = time.monotonic() + PATIENCE
        while self.last(run) == other_than and time.monotonic() < deadline:
            time.sleep(0.005)
        assert self.last(run) != other_than
        return self.last(run)

    def content(self, run, name="model_final.pth"):
        return torch.load(self.folder / run / name, weights_only=True)

    def assert_like_the_reference(self, run, name="model_final.pth"):
        """Compare all that a checkpoint holds, except the output folder and the like in its config."""
        ours, expected = (
            torch.load(folder / name, weights_only=True) for folder in (self.folder / run, self.reference)
        )
        assert not different({**ours, "config": None}, {**expected, "config": None})

    def copy_of_the_reference(self, run, last):
        """Make a run as the reference was after its checkpoint `last`."""
        listed = json.loads((self.reference / "checkpoints.json").read_text())
        kept = listed[: listed.index(last) + 1]
        (self.folder / run).mkdir()
        for name in kept:
            shutil.copy(self.reference / name, self.folder / run)
        (self.folder / run / "checkpoints.json").write_text(json.dumps(kept))
        (self.folder / run / "last_checkpoint").write_text(last)
        return self.folder / run

    def names(self, run):
        return sorted(path.name for path in (self.folder / run).iterdir())


@pytest.fixture(scope="session")
def kills(request):
    """How often the run of test_killed_runs.py is killed."""
    return 20 if request.config.getoption("--long") else 3


@pytest.fixture(scope="session")
def reference(tmp_path_factory, command_server, kills):
    """The folder of a run that nothing disturbed, and its epochs: enough for all kills to come before its end."""
    epochs = 2 * kills + 2
    work = Work(tmp_path_factory.mktemp("reference"), command_server, epochs)
    work.complete("run", epochs)
    return work.folder / "run", epochs


@pytest.fixture
def work(tmp_path, command_server, reference):
    folder, epochs = reference
    work = Work(tmp_path, command_server, epochs, folder)
    yield work
    for pid in work.started:  # what a failed test has left
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def different(left, right, name=""):
    """Return the names of the entries in which two trees of tensors and plain values differ, tensors to the bit."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = [key for key in left if key in right]
        missing = [f"{name}.{key}" for key in left.keys() ^ right.keys()]
        return missing + [found for key in keys for found in different(left[key], right[key], f"{name}.{key}")]
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)) and len(left) == len(right):
        return [found for i, pair in enumerate(zip(left, right)) for found in different(*pair, f"{name}.{i}")]
    if isinstance(left, torch.Tensor):
        return [] if isinstance(right, torch.Tensor) and torch.equal(left, right) else [name]
    return [] if left == right else [name]
