"""How far domains lie from each other: mean distances between their images, the gap, and histograms.

The gap is the energy distance (Székely and Rizzo 2013), 2 E d(x, y) - E d(x, x') - E d(y, y'): a domain's own spread
is taken off, so that it is about 0 for two halves of one domain. With cosine distances it is the squared distance of
the two mean (normalized) features, which is an MMD with a linear kernel. Expectations within a domain are over
different images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np

from fastreid.analysis.identity_distances import bin_edges, shares
from fastreid.analysis.samples import SOURCE, Sample
from fastreid.evaluation.distance import compute_distance
from fastreid.report.figures import GREY, PALETTE, SEQUENTIAL, panel_grid, plt, save_figure, short, use_style
from fastreid.utils.files import write_csv

MOST_NUMBERS = 20  # domains beyond which a matrix is drawn without its numbers
PANELS_A_ROW = 4
WITHIN = "within the domain"
TO_SOURCES, TO_TARGETS = "to other sources", "to other targets"
COLORS = {WITHIN: GREY, TO_SOURCES: PALETTE[0], TO_TARGETS: PALETTE[3]}
STYLES = {TO_SOURCES: "-", TO_TARGETS: "--"}


@dataclass(frozen=True, eq=False)
class DomainDistances:
    """Distances between the images of each two of M domains.

    Attributes:
        values: by (a, b), a <= b, all distances between two different images, one in domain a, one in b.
        mean, gap: (M, M), NaN where a domain has a single image and so no distance within.
    """

    labels: list[str]
    roles: list[str]
    values: dict[tuple[int, int], np.ndarray]
    mean: np.ndarray
    gap: np.ndarray


def domain_distances(samples: Sequence[Sample], metric: str) -> DomainDistances:
    """Return the distances between all images of all domains."""
    count = len(samples)
    values, mean = {}, np.full((count, count), np.nan)
    for a, b in combinations_with_replacement(range(count), 2):
        matrix = compute_distance(samples[a].features, samples[b].features, metric).numpy()
        found = matrix[np.triu_indices(len(matrix), 1)] if a == b else matrix.reshape(-1)
        values[a, b] = found
        if len(found):
            mean[a, b] = mean[b, a] = found.mean(dtype=np.float64)
    spread = np.diag(mean)
    gap = 2 * mean - spread[:, None] - spread[None, :]
    return DomainDistances([s.label for s in samples], [s.role for s in samples], values, mean, gap)


def save_domain_distances(folder: Path, found: DomainDistances, metric: str, bins: int) -> None:
    """Write `domain_matrix.{png,pdf}`, `domain_histograms.{png,pdf,csv}` and `domain_distances.csv`."""
    edges = bin_edges(list(found.values.values()), bins)
    rows = []
    for (a, b), distances in found.values.items():
        row = {"domain": found.labels[a], "other domain": found.labels[b], "pairs": len(distances)}
        rows.append(row | {"mean distance": defined(found.mean[a, b]), "gap": defined(found.gap[a, b])})
    write_csv(folder / "domain_distances.csv", rows)
    histograms = []
    for (a, b), distances in found.values.items():
        names = {"domain": found.labels[a], "other domain": found.labels[b]}
        for low, high, share in zip(edges[:-1].tolist(), edges[1:].tolist(), shares(distances, edges).tolist()):
            histograms.append(names | {"from": low, "to": high, "share": share})
    write_csv(folder / "domain_histograms.csv", histograms)
    draw_matrices(folder / "domain_matrix", found, metric)
    draw_histograms(folder / "domain_histograms", found, edges, metric)


def defined(value: float) -> float | None:
    """Return the value, None for NaN."""
    return None if np.isnan(value) else float(value)


def draw_matrices(path: Path, found: DomainDistances, metric: str) -> None:
    """Draw mean distances and gaps as two heat maps, with a line between sources and targets."""
    use_style()
    count, names = len(found.labels), [short(label) for label in found.labels]
    # In inches; names are written beside the matrices and, slanted, below them.
    side, letters = min(max(0.55 * count, 3), 14), max(map(len, names))
    size = (2 * side + 0.08 * letters + 2.5, side + 0.06 * letters + 0.8)
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    titles = f"mean {metric} distance of two images", f"gap ({metric} energy distance)"
    for axis, matrix, title in zip(axes, (found.mean, found.gap), titles):
        draw_matrix(figure, axis, matrix, found, title)
    axes[0].set_yticks(range(count), names)
    save_figure(figure, path, (".png", ".pdf"))


def draw_matrix(figure, axis, matrix: np.ndarray, found: DomainDistances, title: str) -> None:
    """Draw one heat map with its numbers."""
    count, sources = len(matrix), found.roles.count(SOURCE)
    image = axis.imshow(matrix, cmap=SEQUENTIAL)
    figure.colorbar(image, ax=axis, shrink=0.75)
    axis.grid(False)
    axis.set_title(title)
    names = [short(label) for label in found.labels]
    axis.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
    if 0 < sources < count:
        for line in (axis.axhline, axis.axvline):
            line(sources - 0.5, color="white", linewidth=3)
    if count > MOST_NUMBERS:
        return
    highest = np.nanmax(np.abs(matrix), initial=0)
    decimals = 3 if highest < 1 else 2 if highest < 10 else 1
    for (row, column), value in np.ndenumerate(matrix):
        text = "–" if np.isnan(value) else f"{value:.{decimals}f}"
        dark = not np.isnan(value) and image.norm(value) < 0.6
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")


def groups(found: DomainDistances, domain: int) -> dict[str, list[tuple[int, int]]]:
    """Return the keys of `values` that belong to a domain: within it, to the other sources, to the other targets."""
    keys: dict[str, list[tuple[int, int]]] = {WITHIN: [(domain, domain)], TO_SOURCES: [], TO_TARGETS: []}
    for other, role in enumerate(found.roles):
        if other != domain:
            keys[TO_SOURCES if role == SOURCE else TO_TARGETS].append((min(domain, other), max(domain, other)))
    return keys


def draw_histograms(path: Path, found: DomainDistances, edges: np.ndarray, metric: str) -> None:
    """Draw one panel for each domain; of several other domains each has the same weight."""
    use_style()
    figure, axes = panel_grid(len(found.labels), PANELS_A_ROW, 3.4, 2.4, sharey=True)
    for domain, axis in zip(range(len(found.labels)), axes.flat):
        for name, keys in groups(found, domain).items():
            share = 100 * np.mean([shares(found.values[key], edges) for key in keys], axis=0) if keys else None
            if name == WITHIN:
                axis.stairs(share, edges, fill=True, color=COLORS[name])
            elif keys:
                axis.stairs(share, edges, color=COLORS[name], linestyle=STYLES[name], linewidth=1.5)
        axis.set_title(short(found.labels[domain]), fontsize=9.5)
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of pairs (%)")
    figure.supxlabel(f"{metric} distance", fontsize=10)
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLORS[WITHIN])]
    handles += [plt.Line2D([], [], color=COLORS[name], linestyle=style) for name, style in STYLES.items()]
    figure.legend(handles, COLORS, loc="outside upper center", ncol=3)
    save_figure(figure, path, (".png", ".pdf"))
