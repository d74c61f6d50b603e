"""Layers that change the styles of maps while a network is trained: MixStyle, EFDMix and DSU.

A style is an image's channel means and deviations (EFDMix: all of a channel's values, in order). In evaluation mode the
layers return the maps they are given. What they draw comes from PyTorch's generators, whose states checkpoints hold.
In a run of several processes each mixes the images it has.

Shapes: maps are (N, C, H, W), domains (N,), partners (N,) long, weights (N, 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributions import Beta

from fastreid.layers.by_moments import by_moments
from fastreid.layers.passes import centre, moments, per_map, statistics_input

EPS = 1e-6  # under the root of a variance, as the methods' authors have it
PARTNERS = ("random", "domain")


class StyleLayer(nn.Module):
    """What stands between the stages of a backbone; `image_domains` tells it the domains of the images to come."""

    domains: Tensor | None = None


def style_layers(model: nn.Module) -> list[StyleLayer]:
    """Return the style layers of a model, in its order."""
    return [layer for layer in model.modules() if isinstance(layer, StyleLayer)]


@contextmanager
def image_domains(model: nn.Module, domains: Tensor | None) -> Iterator[list[StyleLayer]]:
    """Within, the style layers of a model know the domains of its images; yields the layers."""
    layers = style_layers(model)
    for layer in layers:
        layer.domains = domains
    try:
        yield layers
    finally:
        for layer in layers:
            layer.domains = None


class RandomStyle(StyleLayer):
    """A style layer that is at work in a random share `prob` of the forward passes of training."""

    def __init__(self, prob: float = 0.5):
        super().__init__()
        self.prob = prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or len(x) == 0 or not is_chosen(self.prob):
            return x
        return self.restyle(x)

    def restyle(self, x: Tensor) -> Tensor:
        """Return the maps in other styles."""
        raise NotImplementedError


class MixStyle(RandomStyle):
    """Each image's channel means and deviations are mixed with those of another image of the batch.

    x -> s * (x - mean) / std + m, where m and s are w * own + (1 - w) * the partner's, w drawn from Beta(alpha, alpha)
    for each image. The styles are constants for the gradient.

    Zhou et al., "Domain Generalization with MixStyle" (ICLR 2021, arXiv 2104.02008).

    Args:
        prob: share of the forward passes of training in which it does this.
        alpha: small ones leave most of one style.
        partner: "random": a random order of the batch; "domain": one of the images of other domains, drawn for each.
    """

    def __init__(self, prob: float = 0.5, alpha: float = 0.1, partner: str = "random"):
        super().__init__(prob)
        self.alpha, self.partner = alpha, partner

    def restyle(self, x: Tensor) -> Tensor:
        if self.partner == "domain" and self.domains is None:
            raise ValueError("a partner of another domain needs the images' domains: see image_domains")
        partners, own = draw_mixing(x, self.domains if self.partner == "domain" else None, self.alpha)
        return self.mix(x, partners, own)

    def mix(self, x: Tensor, partners: Tensor, own: Tensor) -> Tensor:
        """Return the maps with the share `own` of their style and the rest of their partners'."""
        mean, var = moments(x.detach())
        std = (var + EPS).sqrt()
        mixed_mean, mixed_std = (torch.lerp(style[partners], style, own) for style in (mean, std))
        return (centre(x, mean) * per_map(mixed_std / std) + per_map(mixed_mean)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"prob={self.prob}, alpha={self.alpha}, partner={self.partner}"


class EFDMix(MixStyle):
    """As MixStyle, but all values of a channel are mixed with the partner's of the same ranks, not two moments.

    x -> x + (1 - w) * (y - x'), where y is the partner's value of x's rank among the channel's values, and x' is x as a
    constant for the gradient ("exact feature distribution mixing").

    Zhang et al., "Exact Feature Distribution Matching for Arbitrary Style Transfer and Domain Generalization" (CVPR
    2022, arXiv 2203.07740).
    """

    def mix(self, x: Tensor, partners: Tensor, own: Tensor) -> Tensor:
        values = statistics_input(x).flatten(2)
        ordered, order = values.sort(dim=2)
        matched = ordered[partners].gather(2, order.argsort(dim=2))
        mixed = values + (1 - own)[..., None] * (matched - values.detach())
        return mixed.view_as(x).to(x.dtype)


class DSU(RandomStyle):
    """Each image's channel means and deviations are moved at random, as far as they differ within the batch.

    x -> s * (x - mean) / std + m, where m = mean + e * (deviation of the means over the batch), s likewise, with e
    standard normal for each image and channel ("domain shifts with uncertainty").

    Li et al., "Uncertainty Modeling for Out-of-Distribution Generalization" (ICLR 2022, arXiv 2202.03958).

    Args:
        prob: share of the forward passes of training in which it does this.
    """

    def restyle(self, x: Tensor) -> Tensor:
        return self.move(x, *draw_normal(x))

    def move(self, x: Tensor, for_mean: Tensor, for_std: Tensor) -> Tensor:
        """Return the maps with their styles moved by so many of the batch's deviations, (N, C) each."""

        def coefficients(mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
            std = (var + EPS).sqrt()
            of_means, of_stds = ((values.var(0, correction=0) + EPS).sqrt() for values in (mean, std))
            return 1 + for_std * of_stds / std, mean + for_mean * of_means

        return by_moments(x, coefficients)

    def extra_repr(self) -> str:
        return f"prob={self.prob}"


# What is drawn. Not compiled: a compiler's generators are others than those whose states checkpoints hold. The
# decorator is the one of torch.optim: torch.compiler.disable loads the compiler at once, a third of the start of a
# command that reads no images.


@torch._disable_dynamo
def is_chosen(prob: float) -> bool:
    """Tell by a random number whether to do what has this probability."""
    return torch.rand(()).item() < prob


@torch._disable_dynamo
def draw_mixing(x: Tensor, domains: Tensor | None, alpha: float) -> tuple[Tensor, Tensor]:
    """Return each image's partner and its own weight, from Beta(alpha, alpha).

    Args:
        domains: the partners are of other ones; without them, the partners are the images in a random order. An image
            without any of another domain is its own partner.
    """
    number, device = len(x), x.device
    concentration = torch.tensor(alpha, device=device, dtype=statistics_input(x[:0]).dtype)
    own = Beta(concentration, concentration).sample((number, 1))
    if domains is None:
        return torch.randperm(number, device=device), own
    domains = domains.to(device)
    other = domains[:, None] != domains
    chance = torch.rand(number, number, device=device).masked_fill(~other, -1)
    return torch.where(other.any(1), chance.argmax(1), torch.arange(number, device=device)), own


@torch._disable_dynamo
def draw_normal(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return two standard normal numbers for each image and channel, as (N, C) each."""
    first, second = torch.randn(2, *x.shape[:2], device=x.device, dtype=statistics_input(x[:0]).dtype)
    return first, second
