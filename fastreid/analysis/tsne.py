"""Features in two dimensions by t-SNE (van der Maaten and Hinton 2008), coloured by domain and by identity."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastreid.analysis.samples import SOURCE, TARGET, Sample
from fastreid.report.figures import GREY, PALETTE, plt, save_figure, short, use_style
from fastreid.utils.errors import UserError
from fastreid.utils.files import write_csv

logger = logging.getLogger(__name__)

FEWEST_IMAGES = 4
MARKERS = {SOURCE: "osDph", TARGET: "^v<>P"}
IDENTITY_MARKERS = "os^DvPX*"
# An identity with fewer images says nothing of whether they lie together.
IMAGES_TO_COLOUR = 3
LEGEND_LINES = 24


def embed(features: np.ndarray, pca_dim: int, perplexity: float, seed: int) -> np.ndarray:
    """Return positions (N, 2) of features (N, D): principal components, then t-SNE, the same for the same seed.

    Where all features are the same, so are the positions.

    Raises:
        UserError: there are too few images.
    """
    from sklearn.decomposition import PCA  # imported late: it takes seconds
    from sklearn.manifold import TSNE

    count = len(features)
    if count < FEWEST_IMAGES:
        raise UserError(f"t-SNE needs at least {FEWEST_IMAGES} images, found {count}: name more data sets")
    if (features == features[0]).all():
        # The first positions are scaled by the features' spread, and scikit-learn crashes where there is none.
        logger.warning(f"t-SNE: the features of all {count} images are the same, the model may have collapsed")
        return np.zeros((count, 2), dtype=np.float32)
    highest = (count - 1) / 3
    if perplexity > highest:
        logger.warning(f"t-SNE: perplexity lowered from {perplexity:g} to {highest:.1f}, as there are {count} images")
    components = PCA(min(pca_dim, *features.shape), random_state=seed).fit_transform(features)
    method = TSNE(perplexity=min(perplexity, highest), init="pca", random_state=seed)
    return method.fit_transform(components.astype(np.float32))


def choose_identities(samples: Sequence[Sample], count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Return at most `count` random identities, (sample, pid), in turn from each sample, each with several images."""
    queues = []
    for number, sample in enumerate(samples):
        pids, images = np.unique(sample.items.pids[sample.known], return_counts=True)
        # Where nobody has that many images, those with the most will do.
        enough = images >= min(IMAGES_TO_COLOUR, images.max(initial=0))
        queues.append([(number, int(pid)) for pid in rng.permutation(pids[enough])])
    turns = [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
    return sorted(turns[:count])


def save_tsne(folder: Path, samples: Sequence[Sample], options, metric: str, seed: int) -> None:
    """Write `tsne_domains.{png,pdf}`, `tsne_identities.{png,pdf}` and `tsne.csv`.

    Args:
        options: the node ANALYSIS.TSNE.
    """
    features = np.concatenate([sample.unit_features(metric).numpy() for sample in samples])
    positions = embed(features, options.PCA_DIM, options.PERPLEXITY, seed)
    places = np.split(positions, np.cumsum([len(sample) for sample in samples])[:-1])
    rows = []
    for sample, place in zip(samples, places, strict=True):
        for number, (x, y) in enumerate(place.tolist()):
            image, pid, camid = sample.items[number]
            row = {"domain": sample.name, "role": sample.role, "image": image, "identity": pid, "camera": camid}
            rows.append(row | {"x": x, "y": y})
    write_csv(folder / "tsne.csv", rows)
    draw_domains(folder / "tsne_domains", samples, places)
    chosen = choose_identities(samples, options.IDENTITIES, np.random.default_rng(seed))
    draw_identities(folder / "tsne_identities", samples, places, chosen)


def draw_domains(path: Path, samples: Sequence[Sample], places: Sequence[np.ndarray]) -> None:
    """Draw each domain in a colour of its own; targets have black edges and other markers than sources."""
    figure, axis = new_axes("t-SNE of the features, by domain")
    used = {SOURCE: 0, TARGET: 0}
    size = marker_size(places)
    for number, (sample, place) in enumerate(zip(samples, places, strict=True)):
        color, marker = PALETTE[number % len(PALETTE)], MARKERS[sample.role][used[sample.role] % 5]
        used[sample.role] += 1
        look = {"s": size, "linewidths": 0}
        if sample.role == TARGET:
            look = {"s": 1.7 * size, "linewidths": 0.4, "edgecolors": "black"}
        axis.scatter(*place.T, marker=marker, color=color, label=short(sample.label), **look)
    finish(figure, path)


def draw_identities(
    path: Path, samples: Sequence[Sample], places: Sequence[np.ndarray], chosen: Sequence[tuple[int, int]]
) -> None:
    """Draw the chosen identities in colours, all other images in grey."""
    figure, axis = new_axes("t-SNE of the features, by identity")
    size = marker_size(places)
    others = [place[~of_identities(sample, chosen, n)] for n, (sample, place) in enumerate(zip(samples, places))]
    if any(map(len, others)):
        axis.scatter(*np.concatenate(others).T, s=size / 2, color=GREY, linewidths=0, label="other people")
    for turn, (number, pid) in enumerate(chosen):
        sample = samples[number]
        color, marker = PALETTE[turn % len(PALETTE)], IDENTITY_MARKERS[turn % len(IDENTITY_MARKERS)]
        place = places[number][of_identities(sample, [(number, pid)], number)]
        look = {"s": max(size, 45), "edgecolors": "black", "linewidths": 0.5}
        axis.scatter(*place.T, marker=marker, color=color, label=f"{short(sample.name)}: {pid} ({sample.role})", **look)
    finish(figure, path)


def of_identities(sample: Sample, chosen: Sequence[tuple[int, int]], number: int) -> np.ndarray:
    """Return which images, (N,) bool, of sample `number` show one of the chosen identities."""
    return sample.known & np.isin(sample.items.pids, [pid for of, pid in chosen if of == number])


def marker_size(places: Sequence[np.ndarray]) -> float:
    """Return a marker's area in square points: smaller the more images there are."""
    return float(np.clip(40_000 / sum(map(len, places)), 9, 40))


def new_axes(title: str):
    """Return a figure and axes without ticks: positions of t-SNE have no unit."""
    use_style()
    figure, axis = plt.subplots(figsize=(8.5, 5.5), layout="constrained")
    axis.set(title=title, xticks=[], yticks=[], aspect="equal")
    return figure, axis


def finish(figure, path: Path) -> None:
    """Put the legend beside the axes, where it hides no image, and save."""
    columns = -(-len(figure.axes[0].collections) // LEGEND_LINES)
    figure.set_figwidth(figure.get_figwidth() + 3 * (columns - 1))
    figure.legend(loc="outside right upper", markerscale=1.4, ncol=columns)
    save_figure(figure, path, (".png", ".pdf"))
