"""Training in two and three processes against training in one, on the same batches."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("train_in_processes.py")
TIMEOUT = 120  # seconds


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_in_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=[2, 3])
def states(request, tmp_path_factory):
    """What each process ended with."""
    world, folder = request.param, tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    processes = [
        subprocess.Popen([sys.executable, SCRIPT, str(rank), str(world), folder], env=environment, stderr=subprocess.PIPE)
        for rank in range(world)
    ]
    errors = [process.communicate(timeout=TIMEOUT)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * world, "\n".join(errors)
    return [torch.load(folder / f"process_{rank}.pth") for rank in range(world)]


@pytest.fixture(scope="module")
def single(script):
    """What one process ends with, by run."""
    return {name: script.train(name) for name in script.RUNS}


def test_parameters_and_running_statistics_are_bit_identical_in_all_processes(states):
    first, *others = states
    for other in others:
        for name, (state, losses) in first.items():
            assert not [key for key, value in state.items() if not torch.equal(value, other[name][0][key])], name
            assert losses == other[name][1], name


def test_with_statistics_in_common_the_processes_train_as_one(states, single):
    for name, (state, losses) in states[0].items():
        if name.startswith("own_statistics"):
            continue
        expected, expected_losses = single[name]
        for key, value in state.items():
            torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-10, msg=lambda text: f"{name}: {key}: {text}")
        assert losses == pytest.approx(expected_losses, rel=1e-10), name


def test_without_them_they_do_not(states, single):
    for name in ("own_statistics", "own_statistics_and_missing_domains"):
        state, expected = states[0][name][0], single[name][0]
        different = {key for key, value in state.items() if not torch.allclose(value, expected[key], rtol=0, atol=1e-10)}
        assert {"backbone.1.gate", "backbone.1.bat_n.running_mean", "heads.classifier_fc.weight"} <= different


def test_gates_and_weights_have_moved(single, script):
    start = script.tiny_run().make_trainer().model.state_dict()
    end = single["missing_domains"][0]
    assert {"backbone.1.gate", "backbone.0.weight"} <= {key for key in start if (start[key] - end[key]).abs().max() > 1e-4}
