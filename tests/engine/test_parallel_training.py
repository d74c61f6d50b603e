"""Training in two and three processes against training in one, on the same batches."""

import importlib.util
import os
import subprocess
from pathlib import Path

import pytest
import torch

from tests.command_server import PATIENCE

SCRIPT = Path(__file__).with_name("train_in_processes.py")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_in_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(python, script, tmp_path_factory):
    """Where the processes leave what they ended with."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    processes = [
        subprocess.Popen([python, SCRIPT, str(rank), folder], env=environment, stderr=subprocess.PIPE)
        for rank in range(max(script.WORLDS))
    ]
    try:
        errors = [process.communicate(timeout=PATIENCE)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(process.returncode for process in processes), "\n".join(errors)
    return folder


@pytest.fixture(params=[2, 3])
def states(request, folder):
    """What each of two, or of three, processes ended with."""
    return [torch.load(folder / f"process_{rank}_of_{request.param}.pth") for rank in range(request.param)]


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
            torch.testing.assert_close(
                value, expected[key], rtol=0, atol=1e-10, msg=lambda text: f"{name}: {key}: {text}"
            )
        assert losses == pytest.approx(expected_losses, rel=1e-10), name


def test_without_them_they_do_not(states, single):
    for name in ("own_statistics", "own_statistics_and_missing_domains"):
        state, expected = states[0][name][0], single[name][0]
        different = {
            key for key, value in state.items() if not torch.allclose(value, expected[key], rtol=0, atol=1e-10)
        }
        assert {"backbone.1.gate", "backbone.1.bat_n.running_mean", "heads.classifier_fc.weight"} <= different


@pytest.mark.parametrize("world", [2, 3])
def test_running_statistics_are_means_over_the_processes_from_the_first_step_on(world, folder, script):
    alone = [script.statistics_after_one_step(rank, world) for rank in range(world)]
    for rank in range(world):
        for name, value in torch.load(folder / f"statistics_{rank}_of_{world}.pth").items():
            torch.testing.assert_close(value, sum(each[name] for each in alone) / world, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("world", [2, 3])
def test_precise_statistics_are_those_of_one_process_in_each(world, folder, script):
    expected = script.precise_statistics()
    first, *others = [torch.load(folder / f"precise_{rank}_of_{world}.pth") for rank in range(world)]
    for name, value in first.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-10)
        assert all(torch.equal(value, other[name]) for other in others), name


def test_a_step_is_left_out_where_a_gradient_overflows_in_one_process(states):
    for _, losses in (state["overflow_in_one_process"] for state in states):
        assert losses["scale"] == 1024 / 4  # halved once for the base step and once for the meta step


def test_gates_and_weights_have_moved(single, script):
    start = script.tiny_run().make_trainer().model.state_dict()
    end = single["missing_domains"][0]
    assert {"backbone.1.gate", "backbone.0.weight"} <= {
        key for key in start if (start[key] - end[key]).abs().max() > 1e-4
    }
