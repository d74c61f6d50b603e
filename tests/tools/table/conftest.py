"""A project that holds a table of runs, and whose training command trains nothing."""

from pathlib import Path

import pytest

from tests.tools.table import made_tables

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def tables():
    """The functions of made_tables.py, which make tables and their runs."""
    return made_tables


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose training command trains nothing; outputs are below it, too."""
    # The processes of runs import the package from here, and the project has none.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    folder = made_tables.write_project(tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder
