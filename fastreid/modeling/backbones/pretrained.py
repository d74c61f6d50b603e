"""ImageNet weights into a backbone whose BN layers may have become batch-instance layers."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import Tensor, nn

from fastreid.layers.normalization import BatchInstanceNorm, BatchInstanceNormHalf, InstanceNorm
from fastreid.modeling.backbones.build import describe
from fastreid.utils.checkpoint import load_tensors
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

NO_PRETRAIN = "or train from random weights with MODEL.BACKBONE.PRETRAIN False"


def read_weights(path: Path, where_to_get: str) -> dict[str, Tensor]:
    """Return the tensors of a weights file, taken out of a `state_dict` or `model` entry if they lie in one.

    Raises:
        UserError: the file is missing (the message says `where_to_get` it) or is not a file of tensors.
    """
    if not path.is_file():
        raise UserError(f"no pre-trained weights at {path}: {where_to_get}, {NO_PRETRAIN}")
    content = load_tensors(path)
    for entry in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path}: expected a dictionary of tensors by name, found {type(content).__name__}")
    return {name.removeprefix("module."): value for name, value in content.items()}


def load_imagenet(backbone: nn.Module, weights: dict[str, Tensor], source: str, norm_cfg) -> None:
    """Copy ImageNet weights, named as this backbone would be with plain BN, into `backbone`.

    What a normalization layer takes is chosen by `MODEL.NORM.LOAD_BN_AFFINE`, `LOAD_BN_RUNNING` and `LOAD_IN_AFFINE`;
    the rest of it keeps its initial value.

    Args:
        source: the file, for messages. norm_cfg: `cfg.MODEL.NORM`.

    Raises:
        UserError: a tensor is missing or has another shape, so the file is of another architecture.
    """
    own = backbone.state_dict()
    wanted: dict[str, tuple[str, slice]] = {}
    norm_prefixes = set()
    for prefix, layer in backbone.named_modules():
        if any(prefix.startswith(done) for done in norm_prefixes):
            continue  # a part of a layer that was dealt with as a whole
        for part, channels in norm_parts(layer):
            norm_prefixes.add(f"{prefix}.")
            for leaf in part_leaves(part, norm_cfg):
                own_name = ".".join(filter(None, (prefix, part_name(layer, part), leaf)))
                wanted[own_name] = (f"{prefix}.{leaf}", channels)
    for name in own:
        if not any(name.startswith(prefix) for prefix in norm_prefixes):
            wanted[name] = (name, slice(None))
    missing = [theirs for theirs, _ in wanted.values() if theirs not in weights]
    if missing:
        raise UserError(
            f"{source} is of another architecture than {describe(backbone)}: it has no {missing[0]} "
            f"({len(missing)} of {len(wanted)} tensors are missing). Check MODEL.BACKBONE.NAME and DEPTH, {NO_PRETRAIN}"
        )
    for name, (theirs, channels) in wanted.items():
        value = weights[theirs][channels]
        if value.shape != own[name].shape:
            raise UserError(
                f"{source} is of another architecture than {describe(backbone)}: {theirs} has shape "
                f"{tuple(value.shape)}, expected {tuple(own[name].shape)}. Check MODEL.BACKBONE.NAME and "
                f"MODEL.BACKBONE.DEPTH, {NO_PRETRAIN}"
            )
        own[name].copy_(value)
    used = {theirs for theirs, _ in wanted.values()}
    unused = [name for name in weights if name not in used and not is_norm_or_classifier(name, norm_prefixes)]
    if unused:
        raise UserError(f"{source} is of another architecture than {describe(backbone)}: it has {unused[0]} besides")
    logger.info(f"loaded {len(wanted)} tensors of ImageNet weights from {source}")


def norm_parts(layer: nn.Module) -> list[tuple[nn.Module, slice]]:
    """Return the BN and IN parts of a normalization layer with the channels they work on; [] for another layer."""
    if isinstance(layer, BatchInstanceNorm):
        return [(layer.bat_n, slice(None)), (layer.ins_n, slice(None))]
    if isinstance(layer, BatchInstanceNormHalf):
        return [(layer.bat_n, slice(0, layer.batch_channels)), (layer.ins_n, slice(layer.batch_channels, None))]
    if isinstance(layer, (nn.BatchNorm2d, InstanceNorm)):
        return [(layer, slice(None))]
    return []


def part_name(layer: nn.Module, part: nn.Module) -> str:
    """Return the name of a part inside its layer: bat_n, ins_n, or '' when the layer is the part itself."""
    return next((name for name, child in layer.named_children() if child is part), "")


def part_leaves(part: nn.Module, norm_cfg) -> list[str]:
    """Return the names of the tensors that one part of a normalization layer takes from the file."""
    affine = ["weight", "bias"]
    if isinstance(part, InstanceNorm):
        return affine if norm_cfg.LOAD_IN_AFFINE else []
    running = ["running_mean", "running_var"]
    return affine * norm_cfg.LOAD_BN_AFFINE + running * norm_cfg.LOAD_BN_RUNNING


def is_norm_or_classifier(name: str, norm_prefixes: set[str]) -> bool:
    """Tell whether a tensor of the file may be left unused: of a normalization layer, or the ImageNet classifier."""
    return any(name.startswith(prefix) for prefix in norm_prefixes) or name.startswith(("fc.", "classifier."))
