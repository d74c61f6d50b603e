"""The table of backbones."""

from torch import nn

from fastreid.utils.registry import Registry

BACKBONE_REGISTRY = Registry("backbone", "MODEL.BACKBONE.NAME")


def build_backbone(cfg) -> nn.Module:
    """Return the backbone that `MODEL.BACKBONE.NAME` names: (N, 3, H, W) -> (N, C, h, w), with `out_channels` = C."""
    return BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)(cfg)


def describe(backbone: nn.Module) -> str:
    """Return the backbone's name with its size, as a message needs it."""
    return f"{type(backbone).__name__} {getattr(backbone, 'variant', '')}".strip()
