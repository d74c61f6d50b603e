"""How much of the domain, and of the person, a linear probe finds in an image's style, a network's channel statistics.

Instance normalization removes just that. Where synthetic domains differ in style alone and people in none of it, what
normalizes by image wins: the probe tells whether real domains, and people, are so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from fastreid.data.build import build_test_loader
from fastreid.data.datasets import Items
from fastreid.evaluation.extraction import forward_batches
from fastreid.layers.passes import moments
from fastreid.utils.errors import UserError

WHOLE = "test feature"  # the network's last feature, beside the styles of its stages
EPS = 1e-5


class Probed(NamedTuple):
    """What linear probes find, in 0..1.

    Attributes:
        domain, person: accuracy on people, and on cameras of a person, that the probe has not seen; the latter is the
            mean over domains, each with a probe of its own.
        domain_share: of the features' variance, what lies between domains.
        person_share: of the rest, what lies between people (the intraclass correlation). Shares are means over
            channels.
    """

    domain: float
    person: float
    domain_share: float
    person_share: float


class Crops(NamedTuple):
    """Images of several domains: domains and people (N,), people numbered over all; which are of a probe's test."""

    items: Items
    domains: np.ndarray
    people: np.ndarray
    held_out: np.ndarray


def choose_crops(sets: dict[str, Items], people: int, images: int, seed: int) -> Crops:
    """Return as many people of each data set, and images of each, half of whose cameras are held out.

    Raises:
        UserError: a data set has fewer people with so many images, of two cameras or more.
    """
    rng, parts, held_out = np.random.default_rng(seed), [], []
    for name, items in sets.items():
        eligible = [index for pid in np.unique(items.pids) if len(index := choose_images(items, pid, images, rng))]
        if len(eligible) < people:
            raise UserError(
                f"{name}: {len(eligible)} people have {images} images or more, of two cameras or more; {people} are "
                "asked for: lower --people or --images"
            )
        for number in rng.permutation(len(eligible))[:people]:
            index = eligible[number]
            parts.append(items[index])
            held_out.append(np.unique(items.camids[index], return_inverse=True)[1] % 2 == 1)
    person = np.arange(people * len(sets))
    return Crops(
        Items.concatenate(parts), (person // people).repeat(images), person.repeat(images), np.concatenate(held_out)
    )


def choose_images(items: Items, pid: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of `count` images of a person, the cameras in turn; none where that is not possible."""
    own = rng.permutation(np.flatnonzero(items.pids == pid))
    cameras = items.camids[own]
    if len(own) < count or len(np.unique(cameras)) < 2:
        return own[:0]
    turn = np.array([(cameras[:k] == camera).sum() for k, camera in enumerate(cameras)])
    return own[np.argsort(turn, kind="stable")[:count]]


def extract_styles(cfg, model: nn.Module, items: Items, stages: Sequence[str]) -> dict[str, np.ndarray]:
    """Return by stage the maps' channel means and logarithms of deviations, (N, 2 C), and the test features.

    Raises:
        UserError: the backbone has no such stage.
    """
    found: dict[str, list[Tensor]] = {stage: [] for stage in stages}
    hooks = []
    for stage in stages:
        module = getattr(model.backbone, stage, None)
        if not isinstance(module, nn.Module):
            names = ", ".join(name for name in model.backbone.widths if hasattr(model.backbone, name))
            raise UserError(f"--stages {stage}: the backbone has no such stage; found {names}")
        hooks.append(module.register_forward_hook(lambda m, i, out, kept=found[stage]: kept.append(style(out))))
    try:
        whole = forward_batches(cfg, model, build_test_loader(cfg, items), len(items), "styles")
    finally:
        for hook in hooks:
            hook.remove()
    return {stage: torch.cat(kept).numpy() for stage, kept in found.items()} | {WHOLE: whole.numpy()}


def style(maps: Tensor) -> Tensor:
    """Return channel means and logarithms of deviations (N, 2 C) of maps (N, C, H, W)."""
    mean, var = moments(maps)
    return torch.cat([mean, (var + EPS).log() / 2], 1).cpu()


def probe(features: np.ndarray, crops: Crops) -> Probed:
    """Return what linear probes find in features (N, D)."""
    others = crops.people % 2 == 1  # people that the probe for domains has not seen
    of_people = []
    for domain in np.unique(crops.domains):
        own = crops.domains == domain
        of_people.append(accuracy(features[own], crops.people[own], crops.held_out[own]))
    return Probed(accuracy(features, crops.domains, others), float(np.mean(of_people)), *shares(features, crops))


def accuracy(features: np.ndarray, labels: np.ndarray, held_out: np.ndarray) -> float:
    """Return the accuracy on the images held out of a linear classifier fitted to the others."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(features[~held_out], labels[~held_out])
    return float(classifier.score(features[held_out], labels[held_out]))


def shares(features: np.ndarray, crops: Crops) -> tuple[float, float]:
    """Return the share of the variance that lies between domains, and of the rest, that between people.

    Each person has the same number of images k. The second is the intraclass correlation (B - W) / (B + (k - 1) W) of
    Shrout and Fleiss (1979), of the mean squares between people of a domain and within people.
    """
    images = int((crops.people == crops.people[0]).sum())
    by_person = features.astype(np.float64).reshape(-1, images, features.shape[1])
    domains = crops.domains[::images]
    means = by_person.mean(1)
    of_domain = np.stack([means[domains == domain].mean(0) for domain in np.unique(domains)])[domains]
    total = ((by_person - means.mean(0)) ** 2).mean((0, 1)) + np.finfo(float).tiny
    between = images * ((means - of_domain) ** 2).sum(0) / (len(means) - len(np.unique(domains)))
    within = ((by_person - means[:, None]) ** 2).sum((0, 1)) / (len(means) * (images - 1)) + np.finfo(float).tiny
    correlation = (between - within) / (between + (images - 1) * within)
    return float((((of_domain - means.mean(0)) ** 2).mean(0) / total).mean()), float(correlation.mean())
