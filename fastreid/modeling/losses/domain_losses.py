"""Losses on how the features spread within domains and differ between them: scatter, STD and MMD."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.utils.errors import UserError

from .build import LOSS_REGISTRY, Loss
from .pairwise import choose, full_precision, manhattan_distances, safe_sqrt, same_value, squared_distances

# Keeps the division by the bandwidth finite when all the features of two domains are equal.
_MIN_BANDWIDTH = 1e-12


@LOSS_REGISTRY.register("SCT")
def build_scatter_loss(cfg) -> Loss:
    """Return `scatter_loss` with the options MODEL.LOSSES.SCT."""
    options = cfg.MODEL.LOSSES.SCT
    function = partial(scatter_loss, norm_feat=options.NORM, dist_type=options.TYPE)
    return Loss("loss_stc", options.SCALE, options.FEAT_ORDER, function, ("domains",))


@LOSS_REGISTRY.register("STD")
def build_std_loss(cfg) -> Loss:
    """Return `std_loss` with the options MODEL.LOSSES.STD."""
    options = cfg.MODEL.LOSSES.STD
    function = partial(std_loss, norm_feat=options.NORM, std_type=options.TYPE, log_scale=options.LOG_SCALE)
    return Loss("loss_std", options.SCALE, options.FEAT_ORDER, function, ("domains",))


@LOSS_REGISTRY.register("MMD")
def build_mmd_loss(cfg) -> Loss:
    """Return `mmd_loss` with the options MODEL.LOSSES.MMD."""
    options = cfg.MODEL.LOSSES.MMD
    function = partial(
        mmd_loss,
        norm_feat=options.NORM,
        norm_flag=options.NORM_FLAG,
        kernel_mul=options.KERNEL_MUL,
        kernel_num=options.KERNEL_NUM,
        fix_sigma=options.FIX_SIGMA,
    )
    return Loss("loss_mmd", options.SCALE, options.FEAT_ORDER, function, ("domains",))


@full_precision
def scatter_loss(embedding: Tensor, domains: Tensor, *, norm_feat: bool, dist_type: str) -> Tensor:
    """Return how close the features of a domain are to its mean, averaged per domain, then over domains.

    MetaBIN's intra-domain scatter loss (arXiv 2011.14670): minimizing it spreads the domain, which simulates styles
    that the gates have not seen. A domain of one image is at its own mean: similarity 1, distance 0.

    Args:
        embedding: (N, D) features.
        domains: (N,) domain indices.
        norm_feat: L2-normalize the features before the mean is taken.
        dist_type: "cosine_sim" for the cosine similarity between feature and mean, "cosine" for the same minus 1,
            "euclidean" for minus the Euclidean distance.

    Raises:
        UserError: an unknown `dist_type`.
    """
    closeness = choose("dist_type", dist_type, _CLOSENESS)
    if norm_feat:
        embedding = F.normalize(embedding, dim=1)
    same_domain = same_value(domains).to(embedding.dtype)
    count = same_domain.sum(1)
    centre = same_domain @ embedding / count.unsqueeze(1)
    return _mean_over_groups(closeness(embedding, centre), count)


def _cosine_similarity(features: Tensor, centre: Tensor) -> Tensor:
    return (F.normalize(features, dim=1) * F.normalize(centre, dim=1)).sum(1)


_CLOSENESS = {
    "cosine_sim": _cosine_similarity,
    "cosine": lambda features, centre: _cosine_similarity(features, centre) - 1,
    "euclidean": lambda features, centre: -safe_sqrt((features - centre).square().sum(1)),
}


@full_precision
def std_loss(embedding: Tensor, domains: Tensor, *, norm_feat: bool, std_type: str, log_scale: bool = True) -> Tensor:
    """Return minus the (logarithm of the) standard deviation of the features; minimizing it spreads them.

    The standard deviation is the unbiased one. A group too small to have one (a single image, per channel) is left
    out; without any group the loss is 0.

    Args:
        embedding: (N, D) features.
        domains: (N,) domain indices.
        norm_feat: L2-normalize the features first.
        std_type: "all" over all the values of the batch; "all_channel" per channel over the batch, averaged over the
            channels before the logarithm; "domain" and "domain_channel" the same within each domain, averaged over
            domains after the logarithm.
        log_scale: take the logarithm.

    Raises:
        UserError: an unknown `std_type`.
    """
    group_of, per_channel = choose("std_type", std_type, _STD_TYPES)
    if norm_feat:
        embedding = F.normalize(embedding, dim=1)
    same_group = same_value(group_of(domains)).to(embedding.dtype)
    count = same_group.sum(1)
    values = 1 if per_channel else embedding.shape[1]
    mean = same_group @ embedding / count.unsqueeze(1)
    mean = mean if per_channel else mean.mean(1, keepdim=True)
    squares = (embedding - mean).square()
    squares = squares if per_channel else squares.sum(1, keepdim=True)
    freedom = count * values - 1
    std = safe_sqrt(same_group @ squares / freedom.clamp(min=1).unsqueeze(1)).mean(1)
    return _mean_over_groups(-std.log() if log_scale else -std, count, freedom > 0)


_STD_TYPES = {
    "all": (torch.zeros_like, False),
    "all_channel": (torch.zeros_like, True),
    "domain": (torch.clone, False),
    "domain_channel": (torch.clone, True),
}


def _mean_over_groups(values: Tensor, count: Tensor, valid: Tensor | None = None) -> Tensor:
    """Average `values` (N,) in each group, then over groups, given the size of each image's group.

    Weighting by 1 / size needs no list of the groups, whose length the host would have to wait for.
    """
    weight = count.reciprocal() if valid is None else count.reciprocal() * valid
    return (values * weight).sum() / weight.sum().clamp(min=1)


@full_precision
def mmd_loss(
    embedding: Tensor,
    domains: Tensor,
    *,
    norm_feat: bool,
    norm_flag: str,
    kernel_mul: float = 2.0,
    kernel_num: int = 5,
    fix_sigma: float = 0.0,
) -> Tensor:
    """Return the squared maximum mean discrepancy between two domains, averaged over the pairs of domains.

    Biased estimate (Gretton et al., JMLR 2012) with a sum of `kernel_num` kernels exp(-distance / bandwidth), whose
    bandwidths grow by the factor `kernel_mul` around the mean distance between different images of the two domains.
    The bandwidth is a constant for the gradient. A batch of one domain has loss 0.

    Args:
        embedding: (N, D) features.
        domains: (N,) domain indices.
        norm_feat: L2-normalize the features first.
        norm_flag: distance in the kernels: "l2norm", squared Euclidean, or "l1norm", sum of absolute differences.
        kernel_mul: ratio of neighbouring bandwidths.
        kernel_num: number of kernels.
        fix_sigma: middle bandwidth to use instead of the mean distance, unless 0.

    Raises:
        UserError: an unknown `norm_flag`, or no kernel.
    """
    distance_between = choose("norm_flag", norm_flag, {"l1norm": manhattan_distances, "l2norm": squared_distances})
    if kernel_num < 1 or kernel_mul <= 0:
        raise UserError(f"kernel_num must be at least 1 and kernel_mul above 0; found {kernel_num} and {kernel_mul}")
    if norm_feat:
        embedding = F.normalize(embedding, dim=1)
    distance = distance_between(embedding)

    member = (domains.unique().unsqueeze(1) == domains.unsqueeze(0)).to(embedding.dtype)  # (domains, N)
    first, second = torch.triu_indices(len(member), len(member), offset=1, device=domains.device)
    if fix_sigma:
        bandwidth = torch.full_like(first, fix_sigma, dtype=embedding.dtype)
    else:
        either = member[first] + member[second]  # (pairs, N)
        size = either.sum(1)
        total = torch.einsum("pi,ij,pj->p", either, distance.detach(), either)
        bandwidth = (total / (size.square() - size)).clamp(min=_MIN_BANDWIDTH)

    scaled = distance / bandwidth.view(-1, 1, 1)  # (pairs, N, N)
    powers = (step - kernel_num // 2 for step in range(kernel_num))
    kernel = sum(torch.exp(-scaled / kernel_mul**power) for power in powers)
    share = member / member.sum(1, keepdim=True)
    # w'Kw with w = 1/n on one domain and -1/m on the other is mean(XX) + mean(YY) - 2 mean(XY).
    contrast = share[first] - share[second]
    return torch.einsum("pi,pij,pj->p", contrast, kernel, contrast).sum() / max(len(first), 1)
