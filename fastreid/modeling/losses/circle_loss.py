"""Circle loss over the pairs of a batch."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .build import LOSS_REGISTRY, Loss
from .pairwise import full_precision, same_value


@LOSS_REGISTRY.register("CircleLoss")
def build_circle_loss(cfg) -> Loss:
    """Return `circle_loss` with the options MODEL.LOSSES.CIRCLE."""
    options = cfg.MODEL.LOSSES.CIRCLE
    function = partial(circle_loss, margin=options.MARGIN, gamma=options.ALPHA)
    return Loss("loss_circle", options.SCALE, options.FEAT_ORDER, function, ("targets",))


@full_precision
def circle_loss(embedding: Tensor, targets: Tensor, *, margin: float, gamma: float) -> Tensor:
    """Return the pair-wise circle loss (Sun et al., CVPR 2020), averaged over the anchors.

    Per anchor, softplus(logsumexp(p) + logsumexp(n)) of the cosine similarities s to the other images, with
    p = gamma * relu(1 + margin - s) * (1 - margin - s) over the positives and n = gamma * relu(s + margin) *
    (s - margin) over the negatives; the relu factors are constants. As in the published program, images that are not
    positives take part in the first sum, and not negatives in the second, with similarity 0. Hence an anchor without
    positives or negatives has a finite loss, and the loss is large even for well separated identities.

    Args:
        embedding: (N, D) features, L2-normalized here.
        targets: (N,) identities.
        margin: relaxation m of the paper; the published value is 0.25.
        gamma: scale; the published value is 128.
    """
    unit = F.normalize(embedding, dim=1)
    similarity = unit @ unit.t()
    same_identity = same_value(targets)
    itself = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
    sim_pos = similarity.masked_fill(~same_identity | itself, 0)
    sim_neg = similarity.masked_fill(same_identity, 0)
    logit_pos = gamma * F.relu(1 + margin - sim_pos.detach()) * (1 - margin - sim_pos)
    logit_neg = gamma * F.relu(sim_neg.detach() + margin) * (sim_neg - margin)
    return F.softplus(logit_pos.logsumexp(1) + logit_neg.logsumexp(1)).mean()
