"""`--tsne-only`, `--dist-only`, `--domain-only`: pictures and numbers of a model's features on sources and targets."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from fastreid.analysis import DIST, DOMAIN, TSNE
from fastreid.analysis.domain_distances import domain_distances, save_domain_distances
from fastreid.analysis.identity_distances import identity_distances, pooled, save_identity_distances
from fastreid.analysis.samples import SOURCE, TARGET, Sample, domains, sample_images
from fastreid.analysis.tsne import save_tsne
from fastreid.data.build import load_test_set
from fastreid.data.datasets import Items, build_dataset, datasets_root
from fastreid.evaluation.checked_sets import check_test_options
from fastreid.evaluation.extraction import extract_features
from fastreid.evaluation.reid_evaluation import check_finite
from fastreid.utils.errors import UserError
from fastreid.utils.memory import peak_memory_mb
from fastreid.utils.processes import process_rank

logger = logging.getLogger(__name__)

# Beyond them no figure could be read; a set whose cameras are scenes has thousands.
MOST_DOMAINS = 32


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
    seconds, memory = time.perf_counter() - start, peak_memory_mb(next(model.parameters()).device)
    logger.info(f"{', '.join(modes)}: written to {folder} in {seconds:.1f} s, {memory:.0f} MB of memory")
    return folder


def check_options(cfg) -> None:
    """Raise UserError for options out of range, before any feature is computed."""
    check_test_options(cfg)
    if not (cfg.DATASETS.NAMES or cfg.DATASETS.TESTS):
        raise UserError("DATASETS.NAMES and DATASETS.TESTS name no data set to look at")
    options, tsne = cfg.ANALYSIS, cfg.ANALYSIS.TSNE
    checks = [(key, options[key], 1) for key in ("IMAGES_PER_IDENTITY", "PAIRS", "BINS")]
    checks += [(key, options[key], 2) for key in ("IMAGES", "IMAGES_PER_DOMAIN")]
    checks += [("TSNE.PCA_DIM", tsne.PCA_DIM, 2), ("TSNE.PERPLEXITY", tsne.PERPLEXITY, 1)]
    for key, found, least in [*checks, ("TSNE.IDENTITIES", tsne.IDENTITIES, 0)]:
        if found < least:
            raise UserError(f"ANALYSIS.{key} must be at least {least}, found {found}")


def load_samples(cfg, model: nn.Module) -> list[Sample]:
    """Return a sample of each of DATASETS.NAMES (its training images) and DATASETS.TESTS, with features.

    Of several processes the first one has the features.
    """
    names = [(name, SOURCE) for name in cfg.DATASETS.NAMES] + [(name, TARGET) for name in cfg.DATASETS.TESTS]
    # All are looked for before the first feature is computed: a wrong name at the end shows at once.
    chosen = [(name, role, *choose_images(cfg, name, role)) for name, role in dict.fromkeys(names)]
    samples = []
    for name, role, items, known in chosen:
        features = extract_features(cfg, model, items, name)
        if features is not None:
            check_finite(features, items)
        samples.append(Sample(name, role, items, known, features))
    return samples


def choose_images(cfg, name: str, role: str) -> tuple[Items, np.ndarray]:
    """Return at most ANALYSIS.IMAGES images of a data set, and which of them show people that a query asks for."""
    if role == SOURCE:
        items = build_dataset(name, datasets_root()).train()
        known = np.ones(len(items), dtype=bool)
    else:
        items, known = images_asked_for(name)
    if len(items) == 0:
        raise UserError(f"{name} ({role}) has no images: check its folder and splits")
    options = cfg.ANALYSIS
    rng = np.random.default_rng(cfg.SEED)
    index = sample_images(items.pids, known, options.IMAGES, options.IMAGES_PER_IDENTITY, rng)
    if len(index) < len(items):
        logger.info(f"{name} ({role}): {len(index):,} of {len(items):,} images are looked at (ANALYSIS.IMAGES)")
    return items[index], known[index]


def images_asked_for(name: str) -> tuple[Items, np.ndarray]:
    """Return the images of a test set, and which of them, (N,) bool, show people that a query asks for."""
    test_set = load_test_set(name)
    items = test_set.items
    queries = np.concatenate([split.query for split in test_set.splits])
    return items, np.isin(items.pids, items.pids[queries])


def domain_samples(cfg, samples: Sequence[Sample]) -> list[Sample]:
    """Return the domains, each with at most ANALYSIS.IMAGES_PER_DOMAIN images.

    Raises:
        UserError: there are more than MOST_DOMAINS.
    """
    options, found = cfg.ANALYSIS, []
    every = domains(samples, cfg.DATALOADER.CAMERA_TO_DOMAIN)
    if len(every) > MOST_DOMAINS:
        raise UserError(
            f"{len(every)} domains are too many to draw, at most {MOST_DOMAINS}: name fewer data sets in "
            "DATASETS.NAMES and TESTS, or set DATALOADER.CAMERA_TO_DOMAIN False"
        )
    for sample in every:
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
