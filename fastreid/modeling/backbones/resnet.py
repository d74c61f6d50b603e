"""ResNet, He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016, arXiv 1512.03385).

torchvision's names and strides, except that a shortcut's layers are called `downsample.conv` and `downsample.bn` and
that the last stage's stride is an option. Further options: IBN-a and IBN-b, squeeze-and-excitation, non-local blocks,
see fastreid/layers/ for the papers.

DualNorm (Jia et al., "Frustratingly Easy Person Re-Identification", BMVC 2019: IN early, BN late) is IN up to layer3,
BN in layer4. We do not know the paper's exact placement in a ResNet: this one is ours, after MobileNetV2's, where BN
begins with the stage whose stride is LAST_STRIDE, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from functools import partial
from itertools import chain, compress
from pathlib import Path

from torch import Tensor, nn

from fastreid.layers import IBN, AppendedInstanceNorm, InstanceNorm, NonLocal, SqueezeExcitation
from fastreid.layers.normalization import NormFactory
from fastreid.layers.passes import RELU, activate
from fastreid.modeling.backbones.build import BACKBONE_REGISTRY, add_styles, ibn_type, norm_by_stage
from fastreid.modeling.backbones.checkpointing import check_stages, run_stage
from fastreid.modeling.backbones.pretrained import load_imagenet, read_weights, torchvision_weights
from fastreid.utils.errors import UserError


def shortcut(norm: NormFactory, c_in: int, c_out: int, stride: int) -> nn.Module | None:
    """Return the projection of a block's input where its shape differs from the output's."""
    if stride == 1 and c_in == c_out:
        return None
    conv = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=norm(c_out)))


def block_output(norm: nn.Module, se: nn.Module | None, out: Tensor, x: Tensor, last: nn.Module | None) -> Tensor:
    """Return relu(last(se(norm(out)) + x)), the end of a block."""
    activation = RELU if last is None else None
    out = norm(out, activation, x) if se is None else activate(se(norm(out)), activation, x)
    return out if last is None else last(out, RELU)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18 and 34).

    Args:
        norm, first_norm: constructors of the normalization layers, and of the first one.
        with_se: whether squeeze-and-excitation ends the block.
    """

    expansion = 1

    def __init__(self, norm: NormFactory, first_norm: NormFactory, c_in: int, planes: int, stride: int, with_se: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, planes, 3, stride, padding=1, bias=False)
        self.bn1 = first_norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.se = SqueezeExcitation(planes) if with_se else None
        self.IN: nn.Module | None = None
        self.downsample = shortcut(norm, c_in, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.bn1(self.conv1(x), RELU))
        return block_output(self.bn2, self.se, out, x if self.downsample is None else self.downsample(x), self.IN)


class Bottleneck(nn.Module):
    """1x1 reduction, 3x3 convolution (which carries the stride), 1x1 expansion (ResNet-50 and deeper).

    Args: those of `BasicBlock`.
    """

    expansion = 4

    def __init__(self, norm: NormFactory, first_norm: NormFactory, c_in: int, planes: int, stride: int, with_se: bool):
        super().__init__()
        c_out = planes * self.expansion
        self.conv1 = nn.Conv2d(c_in, planes, 1, bias=False)
        self.bn1 = first_norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = norm(planes)
        self.conv3 = nn.Conv2d(planes, c_out, 1, bias=False)
        self.bn3 = norm(c_out)
        self.se = SqueezeExcitation(c_out) if with_se else None
        self.IN: nn.Module | None = None
        self.downsample = shortcut(norm, c_in, c_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x), RELU)
        out = self.conv3(self.bn2(self.conv2(out), RELU))
        return block_output(self.bn3, self.se, out, x if self.downsample is None else self.downsample(x), self.IN)


# depth: (block, blocks in layer1..layer4)
VARIANTS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}

STAGE_NAMES = ("layer1", "layer2", "layer3", "layer4")
IBN_STAGES, IBN_B_STAGES = ("layer1", "layer2", "layer3"), ("layer1", "layer2")
DUAL_NORM_FIRST_BATCH_STAGE = "layer4"
# depth: number of non-local blocks by stage. Those of 50 and 101 are FastReID's, which has none for 18, 34 and 152.
NON_LOCAL_BLOCKS = {
    18: {"layer2": 1, "layer3": 1},
    34: {"layer2": 2, "layer3": 3},
    50: {"layer2": 2, "layer3": 3},
    101: {"layer2": 2, "layer3": 9},
    152: {"layer2": 2, "layer3": 9},
}


