"""The dual causality loss of SNR: a part of the style makes people easier to tell apart, the rest makes it harder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.layers.restitution import Restituted
from fastreid.utils.errors import UserError

from .build import LOSS_REGISTRY, RESTITUTED, Loss
from .pairwise import cosine_distances, full_precision, same_value


@LOSS_REGISTRY.register("DualCausalityLoss")
def build_dual_causality_loss(cfg) -> Loss:
    """Return `dual_causality_loss` with the options MODEL.LOSSES.SNR.

    Raises:
        UserError: the model has no SNR layers, or not as many as there are weights.
    """
    style, options = cfg.MODEL.STYLE, cfg.MODEL.LOSSES.SNR
    if style.NAME != "SNR":
        raise UserError(
            f"DualCausalityLoss is about SNR's layers: set MODEL.STYLE.NAME SNR (found {style.NAME!r}), or leave it out"
        )
    stages = len(style.STAGES) or 4
    if len(options.WEIGHTS) != stages:
        raise UserError(
            f"MODEL.LOSSES.SNR.WEIGHTS must be {stages} numbers, one for each SNR layer; found {len(options.WEIGHTS)}"
        )
    function = partial(dual_causality_loss, weights=options.WEIGHTS)
    return Loss("loss_snr", options.SCALE, RESTITUTED, function, ("targets",))


def dual_causality_loss(restituted: Sequence[Restituted], targets: Tensor, weights: Iterable[float]) -> Tensor:
    """Return the sum over SNR's layers of each one's weight times its clarification and destruction losses.

    With d = (1 - cosine similarity) / 2 between the mean features of two images, normalized (n), with the relevant part
    of the style (r) and with the rest of it (i), each layer has

        softplus(d_r - d_n) + softplus(d_n - d_i) over the pairs of one person,
        softplus(d_n - d_r) + softplus(d_i - d_n) over the pairs of two.

    The paper (Jin et al., CVPR 2020, arXiv 2005.11037) draws triplets; as each of its terms is about one of their two
    pairs, the mean over all triplets is this one over all pairs. Note that instance normalization leaves every map the
    same mean, its shift: d_n of plain pooling, which is the paper's, is 0 up to rounding.

    Args:
        restituted: by layer, features (N, C) of the three kinds.
        targets: (N,) identities.
    """
    same = same_value(targets)
    others = ~torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    pairs = same & others, ~same
    layers = zip(weights, restituted, strict=True)
    return sum(weight * layer_loss(torch.cat(kinds, 1), *pairs) for weight, kinds in layers)


@full_precision
def layer_loss(kinds: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Return the loss of one layer; the mean over no pairs is 0.

    Args:
        kinds: (N, 3 C) features, the three kinds side by side.
        positive, negative: (N, N), which pairs are which.
    """
    normal, relevant, irrelevant = (cosine_distances(features) / 2 for features in kinds.chunk(3, 1))
    nearer = F.softplus(relevant - normal) + F.softplus(normal - irrelevant)
    farther = F.softplus(normal - relevant) + F.softplus(irrelevant - normal)
    return sum(
        (terms * pairs).sum() / pairs.sum().clamp(min=1) for terms, pairs in ((nearer, positive), (farther, negative))
    )
