"""Learning rate schedules, stepped every iteration, and the cycle of the inner step size.

All are closed forms of the iteration, so that resuming needs no more than its number.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from fastreid.solver.sgd import MergedSGD
from fastreid.utils.errors import UserError


class Schedule(LRScheduler):
    """Base class: a schedule whose state has one rate per parameter, as published checkpoints do.

    A checkpoint's state decides nothing but the iteration: rates are those of the present options.
    """

    PER_GROUP = ("base_lrs", "_last_lr")

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state | {name: self.optimizer.per_parameter(state[name]) for name in self.PER_GROUP}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.go_to(int(state_dict["last_epoch"]))

    def go_to(self, iteration: int) -> None:
        """Give the optimizer the rates of an iteration."""
        self.last_epoch, self._step_count = iteration, iteration + 1
        self._last_lr = self.get_lr()
        for group, rate in zip(self.optimizer.param_groups, self._last_lr):
            group["lr"] = rate


class WarmupLR(Schedule):
    """Base class: learning rate = warm-up factor x `decayed(initial rate)`.

    Args:
        warmup_iters: iterations until the warm-up factor is 1; 0: no warm-up.
        warmup_factor: the factor at iteration 0.
        warmup_method: "linear" rises from it, "constant" holds it.
    """

    def __init__(self, optimizer: MergedSGD, warmup_iters: int, warmup_factor: float, warmup_method: str):
        if warmup_method not in ("linear", "constant"):
            raise UserError(f"SOLVER.WARMUP_METHOD must be linear or constant; found {warmup_method!r}")
        self.warmup_iters, self.warmup_factor, self.warmup_method = warmup_iters, warmup_factor, warmup_method
        super().__init__(optimizer)

    def warmup(self) -> float:
        """Return the warm-up factor of the present iteration."""
        if self.last_epoch >= self.warmup_iters:
            return 1.0
        if self.warmup_method == "constant":
            return self.warmup_factor
        risen = self.last_epoch / self.warmup_iters
        return self.warmup_factor * (1 - risen) + risen

    def get_lr(self) -> list[float]:
        return [self.warmup() * self.decayed(lr) for lr in self.base_lrs]

    def decayed(self, lr: float) -> float:
        raise NotImplementedError


class WarmupMultiStepLR(WarmupLR):
    """Multiply the rate by `gamma` at each of the iterations `milestones`."""

    def __init__(self, optimizer: MergedSGD, milestones: list[int], gamma: float, **warmup):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, **warmup)

    def decayed(self, lr: float) -> float:
        return lr * self.gamma ** bisect_right(self.milestones, self.last_epoch)


class WarmupCosineAnnealingLR(WarmupLR):
    """Hold the rate for `delay_iters` iterations, then lower it to `eta_min_lr` along half a cosine to `max_iters`.

    There it stays, in iterations that come after those.
    """

    def __init__(self, optimizer: MergedSGD, max_iters: int, delay_iters: int, eta_min_lr: float, **warmup):
        if delay_iters >= max_iters:
            raise UserError(
                f"SOLVER.DELAY_ITERS must be below SOLVER.MAX_ITER; found {delay_iters} and {max_iters} iterations"
            )
        self.max_iters, self.delay_iters, self.eta_min_lr = max_iters, delay_iters, eta_min_lr
        super().__init__(optimizer, **warmup)

    def decayed(self, lr: float) -> float:
        progress = max(self.last_epoch - self.delay_iters, 0) / (self.max_iters - self.delay_iters)
        return half_cosine(lr, self.eta_min_lr, min(progress, 1.0))


def half_cosine(first: float, last: float, progress: float) -> float:
    """Return the value, at `progress` from 0 to 1, of a fall from `first` to `last` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


class ConstantLR(WarmupLR):
    """The initial rate throughout, unless a warm-up is asked for."""

    def decayed(self, lr: float) -> float:
        return lr


class TriangularLR(Schedule):
    """A triangular cycle (Smith, arXiv 1506.01186) between two rates, rising for half of its `period` (iterations)."""

    def __init__(self, optimizer: MergedSGD, period: int, low: float, high: float):
        self.period, self.low, self.high = period, low, high
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        rate = self.low + (self.high - self.low) * triangle(self.last_epoch, self.period, 0.5)
        return [rate] * len(self.base_lrs)


