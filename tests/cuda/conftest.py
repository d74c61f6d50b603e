"""Tests that need an NVIDIA GPU."""

from pathlib import Path

import pytest
import torch

from tests.engine.conftest import make_full_run, no_pictures, root, tiny

HERE = Path(__file__).parent
__all__ = ["make_full_run", "no_pictures", "root", "tiny"]


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("cuda")
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="PyTorch sees no CUDA device"))


@pytest.fixture
def benchmark():
    """tools/benchmark/train.py, for the plain way of computing a step."""
    return HERE.parents[1] / "tools" / "benchmark" / "train.py"
