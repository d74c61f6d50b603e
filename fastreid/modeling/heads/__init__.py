"""Heads: pooled feature, normalized test feature, logits."""

from fastreid.modeling.heads.build import REID_HEADS_REGISTRY, build_heads
from fastreid.modeling.heads.metalearning_head import HeadOutput, MetalearningHead

__all__ = ["REID_HEADS_REGISTRY", "HeadOutput", "MetalearningHead", "build_heads"]
