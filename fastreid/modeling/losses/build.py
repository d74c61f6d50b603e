"""From the loss names of a config to one function of a batch's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Iterable

from torch import Tensor

from fastreid.modeling.losses.circle_loss import circle_loss
from fastreid.modeling.losses.cross_entropy_loss import cross_entropy_loss
from fastreid.modeling.losses.domain_losses import mmd_loss, scatter_loss, std_loss
from fastreid.modeling.losses.triplet_loss import triplet_loss
from fastreid.utils.comm import all_counts, gather_rows
from fastreid.utils.errors import UserError

if TYPE_CHECKING:
    from fastreid.modeling.heads import HeadOutput

Losses = dict[str, Tensor]
PER_IMAGE = ("CrossEntropyLoss",)  # losses that do not compare images
LossFunction = Callable[["HeadOutput", Tensor, Tensor], Tensor]  # (outputs, targets, domains) -> scalar


def build_losses(cfg, names: Iterable[str], option: str) -> Callable[..., Losses]:
    """Return a function (outputs, targets, domains) -> scalar losses by name, each times its SCALE.

    They are the losses of the images of all processes together, the same in each: metric losses see all features,
    and cross entropy, which needs no other image, sums over the processes without sending logits around. A process
    may have no image.

    Args:
        names: values of an option such as `MODEL.LOSSES.NAME`. option: that option's name, for messages.

    Raises:
        UserError: no loss has such a name, or none is named.
    """
    known = loss_functions(cfg.MODEL.LOSSES)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        found = repr(unknown[0]) if unknown else "none"
        raise UserError(f"{option} must name losses out of {', '.join(known)}; found {found}")
    compares_images = any(name not in PER_IMAGE for name in names)

    def losses(outputs, targets: Tensor, domains: Tensor) -> Losses:
        own = everyone = outputs, targets, domains
        if compares_images:
            counts = all_counts(len(targets))
            features, *labels = (gather_rows(values, counts) for values in (outputs.features, targets, domains))
            everyone = outputs._replace(features=features), *labels
        values: Losses = {}
        for name in names:
            key, scale, function = known[name]
            values[key] = scale * function(*(own if name in PER_IMAGE else everyone))
        return values

    return losses


def loss_functions(node) -> dict[str, tuple[str, float, LossFunction]]:
    """Return config name -> (name in logs, scale, function) of every loss there is; `node` is `cfg.MODEL.LOSSES`."""

    def triplet(options) -> LossFunction:
        return lambda outputs, targets, domains: triplet_loss(
            outputs.features,
            targets,
            domains,
            margin=options.MARGIN,
            norm_feat=options.NORM_FEAT,
            hard_mining=options.HARD_MINING,
            dist_type=options.DIST_TYPE,
            loss_type=options.LOSS_TYPE,
            new_pos=options.NEW_POS,
            new_neg=options.NEW_NEG,
        )

    def cross_entropy(outputs, targets: Tensor, domains: Tensor) -> Tensor:
        return cross_entropy_loss(outputs.logits, targets, node.CE.EPSILON, node.CE.ALPHA)

    def circle(outputs, targets: Tensor, domains: Tensor) -> Tensor:
        return circle_loss(outputs.features, targets, margin=node.CIRCLE.MARGIN, gamma=node.CIRCLE.ALPHA)

    def scatter(outputs, targets: Tensor, domains: Tensor) -> Tensor:
        return scatter_loss(outputs.features, domains, norm_feat=node.SCT.NORM_FEAT, dist_type=node.SCT.DIST_TYPE)

    def std(outputs, targets: Tensor, domains: Tensor) -> Tensor:
        return std_loss(outputs.features, domains, norm_feat=node.STD.NORM_FEAT, std_type=node.STD.STD_TYPE)

    def mmd(outputs, targets: Tensor, domains: Tensor) -> Tensor:
        return mmd_loss(outputs.features, domains, norm_feat=node.MMD.NORM_FEAT, norm_flag=node.MMD.NORM_FLAG)

    return {
        "CrossEntropyLoss": ("loss_cls", node.CE.SCALE, cross_entropy),
        "TripletLoss": ("loss_triplet", node.TRI.SCALE, triplet(node.TRI)),
        "TripletLoss_add": ("loss_triplet_add", node.TRI_ADD.SCALE, triplet(node.TRI_ADD)),
        "TripletLoss_mtrain": ("loss_triplet_mtrain", node.TRI_MTRAIN.SCALE, triplet(node.TRI_MTRAIN)),
        "TripletLoss_mtest": ("loss_triplet_mtest", node.TRI_MTEST.SCALE, triplet(node.TRI_MTEST)),
        "CircleLoss": ("loss_circle", node.CIRCLE.SCALE, circle),
        "SCT": ("loss_stc", node.SCT.SCALE, scatter),
        "STD": ("loss_std", node.STD.SCALE, std),
        "MMD": ("loss_mmd", node.MMD.SCALE, mmd),
    }
