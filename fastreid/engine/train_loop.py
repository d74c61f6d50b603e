"""MetaBIN's two steps.

`SimpleTrainer` holds the algorithm of "Meta Batch-Instance Normalization for Generalizable Person Re-Identification"
(CVPR 2021, arXiv 2011.14670): base steps train the model, meta steps train only the balancing parameters (gates).
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastreid.engine.compile import compile_model
from fastreid.engine.parallel import ParallelModel, average_gradients
from fastreid.engine.trainer_base import TrainerBase
from fastreid.layers import running_stats
from fastreid.modeling.losses.build import build_losses
from fastreid.solver.lr_scheduler import InnerRatio
from fastreid.solver.trained_parameters import TrainedParameters, gradients_for, is_gate
from fastreid.utils.comm import all_counts, average
from fastreid.utils.errors import UserError
from fastreid.utils.precision import CountingScaler, amp_dtype, uses_amp
from fastreid.utils.processes import gather, num_processes

logger = logging.getLogger(__name__)

Batch = dict[str, Any]  # images (N, 3, H, W) float 0..255; targets, camids, domains (N,) long; img_paths list of N
Losses = dict[str, Tensor]
Parameters = dict[str, Tensor]


class NonFiniteLossError(UserError):
    """A loss, or a weight after the update, became infinite or not a number in iteration `iteration`."""

    def __init__(self, message: str, iteration: int):
        super().__init__(message)
        self.iteration = iteration


class UnreadLosses(NamedTuple):
    """A step's losses, still on the device."""

    iteration: int
    names: list[str]
    values: Tensor
    img_paths: list[str]


def domain_places(cfg) -> tuple[slice, slice]:
    """Return which places of a random order of the domains a meta step trains on, and which it tests on."""
    first = cfg.META.SOLVER.MTRAIN.NUM_DOMAIN
    return slice(first), slice(first, first + 1 if cfg.META.SOLVER.MTEST.ONLY_ONE_DOMAIN else None)


