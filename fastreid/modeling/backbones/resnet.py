"""ResNet, He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016, arXiv 1512.03385).

torchvision's names and strides, except that a shortcut's layers are called `downsample.conv` and `downsample.bn` and
that the last stage's stride is an option.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Iterable
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from fastreid.layers import norm_factory
from fastreid.layers.normalization import NormFactory
from fastreid.layers.normalize import RELU
from fastreid.modeling.backbones.build import BACKBONE_REGISTRY
from fastreid.modeling.backbones.checkpointing import check_stages, run_stage
from fastreid.modeling.backbones.pretrained import NO_PRETRAIN, load_imagenet, read_weights
from fastreid.utils.checkpoint import load_tensors
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)


def shortcut(norm: NormFactory, c_in: int, c_out: int, stride: int) -> nn.Module | None:
    """Return the projection of a block's input where its shape differs from the output's."""
    if stride == 1 and c_in == c_out:
        return None
    conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=norm(c_out)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, norm: NormFactory, c_in: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, planes, 3, stride, padding=1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.downsample = shortcut(norm, c_in, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.bn1(self.conv1(x), RELU))
        return self.bn2(out, RELU, x if self.downsample is None else self.downsample(x))


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3 convolution (which carries the stride), 1x1 expansion (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(self, norm: NormFactory, c_in: int, planes: int, stride: int):
        super().__init__()
        c_out = planes * self.expansion
        self.conv1 = nn.Conv2d(c_in, planes, 1, bias=False)
        self.bn1 = norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.conv3 = nn.Conv2d(planes, c_out, 1, bias=False)
        self.bn3 = norm(c_out)
        self.downsample = shortcut(norm, c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x), RELU)
        out = self.conv3(self.bn2(self.conv2(out), RELU))
        return self.bn3(out, RELU, x if self.downsample is None else self.downsample(x))


# depth: (block, blocks in layer1..layer4)
VARIANTS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


STAGE_NAMES = ("layer1", "layer2", "layer3", "layer4")


class ResNet(nn.Module):
    """(N, 3, H, W) -> (N, C, H/16, W/16) with last_stride 1, H/32 with 2; C is 512 (18, 34) or 2048.

    Args:
        norm: constructor of the normalization layer by channel count.
        depth: a key of `VARIANTS`. checkpoint: stages whose maps are not kept, see checkpointing.py.
    """

    def __init__(self, norm: NormFactory, depth: int = 50, last_stride: int = 1, checkpoint: Iterable[str] = ()):
        super().__init__()
        self.checkpointed = check_stages(checkpoint, STAGE_NAMES)
        block, counts = VARIANTS[depth]
        self.variant = str(depth)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for index, (blocks, stride) in enumerate(zip(counts, (1, 2, 2, last_stride))):
            planes = 64 * 2**index
            stage = []
            for position in range(blocks):
                stage.append(block(norm, channels, planes, stride if position == 0 else 1))
                channels = planes * block.expansion
            self.add_module(STAGE_NAMES[index], nn.Sequential(*stage))
        self.out_channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x), RELU))
        for name in STAGE_NAMES:
            x = run_stage(getattr(self, name), x, name in self.checkpointed)
        return x


def rename_imagenet(name: str) -> str:
    """Return the name here of a tensor of torchvision's files."""
    return name.replace(".downsample.0.", ".downsample.conv.").replace(".downsample.1.", ".downsample.bn.")


def torchvision_weights(depth: int) -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights, from torch.hub's cache or downloaded into it.

    Raises:
        UserError: they are not in the cache and cannot be downloaded.
    """
    # The first ImageNet recipe of torchvision, which the published numbers were made with.
    url = torchvision.models.get_model_weights(f"resnet{depth}").IMAGENET1K_V1.url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not cached.is_file():
        logger.info(f"downloading {url} to {cached}")
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            # torchvision's file names end with the beginning of the hash; RuntimeError is a hash that differs.
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=cached.stem.rpartition("-")[2])
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"torchvision's ResNet-{depth} weights are not at {cached} and cannot be downloaded ({error}): put "
                f"them there, name a file in MODEL.BACKBONE.PRETRAIN_PATH, {NO_PRETRAIN}"
            ) from error
    return load_tensors(cached)


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg) -> ResNet:
    """Return the ResNet of `MODEL.BACKBONE.DEPTH`: see `build_resnet`.

    Raises:
        UserError: there is no such depth, or as `build_resnet`.
    """
    depth = cfg.MODEL.BACKBONE.DEPTH
    if depth not in VARIANTS:
        raise UserError(f"MODEL.BACKBONE.DEPTH of ResNet must be one of {', '.join(map(str, VARIANTS))}; found {depth}")
    return build_resnet(cfg, depth)


def build_resnet(cfg, depth: int) -> ResNet:
    """Return a ResNet with ImageNet weights if `MODEL.BACKBONE.PRETRAIN`.

    Raises:
        UserError: the weights are missing or of another depth, or an option has no such value.
    """
    node, norm = cfg.MODEL.BACKBONE, cfg.MODEL.NORM
    layers = norm_factory(norm.TYPE_BACKBONE, norm.BIN_INIT, norm.IN_FC_MULTIPLY)
    model = ResNet(layers, depth, node.LAST_STRIDE, node.CHECKPOINT)
    if node.PRETRAIN:
        path = node.PRETRAIN_PATH
        where = "put torchvision's ResNet weights there"
        weights = read_weights(Path(path), where) if path else torchvision_weights(depth)
        weights = {rename_imagenet(n): v for n, v in weights.items()}
        load_imagenet(model, weights, path or f"torchvision's ResNet-{depth}", norm)
    return model


for depth in VARIANTS:
    BACKBONE_REGISTRY.register(f"resnet{depth}")(partial(build_resnet, depth=depth))
