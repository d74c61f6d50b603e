"""Backbones, one file per architecture."""

from fastreid.modeling.backbones.build import BACKBONE_REGISTRY, build_backbone, describe, norm_by_stage
from fastreid.modeling.backbones.mobilenet_v2 import MobileNetV2
from fastreid.modeling.backbones.osnet import OSNet
from fastreid.modeling.backbones.resnet import ResNet

__all__ = ["BACKBONE_REGISTRY", "MobileNetV2", "OSNet", "ResNet", "build_backbone", "describe", "norm_by_stage"]
