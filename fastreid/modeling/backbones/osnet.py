"""OSNet and OSNet-AIN, networks for re-identification with features of several scales at once.

Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification" (ICCV 2019, arXiv 1905.00953) and "Learning
Generalisable Omni-Scale Representations for Person Re-Identification" (TPAMI 2021, arXiv 1910.06827).

Tensors have the names and shapes of the authors' files. The network ends before their fully connected layer, as the
head here has none; `fc` and `classifier` of a file are not used. Where they have BN `MODEL.NORM.TYPE_BACKBONE` chooses;
OSNet-AIN's own IN, where their search put it, stays. Which stages are IN in DualNorm is our choice.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from fastreid.layers import InstanceNorm
from fastreid.layers.normalization import NormFactory
from fastreid.layers.passes import RELU
from fastreid.modeling.backbones.build import BACKBONE_REGISTRY, add_styles, norm_by_stage
from fastreid.modeling.backbones.checkpointing import check_stages, run_stage
from fastreid.modeling.backbones.pretrained import load_imagenet, read_weights
from fastreid.utils.errors import UserError

# name: channels after conv1 .. conv4
WIDTHS = {
    "x1_0": (64, 256, 384, 512),
    "x0_75": (48, 192, 288, 384),
    "x0_5": (32, 128, 192, 256),
    "x0_25": (16, 64, 96, 128),
}
STAGE_NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5")
DUAL_NORM_FIRST_BATCH_STAGE = "conv4"
AIN_BLOCKS = {"conv2": (True, True), "conv3": (False, True), "conv4": (True, False)}  # which blocks have IN
STREAMS = "abcd"  # of one to four 3x3 convolutions
REDUCTION, GATE_REDUCTION = 4, 16
OTHER_OPTIONS = ("WITH_IBN", "WITH_SE", "WITH_NL")


class ConvNorm(nn.Module):
    """Convolution without bias, normalization, ReLU unless `linear`."""

    def __init__(
        self, norm: NormFactory, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, linear: bool = False
    ):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = norm(c_out)
        self.activation = None if linear else RELU

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x), self.activation)


class LightConv(nn.Module):
    """Linear 1x1 convolution, 3x3 depthwise convolution, normalization, ReLU."""

    def __init__(self, norm: NormFactory, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv2(self.conv1(x)), RELU)


class Stream(nn.Module):
    """OSNet-AIN's name for a sequence of light convolutions."""

    def __init__(self, norm: NormFactory, channels: int, depth: int):
        super().__init__()
        self.layers = nn.Sequential(*(LightConv(norm, channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ChannelGate(nn.Module):
    """x -> x * s, with s in (0, 1) for each image and channel; all streams of a block share it, so scales compete."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // GATE_REDUCTION, 1)
        self.fc2 = nn.Conv2d(channels // GATE_REDUCTION, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class OSBlock(nn.Module):
    """1x1 reduction, four streams of growing receptive field under one gate, their sum, 1x1 expansion, shortcut.

    Args:
        ain: OSNet-AIN's names.
        instance: IN in the place of the expansion's normalization, on its branch only.
    """

    def __init__(self, norm: NormFactory, c_in: int, c_out: int, ain: bool, instance: bool):
        super().__init__()
        hidden = c_out // REDUCTION
        self.conv1 = ConvNorm(norm, c_in, hidden)
        if ain:
            self.conv2 = nn.ModuleList(Stream(norm, hidden, depth) for depth in range(1, len(STREAMS) + 1))
        else:
            for depth, letter in enumerate(STREAMS, start=1):
                light = [LightConv(norm, hidden) for _ in range(depth)]
                self.add_module(f"conv2{letter}", light[0] if depth == 1 else nn.Sequential(*light))
        self.gate = ChannelGate(hidden)
        self.conv3 = nn.Module()  # of the authors' name; its parts are called below, with what is added to them
        self.conv3.conv = nn.Conv2d(hidden, c_out, 1, bias=False)
        if instance:
            self.IN = InstanceNorm(c_out)
        else:
            self.conv3.bn = norm(c_out)
        self.downsample = ConvNorm(norm, c_in, c_out, linear=True) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.conv1(x)
        streams = self.conv2 if hasattr(self, "conv2") else [getattr(self, f"conv2{letter}") for letter in STREAMS]
        out = self.conv3.conv(sum(self.gate(stream(reduced)) for stream in streams))
        norm = self.IN if hasattr(self, "IN") else self.conv3.bn
        return norm(out, RELU, x if self.downsample is None else self.downsample(x))


class OSNet(nn.Module):
    """(N, 3, H, W) -> (N, C, H/16, W/16), C being the last of the widths.

    Args:
        norm: constructor of the normalization layer by channel count; a dictionary gives one for each stage.
        width: a key of `WIDTHS`.
        ain: OSNet-AIN.
        checkpoint: stages whose maps are not kept, see checkpointing.py.
    """

    def __init__(
        self,
        norm: NormFactory | dict[str, NormFactory],
        width: str = "x1_0",
        ain: bool = False,
        checkpoint: Iterable[str] = (),
    ):
        super().__init__()
        self.checkpointed = check_stages(checkpoint, STAGE_NAMES)
        norms = norm if isinstance(norm, dict) else dict.fromkeys(STAGE_NAMES, norm)
        self.variant = f"AIN {width}" if ain else width
        channels = WIDTHS[width]
        self.widths = dict(zip(STAGE_NAMES, (*channels, channels[-1])))
        self.styles = nn.ModuleDict()  # by the stage that they follow, see `add_styles`
        self.conv1 = ConvNorm(InstanceNorm if ain else norms["conv1"], 3, channels[0], 7, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for name, c_in, c_out in zip(STAGE_NAMES[1:4], channels, channels[1:]):
            instance = AIN_BLOCKS[name] if ain else (False, False)
            blocks = [OSBlock(norms[name], c, c_out, ain, has_in) for c, has_in in zip((c_in, c_out), instance)]
            shrink = nn.Sequential(ConvNorm(norms[name], c_out, c_out), nn.AvgPool2d(2))
            if name == "conv4":
                shrink = None
            elif not ain:
                blocks.append(shrink)
            self.add_module(name, nn.Sequential(*blocks))
            if ain and shrink is not None:
                self.add_module(name.replace("conv", "pool"), shrink)
        self.conv5 = ConvNorm(norms["conv5"], channels[3], channels[3])
        self.out_channels = channels[3]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        for name in STAGE_NAMES:
            x = run_stage(getattr(self, name), x, name in self.checkpointed)
            if name == "conv1":
                x = self.maxpool(x)
            pool = getattr(self, name.replace("conv", "pool"), None)
            if pool is not None:
                x = pool(x)
            if name in self.styles:
                x = self.styles[name](x)
        return x


def build_osnet(cfg, width: str, ain: bool = False) -> OSNet:
    """Return an OSNet with ImageNet weights if `MODEL.BACKBONE.PRETRAIN`.

    Raises:
        UserError: the weights are missing or of another width, or an option has no such value.
    """
    node = cfg.MODEL.BACKBONE
    for option in OTHER_OPTIONS:
        if node[option]:
            raise UserError(f"MODEL.BACKBONE.{option} is no option of OSNet: set it to False with {node.NAME}")
    if node.LAST_STRIDE != 1:
        raise UserError(f"MODEL.BACKBONE.LAST_STRIDE must be 1 with {node.NAME}, whose map is a sixteenth of the image")
    norms = norm_by_stage(cfg.MODEL.NORM, STAGE_NAMES, DUAL_NORM_FIRST_BATCH_STAGE)
    model = OSNet(norms, width, ain, node.CHECKPOINT)
    add_styles(model, cfg, STAGE_NAMES[0], STAGE_NAMES[1:])
    if node.PRETRAIN:
        path = Path(node.PRETRAIN_PATH or f"pretrained/{node.NAME}_imagenet.pth")
        where = f"put torchreid's ImageNet weights of {node.NAME} there, from its model zoo"
        load_imagenet(model, read_weights(path, where), str(path), cfg.MODEL.NORM)
    return model


for width in WIDTHS:
    BACKBONE_REGISTRY.register(f"osnet_{width}")(partial(build_osnet, width=width))
BACKBONE_REGISTRY.register("osnet_ain_x1_0")(partial(build_osnet, width="x1_0", ain=True))
