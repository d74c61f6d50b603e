"""ImageNet weights into a backbone whose BN layers may have become batch-instance layers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from fastreid.layers import AppendedInstanceNorm, NonLocal, SqueezeExcitation, StyleRestitution
from fastreid.layers.normalization import IBN, BatchInstanceNorm, BatchInstanceNormHalf, InstanceNorm
from fastreid.modeling.backbones.build import describe
from fastreid.utils.errors import UserError
from fastreid.utils.tensor_files import load_tensors, named_tensors

logger = logging.getLogger(__name__)

AFFINE, RUNNING = ["weight", "bias"], ["running_mean", "running_var"]
ADDED = (SqueezeExcitation, NonLocal, AppendedInstanceNorm, StyleRestitution)  # what ImageNet weights may lack
NO_PRETRAIN = "or train from random weights with MODEL.BACKBONE.PRETRAIN False"


def read_weights(path: Path, where_to_get: str) -> dict[str, Tensor]:
    """Return the tensors of a weights file, however they lie in it: see `named_tensors`.

    Raises:
        UserError: the file is missing (the message says `where_to_get` it) or is not a file of tensors.
    """
    if not path.is_file():
        raise UserError(f"no pre-trained weights at {path}: {where_to_get}, {NO_PRETRAIN}")
    content = load_tensors(path)
    weights = named_tensors(content)
    if weights is None:
        raise UserError(f"{path}: expected a dictionary of tensors by name, found {type(content).__name__}")
    return weights


def torchvision_weights(name: str) -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights of the model `name`, from torch.hub's cache or downloaded into it.

    Raises:
        UserError: they are not in the cache and cannot be downloaded.
    """
    from torchvision.models import get_model_weights

    # The first ImageNet recipe of torchvision, which the published numbers of ResNet were made with.
    url = get_model_weights(name).IMAGENET1K_V1.url
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if not cached.is_file():
        logger.info(f"downloading {url} to {cached}")
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            # torchvision's file names end with the beginning of the hash; RuntimeError is a hash that differs.
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=cached.stem.rpartition("-")[2])
        except (URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"torchvision's {name} weights are not at {cached} and cannot be downloaded ({error}): put "
                f"them there, name a file in MODEL.BACKBONE.PRETRAIN_PATH, {NO_PRETRAIN}"
            ) from error
    return load_tensors(cached)


