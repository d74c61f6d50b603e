"""From the loss names of a config to one function of a batch's outputs."""

from __future__ import annotations

from functools import partial
from typing import Callable, Iterable, NamedTuple

from torch import Tensor

from fastreid.modeling.losses.circle_loss import circle_loss
from fastreid.modeling.losses.cross_entropy_loss import cross_entropy_loss
from fastreid.modeling.losses.domain_losses import mmd_loss, scatter_loss, std_loss
from fastreid.modeling.losses.dual_causality_loss import dual_causality_loss
from fastreid.modeling.losses.triplet_loss import triplet_loss
from fastreid.utils.comm import all_counts, gather_rows
from fastreid.utils.errors import UserError

Losses = dict[str, Tensor]
LOGITS, FEATURES, RESTITUTED = "logits", ("before", "after"), "restituted"  # what a loss may see of a `HeadOutput`


class Loss(NamedTuple):
    """A loss: its name in logs, its scale, what it sees of a `HeadOutput`, and (seen, targets, domains) -> scalar."""

    key: str
    scale: float
    sees: str
    function: Callable[[Tensor, Tensor, Tensor], Tensor]


def build_losses(cfg, names: Iterable[str], option: str) -> Callable[..., Losses]:
    """Return a function (outputs, targets, domains) -> scalar losses by name, each times its SCALE.

    They are the losses of the images of all processes together, the same in each: metric losses see all features,
    and cross entropy, which needs no other image, sums over the processes without sending logits around. A process
    may have no image.

    Args:
        names: values of an option such as `MODEL.LOSSES.NAME`. option: that option's name, for messages.

    Raises:
        UserError: no loss has such a name, or none is named, or a FEAT_ORDER is neither before nor after.
    """
    known = loss_functions(cfg.MODEL.LOSSES)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        found = repr(unknown[0]) if unknown else "none"
        raise UserError(f"{option} must name losses out of {', '.join(known)}; found {found}")
    chosen = [known[name] for name in names]
    for name, loss in zip(names, chosen):
        if loss.sees not in (LOGITS, RESTITUTED, *FEATURES):
            raise UserError(f"the FEAT_ORDER of {name} in MODEL.LOSSES must be before or after; found {loss.sees!r}")
    if "DualCausalityLoss" in names:
        check_restitution(cfg)
    compared = list(dict.fromkeys(loss.sees for loss in chosen if loss.sees != LOGITS))

    def losses(outputs, targets: Tensor, domains: Tensor) -> Losses:
        seen = {LOGITS: (outputs.logits, targets, domains)}
        if compared:
            counts = all_counts(len(targets))
            labels = [gather_rows(values, counts) for values in (targets, domains)]
            seen |= {order: (gather_features(getattr(outputs, order), counts), *labels) for order in compared}
        return {loss.key: loss.scale * loss.function(*seen[loss.sees]) for loss in chosen}

    return losses


def gather_features(features: Tensor | tuple, counts: list[int]) -> Tensor | tuple:
    """Return the rows of all processes; of each tensor, if it is a tuple of tensors or of such tuples."""
    if isinstance(features, tuple):
        return tuple(gather_features(part, counts) for part in features)
    return gather_rows(features, counts)


def check_restitution(cfg) -> None:
    """Raise UserError if the model has no SNR layers for the dual causality loss, or not as many as weights."""
    style, weights = cfg.MODEL.STYLE, cfg.MODEL.LOSSES.SNR.WEIGHTS
    if style.NAME != "SNR":
        raise UserError(
            f"DualCausalityLoss is about SNR's layers: set MODEL.STYLE.NAME SNR (found {style.NAME!r}), or leave it out"
        )
    stages = len(style.STAGES) or 4
    if len(weights) != stages:
        raise UserError(
            f"MODEL.LOSSES.SNR.WEIGHTS must be {stages} numbers, one for each SNR layer; found {len(weights)}"
        )


def loss_functions(node) -> dict[str, Loss]:
    """Return every loss there is, by its name in a config; `node` is `cfg.MODEL.LOSSES`."""

    def triplet(key: str, options) -> Loss:
        function = partial(
            triplet_loss,
            margin=options.MARGIN,
            norm_feat=options.NORM_FEAT,
            hard_mining=options.HARD_MINING,
            dist_type=options.DIST_TYPE,
            loss_type=options.LOSS_TYPE,
            new_pos=options.NEW_POS,
            new_neg=options.NEW_NEG,
        )
        return Loss(key, options.SCALE, options.FEAT_ORDER, function)

    def cross_entropy(logits: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
        return cross_entropy_loss(logits, targets, node.CE.EPSILON, node.CE.ALPHA)

    def circle(features: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
        return circle_loss(features, targets, margin=node.CIRCLE.MARGIN, gamma=node.CIRCLE.ALPHA)

    def scatter(features: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
        return scatter_loss(features, domains, norm_feat=node.SCT.NORM, dist_type=node.SCT.TYPE)

    def std(features: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
        options = node.STD
        return std_loss(features, domains, norm_feat=options.NORM, std_type=options.TYPE, log_scale=options.LOG_SCALE)

    def mmd(features: Tensor, targets: Tensor, domains: Tensor) -> Tensor:
        options = node.MMD
        return mmd_loss(
            features,
            domains,
            norm_feat=options.NORM,
            norm_flag=options.NORM_FLAG,
            kernel_mul=options.KERNEL_MUL,
            kernel_num=options.KERNEL_NUM,
            fix_sigma=options.FIX_SIGMA,
        )

    def dual_causality(restituted: tuple, targets: Tensor, domains: Tensor) -> Tensor:
        return dual_causality_loss(restituted, targets, node.SNR.WEIGHTS)

    return {
        "CrossEntropyLoss": Loss("loss_cls", node.CE.SCALE, LOGITS, cross_entropy),
        "TripletLoss": triplet("loss_triplet", node.TRI),
        "TripletLoss_add": triplet("loss_triplet_add", node.TRI_ADD),
        "TripletLoss_mtrain": triplet("loss_triplet_mtrain", node.TRI_MTRAIN),
        "TripletLoss_mtest": triplet("loss_triplet_mtest", node.TRI_MTEST),
        "CircleLoss": Loss("loss_circle", node.CIRCLE.SCALE, node.CIRCLE.FEAT_ORDER, circle),
        "SCT": Loss("loss_stc", node.SCT.SCALE, node.SCT.FEAT_ORDER, scatter),
        "STD": Loss("loss_std", node.STD.SCALE, node.STD.FEAT_ORDER, std),
        "MMD": Loss("loss_mmd", node.MMD.SCALE, node.MMD.FEAT_ORDER, mmd),
        "DualCausalityLoss": Loss("loss_snr", node.SNR.SCALE, RESTITUTED, dual_causality),
    }
