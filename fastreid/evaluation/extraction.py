"""Test features: one forward for each image, those of a data set shared out among the processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

from fastreid.data.build import build_test_loader
from fastreid.data.datasets import Items
from fastreid.data.stream import worker_errors
from fastreid.utils.errors import UserError
from fastreid.utils.processes import hide_progress_bar, num_processes, process_rank

logger = logging.getLogger(__name__)


def extract_features(cfg, model: nn.Module, items: Items, name: str = "") -> Tensor | None:
    """Return the test features of all images, (N, D) float32 on the CPU, in the items' order.

    With several processes each computes a share of the images; process 0 returns all features, the others None.

    Raises:
        UserError: in every process, if there is no image, or one of them cannot be read in any process.
    """
    if len(items) == 0:
        raise UserError(f"the test set {name} has no images: check its folder and splits")
    start = time.perf_counter()
    world, share = num_processes(), own_share(items)
    features, error = None, None
    try:
        features = forward_batches(cfg, model, build_test_loader(cfg, share), len(share), name) if len(share) else None
    except UserError as problem:
        if world == 1:
            raise
        error = str(problem)
    if world > 1:
        features = _gather(features, error, len(items), share_size(items))
    seconds = time.perf_counter() - start
    logger.info(f"{name}: features of {len(items):,} images in {seconds:.1f} s, {len(items) / seconds:.1f} images/s")
    return features


def share_size(items: Items) -> int:
    """Return how many of the images a process computes; the last ones have fewer or none."""
    return -(-len(items) // num_processes())


def own_share(items: Items) -> Items:
    """Return the images whose features this process computes."""
    size = share_size(items)
    return items[process_rank() * size : (process_rank() + 1) * size]


@torch.inference_mode()
def forward_batches(cfg, model: nn.Module, batches: Iterable[dict], total: int, name: str = "") -> Tensor:
    """Return the features (total, D) float32 on the CPU of batches that hold `total` images, by this process alone.

    Model and options (`TEST.FLIP`) are those of a test, which is in float32 under `SOLVER.AMP` too. `name` stands
    beside the progress bar.
    """
    device = next(model.parameters()).device
    features, done = None, 0
    bar = tqdm(total=total, desc=name, unit=" images", leave=False, disable=hide_progress_bar())
    with worker_errors(), evaluation_mode(model), bar:
        for batch in batches:
            images = batch["images"].to(device, non_blocking=True)
            part = model({**batch, "images": images}).float()
            if cfg.TEST.FLIP:
                part = (part + model({**batch, "images": images.flip(3)}).float()) / 2
            if features is None:
                # One array from the start: joining parts at the end would take twice the memory. An ordinary one: a
                # caller may train on features.
                with torch.inference_mode(False):
                    features = torch.empty(total, part.shape[1])
            features[done : done + len(part)] = part
            done += len(part)
            bar.update(len(part))
    return features


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and afterwards, whatever happened, back into the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _gather(features: Tensor | None, error: str | None, images: int, per_process: int) -> Tensor | None:
    """Return all processes' features in process 0, None in the others.

    Each process holds the next `per_process` images, the last ones fewer or none.

    Raises:
        UserError: in all of them, if one reports an error, so that none waits for it.
    """
    world, rank = dist.get_world_size(), dist.get_rank()
    states: list[tuple[str | None, int]] = [(None, 0)] * world
    dist.all_gather_object(states, (error, 0 if features is None else features.shape[1]))
    errors = [message for message, _ in states if message]
    if errors:
        raise UserError(errors[0])
    length = max(size for _, size in states)
    padded = torch.zeros(per_process, length)
    if features is not None:
        padded[: len(features)] = features
    if rank > 0:
        dist.gather(padded, dst=0)
        return None
    gathered = torch.empty(world * per_process, length)
    dist.gather(padded, list(gathered.split(per_process)), dst=0)
    return gathered[:images]
