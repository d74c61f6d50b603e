"""Tests that need an NVIDIA GPU."""

import importlib.util
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("cuda")
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="PyTorch sees no CUDA device"))


def load(path):
    """Return a file of other tests as a module."""
    spec = importlib.util.spec_from_file_location(path.stem + "_for_cuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


of_engine = load(HERE.parent / "engine" / "conftest.py")
tiny, root, make_full_run = of_engine.tiny, of_engine.root, of_engine.make_full_run


@pytest.fixture
def benchmark():
    """tools/benchmark/train.py, for the plain way of computing a step."""
    return HERE.parents[1] / "tools" / "benchmark" / "train.py"
