"""Building the compiled evaluator on a machine without a C compiler."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_server import PATIENCE

ROOT = Path(__file__).parents[2]


def test_without_a_c_compiler_the_build_succeeds_with_a_warning(tmp_path):
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools")
    folder = Path("fastreid/evaluation/rank_cylib")
    (tmp_path / folder).mkdir(parents=True)
    for name in ("setup.py", folder / "rank_cy.pyx"):
        shutil.copy(ROOT / name, tmp_path / name)
    missing = {"CC": "no-such-compiler", "CXX": "no-such-compiler", "LDSHARED": "no-such-compiler"}
    run = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=tmp_path, env=os.environ | missing, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    output = run.stdout + run.stderr
    assert run.returncode == 0, output
    assert 'building extension "fastreid.evaluation.rank_cylib.rank_cy" failed' in output
    assert not list(tmp_path.rglob("*.so"))
