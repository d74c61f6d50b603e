"""Whether the batches of a run can teach anything: looked at before it begins, on the first batches' labels alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fastreid.data.build import TrainingData, TrainLoaders, build_sampler
from fastreid.engine.train_loop import domain_places
from fastreid.modeling.losses.build import LOGITS, LOSS_REGISTRY, RESTITUTED, Loss
from fastreid.utils.errors import UserError
from fastreid.utils.processes import num_processes, process_rank

logger = logging.getLogger(__name__)

LOOKED_AT = 20  # batches; a loss that none of them can teach is taken for one that none can
SIZES_TRIED = 16  # multiples of the smallest batch
FEATURES = 4
FEWEST_IMAGES = 2  # of which batch statistics can be computed
# Of a loss whose values are around 1: below, a gradient is rounding.
NO_GRADIENT = 1e-9


class Part(NamedTuple):
    """What one forward pass sees: a whole batch or, in a meta step, its images of some domains.

    Attributes:
        losses: what `option` names.
        domains: their places in the random order of the domains; None: the whole batch.
    """

    option: str
    losses: tuple[str, ...]
    domains: slice | None = None


class BatchKind(NamedTuple):
    """The batches of one loader, and the options that make them; see `build_sampler`."""

    data: TrainingData
    size_option: str
    size: int
    num_instances: int
    naive: bool
    delete_rem: bool
    seed: int
    parts: tuple[Part, ...]

    def batches(self) -> Iterator[np.ndarray]:
        """Yield the item indices (size,) of the first batches."""
        sampler = build_sampler(self.data, self.size, self.num_instances, self.naive, self.delete_rem, self.seed)
        yield from map(np.array, islice(sampler, LOOKED_AT))


def check_batches(cfg, loaders: TrainLoaders) -> None:
    """Check that the batches of a run can teach each of its losses, and tell of identities with a single image.

    Raises:
        UserError: they cannot; the message has the smallest batch that can.
    """
    kinds = batch_kinds(cfg, loaders)
    for kind in kinds:
        problem = find_problem(cfg, kind)
        if problem:
            raise UserError(f"{kind.size_option} {kind.size}: {problem}. {smallest_batch(cfg, kind)}")
    if process_rank() == 0:
        report_repeated_images(cfg, kinds)


def batch_kinds(cfg, loaders: TrainLoaders) -> list[BatchKind]:
    """Return the kinds of batches of a run."""
    node = cfg.DATALOADER
    options = cfg.SOLVER.IMS_PER_BATCH, node.NUM_INSTANCE, node.NAIVE_WAY, node.DELETE_REM, cfg.SEED
    parts = (Part("MODEL.LOSSES.NAME", cfg.MODEL.LOSSES.NAME),)
    kinds = [BatchKind(data_of(loaders.base), "SOLVER.IMS_PER_BATCH", *options, parts)]
    if loaders.meta is not None:
        node = cfg.META.DATA
        options = node.MTRAIN_MINI_BATCH, node.MTRAIN_NUM_INSTANCE, node.NAIVE_WAY, node.DELETE_REM, cfg.SEED + 1
        mtrain, mtest = domain_places(cfg)
        parts = (
            Part("META.LOSS.MTRAIN_NAME", cfg.META.LOSS.MTRAIN_NAME, mtrain),
            Part("META.LOSS.MTEST_NAME", cfg.META.LOSS.MTEST_NAME, mtest),
        )
        kinds.append(BatchKind(data_of(loaders.meta), "META.DATA.MTRAIN_MINI_BATCH", *options, parts))
    return kinds


def data_of(loader: DataLoader) -> TrainingData:
    """Return the images that a training loader draws from."""
    found = loader.dataset
    return TrainingData(found.paths, found.targets, found.camids, found.domains, [])


def find_problem(cfg, kind: BatchKind) -> str:
    """Say why the batches of a kind cannot teach; '' if they can."""
    identities = kind.size // kind.num_instances
    functions = {name: LOSS_REGISTRY.get(name)(cfg) for part in kind.parts for name in part.losses}
    apart = num_processes() > 1 and not cfg.MODEL.NORM.SYNC
    if (identities // num_processes() if apart else identities) * kind.num_instances < FEWEST_IMAGES:
        return f"batch normalization needs at least {FEWEST_IMAGES} images" + (" in each process" if apart else "")
    untaught = [[name for name in part.losses if functions[name].scale] for part in kind.parts]
    generator = torch.Generator().manual_seed(cfg.SEED)
    for batch in kind.batches():
        pids, domains = (torch.from_numpy(values[batch]) for values in (kind.data.pids, kind.data.domains))
        order = torch.randperm(int(kind.data.domains.max()) + 1, generator=generator)
        for place, part in enumerate(kind.parts):
            seen = slice(None) if part.domains is None else torch.isin(domains, order[part.domains])
            if len(pids[seen]) < FEWEST_IMAGES:
                return f"too few images of the domains that a meta step draws for {part.option}"
            untaught[place] = [
                name for name in untaught[place] if not teaches(name, functions[name], pids[seen], domains[seen])
            ]
    for part, names in zip(kind.parts, untaught):
        if names:
            return (
                f"batches of {identities} identities with {kind.num_instances} image(s) each teach {', '.join(names)} "
                f"of {part.option} nothing: no two images in them are a pair that it compares"
            )
    return ""


def teaches(name: str, loss: Loss, pids: Tensor, domains: Tensor) -> bool:
    """Tell whether a loss has a gradient for images of these identities and domains, (N,), whatever they look like."""
    if loss.sees in (LOGITS, RESTITUTED):
        return True  # it compares no images, or any two
    if name == "CircleLoss" and len(pids.unique()) < 2:
        return False  # it pulls an identity together without anything to keep it apart from
    # Not far from each other, so that every pair is within the margins.
    noise = torch.randn(len(pids), FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = (1 + 0.01 * noise).requires_grad_()
    value = loss(features, pids, domains)
    (gradient,) = torch.autograd.grad(value, features, allow_unused=True) if value.requires_grad else (None,)
    return gradient is not None and bool(gradient.abs().max() > NO_GRADIENT)


def smallest_batch(cfg, kind: BatchKind) -> str:
    """Say what the smallest batch is that can teach."""
    unit = kind.num_instances * (1 if kind.naive else len(np.unique(kind.data.domains)))
    for size in range(unit, SIZES_TRIED * unit + 1, unit):
        try:
            if not find_problem(cfg, kind._replace(size=size)):
                return f"The smallest batch that can has {size} images, with {kind.num_instances} of each identity"
        except UserError:  # more identities than there are
            break
    losses = " and ".join(part.option for part in kind.parts)
    return f"No batch of these data can: leave those losses out of {losses}, or name more data sets"


def report_repeated_images(cfg, kinds: list[BatchKind]) -> None:
    """Log what identities with a single image mean for the losses that compare images of an identity."""
    base = kinds[0]
    names = dict.fromkeys(name for kind in kinds for part in kind.parts for name in part.losses)
    names = [name for name in names if LOSS_REGISTRY.get(name)(cfg).compares_people()]
    if not names:
        return
    losses = ", ".join(names)
    if base.num_instances == 1:
        logger.warning(
            f"DATALOADER.NUM_INSTANCE 1: no batch has two images of an identity, so {losses} only push apart"
        )
        return
    counts = np.bincount(base.data.pids)
    single = int((counts == 1).sum())
    if single:
        level = logging.WARNING if 2 * single > len(counts) else logging.INFO
        logger.log(
            level,
            f"{single:,} of {len(counts):,} identities have a single image, which stands {base.num_instances} times in "
            f"a batch: for them {losses} compare an image with itself, changed by the transforms of INPUT alone, and "
            "learn nothing of other poses and cameras",
        )