class SimpleTrainer(TrainerBase):
    """MetaBIN's iteration: base steps, then meta steps.

    With several processes, each sees its share of every batch and computes the losses of the whole batch (see
    `build_losses`), and gradients are averaged, so that parameters stay the same in all of them.

    Args:
        base_loader, meta_loader: iterables of batches, started again when they end. There are meta steps if
            there is a meta loader and META.DATA.NAMES is not ''.
        optimizer_main, optimizer_norm: see `build_optimizer`; None where there is nothing to train.

    Raises:
        UserError: the options do not fit together, for example a meta loader for a model without gates.
    """

    def __init__(
        self,
        cfg,
        model: nn.Module,
        base_loader: Iterable[Batch],
        meta_loader: Iterable[Batch] | None,
        optimizer_main: torch.optim.Optimizer,
        optimizer_norm: torch.optim.Optimizer | None,
    ):
        super().__init__()
        self.cfg, self.model = cfg, model
        self.optimizer_main, self.optimizer_norm = optimizer_main, optimizer_norm
        self.base_batches, self.meta_batches = batches(base_loader), batches(meta_loader)
        self.device = next(model.parameters()).device
        self.amp, self.amp_dtype = uses_amp(cfg, self.device), amp_dtype(self.device)
        if cfg.SOLVER.AMP and not self.amp:
            logger.info("SOLVER.AMP: float32 on the CPU (SOLVER.AMP_ON_CPU True: bfloat16)")
        self.scaler = CountingScaler(self.device.type, enabled=self.amp and self.amp_dtype == torch.float16)

        if num_processes() > 1 and cfg.MODEL.NORM.SYNC and cfg.SOLVER.COMPILE == "model":
            raise UserError(
                "SOLVER.COMPILE model cannot compile MODEL.NORM.SYNC's collectives: choose norm, or SYNC False"
            )
        compile_model(model, cfg.SOLVER.COMPILE, self.device)
        self.parallel = ParallelModel(model, cfg.MODEL.NORM.SYNC)
        self.unread: list[UnreadLosses] = []
        self.base_loss = build_losses(cfg, cfg.MODEL.LOSSES.NAME, "MODEL.LOSSES.NAME")
        self.has_meta_step = meta_loader is not None and bool(cfg.META.DATA.NAMES)
        self.trained = TrainedParameters(cfg, model, self.has_meta_step)
        self.gates = self.trained.gates
        if self.has_meta_step:
            self.prepare_meta_learning()

    def prepare_meta_learning(self) -> None:
        """Build what meta steps need, and check their options."""
        cfg = self.cfg
        self.mtrain_loss = build_losses(cfg, cfg.META.LOSS.MTRAIN_NAME, "META.LOSS.MTRAIN_NAME")
        self.mtest_loss = build_losses(cfg, cfg.META.LOSS.MTEST_NAME, "META.LOSS.MTEST_NAME")
        self.inner_ratio = InnerRatio(cfg)
        self.domain_rng = torch.Generator().manual_seed(cfg.SEED)
        if cfg.META.SOLVER.MTRAIN.SECOND_ORDER and cfg.META.SOLVER.STOP_GRADIENT:
            raise UserError(
                "META.SOLVER.MTRAIN.SECOND_ORDER True does nothing while META.SOLVER.STOP_GRADIENT is True, by which "
                "the inner gradient is a constant: set STOP_GRADIENT False, or SECOND_ORDER False"
            )
        domains, mtrain = cfg.META.DATA.NUM_DOMAINS, cfg.META.SOLVER.MTRAIN.NUM_DOMAIN
        if domains < 2:
            raise UserError(
                f"a meta step needs at least two domains, found {domains}: name more data sets in META.DATA.NAMES, set "
                "DATALOADER.CAMERA_TO_DOMAIN True to make each camera a domain, or set META.DATA.NAMES ''"
            )
        if not 1 <= mtrain < domains:
            raise UserError(
                f"META.SOLVER.MTRAIN.NUM_DOMAIN must be from 1 to {domains - 1}, so that of {domains} domains at least "
                f"one is left for meta-test; found {mtrain}"
            )

    def steps_before(self, iteration: int) -> tuple[int, int]:
        """Return the base and the meta steps that come before an iteration."""
        init = self.cfg.META.SOLVER.INIT
        base = init.FIRST_INNER_LOOP + (iteration - 1) * init.INNER_LOOP if iteration else 0
        return base, iteration * init.OUTER_LOOP

    def run_step(self) -> None:
        """Run one iteration: base steps (more of them in iteration 0), then meta steps."""
        init = self.cfg.META.SOLVER.INIT
        for _ in range(init.FIRST_INNER_LOOP if self.iter == 0 else init.INNER_LOOP):
            self.run_step_meta_learning1()
        if self.has_meta_step:
            for _ in range(init.OUTER_LOOP):
                self.run_step_meta_learning2()

    def run_step_meta_learning1(self) -> Losses:
        """Update the base model by one batch; the gates too, if no meta steps train them, or these train everything.

        Returns:
            the losses, as {"base/loss_cls": scalar tensor, ...}
        """
        batch = self.to_device(self.next_batch(self.base_batches))
        trained = self.trained.in_base_step(self.iter)
        self.parallel.before_base_step(trained.values())
        with gradients_for(trained.values(), self.model):
            with running_stats(self.model, "general"):
                losses = self.compute_losses(batch, self.base_loss, model=self.parallel.base_model)
            named = self.record({f"base/{name}": loss for name, loss in losses.items()}, batch)
            total = sum(losses.values())
            if self.trained.trains_nothing(total, self.iter):
                raise UserError(
                    "MODEL.FREEZE_LAYERS leaves nothing that MODEL.LOSSES.NAME depends on: name fewer modules, or add "
                    "CrossEntropyLoss, which trains the classifier"
                )
            self.step(total, trained, averaged=self.parallel.averages_gradients)
        self.parallel.after_base_step(trained.values())
        return named

    def run_step_meta_learning2(self) -> Losses:
        """Update the balancing parameters (gates) by one simulated domain shift.

        Returns:
            the losses, as {"mtrain/loss_stc": scalar tensor, ..., "mtest/loss_triplet_mtest": scalar tensor}; none
            while all that they would train is frozen
        """
        if not self.has_meta_step:
            raise UserError("a meta step needs a meta loader, and META.DATA.NAMES that names its data sets")
        # Frozen or not, each iteration has its place in the data and in the cycle of the inner ratio.
        batch = self.next_batch(self.meta_batches)
        mtrain_domains, mtest_domains = self.split_domains()
        ratio = self.inner_ratio.advance()
        trained = self.trained.in_outer_update(self.iter)
        if not trained:
            return {}
        # Chosen before they are on the device, which the host would otherwise have to wait for.
        mtrain, mtest = (self.to_device(select_domains(batch, part)) for part in (mtrain_domains, mtest_domains))
        with gradients_for([*self.trained.in_inner_update(self.iter).values(), *trained.values()], self.model):
            with running_stats(self.model, "hold"):
                inner = self.compute_losses(mtrain, self.mtrain_loss)  # virtual source domains
                fast = self.inner_update(sum(inner.values()), ratio)
                outer = self.compute_losses(mtest, self.mtest_loss, fast)  # virtual unseen domains
            losses = {f"mtrain/{name}": loss for name, loss in inner.items()}
            losses |= {f"mtest/{name}": loss for name, loss in outer.items()}
            named = self.record(losses, batch)
            total = sum(outer.values())
            if self.cfg.META.LOSS.COMBINED:
                total = total + self.cfg.META.LOSS.WEIGHT * sum(inner.values())
            if not self.trained.trains_nothing(total, self.iter):
                self.step(total, trained)
        return named

    def split_domains(self) -> tuple[list[int], list[int]]:
        """Return the meta-train and the meta-test domains of one meta step, drawn at random."""
        order = torch.randperm(self.cfg.META.DATA.NUM_DOMAINS, generator=self.domain_rng).tolist()
        mtrain, mtest = domain_places(self.cfg)
        return order[mtrain], order[mtest]

    def compute_losses(
        self,
        batch: Batch,
        losses: Callable[..., Losses],
        params: Parameters | None = None,
        model: nn.Module | None = None,
    ) -> Losses:
        """Return the losses of a batch, with `params` in the place of the model's parameters of the same names.

        Args:
            model: what to call instead of the model itself.
        """
        self.trained.set_training_mode(self.model, self.iter)
        with torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp):
            outputs = functional_call(model or self.model, params or {}, (batch,))
            return losses(outputs, batch["targets"], batch["domains"])

    def inner_update(self, loss: Tensor, ratio: float) -> Parameters:
        """Return the parameters after one step down the meta-train loss: g' = clamp(g - s * gradient, 0, 1).

        The step size s is the parameter's learning rate times `ratio`. The clamp, which only gates need, passes
        gradients through unchanged. The gradient is a constant unless a second-order update is asked for.
        """
        meta = self.cfg.META
        second_order = meta.SOLVER.MTRAIN.SECOND_ORDER
        parameters = self.trained.in_inner_update(self.iter)
        if not parameters or self.trained.trains_nothing(loss, self.iter):
            return {}
        late_scale = 1.0 if meta.SOLVER.EARLY_SCALE else self.scaler.get_scale()
        gradients = torch.autograd.grad(
            loss * late_scale,
            list(parameters.values()),
            create_graph=second_order,
            retain_graph=second_order or meta.LOSS.COMBINED,
            allow_unused=True,  # the classifier, when no meta-train loss looks at the logits
        )
        rates = self.learning_rates()
        reached = {name: parameters[name] for name, gradient in zip(parameters, gradients) if gradient is not None}
        gradients = average([gradient for gradient in gradients if gradient is not None])
        steps = [rates[parameter] * ratio / late_scale for parameter in reached.values()]
        fast = dict(zip(reached, torch._foreach_sub(list(reached.values()), torch._foreach_mul(gradients, steps))))
        gates = {name: gate for name, gate in fast.items() if is_gate(name)} if meta.SOLVER.INNER_CLAMP else {}
        return {**fast, **dict(zip(gates, StraightThroughClamp.apply(*gates.values())))}

    def learning_rates(self) -> dict[nn.Parameter, float]:
        """Return the present learning rate of every trained parameter."""
        optimizers = [o for o in (self.optimizer_main, self.optimizer_norm) if o is not None]
        return {p: group["lr"] for o in optimizers for group in o.param_groups for p in group["params"]}

    def step(self, loss: Tensor, trained: Parameters, averaged: bool = False) -> None:
        """Step the optimizers of the parameters `trained`, for which alone gradients are computed; clamp the gates.

        Args:
            averaged: the backward pass averages the gradients over the processes by itself.
        """
        parameters = list(trained.values())
        for parameter in parameters:
            parameter.grad = None
        self.scaler.scale(loss).backward(inputs=parameters)
        if not averaged:
            average_gradients(parameters)
        if (
            self.cfg.SOLVER.CHECK_FINITE and not self.scaler.is_enabled()
        ):  # the scaler leaves such updates out by itself
            self.check_gradients(trained)
        if any(not is_gate(name) for name in trained):
            self.scaler.step(self.optimizer_main)
        if any(is_gate(name) for name in trained):
            self.scaler.step(self.optimizer_norm)
            clamp_(list(self.gates.values()))
        self.scaler.update()

    def check_gradients(self, trained: Parameters) -> None:
        """Raise NonFiniteLossError if a gradient is not finite, before it spoils the weights."""
        bad = first_non_finite({name: p.grad for name, p in trained.items() if p.grad is not None})
        if bad is not None:
            raise NonFiniteLossError(
                f"iteration {self.iter}: not finite: the gradient of {bad}. No weight was updated with it. Lower "
                "SOLVER.BASE_LR or META.SOLVER.LR_FACTOR.GATE",
                self.iter,
            )

    def next_batch(self, source: Iterator[Batch]) -> Batch:
        """Return the next batch, and count the seconds spent waiting for it."""
        start = time.perf_counter()
        batch = next(source)
        self.storage.add_to("data_time", time.perf_counter() - start)
        return batch

    def to_device(self, batch: Batch) -> Batch:
        """Return a batch with its tensors on the model's device."""
        return {k: v.to(self.device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def record(self, losses: Losses, batch: Batch) -> Losses:
        """Keep a step's losses until `read_losses`; return them without their graphs.

        Raises:
            NonFiniteLossError: `SOLVER.CHECK_FINITE` asks for a look at each, and one is not finite.
        """
        losses = {name: loss.detach() for name, loss in losses.items()}
        self.unread.append(
            UnreadLosses(self.iter, list(losses), torch.stack(list(losses.values())), batch["img_paths"])
        )
        if self.cfg.SOLVER.CHECK_FINITE:
            self.read_losses()
        return losses

    def read_losses(self) -> None:
        """Put the losses of the steps since the last call into the storage; only here the host waits for the device.

        Raises:
            NonFiniteLossError: one is not finite; the message has the iteration, the losses and the images.
        """
        unread, self.unread = self.unread, []
        if not unread:
            return
        values = iter(torch.cat([step.values for step in unread]).tolist())
        for step in unread:
            losses = dict(zip(step.names, values))
            bad = [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]
            if bad:
                raise NonFiniteLossError(self.non_finite_message(step, bad), step.iteration)
            self.storage.put_scalars(losses)

    def non_finite_message(self, step: UnreadLosses, bad: list[str]) -> str:
        """Return what to tell about losses that are not finite."""
        if self.cfg.SOLVER.CHECK_FINITE:
            since = "No weight was updated with it"
        else:
            since = "The last checkpoint is from before it (SOLVER.CHECK_FINITE True stops before weights are updated)"
        images = "\n  ".join(str(path) for paths in gather(step.img_paths) for path in paths)
        return (
            f"iteration {step.iteration}: not finite: {', '.join(bad)}. {since}. Lower SOLVER.BASE_LR or "
            f"META.SOLVER.LR_FACTOR.GATE, or look at the batch's images:\n  {images}"
        )


def first_non_finite(tensors: dict[str, Tensor]) -> str | None:
    """Return the name of the first tensor that has an infinite value or one that is not a number, None without any."""
    if not tensors:
        return None
    bad = torch.stack([value.isfinite().all() for value in tensors.values()]).logical_not()
    return list(tensors)[int(bad.nonzero()[0])] if bad.any() else None


@torch.no_grad()
def clamp_(gates: list[Tensor]) -> None:
    """Clamp gates to [0, 1] in place."""
    torch._foreach_clamp_min_(gates, 0)
    torch._foreach_clamp_max_(gates, 1)


class StraightThroughClamp(torch.autograd.Function):
    """Clamp to [0, 1] of several tensors whose gradient is that of the identity."""

    @staticmethod
    def forward(ctx, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch._foreach_clamp_max(torch._foreach_clamp_min(values, 0), 1)) if values else ()

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, ...]:
        return gradients


def select_domains(batch: Batch, domains: list[int]) -> Batch:
    """Return the part of a batch whose images are of the given domains; it may be empty in some of the processes.

    Raises:
        UserError: there are none in any process.
    """
    index = torch.isin(batch["domains"], torch.tensor(domains)).nonzero().squeeze(1)
    if not sum(all_counts(len(index))):
        raise UserError(
            f"a meta batch has no image of the domains {domains}: set META.DATA.NAIVE_WAY False, so that each domain "
            "has its share of the batch, or a larger META.DATA.MTRAIN_MINI_BATCH"
        )
    part = {key: value[index] for key, value in batch.items() if isinstance(value, Tensor)}
    return {**part, "img_paths": [batch["img_paths"][i] for i in index.tolist()]}


def batches(loader: Iterable[Batch] | None) -> Iterator[Batch]:
    """Yield the batches of a loader without end, starting it again each time it is through.

    Raises:
        UserError: the loader gives no batch at all.
    """
    while loader is not None:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise UserError("a data loader gave no batch: there are fewer identities or images than one batch needs")
