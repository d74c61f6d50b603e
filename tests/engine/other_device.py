"""Run training steps on a device that is not the CPU and has no hardware: `python -m tests.engine.other_device`.

PyTorch's fake tensors have a shape, a type and a device, and no values. An operation on tensors of two devices, or one
that the host would have to wait for, is an error there as on a GPU.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from fastreid.config import get_cfg
from fastreid.engine import SimpleTrainer, train_loop
from fastreid.modeling import build_model
from fastreid.solver import build_optimizer

DEVICE, IMAGES, DOMAINS = "other", 12, 3
PARTS = [0, 1], [2]


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
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "resnet18", "MODEL.BACKBONE.PRETRAIN", False]
        + ["MODEL.NORM.TYPE_BACKBONE", "BIN_gate2", "MODEL.HEADS.IN_FEAT", 0, "MODEL.HEADS.NUM_CLASSES", 6]
        + ["META.DATA.NAMES", "DG", "META.DATA.NUM_DOMAINS", DOMAINS, "META.SOLVER.MTRAIN.NUM_DOMAIN", 2]
        + ["SOLVER.ITERS_PER_EPOCH", 20, "SOLVER.AMP", False, *options]
    )
    model, mode = build_model(cfg), FakeTensorMode()
    targets = torch.arange(6).repeat_interleave(2)
    batch = {"images": torch.rand(IMAGES, 3, 32, 16) * 255, "img_paths": ["image"] * IMAGES, "targets": targets}
    batch |= {"camids": targets, "domains": targets % DOMAINS}
    select = train_loop.select_domains  # by values, hence from the tensors that have some
    parts = {tuple(part): fake(select(batch, part), mode) for part in PARTS}
    with mode:
        move(model, left_behind)
        optimizers = [build_optimizer(cfg, model, which) for which in ("main", "norm")]
        trainer = SimpleTrainer(cfg, model, [fake(batch, mode)], [fake(batch, mode)], *optimizers)
        trainer.split_domains = lambda: PARTS
        train_loop.select_domains = lambda batch, part: parts[tuple(part)]
        try:
            losses = trainer.run_step_meta_learning1() | trainer.run_step_meta_learning2()
        finally:
            train_loop.select_domains = select
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
