"""What a run will need later, looked at before its first iteration: options, test sets, room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from fastreid.analysis import model_figures
from fastreid.data.build import build_test_loader
from fastreid.data.datasets import TestSet
from fastreid.engine.train_loop import SimpleTrainer
from fastreid.evaluation.checked_sets import load_test_sets
from fastreid.evaluation.extraction import own_share
from fastreid.utils import run_files
from fastreid.utils.errors import UserError


def check_options(cfg) -> None:
    """Check the options of a run that are not read before its first iteration, or have no meaning of their own.

    Args:
        cfg: with epochs, not iterations.

    Raises:
        UserError: one is out of range.
    """
    solver = cfg.SOLVER
    if solver.MAX_ITER < 1 or solver.WRITE_PERIOD < 1:
        raise UserError("SOLVER.MAX_ITER (epochs) and SOLVER.WRITE_PERIOD (iterations) must be at least 1")
    periods = {
        "SOLVER.CHECKPOINT_PERIOD": (solver.CHECKPOINT_PERIOD, "at the end only", "epochs"),
        "TEST.EVAL_PERIOD": (cfg.TEST.EVAL_PERIOD, "at the end only", "epochs"),
        "SOLVER.FREEZE_ITERS": (solver.FREEZE_ITERS, "never", "epochs"),
        "SOLVER.CHECKPOINT_KEEP": (solver.CHECKPOINT_KEEP, "all", "checkpoints"),
        "SOLVER.MAX_ROLLBACKS": (solver.MAX_ROLLBACKS, "none", "rollbacks"),
    }
    for key, (found, none, unit) in periods.items():
        if found < 0:
            raise UserError(f"{key} must be 0 ({none}) or a number of {unit}; found {found}")
    averaging = solver.SWA
    if averaging.ENABLED and not 1 <= averaging.PERIOD <= averaging.ITER:
        raise UserError(
            f"SOLVER.SWA.PERIOD must be from 1 to SOLVER.SWA.ITER (epochs), so that there is a model to average; found "
            f"{averaging.PERIOD} and {averaging.ITER}"
        )
    if averaging.ENABLED and averaging.LR_FACTOR <= 0:
        raise UserError(f"SOLVER.SWA.LR_FACTOR must be above 0; found {averaging.LR_FACTOR}")
    if cfg.TEST.PRECISE_BN.NUM_ITER < 1:
        raise UserError(f"TEST.PRECISE_BN.NUM_ITER must be at least 1 batch; found {cfg.TEST.PRECISE_BN.NUM_ITER}")
    if solver.ON_NAN not in ("stop", "rollback"):
        raise UserError(f"SOLVER.ON_NAN must be stop or rollback; found {solver.ON_NAN!r}")
    model_figures.check_options(cfg)


def find_test_sets(cfg) -> dict[str, TestSet]:
    """Return the test sets of a run after a look at the first image of each, as the run's tests will read it.

    Raises:
        UserError: as `load_test_sets`, or an image cannot be read, or the image cache has no room.
    """
    test_sets = load_test_sets(cfg)
    for test_set in test_sets.values():
        share = own_share(test_set.items)
        if len(share):
            build_test_loader(cfg, share).dataset[0]
    return test_sets


def require_room(trainer: SimpleTrainer, folder: Path, history: Sequence[str], end: int) -> None:
    """Raise UserError if the disk has no room for the checkpoints that a run will write from where it is on.

    Args:
        history: names of the checkpoints that the run has written.
        end: the run's last iteration + 1.
    """
    solver, size = trainer.cfg.SOLVER, checkpoint_bytes(trainer)
    period = solver.CHECKPOINT_PERIOD
    due = [after for after in range(period, end, period) if after > trainer.start_iter] if period else []
    numbered = [run_files.numbered_checkpoint(after - 1) for after in due]
    if solver.CHECKPOINT_KEEP:  # the old ones make room for the new ones
        old = sum(run_files.NUMBERED.fullmatch(name) is not None for name in history)
        numbered = numbered[: max(0, solver.CHECKPOINT_KEEP - old)]
    new = [name for name in [run_files.BEST, run_files.FINAL, *numbered] if not (folder / name).is_file()]
    needed = (len(new) + 1) * size  # a file that is replaced stays until the new one is whole
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"the run's {len(new)} new checkpoints of {size / 1e6:,.1f} MB need {needed / 1e6:,.1f} MB, and {folder} "
            f"has {free / 1e6:,.1f} MB free: make space, choose another OUTPUT_DIR, or let it write fewer by "
            "SOLVER.CHECKPOINT_KEEP or a longer SOLVER.CHECKPOINT_PERIOD"
        )


def checkpoint_bytes(trainer: SimpleTrainer) -> int:
    """Return what a checkpoint takes at least: weights, momentum, and the mean of the weights if there is one."""
    tensors = list(trainer.model.state_dict().values())
    if trainer.cfg.SOLVER.MOMENTUM:
        tensors += trainer.trained.main.values()
    if trainer.cfg.SOLVER.SWA.ENABLED:
        tensors += trainer.model.parameters()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
