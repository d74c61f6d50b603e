"""torch.compile for training: `SOLVER.COMPILE`."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from typing import Iterable, Iterator

import torch
from torch import nn

from fastreid.layers.coefficients import Mixture
from fastreid.layers.normalize import normalize
from fastreid.layers.passes import EAGER, PASSES, RELU, Kernels
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

CHOICES = ("off", "norm", "model")


def compile_model(model: nn.Module, choice: str) -> None:
    """Compile the parts of a model that `SOLVER.COMPILE` names, in place; parameters keep their names.

    "norm" compiles the passes of normalization and activation, for every size at once, so that compiling takes
    seconds and the varying sizes of the meta parts do not repeat it. "model" compiles the backbone as a whole: longer,
    and again for each kind of step. Where no compiler works the model stays as it is, after a warning.

    Raises:
        UserError: there is no such choice.
    """
    if choice not in CHOICES:
        raise UserError(f"SOLVER.COMPILE must be one of {', '.join(CHOICES)}; found {choice!r}")
    if choice == "off":
        return
    if choice == "model" and getattr(model.backbone, "checkpointed", None):
        raise UserError('SOLVER.COMPILE "model" decides itself what to keep: choose "norm", or empty MODEL.BACKBONE.CHECKPOINT')
    start = time.perf_counter()
    kernels = Kernels(*(torch.compile(function, dynamic=True) for function in PASSES))
    try:
        try_out(kernels, next(model.parameters()).device)
    except Exception as error:  # whatever a compiler that is missing, old or broken brings about
        reason = str(error).strip().partition("\n")[0]
        logger.warning(f"SOLVER.COMPILE {choice}: no working compiler ({type(error).__name__}: {reason}): running without")
        return
    logger.info(f"SOLVER.COMPILE {choice}: the compiler works, first kernels in {time.perf_counter() - start:.1f} s")
    if choice == "model":
        # A graph for each of base, meta-train, meta-test and test step, and for sizes that vary, one for all of them.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
        model.backbone.compile()
        return
    for module in model.modules():
        if getattr(module, "kernels", None) is EAGER:
            module.kernels = kernels


def try_out(kernels: Kernels, device: torch.device) -> None:
    """Run the passes forward and backward on a small map."""
    x = torch.rand(3, 16, 8, 4, device=device).to(memory_format=torch.channels_last).requires_grad_()
    mixture = Mixture(*torch.rand(len(Mixture._fields), 16, device=device))
    normalize(x, mixture, None, RELU, kernels=kernels).sum().backward()


@contextmanager
def learning_only(model: nn.Module, learned: Iterable[nn.Parameter]) -> Iterator[None]:
    """Within the context, no parameter but the given ones asks for a gradient.

    So nothing is kept or computed for the others, compiled or not: a meta step computes no gradient of a convolution's
    weight, a base step none of a gate.
    """
    learned = set(learned)
    others = [p for p in model.parameters() if p.requires_grad and p not in learned]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