def load_imagenet(backbone: nn.Module, weights: dict[str, Tensor], source: str, norm_cfg) -> None:
    """Copy ImageNet weights, named as this backbone would be with plain BN, into `backbone`.

    What a normalization layer takes is chosen by `MODEL.NORM.LOAD_BN_AFFINE`, `LOAD_BN_RUNNING` and `LOAD_IN_AFFINE`;
    the rest of it keeps its initial value. So do squeeze-and-excitation and non-local blocks, if the file has none. A
    file with IBN's own names (Pan et al., ECCV 2018) fills both parts of its layers, and IN that the file has as IN
    takes its scale and shift.

    Args:
        source: the file, for messages.
        norm_cfg: `cfg.MODEL.NORM`.

    Raises:
        UserError: a tensor is missing or has another shape, so the file is of another architecture.
    """
    own = backbone.state_dict()
    wanted, norms = places_in_file(backbone, weights, norm_cfg)
    fresh = [layer for kind in ADDED for layer in layers_without_weights(backbone, kind, weights)]
    for name in [name for name in wanted if is_below(name, fresh)]:
        del wanted[name]
    missing = [theirs for theirs, _ in wanted.values() if theirs not in weights]
    if missing:
        raise UserError(
            f"{source} is of another architecture than {describe(backbone)}: it has no {missing[0]} "
            f"({len(missing)} of {len(wanted)} tensors are missing). Check MODEL.BACKBONE.NAME, DEPTH, "
            f"WITH_IBN, IBN_TYPE, WITH_SE and WITH_NL, {NO_PRETRAIN}"
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
    unused = [name for name in weights if name not in used and not is_norm_or_classifier(name, norms)]
    if unused:
        raise UserError(
            f"{source} is of another architecture than {describe(backbone)}: it has {unused[0]} besides. Check "
            f"MODEL.BACKBONE.NAME, DEPTH, WITH_SE and WITH_NL, {NO_PRETRAIN}"
        )
    logger.info(f"loaded {len(wanted)} tensors of ImageNet weights from {source}")
    if fresh:
        logger.info(f"{source} has no weights of {', '.join(fresh)}: they start from random ones")


def places_in_file(
    backbone: nn.Module, weights: dict[str, Tensor], norm_cfg
) -> tuple[dict[str, tuple[str, slice]], set[str]]:
    """Return which tensor of the file, and which of its channels, each tensor of the backbone takes, by its name.

    Also returns the names of the normalization layers.
    """
    places: dict[str, tuple[str, slice]] = {}
    norms: set[str] = set()
    for prefix, layer in backbone.named_modules():
        if is_below(prefix, norms):
            continue  # a part of a layer that was dealt with as a whole
        in_parts = isinstance(layer, IBN) and f"{prefix}.IN.weight" in weights
        # IN in the file, too: scale and shift, but no running statistics.
        is_instance = f"{prefix}.weight" in weights and f"{prefix}.running_mean" not in weights
        for part, channels in norm_parts(layer):
            norms.add(prefix)
            trained = in_parts and part is layer.IN or is_instance and isinstance(part, InstanceNorm)
            for leaf in AFFINE if trained else part_leaves(part, norm_cfg):
                name = ".".join(filter(None, (prefix, part_name(layer, part), leaf)))
                places[name] = (name, slice(None)) if in_parts else (f"{prefix}.{leaf}", channels)
    others = [name for name in backbone.state_dict() if not is_below(name, norms)]
    return places | {name: (name, slice(None)) for name in others}, norms


def is_below(name: str, layers: Iterable[str]) -> bool:
    """Tell whether a tensor or layer of that name lies in one of the layers."""
    return name.startswith(tuple(f"{layer}." for layer in layers))


def layers_without_weights(backbone: nn.Module, kind: type[nn.Module], weights: dict[str, Tensor]) -> list[str]:
    """Return the names of the layers of one kind, if a file has no tensor of any of them."""
    layers = [name for name, layer in backbone.named_modules() if isinstance(layer, kind)]
    return [] if any(is_below(name, layers) for name in weights) else layers


def norm_parts(layer: nn.Module) -> list[tuple[nn.Module, slice]]:
    """Return the BN and IN parts of a normalization layer with the channels they work on; [] for another layer."""
    if isinstance(layer, BatchInstanceNorm):
        return [(layer.bat_n, slice(None)), (layer.ins_n, slice(None))]
    if isinstance(layer, BatchInstanceNormHalf):
        return [(layer.bat_n, slice(0, layer.batch_channels)), (layer.ins_n, slice(layer.batch_channels, None))]
    if isinstance(layer, IBN):
        return [(layer.IN, slice(0, layer.instance_channels)), (layer.BN, slice(layer.instance_channels, None))]
    if isinstance(layer, (nn.BatchNorm2d, InstanceNorm)):
        return [(layer, slice(None))]
    return []


def part_name(layer: nn.Module, part: nn.Module) -> str:
    """Return the name of a part inside its layer: bat_n, ins_n, BN, IN, or '' when the layer is the part itself."""
    return next((name for name, child in layer.named_children() if child is part), "")


def part_leaves(part: nn.Module, norm_cfg) -> list[str]:
    """Return the names of the tensors that one part of a normalization layer takes from the file."""
    if isinstance(part, InstanceNorm):
        return AFFINE if norm_cfg.LOAD_IN_AFFINE else []
    return AFFINE * norm_cfg.LOAD_BN_AFFINE + RUNNING * norm_cfg.LOAD_BN_RUNNING


def is_norm_or_classifier(name: str, norms: set[str]) -> bool:
    """Tell whether a tensor of the file may be left unused: of a normalization layer, or the ImageNet classifier."""
    return is_below(name, norms) or name.startswith(("fc.", "classifier."))
