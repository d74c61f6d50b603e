"""Training over NCCL, with as many GPUs as there are up to two, against one process without it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("train_with_nccl.py")


@pytest.mark.parametrize("world", [1, 2])
def test_processes_train_what_one_does(world, tmp_path):
    if world > torch.cuda.device_count():
        pytest.skip(f"needs {world} GPUs, found {torch.cuda.device_count()}")
    spec = importlib.util.spec_from_file_location("train_with_nccl", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    state, losses = module.script().train(module.RUN, device="cuda")
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[2])}
    commands = [[sys.executable, SCRIPT, str(rank), str(world), tmp_path] for rank in range(world)]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for command in commands]
    errors = [process.communicate(timeout=300)[1].decode() for process in processes]
    assert not any(process.returncode for process in processes), "\n".join(errors)
    for rank in range(world):
        found, means = torch.load(tmp_path / f"process_{rank}.pth", map_location="cuda")
        torch.testing.assert_close(found, state, rtol=1e-7, atol=1e-9)
        assert means == pytest.approx(losses, rel=1e-7)
