"""Stochastic weight averaging: `SOLVER.SWA`.

Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (UAI 2018, arXiv 1803.05407): after
the usual schedule training goes on at a rate that does not settle, and the final model is the mean of models on the
way.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from fastreid.engine.trainer_base import HookBase
from fastreid.solver.lr_scheduler import half_cosine
from fastreid.solver.trained_parameters import gate_parameters
from fastreid.utils import run_files
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)


def total_iterations(cfg) -> int:
    """Return the iterations of a run: `SOLVER.MAX_ITER`, and those of `SOLVER.SWA` after them."""
    return cfg.SOLVER.MAX_ITER + (cfg.SOLVER.SWA.ITER if cfg.SOLVER.SWA.ENABLED else 0)


def require_plain_weights(content: dict[str, Any], start_iter: int, end: int) -> None:
    """Raise UserError if training would go on, to iteration `end`, with a checkpoint's averaged weights."""
    if content.get("weight_averaging", {}).get("in_model") and start_iter < end:
        raise UserError(
            f"the checkpoint holds averaged weights, with which training cannot go on to iteration {end}: start from "
            f"the ones before, --num-pth {start_iter - 1}"
        )


class WeightAveraging(HookBase):
    """From iteration `SOLVER.MAX_ITER` on, take the model after every `SWA.PERIOD` iterations into a mean.

    The main learning rate is LR_FACTOR x the schedule's, with LR_SCHED falling from there to ETA_MIN_LR within each
    period; the gates' rate goes on with its schedule. At the end the model as it is then is kept as a numbered
    checkpoint, and gets the mean of the weights, gates among them. Its running statistics are then another model's:
    `PreciseStatistics` must stand behind this hook.

    Args:
        cfg: with iterations, not epochs.
        scheduler: of the main optimizer.
    """

    checkpoint_entry = "weight_averaging"

    def __init__(self, cfg, model: nn.Module, scheduler: LRScheduler):
        self.node, self.start = cfg.SOLVER.SWA, cfg.SOLVER.MAX_ITER
        self.model, self.scheduler = model, scheduler
        self.averaged = AveragedModel(model)
        self.in_model = False  # whether the model has the mean of the weights

    @property
    def models(self) -> int:
        """The number of models in the mean."""
        return int(self.averaged.n_averaged)

    def before_train(self) -> None:
        """Forget a mean of models of before this phase, as of a shorter run.

        Raises:
            UserError: no model would be taken into the mean, or the run is past its end.
        """
        first, end, period = self.trainer.start_iter, self.trainer.max_iter, self.node.PERIOD
        if first <= self.start and self.models:
            logger.info(f"SOLVER.SWA begins at iteration {self.start}: {self.models} models of before are not averaged")
            self.averaged.n_averaged.zero_()
        last_taken = end - (end - self.start) % period
        if first > end or not self.models and first >= last_taken:
            raise UserError(
                f"SOLVER.SWA takes a model after every {period} iterations from {self.start} to {end}, and this run is "
                f"at iteration {first} already: raise SOLVER.SWA.ITER, or go on from an earlier checkpoint with "
                "--num-pth"
            )

    def before_step(self) -> None:
        if self.trainer.iter >= self.start:
            for group, scheduled in zip(self.scheduler.optimizer.param_groups, self.scheduler.get_last_lr()):
                group["lr"] = self.rate(scheduled, self.trainer.iter)

    def rate(self, scheduled: float, iteration: int) -> float:
        """Return the learning rate in an iteration of this phase, for which the schedule has `scheduled`."""
        first = self.node.LR_FACTOR * scheduled
        if not self.node.LR_SCHED:
            return first
        progress = (iteration - self.start) % self.node.PERIOD / self.node.PERIOD
        return half_cosine(first, self.node.ETA_MIN_LR, progress)

    def after_step(self) -> None:
        done = self.trainer.iter + 1 - self.start
        if done > 0 and done % self.node.PERIOD == 0:
            self.averaged.update_parameters(self.model)

    def after_train(self) -> None:
        self.trainer.require_finite()
        last = self.trainer.max_iter - 1
        name = run_files.numbered_checkpoint(last)
        if name not in self.trainer.checkpointer.history:
            self.trainer.checkpointer.save(name, last)
        self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Give the model the mean of the weights."""
        for own, mean in zip(self.model.parameters(), self.averaged.module.parameters()):
            own.copy_(mean)
        for gate in gate_parameters(self.model).values():
            gate.clamp_(0, 1)  # the mean is in there, up to rounding
        self.in_model = True
        logger.info(f"the model's weights are the means of {self.models} models now")

    def state_dict(self) -> dict[str, Any]:
        state = {"models": self.models, "in_model": self.in_model}
        if self.models and not self.in_model:
            state["parameters"] = {name: mean.detach() for name, mean in self.averaged.module.named_parameters()}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.in_model = bool(state["in_model"])
        self.averaged.n_averaged.fill_(state["models"])
        if state["models"]:
            kept = dict(self.model.named_parameters()) if self.in_model else state["parameters"]
            for name, mean in self.averaged.module.named_parameters():
                mean.copy_(kept[name])
