"""MobileNetV2, Sandler et al., "Inverted Residuals and Linear Bottlenecks" (CVPR 2018, arXiv 1801.04381).

The variant of the published MetaBIN checkpoints: channel counts are cut to int(c * width) instead of being rounded to
multiples of 8, the first block has an expansion convolution too, and the last stage keeps its resolution.

IBN-Net (Pan et al., ECCV 2018) has no MobileNetV2: that its IN is where DualNorm's is, as a block's first normalization
(IBN-a), or after the blocks that end a resolution (IBN-b), is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from itertools import compress
from pathlib import Path

import torch
from torch import Tensor, nn

from fastreid.layers import IBN, AppendedInstanceNorm, InstanceNorm
from fastreid.layers.coefficients import EPS
from fastreid.layers.normalization import NormFactory
from fastreid.layers.passes import RELU6
from fastreid.modeling.backbones.build import BACKBONE_REGISTRY, add_styles, ibn_type, norm_by_stage
from fastreid.modeling.backbones.checkpointing import check_stages, run_stage
from fastreid.modeling.backbones.pretrained import load_imagenet, read_weights, torchvision_weights
from fastreid.utils.errors import UserError

# stage: (expansion, channels at width 1, blocks, stride of the first block); None: LAST_STRIDE
STAGES = {
    "layer2": (1, 16, 1, 1),
    "layer3": (6, 24, 2, 2),
    "layer4": (6, 32, 3, 2),
    "layer5": (6, 64, 4, 2),
    "layer6": (6, 96, 3, 1),
    "layer7": (6, 160, 3, None),
    "layer8": (6, 320, 1, 1),
}
STAGE_NAMES = ("layer1", *STAGES, "layer9")
DUAL_NORM_FIRST_BATCH_STAGE = "layer7"
RESOLUTIONS = ("layer3", "layer4", "layer6", "layer8")  # the last stage of 1/4, 1/8, 1/16 and the last resolution
IBN_A_STAGES, IBN_B_STAGES = ("layer2", "layer3", "layer4", "layer5", "layer6"), ("layer3", "layer4")
TORCHVISION_STEM = "features.0.0.weight"  # by which a file in torchvision's naming is told
WHERE_FROM = (
    "put MobileNetV2 ImageNet weights of this width there, from torchreid's model zoo (mobilenetv2_x1_0, "
    "mobilenetv2_x1_4) or the published MetaBIN's links, name another file in MODEL.BACKBONE.PRETRAIN_PATH, take width "
    "1.0, which needs none without PRETRAIN_PATH (torchvision has its weights)"
)
RESNET_OPTIONS = ("WITH_SE", "WITH_NL")


class ConvNormActivation(nn.Module):
    """Convolution without bias, normalization, ReLU6."""

    def __init__(self, norm: NormFactory, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
        self.bn = norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x), RELU6)


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution, linear 1x1 projection; a shortcut where the shapes agree."""

    def __init__(self, norm: NormFactory, first_norm: NormFactory, c_in: int, c_out: int, expansion: int, stride: int):
        super().__init__()
        hidden = c_in * expansion
        self.has_shortcut = stride == 1 and c_in == c_out
        self.conv1 = ConvNormActivation(first_norm, c_in, hidden, 1)
        self.dwconv2 = ConvNormActivation(norm, hidden, hidden, 3, stride, groups=hidden)
        self.conv3 = nn.Conv2d(hidden, c_out, 1, bias=False)
        self.bn = norm(c_out)
        self.IN: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(self.dwconv2(self.conv1(x)))
        out = self.bn(out, residual=x if self.has_shortcut else None)
        return out if self.IN is None else self.IN(out)


