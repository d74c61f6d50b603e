"""Compiled training: `SOLVER.COMPILE`."""

from __future__ import annotations

import logging
import time

import torch
from torch import nn

from fastreid.layers.coefficients import Mixture
from fastreid.layers.normalize import normalize
from fastreid.layers.passes import PASSES, RELU, Kernels, with_passes
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

CHOICES = ("auto", "off", "norm", "model")


def is_compiled(choice: str, device: torch.device) -> bool:
    """Tell whether `SOLVER.COMPILE` asks for something that is compiled on a device."""
    return choice in ("norm", "model") or (choice == "auto" and device.type == "cuda")


def compile_model(model: nn.Module, choice: str, device: torch.device) -> None:
    """Compile the parts of a model on a device that `SOLVER.COMPILE` names, in place; parameters keep their names.

    "auto" gives normalization the Triton kernels of layers/kernels.py where the model is on a GPU. "norm" compiles the
    passes of normalization and activation, for every size at once, so that compiling takes seconds and the varying
    sizes of the meta parts do not repeat it. "model" compiles the backbone as a whole: longer, and again for each kind
    of step. Where no compiler works the model stays as it is, after a warning.

    Raises:
        UserError: there is no such choice.
    """
    if choice not in CHOICES:
        raise UserError(f"SOLVER.COMPILE must be one of {', '.join(CHOICES)}; found {choice!r}")
    if not is_compiled(choice, device):
        return
    if choice == "model" and getattr(model.backbone, "checkpointed", None):
        raise UserError(
            'SOLVER.COMPILE "model" decides itself what to keep: choose "norm", or empty MODEL.BACKBONE.CHECKPOINT'
        )
    start = time.perf_counter()
    try:
        kernels = triton_kernels() if choice == "auto" else compiled_passes()
        try_out(kernels, device)
    except Exception as error:  # whatever a compiler that is missing, old or broken brings about
        reason = str(error).strip().partition("\n")[0]
        logger.warning(
            f"SOLVER.COMPILE {choice}: no working compiler ({type(error).__name__}: {reason}): running without"
        )
        return
    logger.info(f"SOLVER.COMPILE {choice}: the compiler works, first kernels in {time.perf_counter() - start:.1f} s")
    if choice == "model":
        # A graph for each of base, meta-train, meta-test and test step, and for sizes that vary, one for all of them.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
        model.backbone.compile()
        return
    use_kernels(model, kernels)


def use_kernels(model: nn.Module, kernels: Kernels) -> None:
    """Let each layer of a model that normalizes do so by these kernels."""
    for module in model.modules():
        if hasattr(module, "kernels"):
            module.kernels = kernels


def compiled_passes() -> Kernels:
    """Return the passes as torch.compile makes them, when they are first called."""
    return with_passes(*(torch.compile(function, dynamic=True) for function in PASSES))


def triton_kernels() -> Kernels:
    """Return the kernels for a GPU.

    Raises:
        ImportError: Triton, which PyTorch's CUDA builds bring along, is not there.
    """
    from fastreid.layers.kernels import TRITON

    return TRITON


def try_out(kernels: Kernels, device: torch.device) -> None:
    """Run the passes forward and backward on a small map."""
    x = torch.rand(3, 16, 8, 4, device=device).to(memory_format=torch.channels_last).requires_grad_()
    mixture = Mixture(*torch.rand(len(Mixture._fields), 16, device=device))
    normalize(x, mixture, None, RELU, kernels=kernels).sum().backward()
