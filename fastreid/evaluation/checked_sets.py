"""What a test will need, looked at before anything is computed: its data sets and its options."""

from __future__ import annotations

from fastreid.data.build import load_test_set
from fastreid.data.datasets import TestSet
from fastreid.evaluation.distance import DISTANCE_METRICS
from fastreid.evaluation.open_set import check_open_set, open_split
from fastreid.evaluation.query_expansion import check_expansion
from fastreid.evaluation.rank import Labels, check_shapes, find_same_identity, no_match_error
from fastreid.evaluation.rerank import check_reranking
from fastreid.evaluation.streaming import rows_per_block
from fastreid.utils.errors import UserError


def load_test_sets(cfg) -> dict[str, TestSet]:
    """Return the lists of images and the splits of each of `DATASETS.TESTS`, by name.

    Raises:
        UserError: none is named, one is missing, has a split in which no query has a match, or an option of TEST is out
            of its range.
    """
    check_test_options(cfg)
    if not cfg.DATASETS.TESTS:
        raise UserError("DATASETS.TESTS names no data set to test on")
    test_sets = {name: load_test_set(name) for name in cfg.DATASETS.TESTS}
    for name, test_set in test_sets.items():
        require_matches(name, test_set)
        if cfg.TEST.OPEN_SET.ENABLED:
            require_open_sets(cfg, name, test_set)
    return test_sets


def require_matches(name: str, test_set: TestSet) -> None:
    """Raise UserError if a split of a test set has no query, no gallery, or no query with a true match."""
    for split in test_set.splits:
        labels = Labels.of(test_set.items, split)
        try:
            check_shapes((len(split.query), len(split.gallery)), labels)
            if not find_same_identity(labels).kept.any():
                raise no_match_error(len(split.query))
        except UserError as error:
            raise UserError(f"{name}, {split.name}: {error}") from error


def require_open_sets(cfg, name: str, test_set: TestSet) -> None:
    """Raise UserError if TEST.OPEN_SET leaves a split without queries with a match, or without queries without one."""
    for split in test_set.splits:
        try:
            open_split(test_set.items, split, cfg.TEST.OPEN_SET.UNKNOWN, cfg.SEED)
        except UserError as error:
            raise UserError(f"{name}, {split.name}: {error}") from error


def check_test_options(cfg) -> None:
    """Raise UserError for an option of TEST that is out of its range."""
    test = cfg.TEST
    if test.METRIC not in DISTANCE_METRICS:
        raise UserError(f"TEST.METRIC must be one of {', '.join(DISTANCE_METRICS)}; found {test.METRIC!r}")
    if test.IMS_PER_BATCH < 1:
        raise UserError(f"TEST.IMS_PER_BATCH must be at least 1 image; found {test.IMS_PER_BATCH}")
    rows_per_block(test.BLOCK_SIZE, 1)
    if test.OPEN_SET.ENABLED:
        check_open_set(test.OPEN_SET.UNKNOWN, test.OPEN_SET.FALSE_ALARM_RATES)
    if test.AQE.ENABLED:
        check_expansion(test.AQE.QE_TIME, test.AQE.QE_K, test.AQE.ALPHA)
    if test.RERANK.ENABLED:
        check_reranking(test.RERANK.K1, test.RERANK.K2, test.RERANK.LAMBDA)
