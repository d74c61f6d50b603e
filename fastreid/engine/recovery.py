"""Going on after a loss or a weight that is not finite, and the best result so far."""

from __future__ import annotations

import logging
import math
from typing import Any

from torch import nn

from fastreid.engine.train_loop import NonFiniteLossError, first_non_finite
from fastreid.engine.trainer_base import HookBase
from fastreid.evaluation.results import TABLE_METRICS
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)


def require_finite_weights(model: nn.Module, iteration: int) -> None:
    """Check every weight and statistic of a model after an iteration, so that no checkpoint holds what is lost.

    Raises:
        NonFiniteLossError: one is not finite: the iteration's gradient was not.
    """
    bad = first_non_finite({name: value for name, value in model.state_dict().items() if value.is_floating_point()})
    if bad is not None:
        raise NonFiniteLossError(
            f"iteration {iteration}: not finite: {bad} after the update, so a gradient was not. No checkpoint holds "
            "it. Lower SOLVER.BASE_LR or META.SOLVER.LR_FACTOR.GATE",
            iteration,
        )


class Rollback(HookBase):
    """Leave out the batches of iterations whose losses or weights were not finite.

    Until a run is past them, it is checked after every iteration: the loss may have shown one iteration later what a
    gradient had spoilt.

    Args:
        limit: of the number of rollbacks, SOLVER.MAX_ROLLBACKS.
    """

    def __init__(self, limit: int):
        self.limit, self.done = limit, 0
        self.skips: dict[int, int] = {}  # how often the batches of an iteration are left out

    def note(self, iteration: int) -> None:
        """Let the run, which will be back at a checkpoint, go on without the batches of `iteration`."""
        self.done += 1
        self.skips = {other: times for other, times in self.skips.items() if other <= iteration}
        self.skips[iteration] = self.skips.get(iteration, 0) + 1

    def before_step(self) -> None:
        for _ in range(self.skips.get(self.trainer.iter, 0)):
            self.trainer.skip_batches()

    def after_step(self) -> None:
        if self.trainer.iter <= max(self.skips, default=-1):
            self.trainer.require_finite()


class BestResult:
    """The best value of one column of the table so far, averaged over the data sets.

    Args:
        metric: the column, TEST.BEST_METRIC.
    """

    def __init__(self, metric: str):
        if metric not in TABLE_METRICS:
            raise UserError(f"TEST.BEST_METRIC must be one of {', '.join(TABLE_METRICS)}; found {metric!r}")
        self.metric = metric
        self.value = -math.inf
        self.iteration = -1

    def update(self, row: dict[str, float], iteration: int) -> bool:
        """Tell whether a row of the table is better than all before, and take it if so."""
        if not row[self.metric] > self.value:
            return False
        self.value, self.iteration = row[self.metric], iteration
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "value": self.value, "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of the same metric; another one's best is forgotten."""
        if state["metric"] != self.metric:
            logger.warning(f"the best result so far is of {state['metric']}, not {self.metric}: it begins again")
            return
        self.value, self.iteration = float(state["value"]), int(state["iteration"])
