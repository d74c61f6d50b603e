"""What happens around the iterations of a training run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import torch

from fastreid.engine.stopping import StopSignals
from fastreid.engine.trainer_base import HookBase
from fastreid.engine.writers import Writer
from fastreid.utils import run_files
from fastreid.utils.checkpoint import Checkpointer
from fastreid.utils.processes import num_processes

logger = logging.getLogger(__name__)


def is_due(iteration: int, period: int) -> bool:
    """Tell whether something with a period in iterations is due after iteration `iteration` (from 0); 0: never."""
    return period > 0 and (iteration + 1) % period == 0


class IterationTimer(HookBase):
    """Record `time`, the seconds of each iteration, hooks aside."""

    def before_step(self) -> None:
        self.start = time.perf_counter()

    def after_step(self) -> None:
        self.trainer.storage.put_scalar("time", time.perf_counter() - self.start)
        self.trainer.storage.flush_sums()


class CompilationReport(HookBase):
    """Log what `SOLVER.COMPILE` costs: the seconds of the first iteration beside those of the second."""

    def before_step(self) -> None:
        self.start = time.perf_counter()

    def after_step(self) -> None:
        done = self.trainer.iter - self.trainer.start_iter
        if done == 0:
            self.first = time.perf_counter() - self.start
        elif done == 1:
            second = time.perf_counter() - self.start
            logger.info(f"the first iteration, compiling included, took {self.first:.1f} s, the second {second:.1f} s")


class SchedulerStep(HookBase):
    """Record the learning rates that the iteration used, then step the schedules.

    Args:
        schedulers: by the name under which the first group's rate is recorded, "lr" or "lr_gate".
    """

    def __init__(self, schedulers: dict[str, torch.optim.lr_scheduler.LRScheduler]):
        self.schedulers = schedulers

    def after_step(self) -> None:
        for name, scheduler in self.schedulers.items():
            self.trainer.storage.put_scalar(name, scheduler.optimizer.param_groups[0]["lr"])
            scheduler.step()
        if self.trainer.has_meta_step:
            self.trainer.storage.put_scalar("inner_ratio", self.trainer.inner_ratio.value)


class ScalerSkips(HookBase):
    """Record `skipped_steps`: how many updates half precision has left out, as their gradients were not finite.

    Every `period` iterations, when the writers write: to read the number, the host waits for the device.
    """

    def __init__(self, period: int):
        self.period = period

    def after_step(self) -> None:
        last = self.trainer.iter + 1 == self.trainer.max_iter
        if self.trainer.scaler.is_enabled() and (last or is_due(self.trainer.iter, self.period)):
            self.trainer.storage.put_scalar("skipped_steps", self.trainer.scaler.skipped)


class PeriodicEvaluation(HookBase):
    """Evaluate every `period` iterations and at the end; at first, what a run that was killed had left to evaluate.

    Args:
        evaluate: called with the number of finished iterations; returns the numbers to record.
        is_recorded: tells whether the evaluation after that number of iterations is done.
    """

    def __init__(self, period: int, evaluate: Callable[[int], dict[str, float]], is_recorded: Callable[[int], bool]):
        self.period, self.evaluate, self.is_recorded = period, evaluate, is_recorded

    def before_train(self) -> None:
        finished = self.trainer.start_iter
        if finished and is_due(finished - 1, self.period) and not self.is_recorded(finished):
            logger.info(f"iteration {finished}: its evaluation is missing and comes first")
            # As after that iteration: a signal must not take the next one for done.
            self.trainer.iter = self.trainer.storage.iter = finished - 1
            self.run(finished)
            self.trainer.writer.write()

    def after_step(self) -> None:
        if is_due(self.trainer.iter, self.period) and self.trainer.iter + 1 < self.trainer.max_iter:
            self.run(self.trainer.iter + 1)

    def after_train(self) -> None:
        self.run(self.trainer.max_iter)

    def run(self, finished: int) -> None:
        self.trainer.storage.put_scalars(self.evaluate(finished))


class PeriodicCheckpoint(HookBase):
    """Save `model_<iteration>.pth` every `period` iterations and `model_final.pth` at the end, if all is finite."""

    def __init__(self, checkpointer: Checkpointer, period: int):
        self.checkpointer, self.period = checkpointer, period

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if is_due(iteration, self.period) and iteration + 1 < self.trainer.max_iter:
            self.trainer.require_finite()
            self.checkpointer.save(run_files.numbered_checkpoint(iteration), iteration)

    def after_train(self) -> None:
        self.trainer.require_finite()
        self.checkpointer.save(run_files.FINAL, self.trainer.max_iter - 1)


class StopOnSignal(HookBase):
    """Stop the run at the end of the iteration in which a signal asked for it."""

    def __init__(self, signals: StopSignals):
        self.signals = signals

    def after_step(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter:
            self.signals.check(self.trainer.iter)


class PeriodicWriter(HookBase):
    """Let writers show or store what was recorded, every `period` iterations and at the end.

    On a slow machine a period can last long: then a line comes every `max_silence` seconds, too.

    Args:
        build_writers: called when training begins, as writers open their files.
    """

    def __init__(self, build_writers: Callable[[], list[Writer]], period: int, max_silence: float = 60.0):
        self.build_writers, self.period, self.max_silence = build_writers, period, max_silence
        self.writers: list[Writer] | None = None

    def before_train(self) -> None:
        self.last = time.monotonic()
        self.open()

    def open(self) -> None:
        """Build the writers if they are not there yet."""
        if self.writers is None:
            self.writers = self.build_writers()

    def after_step(self) -> None:
        # Not with several processes, whose clocks differ: all of them look at their losses after the same iteration.
        silent = num_processes() == 1 and time.monotonic() - self.last > self.max_silence
        if is_due(self.trainer.iter, self.period) or silent or self.trainer.iter + 1 == self.trainer.max_iter:
            self.write()

    def after_train(self) -> None:
        # What the last evaluation recorded, which came after the last iteration's line.
        self.close()

    def close(self) -> None:
        """Write what is left, for the last time."""
        self.write()
        for writer in self.writers:
            writer.close()

    def write(self) -> None:
        self.open()  # an evaluation that was due may come before `before_train`
        self.trainer.read_losses()
        for writer in self.writers:
            writer.write(self.trainer)
        self.trainer.storage.clear_new()
        self.last = time.monotonic()


class CallAfterTraining(HookBase):
    """Call a function when training has ended well."""

    def __init__(self, function: Callable[[], None]):
        self.function = function

    def after_train(self) -> None:
        self.function()
