"""`--tsne-only`, `--dist-only`, `--domain-only`: pictures and numbers of a model's features on sources and targets."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from fastreid.data.build import load_test_set
from fastreid.data.datasets import build_dataset, datasets_root
from fastreid.engine.writers import peak_memory_mb
from fastreid.evaluation.domain_distances import domain_distances, save_domain_distances
from fastreid.evaluation.extraction import extract_features, process_rank
from fastreid.evaluation.identity_distances import identity_distances, pooled, save_identity_distances
from fastreid.evaluation.reid_evaluation import check_finite
from fastreid.evaluation.samples import SOURCE, TARGET, Sample, domains, sample_images
from fastreid.evaluation.tsne import save_tsne
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

TSNE, DIST, DOMAIN = MODES = "tsne", "dist", "domain"


def analyse(cfg, model: nn.Module, modes: Sequence[str]) -> Path:
    """Write the pictures and tables of some of MODES into `analysis/` of the output folder, and return that folder.

    Features are extracted once, of a sample of each data set's images, chosen by SEED.

    Raises:
        UserError: no data set is named, one is missing or has no images, or an option is out of range.
    """
    start = time.perf_counter()
    check_options(cfg)
    samples = load_samples(cfg, model)
    folder = Path(cfg.OUTPUT_DIR) / "analysis"
    if process_rank() > 0:
        return folder
    works = {TSNE: analyse_tsne, DIST: analyse_identities, DOMAIN: analyse_domains}
    for mode in modes:
        begun = time.perf_counter()
        works[mode](cfg, samples, folder)
        logger.info(f"{mode}: {time.perf_counter() - begun:.1f} s")
    memory = peak_memory_mb(next(model.parameters()).device)
    logger.info(f"{', '.join(modes)}: written to {folder} in {time.perf_counter() - start:.1f} s, {memory:.0f} MB of memory")
    return folder


def check_options(cfg) -> None:
    """Raise UserError for options out of range, before any feature is computed."""
    if not (cfg.DATASETS.NAMES or cfg.DATASETS.TESTS):
        raise UserError("DATASETS.NAMES and DATASETS.TESTS name no data set to look at")
    for key, least in {"IMAGES": 2, "IMAGES_PER_IDENTITY": 1, "IMAGES_PER_DOMAIN": 2, "PAIRS": 1, "BINS": 1}.items():
        if cfg.ANALYSIS[key] < least:
            raise UserError(f"ANALYSIS.{key} must be at least {least}, found {cfg.ANALYSIS[key]}")


def load_samples(cfg, model: nn.Module) -> list[Sample]:
    """Return a sample of each of DATASETS.NAMES (its training images) and DATASETS.TESTS, with features."""
    names = [(name, SOURCE) for name in cfg.DATASETS.NAMES] + [(name, TARGET) for name in cfg.DATASETS.TESTS]
    return [load_sample(cfg, model, name, role) for name, role in dict.fromkeys(names)]


def load_sample(cfg, model: nn.Module, name: str, role: str) -> Sample:
    """Return a sample of a data set's images with their features; in processes but the first, without them."""
    if role == SOURCE:
        items = build_dataset(name, datasets_root()).train()
        known = np.ones(len(items), dtype=bool)
    else:
        test_set = load_test_set(name)
        items = test_set.items
        queries = np.concatenate([split.query for split in test_set.splits])
        known = np.isin(items.pids, items.pids[queries])
    if len(items) == 0:
        raise UserError(f"{name} ({role}) has no images: check its folder and splits")
    options = cfg.ANALYSIS
    rng = np.random.default_rng(cfg.SEED)
    index = sample_images(items.pids, known, options.IMAGES, options.IMAGES_PER_IDENTITY, rng)
    if len(index) < len(items):
        logger.info(f"{name} ({role}): {len(index):,} of {len(items):,} images are looked at (ANALYSIS.IMAGES)")
    chosen = items[index]
    features = extract_features(cfg, model, chosen, name)
    if features is not None:
        check_finite(features, chosen)
    return Sample(name, role, chosen, known[index], features)


def domain_samples(cfg, samples: Sequence[Sample]) -> list[Sample]:
    """Return the domains, each with at most ANALYSIS.IMAGES_PER_DOMAIN images."""
    options, found = cfg.ANALYSIS, []
    for sample in domains(samples, cfg.DATALOADER.CAMERA_TO_DOMAIN):
        rng = np.random.default_rng(cfg.SEED)
        limits = options.IMAGES_PER_DOMAIN, options.IMAGES_PER_IDENTITY
        found.append(sample.subset(sample_images(sample.items.pids, sample.known, *limits, rng)))
    return found


def analyse_tsne(cfg, samples: Sequence[Sample], folder: Path) -> None:
    """t-SNE of all domains in one picture."""
    save_tsne(folder, domain_samples(cfg, samples), cfg.ANALYSIS.TSNE, cfg.TEST.METRIC, cfg.SEED)


def analyse_identities(cfg, samples: Sequence[Sample], folder: Path) -> None:
    """Distances within and between identities, of each data set, of all sources, all targets, and all."""
    metric, options, rng = cfg.TEST.METRIC, cfg.ANALYSIS, np.random.default_rng(cfg.SEED)
    found = [identity_distances(sample, metric, options.PAIRS, rng) for sample in samples]
    of_role = {role: [f for f, s in zip(found, samples) if s.role == role] for role in (SOURCE, TARGET)}
    sums = [pooled(f"all {role}s", parts) for role, parts in of_role.items() if len(parts) > 1]
    if len(samples) > 1:
        sums.append(pooled("all data sets", found))
    for row in save_identity_distances(folder, found + sums, metric, options.BINS):
        if row["EER"] is not None:
            logger.info(
                f"{row['data set']}: equal error rate {100 * row['EER']:.2f} % at distance {row['EER threshold']:.4f}, "
                f"overlap {100 * row['overlap']:.1f} %, {row['intra pairs']:,} and {row['inter pairs']:,} pairs"
            )


def analyse_domains(cfg, samples: Sequence[Sample], folder: Path) -> None:
    """Distances between the images of each two domains."""
    found = domain_distances(domain_samples(cfg, samples), cfg.TEST.METRIC)
    save_domain_distances(folder, found, cfg.TEST.METRIC, cfg.ANALYSIS.BINS)
