"""Fixtures that several folders of tests share."""

import importlib.util
from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def recipe():
    """How the reference vectors' weights and images were filled: tests/golden/recipe.py."""
    spec = importlib.util.spec_from_file_location("golden_recipe", GOLDEN / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def fixed_seed():
    """Random numbers that a test draws are the same each time."""
    torch.manual_seed(0)
