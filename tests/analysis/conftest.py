"""Small models and runs, those of the tests of training and evaluation."""

from tests.engine.conftest import make_full_run, no_pictures, root, tiny
from tests.evaluation.conftest import small_cfg

__all__ = ["make_full_run", "no_pictures", "root", "small_cfg", "tiny"]
