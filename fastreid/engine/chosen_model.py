"""Which of the models that a command names it means: `--resume`, `--num-pth`, `MODEL.WEIGHTS`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from fastreid.config import CfgNode
from fastreid.utils import run_files
from fastreid.utils.checkpoint import last_checkpoint
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

UNTRAINED = "untrained"  # MODEL.WEIGHTS of a test of the model that training starts from


def note_unused_weights(cfg: CfgNode, path: Path) -> None:
    """Say so if the checkpoint that is read is not the one that `MODEL.WEIGHTS` names."""
    weights = cfg.MODEL.WEIGHTS
    if weights and Path(weights).resolve() != path.resolve():
        logger.warning(
            f"MODEL.WEIGHTS {weights} is not read: --resume takes {path}. Leave --resume out to take {weights}"
        )


def require_one_model(cfg: CfgNode, opts: Sequence[str], resume: bool, number: int | None) -> None:
    """Check that a command line, whose options are `opts`, does not name two models to be tested.

    In training both are right: a run starts from `MODEL.WEIGHTS`, and `--resume` goes on with it. So it is in a config
    file, whose `MODEL.WEIGHTS` is what training starts from.

    Raises:
        UserError: `MODEL.WEIGHTS` is among the options, and `--resume` or `--num-pth` means another file.
    """
    weights, folder = cfg.MODEL.WEIGHTS, Path(cfg.OUTPUT_DIR)
    if not weights or "MODEL.WEIGHTS" not in opts[::2] or (number is None and not resume):
        return
    path = last_checkpoint(folder) if number is None else folder / run_files.numbered_checkpoint(number)
    if path is not None and path.resolve() != Path(weights).resolve():
        raise UserError(
            f"two models to test: {'--resume' if number is None else '--num-pth'} means {path}, MODEL.WEIGHTS names "
            f"{weights}: leave one out ('python3 tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS "
            f"{weights}' tests the latter)"
        )
