"""Models: backbones, heads and losses."""

from fastreid.modeling.meta_arch import build_model

__all__ = ["build_model"]
