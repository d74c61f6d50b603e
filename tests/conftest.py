"""Fixtures that several folders of tests share."""

import importlib.util
import logging
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


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="also run what takes minutes: 20 kills instead of 3")


@pytest.fixture(autouse=True)
def fixed_seed():
    """Random numbers that a test draws are the same each time."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_log():
    """Give the package's logger back as it was: commands that a test runs in this process set it up for themselves."""
    logger = logging.getLogger("fastreid")
    handlers, propagate, level = list(logger.handlers), logger.propagate, logger.level
    yield
    for handler in set(logger.handlers) - set(handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = propagate
    logger.setLevel(level)
