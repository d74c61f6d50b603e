"""The table of backbones, and what they have in common."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fastreid.config import CfgNode
from fastreid.layers import DSU, BatchNorm, EFDMix, MixStyle, StyleRestitution, SwitchableNorm, norm_factory
from fastreid.layers.normalization import NormFactory
from fastreid.layers.style import PARTNERS
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
        node: `cfg.MODEL.NORM`.
        stages: in the order of the computation.

    Raises:
        UserError: `MODEL.NORM.TYPE_BACKBONE` or `BIN_INIT` has no such value.
    """
    if node.TYPE_BACKBONE == "SN":
        return dict.fromkeys(stages, SwitchableNorm)
    if node.TYPE_BACKBONE != "DualNorm":
        layer = norm_factory(node.TYPE_BACKBONE, node.BIN_INIT, node.IN_FC_MULTIPLY, others=("DualNorm", "SN"))
        return dict.fromkeys(stages, layer)
    split = stages.index(first_batch_stage)
    instance = norm_factory("IN", node.BIN_INIT, fc_multiply=node.IN_FC_MULTIPLY)
    return dict.fromkeys(stages[:split], instance) | dict.fromkeys(stages[split:], BatchNorm)


def ibn_type(node: CfgNode) -> str:
    """Return which IBN-Net `MODEL.BACKBONE`, the node, asks for: "a", "b", or "" for none.

    Raises:
        UserError: there is no such type.
    """
    if node.IBN_TYPE not in ("a", "b"):
        raise UserError(f"MODEL.BACKBONE.IBN_TYPE must be a or b; found {node.IBN_TYPE!r}")
    return node.IBN_TYPE if node.WITH_IBN else ""


def add_styles(backbone: nn.Module, cfg: CfgNode, first: str, resolutions: Sequence[str]) -> None:
    """Put the layers that `MODEL.STYLE` asks for into `backbone.styles`, by the stage that they follow.

    Args:
        backbone: with `widths`, the channels after each stage.
        first: the first stage.
        resolutions: the last stage of each resolution, from a quarter of the image's on; where `STAGES` names none,
            MixStyle and EFDMix follow the first two of them, SNR all, DSU all and the first stage.

    Raises:
        UserError: an option has no such value, or the backbone no such stage.
    """
    node = cfg.MODEL.STYLE
    methods = {
        "MixStyle": (resolutions[:2], lambda channels: MixStyle(node.PROB, node.ALPHA, node.PARTNER)),
        "EFDMix": (resolutions[:2], lambda channels: EFDMix(node.PROB, node.ALPHA, node.PARTNER)),
        "DSU": ((first, *resolutions), lambda channels: DSU(node.PROB)),
        "SNR": (resolutions, lambda channels: StyleRestitution(channels, cfg.MODEL.NORM.IN_FC_MULTIPLY)),
    }
    if node.NAME not in ("", *methods):
        raise UserError(f"MODEL.STYLE.NAME must be one of {', '.join(methods)}, or '' for none; found {node.NAME!r}")
    if node.PARTNER not in PARTNERS:
        raise UserError(f"MODEL.STYLE.PARTNER must be one of {', '.join(PARTNERS)}; found {node.PARTNER!r}")
    if not 0 <= node.PROB <= 1 or node.ALPHA <= 0:
        raise UserError(f"MODEL.STYLE.PROB must be in [0, 1] and ALPHA above 0; found {node.PROB} and {node.ALPHA}")
    unknown = [name for name in node.STAGES if name not in backbone.widths]
    if unknown:
        known = ", ".join(backbone.widths)
        raise UserError(f"MODEL.STYLE.STAGES must name stages out of {known}; found {unknown[0]!r}")
    if node.NAME:
        usual, layer = methods[node.NAME]
        for name in node.STAGES or usual:
            backbone.styles[name] = layer(backbone.widths[name])


def describe(backbone: nn.Module) -> str:
    """Return the backbone's name with its size, as a message needs it."""
    return f"{type(backbone).__name__} {getattr(backbone, 'variant', '')}".strip()
