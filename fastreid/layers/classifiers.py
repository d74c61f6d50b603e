"""Classification layers: features (N, D) and identities (N,) -> logits (N, K)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastreid.utils.errors import UserError


class Linear(nn.Linear):
    """A linear classifier without bias; the targets are not used."""

    def __init__(self, in_features: int, num_classes: int, scale: float, margin: float):
        super().__init__(in_features, num_classes, bias=False)

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor:
        return F.linear(features, self.weight)


class MarginClassifier(nn.Module):
    """Cosine classifier whose logits are scaled, and made harder for the target class by a margin while training."""

    def __init__(self, in_features: int, num_classes: int, scale: float, margin: float):
        super().__init__()
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.empty(num_classes, in_features))

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor:
        cosine = F.linear(F.normalize(features), F.normalize(self.weight))
        if targets is None:
            return self.scale * cosine
        is_target = F.one_hot(targets, cosine.shape[1]).bool()
        return self.scale * torch.where(is_target, self.target_logit(cosine), self.other_logit(cosine))

    def target_logit(self, cosine: Tensor) -> Tensor:
        raise NotImplementedError

    def other_logit(self, cosine: Tensor) -> Tensor:
        return cosine


class ArcSoftmax(MarginClassifier):
    """cos(angle + margin): ArcFace, arXiv 1801.07698. Past pi the penalty continues as a straight line."""

    def target_logit(self, cosine: Tensor) -> Tensor:
        # The square root's slope is infinite at 1, where a target cosine may lie: keep it off that point.
        sine = (1 - cosine.square()).clamp(min=1e-7).sqrt()
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - math.sin(math.pi - self.margin) * self.margin
        return torch.where(cosine > math.cos(math.pi - self.margin), shifted, beyond)


class CircleSoftmax(MarginClassifier):
    """Pair weights that grow with the distance from the optimum: Circle loss, arXiv 2002.10857."""

    def target_logit(self, cosine: Tensor) -> Tensor:
        weight = (1 + self.margin - cosine.detach()).clamp(min=0)
        return weight * (cosine - (1 - self.margin))

    def other_logit(self, cosine: Tensor) -> Tensor:
        weight = (cosine.detach() + self.margin).clamp(min=0)
        return weight * (cosine - self.margin)


class AMSoftmax(MarginClassifier):
    """cosine - margin: additive margin softmax, arXiv 1801.05599."""

    def target_logit(self, cosine: Tensor) -> Tensor:
        return cosine - self.margin


CLASSIFIERS = {"linear": Linear, "arcSoftmax": ArcSoftmax, "circleSoftmax": CircleSoftmax, "amSoftmax": AMSoftmax}


def build_classifier(name: str, in_features: int, num_classes: int, scale: float, margin: float) -> nn.Module:
    """Return the layer that `MODEL.HEADS.CLS_LAYER` names; its weight, (K, D), starts with deviation 0.001.

    Raises:
        UserError: an unknown name; the message lists the known ones.
    """
    if name not in CLASSIFIERS:
        raise UserError(f"MODEL.HEADS.CLS_LAYER must be one of {', '.join(CLASSIFIERS)}; found {name!r}")
    layer = CLASSIFIERS[name](in_features, num_classes, scale, margin)
    nn.init.normal_(layer.weight, std=0.001)
    return layer
