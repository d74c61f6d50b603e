"""Triplet loss whose positives and negatives are chosen by identity and domain."""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.utils.errors import UserError

from .build import LOSS_REGISTRY, Loss
from .pairwise import choose, cosine_distances, euclidean_distances, full_precision, same_value

_DISTANCES = {"euclidean": euclidean_distances, "cosine": cosine_distances}
_SOFT_FORMS = {"logistic": F.softplus, "hinge": F.relu}
_FALLBACK_MARGIN = 0.3
_USUAL = ([1, 0, 0], [0, 1, 1])
# Added to the sum of an anchor's weights, as in the published program. The weights of negatives are exp(-distance), so
# when all of them are farther than about 10 it is no longer negligible, and makes them count as nearer than they are.
_WEIGHT_EPS = 1e-6


def build_triplet_loss(cfg, node: str, key: str) -> Loss:
    """Return `triplet_loss` with the options of a node of MODEL.LOSSES."""
    options = cfg.MODEL.LOSSES[node]
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


LOSS_REGISTRY.register("TripletLoss")(partial(build_triplet_loss, node="TRI", key="loss_triplet"))
LOSS_REGISTRY.register("TripletLoss_add")(partial(build_triplet_loss, node="TRI_ADD", key="loss_triplet_add"))
LOSS_REGISTRY.register("TripletLoss_mtrain")(partial(build_triplet_loss, node="TRI_MTRAIN", key="loss_triplet_mtrain"))
LOSS_REGISTRY.register("TripletLoss_mtest")(partial(build_triplet_loss, node="TRI_MTEST", key="loss_triplet_mtest"))


@full_precision
def triplet_loss(
    embedding: Tensor,
    targets: Tensor,
    domains: Tensor,
    *,
    margin: float,
    norm_feat: bool,
    hard_mining: bool,
    dist_type: str,
    loss_type: str,
    new_pos: Sequence[int],
    new_neg: Sequence[int],
) -> Tensor:
    """Return the batch triplet loss over the chosen pairs, averaged over the anchors that have a negative.

    Positives and negatives are unions of three sets of other images, one flag each: those of the anchor's identity,
    those of other identities in its domain, those of other domains, whatever their identity: where cameras are domains
    an identity is in several, and its images in other cameras are in the first and the third set. [1, 0, 0] against
    [0, 1, 1] is the usual loss (Hermans et al., arXiv 1703.07737), whose negatives are of other identities in any case;
    [0, 0, 1] against [0, 1, 0] is the shuffle loss of MetaBIN (arXiv 2011.14670). The anchor is always one of its own
    positives, at a distance of 0 without gradient, and never a negative. Without any anchor that has a negative the
    loss is 0.

    Args:
        embedding: (N, D) features.
        targets: (N,) identities.
        domains: (N,) domain indices.
        margin: above 0, the margin of a ranking loss; 0 selects `loss_type`.
        norm_feat: L2-normalize the features first.
        hard_mining: use the farthest positive and the nearest negative; else averages of the distances, weighted
            towards the hard ones by exp(distance) and exp(-distance).
        dist_type: "euclidean" or "cosine" (1 - cosine similarity).
        loss_type: "logistic", softplus of (positive - negative distance), which becomes the ranking loss at margin
            0.3 for the whole batch if the exponential of any anchor overflows; or "hinge", its positive part.
        new_pos: three flags, the sets that are positives.
        new_neg: three flags, the sets that are negatives.

    Raises:
        UserError: an unknown `dist_type` or `loss_type`, or not three flags.
    """
    distance_between = choose("dist_type", dist_type, _DISTANCES)
    soft_form = choose("loss_type", loss_type, _SOFT_FORMS)
    if norm_feat:
        embedding = F.normalize(embedding, dim=1)
    distance = distance_between(embedding)
    positive, negative = _pair_masks(targets, domains, new_pos, new_neg)
    mine = _hardest if hard_mining else _weighted
    dist_pos, dist_neg = mine(distance, positive, negative)

    valid = negative.any(1)
    gap = (dist_pos - dist_neg).masked_fill(~valid, 0)
    if margin > 0:
        return _mean_over(F.relu(gap + margin), valid)
    loss = _mean_over(soft_form(gap), valid)
    if loss_type != "logistic":
        return loss
    # Both branches are finite, in value and gradient, so `where` cannot leak a NaN from the one not taken.
    overflows = (gap > math.log(torch.finfo(gap.dtype).max)).any()
    return torch.where(overflows, _mean_over(F.relu(gap + _FALLBACK_MARGIN), valid), loss)


def _pair_masks(
    targets: Tensor, domains: Tensor, new_pos: Sequence[int], new_neg: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return which pairs (anchor, other) are positive and which negative, both (N, N) boolean."""
    same_identity, same_domain = same_value(targets), same_value(domains)
    itself = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    if (list(new_pos), list(new_neg)) == _USUAL:
        return same_identity, ~same_identity
    sets = (same_identity, same_domain & ~same_identity, ~same_domain)

    def union(name: str, flags: Sequence[int]) -> Tensor:
        if len(flags) != len(sets):
            raise UserError(
                f"{name} must be three flags: same identity, same domain, other domain; found {list(flags)}. "
                "Correct it in the config."
            )
        mask = torch.zeros_like(itself)
        for members, flag in zip(sets, flags):
            if flag:
                mask = mask | members
        return mask

    return union("new_pos", new_pos) | itself, union("new_neg", new_neg) & ~itself


def _hardest(distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return each anchor's distance to its farthest positive and nearest negative (infinite if it has none)."""
    return (distance.masked_fill(~positive, -math.inf).amax(1), distance.masked_fill(~negative, math.inf).amin(1))


def _weighted(distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return each anchor's weighted mean distance to its positives and to its negatives (0 if it has none)."""
    farthest = distance.detach().masked_fill(~positive, -math.inf).amax(1, keepdim=True)
    return (
        _weighted_mean(distance, (distance - farthest).masked_fill(~positive, -math.inf).exp()),
        _weighted_mean(distance, (-distance).masked_fill(~negative, -math.inf).exp()),
    )


def _weighted_mean(distance: Tensor, weight: Tensor) -> Tensor:
    return (distance * weight).sum(1) / (weight.sum(1) + _WEIGHT_EPS)


def _mean_over(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of the valid values, 0 when there are none."""
    return values.masked_fill(~valid, 0).sum() / valid.sum().clamp(min=1)
