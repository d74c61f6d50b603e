"""The head of MetaBIN: global pooling, a batch normalization neck ("BNNeck", arXiv 1903.07071), a classifier."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from fastreid.layers import BatchNorm, build_classifier, build_pool_layer
from fastreid.modeling.heads.build import REID_HEADS_REGISTRY
from fastreid.utils.errors import UserError


class HeadOutput(NamedTuple):
    """What the losses see: features (N, D) for the metric losses, logits (N, K) for cross entropy."""

    features: Tensor
    logits: Tensor


@REID_HEADS_REGISTRY.register()
class MetalearningHead(nn.Module):
    """Map (N, C, h, w) -> test feature (N, D), or `HeadOutput` while training.

    D is `MODEL.HEADS.IN_FEAT`, or `META.BOTTLENECK` where a 1x1 convolution reduces the pooled map first.
    """

    def __init__(self, cfg):
        super().__init__()
        node = cfg.MODEL.HEADS
        if node.NECK_FEAT not in ("before", "after"):
            raise UserError(f"MODEL.HEADS.NECK_FEAT must be before or after; found {node.NECK_FEAT!r}")
        self.neck_feat = node.NECK_FEAT
        self.pool_layer = build_pool_layer(node.POOL_LAYER)
        dim = node.IN_FEAT
        if cfg.META.BOTTLENECK:
            self.bottleneck = nn.Conv2d(node.IN_FEAT, cfg.META.BOTTLENECK, 1, bias=False)
            nn.init.kaiming_normal_(self.bottleneck.weight, mode="fan_out")
            dim = cfg.META.BOTTLENECK
        else:
            self.bottleneck = nn.Identity()
        self.classifier_norm = BatchNorm(dim)
        self.classifier_norm.bias.requires_grad_(False)
        self.classifier_fc = build_classifier(node.CLS_LAYER, dim, node.NUM_CLASSES, node.SCALE, node.MARGIN)

    def forward(self, feature_map: Tensor, targets: Tensor | None = None) -> Tensor | HeadOutput:
        pooled = self.pool_layer(feature_map)
        if pooled.shape[2:] != (1, 1):
            raise UserError(
                "MODEL.HEADS.POOL_LAYER identity is for a backbone that gives 1x1 maps; found "
                f"{pooled.shape[2]}x{pooled.shape[3]}: choose avgpool"
            )
        pooled = self.bottleneck(pooled).flatten(1)
        neck = self.classifier_norm(pooled)
        if not self.training:
            return neck
        features = pooled if self.neck_feat == "before" else neck
        return HeadOutput(features, self.classifier_fc(neck, targets))
