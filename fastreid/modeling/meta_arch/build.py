"""The table of whole models."""

from __future__ import annotations

import logging

import torch
from torch import nn

from fastreid.layers import synchronize_statistics
from fastreid.utils.errors import UserError
from fastreid.utils.machine import local_rank, num_local_processes
from fastreid.utils.processes import num_processes
from fastreid.utils.registry import Registry

META_ARCH_REGISTRY = Registry("architecture", "MODEL.META_ARCHITECTURE")

logger = logging.getLogger(__name__)


def build_model(cfg) -> nn.Module:
    """Return the model that `MODEL.META_ARCHITECTURE` names, on `MODEL.DEVICE`, its convolutions in channels_last.

    Raises:
        UserError: an option has no such value, or pre-trained weights are missing.
    """
    device = select_device(cfg.MODEL.DEVICE)
    model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    synchronize_statistics(model, cfg.MODEL.NORM.SYNC)
    return model.to(device, memory_format=torch.channels_last)


def select_device(name: str) -> torch.device:
    """Return the device called `name`; the CPU, after a warning, where it is a CUDA device and there is none.

    With several processes "cuda" is this process's own GPU of the machine, which becomes the current one.

    Raises:
        UserError: the name is not a device's, or there are fewer CUDA devices.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"MODEL.DEVICE must be like cpu, cuda or cuda:0; found {name!r}") from None
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        logger.warning(f"MODEL.DEVICE is {name}, but PyTorch finds no CUDA device: running on the CPU in float32")
        return torch.device("cpu")
    if num_processes() > 1:
        return own_gpu(device)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(
            f"MODEL.DEVICE is {name}, but there are {torch.cuda.device_count()} CUDA device(s), from cuda:0"
        )
    return device


def own_gpu(device: torch.device) -> torch.device:
    """Return the GPU of this process, one of several on the machine, after making it the current one.

    Raises:
        UserError: a particular GPU is asked for, or there are fewer GPUs than processes.
    """
    if device.index is not None:
        raise UserError(
            f"MODEL.DEVICE is {device}: with several processes it must be cuda, as each takes a GPU of its own"
        )
    if num_local_processes() > torch.cuda.device_count():
        raise UserError(
            f"{num_local_processes()} processes on this machine need as many GPUs; PyTorch finds "
            f"{torch.cuda.device_count()}: lower --num-gpus (torchrun: --nproc-per-node)"
        )
    torch.cuda.set_device(local_rank())
    return torch.device("cuda", local_rank())
