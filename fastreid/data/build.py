"""From data set names to loaders."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from fastreid.data.cache import CachedImages, open_cache
from fastreid.data.common import ImageDataset, TrainDataset, collate
from fastreid.data.datasets import Items, TestSet, build_dataset, datasets_root
from fastreid.data.samplers import BalancedIdentitySampler, NaiveIdentitySampler, SharedBatches
from fastreid.data.stream import SILENCE, SharedCollate, shield_worker
from fastreid.data.transforms import build_transforms
from fastreid.utils.errors import UserError
from fastreid.utils.machine import num_cores, num_local_processes
from fastreid.utils.processes import num_processes, process_rank

logger = logging.getLogger(__name__)

ALL_SOURCES = ("DG",)  # META.DATA.NAMES that stand for all of DATASETS.NAMES


@dataclass(frozen=True)
class TrainingData:
    """All source images; identities are numbered 0..num_classes-1 over all domains, domains 0..num_domains-1.

    Attributes:
        paths: (N,) unicode.
        pids, camids, domains: (N,) int64.
        domain_sets: the data set of each domain.
    """

    paths: np.ndarray
    pids: np.ndarray
    camids: np.ndarray
    domains: np.ndarray
    domain_sets: list[str]

    @property
    def num_classes(self) -> int:
        return int(self.pids.max()) + 1

    @property
    def num_domains(self) -> int:
        return len(self.domain_sets)

    def paths_by_set(self) -> list[np.ndarray]:
        """Return `paths` cut where one data set ends and the next begins."""
        _, number = np.unique(self.domain_sets, return_inverse=True)
        return np.split(self.paths, np.flatnonzero(np.diff(number[self.domains])) + 1)

    def subset(self, names: Iterable[str]) -> TrainingData:
        """Return the images of the data sets `names`; identities keep their numbers, domains are numbered again."""
        kept = [domain for domain, name in enumerate(self.domain_sets) if name in names]
        mask = np.isin(self.domains, kept)
        domains = np.searchsorted(kept, self.domains[mask])
        sets = [self.domain_sets[domain] for domain in kept]
        return TrainingData(self.paths[mask], self.pids[mask], self.camids[mask], domains, sets)


@dataclass(frozen=True)
class TrainLoaders:
    """What training needs: endless loaders (no meta loader without meta-learning), and the sizes found in the data."""

    base: DataLoader
    meta: DataLoader | None
    num_classes: int
    num_meta_domains: int
    iters_per_epoch: int
    statistics: DataLoader | None = None  # of the batches for precise statistics, if the config asks for them


def load_training_data(names: Iterable[str], camera_to_domain: bool) -> TrainingData:
    """Read the training parts of the data sets `names`; each is a domain, or each of its cameras with camera_to_domain.

    Raises:
        UserError: a name is unknown or doubled, or a data set is missing or not in its layout.
    """
    names = list(names)
    if not names or len(set(names)) < len(names):
        raise UserError(f"DATASETS.NAMES must name at least one data set, and each once; found {names}")
    return number_items(names, [build_dataset(name, datasets_root()).train() for name in names], camera_to_domain)


def number_items(names: list[str], parts: list[Items], camera_to_domain: bool) -> TrainingData:
    """Join the items of the data sets `names`, with identities and domains numbered over all of them."""
    pids, domains, domain_sets = [], [], []
    num_classes = 0
    for name, items in zip(names, parts, strict=True):
        unique, pid = np.unique(items.pids, return_inverse=True)
        cameras, camera = np.unique(items.camids, return_inverse=True)
        pids.append(pid + num_classes)
        domains.append((camera if camera_to_domain else np.zeros_like(camera)) + len(domain_sets))
        domain_sets += [name] * (len(cameras) if camera_to_domain else 1)
        num_classes += len(unique)
        logger.info(f"{name}: {len(items):,} images, {len(unique):,} identities, {len(cameras):,} cameras")
    items = Items.concatenate(parts)
    data = TrainingData(items.paths, np.concatenate(pids), items.camids, np.concatenate(domains), domain_sets)
    logger.info(f"in all: {len(items):,} images, {num_classes:,} identities, {data.num_domains} domains")
    return data


def meta_names(cfg) -> tuple[str, ...]:
    """Return the data sets of the meta loader: `META.DATA.NAMES`, all sources for "DG", none without meta steps.

    Raises:
        UserError: one of them is not in `DATASETS.NAMES`.
    """
    names, sources = cfg.META.DATA.NAMES, cfg.DATASETS.NAMES
    if names == ALL_SOURCES:
        return sources
    unknown = sorted(set(names) - set(sources))
    if unknown:
        raise UserError(
            f"META.DATA.NAMES must be out of DATASETS.NAMES {tuple(sources)}; found {', '.join(unknown)}. Set it to "
            f"{ALL_SOURCES[0]}, which is all of them, or to '' to train without meta-learning"
        )
    return names


def build_train_loaders(cfg) -> TrainLoaders:
    """Return the base and the meta loader, which are independent streams over the same source domains.

    Raises:
        UserError: data are missing, or too few for one batch of P identities x K images, or options contradict.
    """
    if has_cache(cfg) and cfg.INPUT.DO_AUTOAUG:
        raise UserError(
            f"DATALOADER.CACHE {cfg.DATALOADER.CACHE} keeps resized images, but INPUT.DO_AUTOAUG changes them each "
            "time before they are resized: set DATALOADER.CACHE off or INPUT.DO_AUTOAUG False"
        )
    data = load_training_data(cfg.DATASETS.NAMES, cfg.DATALOADER.CAMERA_TO_DOMAIN)
    node, seed = cfg.DATALOADER, cfg.SEED
    sampler = build_sampler(data, cfg.SOLVER.IMS_PER_BATCH, node.NUM_INSTANCE, node.NAIVE_WAY, node.DELETE_REM, seed)
    # An iteration with a meta step has INNER_LOOP base steps, except the first one, which does not count here.
    base_steps = cfg.META.SOLVER.INIT.INNER_LOOP if cfg.META.DATA.NAMES else 1
    if base_steps < 1:
        raise UserError(f"META.SOLVER.INIT.INNER_LOOP must be at least 1 base step an iteration; found {base_steps}")
    iters_per_epoch = sampler.total_images // (cfg.SOLVER.IMS_PER_BATCH * base_steps)
    if iters_per_epoch < 1:
        raise UserError(
            f"{len(data.paths)} training images make no epoch of {base_steps} x {cfg.SOLVER.IMS_PER_BATCH} images an "
            f"iteration with {node.NUM_INSTANCE} images an identity: lower SOLVER.IMS_PER_BATCH"
            + (" or META.SOLVER.INIT.INNER_LOOP" if base_steps > 1 else "")
        )
    base = build_loader(cfg, data, sampler, seed)
    meta, meta_domains = None, 0
    if names := meta_names(cfg):
        meta_data = data.subset(names)
        node, meta_domains = cfg.META.DATA, meta_data.num_domains
        # A seed of its own: two streams with one seed would show the same identities in each iteration.
        sampler = build_sampler(
            meta_data, node.MTRAIN_MINI_BATCH, node.MTRAIN_NUM_INSTANCE, node.NAIVE_WAY, node.DELETE_REM, seed + 1
        )
        meta = build_loader(cfg, meta_data, sampler, seed + 1)
    statistics = build_statistics_loader(cfg, data)
    return TrainLoaders(base, meta, data.num_classes, meta_domains, iters_per_epoch, statistics)


def build_statistics_loader(cfg, data: TrainingData) -> DataLoader | None:
    """Return the loader of the batches that precise statistics are computed from; None if they are not asked for.

    Its batches are chosen and transformed as those of the base loader, but of a stream of its own.

    Raises:
        UserError: TEST.PRECISE_BN.DATASET is missing, or has too few images for a batch.
    """
    name = cfg.TEST.PRECISE_BN.DATASET if cfg.TEST.PRECISE_BN.ENABLED else ""
    if not (cfg.TEST.PRECISE_BN.ENABLED or cfg.SOLVER.SWA.ENABLED):
        return None
    if name in data.domain_sets:
        data = data.subset([name])
    elif name:
        data = load_precise_bn_data(name, cfg.DATALOADER.CAMERA_TO_DOMAIN)
    node, seed = cfg.DATALOADER, cfg.SEED + 2
    sampler = build_sampler(data, cfg.SOLVER.IMS_PER_BATCH, node.NUM_INSTANCE, node.NAIVE_WAY, node.DELETE_REM, seed)
    return build_loader(cfg, data, sampler, seed)


def load_precise_bn_data(name: str, camera_to_domain: bool) -> TrainingData:
    """Read the training part of TEST.PRECISE_BN.DATASET where that is not one of the sources.

    Raises:
        UserError: it is unknown or missing; the message names the option.
    """
    try:
        return load_training_data([name], camera_to_domain)
    except UserError as error:
        raise UserError(f"TEST.PRECISE_BN.DATASET: {error}; '' takes the images of all DATASETS.NAMES") from error


def build_sampler(data: TrainingData, batch_size: int, num_instances: int, naive: bool, delete_rem: bool, seed: int):
    """Return the batch sampler that the options of a loader describe."""
    if naive:
        return NaiveIdentitySampler(data.pids, batch_size, num_instances, delete_rem, seed)
    return BalancedIdentitySampler(data.pids, data.domains, batch_size, num_instances, delete_rem, seed)


def build_loader(cfg, data: TrainingData, sampler, seed: int) -> DataLoader:
    """Return the endless loader of a batch sampler's batches, of this process's share of each."""
    cache = build_cache(cfg, data.paths_by_set(), cfg.INPUT.SIZE_TRAIN)
    dataset = TrainDataset(
        data.paths,
        data.pids,
        data.camids,
        data.domains,
        build_transforms(cfg, is_train=True, resized=cache is not None),
        cache,
        seed=seed,
        skip_corrupt=cfg.DATALOADER.SKIP_CORRUPT,
    )
    return DataLoader(
        dataset, batch_sampler=SharedBatches(sampler, process_rank(), num_processes()), **worker_options(cfg, seed)
    )


def has_cache(cfg) -> bool:
    """Tell whether decoded and resized images are kept."""
    return cfg.DATALOADER.CACHE not in ("off", "")


def build_cache(cfg, parts: Iterable[np.ndarray], size: list[int]) -> CachedImages | None:
    """Return the images, resized to (height, width), of the data sets with the paths `parts`; None without a cache."""
    if not has_cache(cfg):
        return None
    return CachedImages([open_cache(cfg.DATALOADER.CACHE, paths, size) for paths in parts])


def load_test_set(name: str) -> TestSet:
    """Return the images and the query/gallery splits of the test data set `name`."""
    return build_dataset(name, datasets_root()).test()


def build_test_loader(cfg, items: Items) -> DataLoader:
    """Return the loader of a test set's images, in their order."""
    cache = build_cache(cfg, [items.paths], cfg.INPUT.SIZE_TEST)
    dataset = ImageDataset(
        items.paths,
        items.pids,
        items.camids,
        np.zeros(len(items), dtype=np.int64),
        build_transforms(cfg, is_train=False, resized=cache is not None),
        cache,
    )
    return DataLoader(dataset, batch_size=cfg.TEST.IMS_PER_BATCH, **worker_options(cfg))


def worker_options(cfg, seed: int = 0) -> dict:
    """Return the DataLoader's arguments that do not depend on the data; `seed` is of the workers' random numbers."""
    workers = min(cfg.DATALOADER.NUM_WORKERS, max(1, num_cores() // num_local_processes()))
    return {
        "num_workers": workers,
        "timeout": SILENCE if workers else 0,
        "worker_init_fn": shield_worker,
        "collate_fn": SharedCollate(collate),
        "pin_memory": cfg.MODEL.DEVICE.startswith("cuda") and torch.cuda.is_available(),
        # A generator of its own: starting a loader leaves the process's random numbers alone.
        "generator": torch.Generator().manual_seed(seed),
        # Forked workers share the cache's maps; spawned ones would have copies.
        "multiprocessing_context": "fork" if workers and has_cache(cfg) else None,
    }
