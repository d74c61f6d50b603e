"""What the virtual step of a meta step does: how far it goes, and how much it changes the gates' gradient.

Without it a meta step is plain descent of the meta-test losses: where the gradients with and without it are the same,
meta-learning's part in the result is nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from fastreid.engine.train_loop import Batch, Parameters, SimpleTrainer, select_domains
from fastreid.layers import running_stats
from fastreid.solver.trained_parameters import gradients_for
from fastreid.utils.errors import UserError
from fastreid.utils.processes import hide_progress_bar

BEYOND = (10, 100)  # times the largest inner ratio of training


@dataclass(frozen=True)
class ProbedStep:
    """A virtual step of one inner ratio in one meta step.

    Attributes:
        mean, largest: of |g' - g| over the parameters that it moves.
        cosine: between the meta-test losses' gradients at the virtual and at the real parameters.
        change: the norm of their difference over that of the latter.
    """

    mean: float
    largest: float
    cosine: float
    change: float


def usual_ratios(trainer: SimpleTrainer) -> list[float]:
    """Return inner ratios (step size over learning rate) to probe: those of training, and larger ones."""
    ratio = trainer.inner_ratio
    own = [ratio.fixed] if ratio.fixed else [ratio.low, (ratio.low * ratio.high) ** 0.5, ratio.high]
    return own + [own[-1] * factor for factor in BEYOND]


def probe_meta_steps(
    trainer: SimpleTrainer, ratios: Sequence[float], num_steps: int
) -> tuple[dict[float, list[ProbedStep]], int]:
    """Return for each inner ratio what it would do in the next meta steps, and how many of these train nothing.

    The latter have meta-test losses without a gradient, such as a triplet loss whose margin all triplets keep, and are
    not among the former. Nothing is trained, and no running statistics move; batches and splits go on.

    Raises:
        UserError: the trainer has no meta steps, or all it would train is frozen in its present iteration.
    """
    if not trainer.has_meta_step:
        raise UserError("this run has no meta steps to probe: META.DATA.NAMES names no data sets")
    inner, outer = trainer.trained.in_inner_update(trainer.iter), trainer.trained.in_outer_update(trainer.iter)
    if not outer:
        raise UserError(f"MODEL.FREEZE_LAYERS: all that meta steps train is frozen in iteration {trainer.iter}")
    steps: dict[float, list[ProbedStep]] = {ratio: [] for ratio in ratios}
    silent = 0
    for _ in tqdm(range(num_steps), "meta steps", leave=False, disable=hide_progress_bar()):
        batch = trainer.next_batch(trainer.meta_batches)
        mtrain, mtest = (trainer.to_device(select_domains(batch, part)) for part in trainer.split_domains())
        with gradients_for({**inner, **outer}.values(), trainer.model), running_stats(trainer.model, "hold"):
            plain = mtest_gradient(trainer, mtest, outer)
            if not plain.any():
                silent += 1
                continue
            for ratio, probed in steps.items():
                fast = trainer.inner_update(sum(trainer.compute_losses(mtrain, trainer.mtrain_loss).values()), ratio)
                moved = torch.cat([(fast[name] - inner[name]).detach().abs().flatten() for name in fast])
                virtual = mtest_gradient(trainer, mtest, outer, fast)
                probed.append(
                    ProbedStep(
                        mean=moved.mean().item(),
                        largest=moved.max().item(),
                        cosine=torch.cosine_similarity(virtual, plain, dim=0).item(),
                        change=((virtual - plain).norm() / plain.norm()).item(),
                    )
                )
    return steps, silent


def mtest_gradient(trainer: SimpleTrainer, batch: Batch, trained: Parameters, fast: Parameters | None = None) -> Tensor:
    """Return the gradient (P,), in double precision, of the meta-test losses for the parameters `trained`.

    Args:
        fast: virtual parameters, in whose place the model's own are otherwise.
    """
    total = sum(trainer.compute_losses(batch, trainer.mtest_loss, fast).values())
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in gradients]).double()
