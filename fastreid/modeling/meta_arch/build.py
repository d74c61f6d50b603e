"""The table of whole models."""

from __future__ import annotations

import logging

import torch
from torch import nn

from fastreid.utils.errors import UserError
from fastreid.utils.registry import Registry

META_ARCH_REGISTRY = Registry("architecture", "MODEL.META_ARCHITECTURE")

logger = logging.getLogger(__name__)


def build_model(cfg) -> nn.Module:
    """Return the model that `MODEL.META_ARCHITECTURE` names, on `MODEL.DEVICE`, its convolutions in channels_last.

    Raises:
        UserError: an option has no such value, or pre-trained weights are missing.
    """
    device = select_device(cfg.MODEL.DEVICE)
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg).to(device, memory_format=torch.channels_last)


def select_device(name: str) -> torch.device:
    """Return the device called `name`; the CPU, after a warning, where it is a CUDA device and there is none.

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
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(f"MODEL.DEVICE is {name}, but there are {torch.cuda.device_count()} CUDA device(s), from cuda:0")
    return device
