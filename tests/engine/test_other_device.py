"""Training steps on another device than the CPU, of which no hardware is needed."""

import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_steps_mix_no_devices_and_wait_for_none(python):
    # In a process of its own: a device is registered for as long as the process lives.
    command = [python, "-m", "tests.engine.other_device"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, planted = [line for line in done.stdout.splitlines() if line]
    assert first == second == "6 losses"
    assert "found at least two devices" in planted and "other:0" in planted
