"""The table of backbones, and what they have in common."""

from __future__ import annotations

from typing import Sequence

from torch import nn

from fastreid.config import CfgNode
from fastreid.layers import BatchNorm, norm_factory
from fastreid.layers.normalization import NormFactory
from fastreid.utils.errors import UserError
from fastreid.utils.registry import Registry

BACKBONE_REGISTRY = Registry("backbone", "MODEL.BACKBONE.NAME")


def build_backbone(cfg) -> nn.Module:
    """Return the backbone that `MODEL.BACKBONE.NAME` names: (N, 3, H, W) -> (N, C, h, w), with `out_channels` = C.

    Raises:
        UserError: an option has no such value.
    """
    if cfg.MODEL.BACKBONE.LAST_STRIDE not in (1, 2):
        raise UserError(f"MODEL.BACKBONE.LAST_STRIDE must be 1 or 2; found {cfg.MODEL.BACKBONE.LAST_STRIDE}")
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg)


def norm_by_stage(node: CfgNode, stages: Sequence[str], first_batch_stage: str) -> dict[str, NormFactory]:
    """Return the constructor of each stage's normalization; DualNorm is IN in the stages before one, BN from it on.

    Args:
        node: `cfg.MODEL.NORM`. stages: in the order of the computation.

    Raises:
        UserError: `MODEL.NORM.TYPE_BACKBONE` or `BIN_INIT` has no such value.
    """
    if node.TYPE_BACKBONE != "DualNorm":
        layer = norm_factory(node.TYPE_BACKBONE, node.BIN_INIT, node.IN_FC_MULTIPLY, others=("DualNorm",))
        return dict.fromkeys(stages, layer)
    split = stages.index(first_batch_stage)
    instance = norm_factory("IN", node.BIN_INIT, fc_multiply=node.IN_FC_MULTIPLY)
    return dict.fromkeys(stages[:split], instance) | dict.fromkeys(stages[split:], BatchNorm)


def describe(backbone: nn.Module) -> str:
    """Return the backbone's name with its size, as a message needs it."""
    return f"{type(backbone).__name__} {getattr(backbone, 'variant', '')}".strip()
