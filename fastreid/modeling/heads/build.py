"""The table of heads."""

from torch import nn

from fastreid.utils.registry import Registry

REID_HEADS_REGISTRY = Registry("head", "MODEL.HEADS.NAME")


def build_heads(cfg) -> nn.Module:
    """Return the head that `MODEL.HEADS.NAME` names."""
    return REID_HEADS_REGISTRY.get(cfg.MODEL.HEADS.NAME)(cfg)
