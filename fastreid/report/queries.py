"""Which queries a page shows, and what each run ranks for them."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from fastreid.analysis.activation import activation_maps, overlay
from fastreid.config import CfgNode
from fastreid.data.build import load_test_set
from fastreid.data.decode import read_image
from fastreid.engine.defaults import build_from_checkpoint
from fastreid.evaluation.extraction import extract_features
from fastreid.evaluation.ranked_lists import RankedQuery, ranked_lists
from fastreid.evaluation.reid_evaluation import split_distances
from fastreid.report.paired import Measured, measured
from fastreid.report.runs import Run
from fastreid.utils import run_files
from fastreid.utils.checkpoint import last_checkpoint
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

THUMBNAIL = (80, 160)
WEBP_QUALITY = 72


@dataclass
class QueryCard:
    """One query image, and its ranked list by each run (from 0) that has it."""

    path: str
    pid: int
    camid: int
    lists: dict[int, RankedQuery] = field(default_factory=dict)


@dataclass
class QuerySet:
    """The queries of one data set that a page shows; its split has `queries`, `unmatched` of them without a match."""

    data_set: str
    split: str
    queries: int
    unmatched: int
    cards: list[QueryCard]


@dataclass
class ListOptions:
    """What is shown of each data set: `count` worst and best queries of each run, `top_k` gallery images of each."""

    count: int
    top_k: int
    overrides: list[str]

    def __post_init__(self) -> None:
        if self.count < 1 or self.top_k < 1:
            raise UserError(
                f"--queries {self.count} and --top-k {self.top_k} must be at least 1; --no-images leaves the lists out"
            )


@dataclass
class RunLists:
    """A run's ranked lists by data set, each with its split's name; of which checkpoint; and why any are missing.

    Attributes:
        heat: where the run's model looks, by image, as of `activation_maps`; empty where it is not shown.
        measures: of the queries of each of a data set's splits, see paired.py.
    """

    lists: dict[str, tuple[str, list[RankedQuery]]] = field(default_factory=dict)
    heat: dict[str, np.ndarray] = field(default_factory=dict)
    measures: dict[str, list[Measured]] = field(default_factory=dict)
    checkpoint: str = ""
    missing: list[str] = field(default_factory=list)


def query_sets(runs: Sequence[RunLists], count: int) -> list[QuerySet]:
    """Return the `count` worst and best queries of each run by data set, with what the other runs make of them."""
    names = list(dict.fromkeys(name for run in runs for name in run.lists))
    return [
        _query_set(name, {n: run.lists[name] for n, run in enumerate(runs) if name in run.lists}, count)
        for name in names
    ]


def run_lists(run: Run, options: ListOptions) -> RunLists:
    """Return a run's ranked lists of the first split of each data set, and the measures of all of its splits.

    Each image's feature is computed once.
    """
    found = RunLists()
    try:
        cfg, model, path = load_run(run, options.overrides)
    except UserError as error:
        return RunLists(missing=[str(error)])
    found.checkpoint = path.name
    for name in cfg.DATASETS.TESTS:
        try:
            test_set = load_test_set(name)
            features = extract_features(cfg, model, test_set.items, f"{run.name}, {name}")
            ranked = []
            for split in test_set.splits:  # of which the first one's lists are shown
                distances, length = split_distances(cfg, features, split), 1 if ranked else options.top_k
                ranked.append(ranked_lists(distances, test_set.items, split, length))
            found.lists[name] = test_set.splits[0].name, ranked[0]
            found.measures[name] = [measured(queries) for queries in ranked]
        except UserError as error:
            reason = str(error) if name in str(error) else f"{name}: {error}"
            logger.warning(f"{run.name}: no ranked lists. {reason}")
            found.missing.append(reason)
    return found


def add_heat(sets: Sequence[QuerySet], found: Sequence[RunLists], runs: Sequence[Run], overrides: list[str]) -> None:
    """Compute, for all images that the page shows of each run, where its model looks."""
    for number, (lists, run) in enumerate(zip(found, runs, strict=True)):
        shown = [card.lists[number] for query_set in sets for card in query_set.cards if number in card.lists]
        if shown:
            cfg, model, _ = load_run(run, overrides)
            paths = (image.path for query in shown for image in (query, *query.items))
            lists.heat = activation_maps(cfg, model, paths, run.name)


def load_run(run: Run, overrides: list[str]) -> tuple[CfgNode, nn.Module, Path]:
    """Return the config of a run with `KEY VALUE` overrides, its last checkpoint's model, and the checkpoint.

    Raises:
        UserError: the run has no config.yaml or checkpoint, or they do not fit each other.
    """
    if run.config is None:
        raise UserError(f"{run.folder} has no readable {run_files.CONFIG}, which says what the model is")
    cfg: CfgNode = run.config.clone()
    cfg.merge_from_list(overrides)
    cfg.freeze()
    path = last_checkpoint(run.folder)
    if path is None:
        marker = run.folder / run_files.LAST_CHECKPOINT
        raise UserError(f"no checkpoint in {run.folder}: its file name must stand in {marker}")
    return cfg, build_from_checkpoint(cfg, path), path


def _query_set(name: str, lists: dict[int, tuple[str, list[RankedQuery]]], count: int) -> QuerySet:
    splits = {split for split, _ in lists.values()}
    chosen: dict[str, None] = {}
    for _, found in lists.values():
        by_ap = sorted((query for query in found if query.ap is not None), key=lambda query: query.ap)
        shown = by_ap if len(by_ap) <= 2 * count else by_ap[:count] + by_ap[-count:]
        chosen |= dict.fromkeys(query.path for query in shown)
    cards: dict[str, QueryCard] = {}
    for run, (_, found) in lists.items():
        for query in found:
            if query.path in chosen:
                card = cards.setdefault(query.path, QueryCard(query.path, query.pid, query.camid))
                card.lists[run] = query
    ordered = sorted(cards.values(), key=lambda card: min(query.ap or 0.0 for query in card.lists.values()))
    longest = max((found for _, found in lists.values()), key=len)
    unmatched = sum(query.ap is None for query in longest)
    return QuerySet(name, ", ".join(sorted(splits)), len(longest), unmatched, ordered)


class Thumbnails:
    """Images as small data URIs, each read once, until the page's share for images is used up.

    Args:
        most_bytes: how long all URIs that were handed out may be together.
    """

    def __init__(self, most_bytes: int):
        self.most_bytes, self.used, self.left_out = most_bytes, 0, 0
        self.known: dict[str, tuple[str, int, int]] = {}

    def get(self, path: str, heat: np.ndarray | None = None) -> tuple[str, int, int] | None:
        """Return (URI, width, height) of an image, or of its map `heat` over it; None when there is no room left.

        Raises:
            UserError: it cannot be read.
        """
        if heat is None and path not in self.known:
            self.known[path] = encode(read_image(path))
        uri, width, height = self.known[path] if heat is None else encode(overlay(read_image(path), heat))
        if self.used + len(uri) > self.most_bytes:
            self.left_out += 1
            return None
        self.used += len(uri)
        return uri, width, height


def encode(image: Image.Image) -> tuple[str, int, int]:
    """Return an image as the data URI of a WebP file no larger than a thumbnail, and its width and height."""
    image.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", image.width, image.height