class MobileNetV2(nn.Module):
    """(N, 3, H, W) -> (N, C, H/16, W/16) with last_stride 1, H/32 with 2; C = int(1280 * width), at least 1280.

    Args:
        norm: constructor of the normalization layer by channel count; a dictionary gives one for each stage.
        width: multiplier of all channel counts.
        checkpoint: stages whose maps are not kept, see checkpointing.py.
        ibn: constructor of IBN-a's layers, `norm` where None.
        ibn_b: IBN-b's IN.
    """

    def __init__(
        self,
        norm: NormFactory | dict[str, NormFactory],
        width: float = 1.0,
        last_stride: int = 1,
        checkpoint: Iterable[str] = (),
        ibn: NormFactory | None = None,
        ibn_b: bool = False,
    ):
        super().__init__()
        self.checkpointed = check_stages(checkpoint, STAGE_NAMES)
        norms = norm if isinstance(norm, dict) else dict.fromkeys(STAGE_NAMES, norm)
        self.variant = " ".join([f"x{width:g}", *compress(("IBN", "IBN-b"), (ibn, ibn_b))])
        channels = int(32 * width)
        self.layer1 = ConvNormActivation(InstanceNorm if ibn_b else norms["layer1"], 3, channels, 3, stride=2)
        self.widths = {"layer1": channels}
        self.styles = nn.ModuleDict()  # by the stage that they follow, see `add_styles`
        for name, (expansion, base, blocks, stride) in STAGES.items():
            c_out, stride = int(base * width), last_stride if stride is None else stride
            first_norm = ibn if ibn and name in IBN_A_STAGES else norms[name]
            stage = []
            for index in range(blocks):
                step = stride if index == 0 else 1
                stage.append(InvertedResidual(norms[name], first_norm, channels, c_out, expansion, step))
                channels = c_out
            if ibn_b and name in IBN_B_STAGES:
                stage[-1].IN = AppendedInstanceNorm(channels)
            self.add_module(name, nn.Sequential(*stage))
            self.widths[name] = channels
        self.out_channels = self.widths["layer9"] = int(1280 * width) if width > 1 else 1280
        self.layer9 = ConvNormActivation(norms["layer9"], channels, self.out_channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        for name in STAGE_NAMES:
            x = run_stage(getattr(self, name), x, name in self.checkpointed)
            if name in self.styles:
                x = self.styles[name](x)
        return x


def rename_imagenet(name: str) -> str:
    """Return the name here of a tensor of the published ImageNet files: conv2.0.conv3.1.bias -> layer2.0.bn.bias."""
    name = re.sub(r"^conv(\d)\.", r"layer\1.", name)
    return name.replace(".conv3.0.", ".conv3.").replace(".conv3.1.", ".bn.")


def torchvision_names() -> dict[str, str]:
    """Return the name here of each layer of torchvision's MobileNetV2, whose first block has no expansion."""
    names = {"features.0.0": "layer1.conv", "features.0.1": "layer1.bn"}
    blocks = [f"{stage}.{index}" for stage, (_, _, count, _) in STAGES.items() for index in range(count)]
    for number, block in enumerate(blocks, start=1):
        parts = ["conv1.conv", "conv1.bn", "dwconv2.conv", "dwconv2.bn", "conv3", "bn"]
        theirs = ["0.0", "0.1", "1.0", "1.1", "2", "3"]
        if number == 1:
            parts, theirs = parts[2:], ["0.0", "0.1", "1", "2"]
        names |= {f"features.{number}.conv.{their}": f"{block}.{part}" for their, part in zip(theirs, parts)}
    last = len(blocks) + 1
    return names | {f"features.{last}.0": "layer9.conv", f"features.{last}.1": "layer9.bn"}


def from_torchvision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's tensors of MobileNetV2 by the names here, with an expansion in the first block.

    Its convolution is the identity and its normalization passes values through: they are in [0, 6] already, so ReLU6
    changes nothing. Its running variance is 1 - eps, so that the standard deviation is 1.
    """
    names, found = torchvision_names(), {}
    for name, value in weights.items():
        layer, _, leaf = name.rpartition(".")
        found[f"{names[layer]}.{leaf}" if layer in names else name] = value
    block, stem = f"{next(iter(STAGES))}.0.conv1", found["layer1.conv.weight"]
    channels, like = len(stem), {"dtype": stem.dtype}
    found[f"{block}.conv.weight"] = torch.eye(channels, **like)[:, :, None, None]
    found[f"{block}.bn.weight"], found[f"{block}.bn.bias"] = torch.ones(channels, **like), torch.zeros(channels, **like)
    found[f"{block}.bn.running_mean"] = torch.zeros(channels, **like)
    found[f"{block}.bn.running_var"] = torch.full((channels,), 1 - EPS, **like)
    return found


def imagenet_weights(width: float, path: str) -> tuple[dict[str, Tensor], str]:
    """Return ImageNet weights by the names here, and where they are from.

    They are those of the file `path`, without one of the usual file in pretrained/; if it is the usual one, is not
    there, and the width is 1.0, they are torchvision's. A file may be in torchvision's naming.

    Raises:
        UserError: there are none.
    """
    usual = Path(f"pretrained/mobilenetv2_{width:.1f}.pth")
    file = Path(path) if path else usual
    if width == 1 and not file.is_file() and file.resolve() == usual.resolve():
        return from_torchvision(torchvision_weights("mobilenet_v2")), "torchvision's MobileNetV2"
    weights = read_weights(file, WHERE_FROM)
    if TORCHVISION_STEM in weights:
        return from_torchvision(weights), str(file)
    return {rename_imagenet(name): value for name, value in weights.items()}, str(file)


@BACKBONE_REGISTRY.register()
def build_mobilenet_v2_backbone(cfg) -> MobileNetV2:
    """Return the MobileNetV2 of width `MODEL.BACKBONE.DEPTH` / 10: see `build_mobilenet_v2`.

    Raises:
        UserError: there is no such width, or as `build_mobilenet_v2`.
    """
    depth = cfg.MODEL.BACKBONE.DEPTH
    if depth < 1:
        raise UserError(f"MODEL.BACKBONE.DEPTH of MobileNetV2 is ten times its width, as 10 or 14; found {depth}")
    return build_mobilenet_v2(cfg, depth / 10)


def build_mobilenet_v2(cfg, width: float) -> MobileNetV2:
    """Return a MobileNetV2 with ImageNet weights if `MODEL.BACKBONE.PRETRAIN`.

    Raises:
        UserError: the weights are missing or of another width, or an option has no such value.
    """
    node = cfg.MODEL.BACKBONE
    for option in RESNET_OPTIONS:
        if node[option]:
            raise UserError(f"MODEL.BACKBONE.{option} is an option of ResNet: set it to False with {node.NAME}")
    norm, kind = cfg.MODEL.NORM, ibn_type(node)
    norms = norm_by_stage(norm, STAGE_NAMES, DUAL_NORM_FIRST_BATCH_STAGE)
    ibn = partial(IBN, fc_multiply=norm.IN_FC_MULTIPLY) if kind == "a" else None
    model = MobileNetV2(norms, width, node.LAST_STRIDE, node.CHECKPOINT, ibn, kind == "b")
    add_styles(model, cfg, STAGE_NAMES[0], RESOLUTIONS)
    if node.PRETRAIN:
        load_imagenet(model, *imagenet_weights(width, node.PRETRAIN_PATH), cfg.MODEL.NORM)
    return model


for width in (1.0, 1.4):  # of which there are published weights
    BACKBONE_REGISTRY.register(f"mobilenet_v2_{width}")(partial(build_mobilenet_v2, width=width))
