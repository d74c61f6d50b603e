"""What a resumed run makes of options that have changed since its checkpoint."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fastreid.config.config import read_dump

logger = logging.getLogger(__name__)

# Options that say how a run begins, and so change nothing in one that has begun.
OF_THE_BEGINNING = (
    "MODEL.WEIGHTS",
    "MODEL.BACKBONE.PRETRAIN",
    "MODEL.BACKBONE.PRETRAIN_PATH",
    "MODEL.NORM.BIN_INIT",
    "MODEL.NORM.LOAD_BN_AFFINE",
    "MODEL.NORM.LOAD_BN_RUNNING",
    "MODEL.NORM.LOAD_IN_AFFINE",
    "META.SOLVER.INIT.FIRST_INNER_LOOP",
)
# Options that decide how many iterations an epoch has.
OF_THE_EPOCH = (
    "SOLVER.IMS_PER_BATCH",
    "META.SOLVER.INIT.INNER_LOOP",
    "DATASETS.NAMES",
    "DATALOADER.NUM_INSTANCE",
    "DATALOADER.NAIVE_WAY",
    "DATALOADER.DELETE_REM",
)


def changed_options(before: str, now: str) -> dict[str, str]:
    """Return `KEY old -> new` by key for each option that differs between two configs, given as dumps."""
    old, new = read_dump(before), read_dump(now)
    keys = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    return {key: f"{key} {old.get(key)} -> {new.get(key)}" for key in keys}


def convert_iteration(path: Path, content: dict[str, Any], changed: dict[str, str], iters_per_epoch: int) -> None:
    """Let a checkpoint's content be of the same epoch where an epoch has another number of iterations than in its run.

    What follows from the iteration is taken out of the content.

    Args:
        path: of the checkpoint.
        changed: `changed_options` since then.
        iters_per_epoch: of the present run.
    """
    positions = content.get("data_positions", {})
    before = positions.get("iters_per_epoch")
    if before is None:
        suspects = [text for key, text in changed.items() if key in OF_THE_EPOCH]
        if suspects:
            logger.warning(
                f"{path} does not say how many iterations an epoch had, and {', '.join(suspects)} may have changed it: "
                f"its iteration {content['iteration'] + 1} counts as epoch "
                f"{(content['iteration'] + 1) / iters_per_epoch:.1f}"
            )
        return
    if before == iters_per_epoch:
        return
    done = content["iteration"] + 1
    here = round(done * iters_per_epoch / before)
    logger.warning(
        f"an epoch has {iters_per_epoch} iterations, in the run of {path} it had {before}: its iteration {done}, epoch "
        f"{done / before:.1f}, is iteration {here} here"
    )
    content["iteration"] = here - 1
    for entry in ("data_positions", "inner_ratio"):
        content.pop(entry, None)


def forget_random_numbers(content: dict[str, Any]) -> None:
    """Take out of a checkpoint's content what comes from its run's SEED."""
    content.pop("random_states", None)
    content.get("data_positions", {}).pop("domain_splits", None)


def report_changes(path: Path, changed: dict[str, str]) -> None:
    """Log the options that have changed since a checkpoint, and which of them are not applied."""
    ignored = [text for key, text in changed.items() if key in OF_THE_BEGINNING]
    applied = [text for key, text in changed.items() if key not in OF_THE_BEGINNING]
    if applied:
        logger.info(f"options changed since {path}, applied from here on: {', '.join(applied)}")
    if ignored:
        logger.warning(
            f"options changed since {path}, not applied, as they only say how a run begins: {', '.join(ignored)}. "
            "Train from the beginning, without --resume, to apply them"
        )
