"""Run training steps on a device that is not the CPU and has no hardware: `python -m tests.engine.other_device`.

PyTorch's fake tensors have a shape, a type and a device, and no values. An operation on tensors of two devices, or one
that the host would have to wait for, is an error there as on a GPU.
"""

from __future__ import annotations

import sys
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from fastreid.engine import SimpleTrainer, train_loop
from fastreid.modeling import build_model
from fastreid.solver import build_optimizer
from tests.engine.small_steps import PARTS, make_batch, make_cfg, parts_of

DEVICE = "other"


def register_device() -> torch.library.Library:
    """Make the device known, and autocast on it, which does nothing while the returned library lives."""
    _setup_privateuseone_for_python_backend(DEVICE)
    getattr(torch, DEVICE).get_amp_supported_dtype = lambda: [torch.float16]
    autocast = torch.library.Library("_", "IMPL")
    autocast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return autocast


def move(model: nn.Module, left_behind: str) -> None:
    """Put fake tensors of the device in the place of a model's parameters and buffers, except for one buffer."""

    def there(tensor: Tensor, device: str = DEVICE) -> Tensor:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)

    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(there(parameter), parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, there(buffer, "cpu" if name == left_behind else DEVICE))


def run_steps(*options: object, left_behind: str = "") -> None:
    """Run a base step and a meta step, `left_behind` names a buffer that stays on the CPU."""
    cfg = make_cfg("resnet18", "SOLVER.AMP", False, *options)
    model, mode, batch = build_model(cfg), FakeTensorMode(), make_batch()
    parts = {domains: fake(part, mode) for domains, part in parts_of(batch).items()}
    with mode:
        move(model, left_behind)
        optimizers = [build_optimizer(cfg, model, which) for which in ("main", "norm")]
        trainer = SimpleTrainer(cfg, model, [fake(batch, mode)], [fake(batch, mode)], *optimizers)
        trainer.split_domains = lambda: PARTS
        with patch.object(train_loop, "select_domains", lambda batch, part: parts[tuple(part)]):
            losses = trainer.run_step_meta_learning1() | trainer.run_step_meta_learning2()
    assert {str(loss.device) for loss in losses.values()} == {f"{DEVICE}:0"}, losses
    print(len(losses), "losses")


def fake(batch: train_loop.Batch, mode: FakeTensorMode) -> train_loop.Batch:
    """Return a batch of fake tensors on the CPU, as a loader's are."""
    return {key: mode.from_tensor(value) if isinstance(value, Tensor) else value for key, value in batch.items()}


def main() -> None:
    keep = register_device()  # noqa: F841
    run_steps()
    run_steps("META.SOLVER.STOP_GRADIENT", False, "META.SOLVER.MTRAIN.SECOND_ORDER", True)
    try:
        run_steps(left_behind="pixel_mean")
    except RuntimeError as error:
        print(error)
    else:
        sys.exit("a tensor on the CPU among those of the device was not noticed")


if __name__ == "__main__":
    main()