class ResNet(nn.Module):
    """(N, 3, H, W) -> (N, C, H/16, W/16) with last_stride 1, H/32 with 2; C is 512 (18, 34) or 2048.

    Args:
        norm: constructor of the normalization layer by channel count; a dictionary gives one for "stem" and each stage.
        depth: a key of `VARIANTS`.
        checkpoint: stages whose maps are not kept, see checkpointing.py.
        ibn: constructor of the first normalization of the blocks of `IBN_STAGES`, `norm` where None (IBN-a).
        with_se: squeeze-and-excitation in each block.
        with_nl: the `NON_LOCAL_BLOCKS`, after a stage's last blocks.
        ibn_b: IN in the stem, and after the last shortcut of each of `IBN_B_STAGES`.
    """

    def __init__(
        self,
        norm: NormFactory | dict[str, NormFactory],
        depth: int = 50,
        last_stride: int = 1,
        checkpoint: Iterable[str] = (),
        ibn: NormFactory | None = None,
        with_se: bool = False,
        with_nl: bool = False,
        ibn_b: bool = False,
    ):
        super().__init__()
        self.checkpointed = check_stages(checkpoint, STAGE_NAMES)
        norms = norm if isinstance(norm, dict) else dict.fromkeys(("stem", *STAGE_NAMES), norm)
        block, counts = VARIANTS[depth]
        chosen = compress(("IBN", "IBN-b", "SE", "NL"), (ibn, ibn_b, with_se, with_nl))
        self.variant = " ".join([str(depth), *chosen])
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = InstanceNorm(64) if ibn_b else norms["stem"](64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        channels = 64
        self.widths = {"stem": channels}
        self.styles = nn.ModuleDict()  # by the stage that they follow, see `add_styles`
        for index, (name, blocks, stride) in enumerate(zip(STAGE_NAMES, counts, (1, 2, 2, last_stride))):
            planes = 64 * 2**index
            first_norm = ibn if ibn and name in IBN_STAGES else norms[name]
            stage = []
            for position in range(blocks):
                step = stride if position == 0 else 1
                stage.append(block(norms[name], first_norm, channels, planes, step, with_se))
                channels = planes * block.expansion
            if ibn_b and name in IBN_B_STAGES:
                stage[-1].IN = AppendedInstanceNorm(channels)
            self.add_module(name, nn.Sequential(*stage))
            self.widths[name] = channels
        self.out_channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.non_local: dict[str, str] = {}  # stage: the list of its non-local blocks
        for name, number in NON_LOCAL_BLOCKS[depth].items() if with_nl else ():
            self.non_local[name] = name.replace("layer", "NL_")
            width = block.expansion * 64 * 2 ** STAGE_NAMES.index(name)
            self.add_module(self.non_local[name], nn.ModuleList(NonLocal(width) for _ in range(number)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(x), RELU))
        if "stem" in self.styles:
            x = self.styles["stem"](x)
        for name in STAGE_NAMES:
            for part in self.parts(name):
                x = run_stage(part, x, name in self.checkpointed)
            if name in self.styles:
                x = self.styles[name](x)
        return x

    def parts(self, name: str) -> list[nn.Module]:
        """Return a stage as the modules that run one after another; each keeps its input under checkpointing."""
        stage = getattr(self, name)
        if name not in self.non_local:
            return [stage]
        blocks, non_local = list(stage), getattr(self, self.non_local[name])
        plain = len(blocks) - len(non_local)
        return [*blocks[:plain], *chain.from_iterable(zip(blocks[plain:], non_local))]


def rename_imagenet(name: str) -> str:
    """Return the name here of a tensor of torchvision's files."""
    return name.replace(".downsample.0.", ".downsample.conv.").replace(".downsample.1.", ".downsample.bn.")


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
    norms = norm_by_stage(norm, ("stem", *STAGE_NAMES), DUAL_NORM_FIRST_BATCH_STAGE)
    kind = ibn_type(node)
    ibn = partial(IBN, fc_multiply=norm.IN_FC_MULTIPLY) if kind == "a" else None
    model = ResNet(norms, depth, node.LAST_STRIDE, node.CHECKPOINT, ibn, node.WITH_SE, node.WITH_NL, kind == "b")
    add_styles(model, cfg, "stem", STAGE_NAMES)
    if node.PRETRAIN:
        path = node.PRETRAIN_PATH
        where = "put torchvision's ResNet weights there"
        weights = read_weights(Path(path), where) if path else torchvision_weights(f"resnet{depth}")
        weights = {rename_imagenet(n): v for n, v in weights.items()}
        load_imagenet(model, weights, path or f"torchvision's ResNet-{depth}", norm)
    return model


for depth in VARIANTS:
    BACKBONE_REGISTRY.register(f"resnet{depth}")(partial(build_resnet, depth=depth))
