"""Cross entropy with fixed or adaptive label smoothing."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from fastreid.utils.comm import all_sum

from .build import LOGITS, LOSS_REGISTRY, Loss
from .pairwise import full_precision


@LOSS_REGISTRY.register("CrossEntropyLoss")
def build_cross_entropy_loss(cfg) -> Loss:
    """Return `cross_entropy_loss` with the options MODEL.LOSSES.CE."""
    options = cfg.MODEL.LOSSES.CE
    function = partial(cross_entropy_loss, eps=options.EPSILON, alpha=options.ALPHA)
    return Loss("loss_cls", options.SCALE, LOGITS, function, ("targets",))


@full_precision
def cross_entropy_loss(logits: Tensor, targets: Tensor, eps: float, alpha: float = 0.2) -> Tensor:
    """Return the label-smoothed cross entropy, averaged over the samples of all processes whose loss is not 0.

    The target distribution is 1 - eps for the true class and eps / (K - 1) for each other one (Szegedy et al., CVPR
    2016). A negative `eps` makes the smoothing adaptive: each sample's own is `alpha` times the probability that the
    model gives to the true class, taken as a constant.

    Args:
        logits: (N, K) class scores.
        targets: (N,) class indices, long, 0..K-1.
        eps: smoothing in [0, 1), or negative for adaptive smoothing.
        alpha: strength of the adaptive smoothing; not used when `eps` >= 0.
    """
    log_prob = F.log_softmax(logits, dim=1)
    log_prob_true = log_prob.gather(1, targets.unsqueeze(1)).squeeze(1)
    log_prob_others = log_prob.sum(1) - log_prob_true
    smoothing = alpha * log_prob_true.detach().exp() if eps < 0 else eps
    others = max(logits.shape[1] - 1, 1)
    loss = -(1 - smoothing) * log_prob_true - smoothing / others * log_prob_others
    return all_sum(loss.sum()) / all_sum((loss != 0).sum()).clamp(min=1)