def triangle(step: int, period: int, up_ratio: float) -> float:
    """Return the height in 0..1 of a triangular wave at `step`, from 0, rising for int(up_ratio x period) steps."""
    position, top = step % period, int(up_ratio * period)
    return position / top if position < top else (period - position) / (period - top)


def cycle_period(iters_per_epoch: int, per_epoch: float, option: str) -> int:
    """Return the steps, at least 2, in one period of a cycle that comes `per_epoch` (`option`) times an epoch."""
    if per_epoch <= 0 or iters_per_epoch <= 0:
        raise UserError(
            f"a cycle needs SOLVER.ITERS_PER_EPOCH and {option} above 0; found {iters_per_epoch} and {per_epoch}"
        )
    return max(2, int(iters_per_epoch / per_epoch))


class InnerRatio:
    """The inner update's step size over the gates' learning rate, advanced once before each meta step.

    `META.SOLVER.LR_FACTOR.META` if that is not 0, else a triangular cycle between MIDDLE_LR / RATIO and
    MIDDLE_LR x RATIO.
    """

    def __init__(self, cfg):
        node = cfg.META.SOLVER.LR_FACTOR
        self.steps = 0
        self.fixed = node.META
        if not self.fixed:
            self.low = node.META_CYCLIC_MIDDLE_LR / node.META_CYCLIC_RATIO
            self.high = node.META_CYCLIC_MIDDLE_LR * node.META_CYCLIC_RATIO
            self.up_ratio, option = node.META_CYCLIC_UP_RATIO, "META_CYCLIC_PERIOD_PER_EPOCH"
            self.period = cycle_period(cfg.SOLVER.ITERS_PER_EPOCH, node[option], f"META.SOLVER.LR_FACTOR.{option}")

    @property
    def value(self) -> float:
        if self.fixed:
            return self.fixed
        return self.low + (self.high - self.low) * triangle(self.steps, self.period, self.up_ratio)

    def advance(self) -> float:
        """Go one meta step on and return the new value."""
        self.steps += 1
        return self.value

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]


def build_lr_scheduler(cfg, optimizer: MergedSGD, which: str) -> LRScheduler:
    """Return the schedule of the optimizer called `which`, "main" or "norm".

    `SOLVER.SCHED` is the main one. `SOLVER.NORM_SCHEDULER` is the gates': "equal" is constant, "same" the main
    schedule, "no_warm" the same without warm-up, "cyclic" a triangle between `SOLVER.CYCLIC_MIN_LR` and
    `CYCLIC_MAX_LR`. Iterations, not epochs, are expected in `cfg`.
    """
    solver = cfg.SOLVER
    warmup = {
        "warmup_iters": int(solver.WARMUP_ITERS),
        "warmup_factor": solver.WARMUP_FACTOR,
        "warmup_method": solver.WARMUP_METHOD,
    }
    if which == "norm":
        kind = solver.NORM_SCHEDULER
        if kind == "equal":
            return ConstantLR(optimizer, **{**warmup, "warmup_iters": 0})
        if kind == "cyclic":
            option = "CYCLIC_PERIOD_PER_EPOCH"
            period = cycle_period(solver.ITERS_PER_EPOCH, solver[option], f"SOLVER.{option}")
            return TriangularLR(optimizer, period, solver.CYCLIC_MIN_LR, solver.CYCLIC_MAX_LR)
        if kind == "no_warm":
            warmup["warmup_iters"] = 0
        elif kind != "same":
            raise UserError(f"SOLVER.NORM_SCHEDULER must be equal, same, no_warm or cyclic; found {kind!r}")
    if solver.SCHED == "WarmupMultiStepLR":
        return WarmupMultiStepLR(optimizer, [int(s) for s in solver.STEPS], solver.GAMMA, **warmup)
    if solver.SCHED == "WarmupCosineAnnealingLR":
        return WarmupCosineAnnealingLR(
            optimizer, int(solver.MAX_ITER), int(solver.DELAY_ITERS), solver.ETA_MIN_LR, **warmup
        )
    raise UserError(f"SOLVER.SCHED must be WarmupMultiStepLR or WarmupCosineAnnealingLR; found {solver.SCHED!r}")
