"""The head of MetaBIN: global pooling, a batch normalization neck ("BNNeck", arXiv 1903.07071), a classifier."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from fastreid.layers import BatchNorm, build_classifier, build_pool_layer
from fastreid.modeling.heads.build import REID_HEADS_REGISTRY
from fastreid.utils.errors import UserError

LEAK = 0.1  # of the bottleneck's leaky ReLU, as in FastReID's reduction head


class HeadOutput(NamedTuple):
    """What the losses see: features (N, D) before and after classifier_norm, logits (N, K) for cross entropy."""

    before: Tensor
    after: Tensor
    logits: Tensor


@REID_HEADS_REGISTRY.register()
class MetalearningHead(nn.Module):
    """Map (N, C, h, w) -> test feature (N, D), or `HeadOutput` while training.

    D is `MODEL.HEADS.IN_FEAT`, or `META.BOTTLENECK.REDUCTION_DIM` where a bottleneck reduces the pooled map first.
    """

    def __init__(self, cfg):
        super().__init__()
        node = cfg.MODEL.HEADS
        self.pool_layer = build_pool_layer(node.POOL_LAYER)
        reduction = cfg.META.BOTTLENECK
        dim = reduction.REDUCTION_DIM if reduction.DO_IT else node.IN_FEAT
        self.bottleneck = build_bottleneck(node.IN_FEAT, dim, reduction.NORM) if reduction.DO_IT else nn.Identity()
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
        pooled = self.bottleneck(pooled.flatten(1))
        neck = self.classifier_norm(pooled)
        if not self.training:
            return neck
        return HeadOutput(pooled, neck, self.classifier_fc(neck, targets))


def build_bottleneck(channels: int, reduced: int, norm: bool) -> nn.Sequential:
    """Return what reduces features: a linear layer, batch normalization if `norm`, and a leaky ReLU.

    Raises:
        UserError: `reduced` is no number of channels.
    """
    if reduced < 1:
        raise UserError(f"META.BOTTLENECK.REDUCTION_DIM must be at least 1 channel; found {reduced}")
    linear = nn.Linear(channels, reduced, bias=not norm)  # the normalization would take a bias away again
    nn.init.kaiming_normal_(linear.weight, a=LEAK, mode="fan_out")
    return nn.Sequential(linear, *([BatchNorm(reduced)] if norm else []), nn.LeakyReLU(LEAK))
