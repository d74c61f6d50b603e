"""Backbone and head as one module."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastreid.config import CfgNode
from fastreid.layers import image_domains, take_restituted
from fastreid.layers.restitution import Restituted
from fastreid.modeling.backbones import build_backbone, describe
from fastreid.modeling.heads import HeadOutput, build_heads
from fastreid.modeling.meta_arch.build import META_ARCH_REGISTRY
from fastreid.utils.errors import UserError


class RestitutedOutput(NamedTuple):
    """`HeadOutput`, and what SNR's layers hold for the dual causality loss."""

    before: Tensor
    after: Tensor
    logits: Tensor
    restituted: tuple[Restituted, ...]


@META_ARCH_REGISTRY.register()
class Metalearning(nn.Module):
    """A batch -> test features (N, D) in evaluation mode, `HeadOutput` in training mode.

    A batch is a dictionary with `images` (N, 3, H, W), RGB float 0..255, and in training mode `targets` (N,) long;
    `domains` (N,) long too where a style layer asks for them.
    """

    def __init__(self, cfg):
        super().__init__()
        self.backbone = build_backbone(cfg)
        self.heads = build_heads(with_channels_of(cfg, self.backbone))
        for name, values in (("pixel_mean", cfg.MODEL.PIXEL_MEAN), ("pixel_std", cfg.MODEL.PIXEL_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batch: dict[str, Tensor]) -> Tensor | HeadOutput:
        images = batch["images"].to(self.device, memory_format=torch.channels_last)
        images = (images - self.pixel_mean) / self.pixel_std
        if not self.training:
            return self.heads(self.backbone(images))
        with image_domains(self.backbone, batch.get("domains")) as styles:
            feature_map = self.backbone(images)
        outputs = self.heads(feature_map, batch["targets"].to(self.device))
        restituted = take_restituted(styles)
        return RestitutedOutput(*outputs, restituted) if restituted else outputs


def with_channels_of(cfg: CfgNode, backbone: nn.Module) -> CfgNode:
    """Return a copy of the config whose `MODEL.HEADS.IN_FEAT` is the number of the backbone's channels.

    Raises:
        UserError: IN_FEAT states another number; 0 states none.
    """
    channels, stated = backbone.out_channels, cfg.MODEL.HEADS.IN_FEAT
    if stated not in (0, channels):
        raise UserError(
            f"MODEL.HEADS.IN_FEAT must be {channels}, the channels of {describe(backbone)}, or 0 to take them from it; "
            f"found {stated}"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.HEADS.IN_FEAT = channels
    return cfg
