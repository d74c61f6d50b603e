"""Distances between images of one person and of two: histograms, their overlap, and the equal error rate.

Pairs are those that the protocol compares: two images of a person count if they are from two cameras, and at least one
image of a pair shows a person that some query asks for. Two people may have been seen by one camera. A data set in
which no person is seen by two cameras gives the pairs of one camera instead, which the results say.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastreid.analysis.samples import Sample
from fastreid.evaluation.distance import pair_distance
from fastreid.report.figures import PALETTE, panel_grid, plt, save_figure, short, use_style
from fastreid.utils.errors import UserError
from fastreid.utils.files import write_csv

logger = logging.getLogger(__name__)

PAIR_BLOCK = 8192  # pairs whose features are gathered at a time
# Pairs that are drawn for one that is asked for: those of one camera, or of one person, fall away.
CANDIDATES = 10
FALSE_ACCEPTANCES = 0.01  # of the second threshold
AT_FAR = f"threshold at FAR {FALSE_ACCEPTANCES}"
PANELS_A_ROW = 4
TWO_CAMERAS, ONE_CAMERA = "two cameras", "one camera"


@dataclass(frozen=True, eq=False)
class PairDistances:
    """Distances of pairs of images of one person (intra, (M,)) and of two people (inter, (N,)), either may be empty.

    Attributes:
        pairs: whether intra pairs are from two cameras or, where there are no such pairs, from one.
    """

    name: str
    pairs: str
    intra: np.ndarray
    inter: np.ndarray


def identity_distances(sample: Sample, metric: str, limit: int, rng: np.random.Generator) -> PairDistances:
    """Return the distances of at most `limit` random pairs of each kind; of all pairs where there are no more."""
    pids, camids, known = sample.items.pids, sample.items.camids, sample.known
    seen = {(pid, camid) for pid, camid in zip(pids[known].tolist(), camids[known].tolist())}
    across = len(seen) > len({pid for pid, _ in seen})
    if not across:
        logger.warning(f"{sample.name}: nobody is seen by two cameras: pairs of one person are from one camera")

    def is_intra(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return known[first] & ~(across & (camids[first] == camids[second]))

    def is_inter(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return (pids[first] != pids[second]) & (known[first] | known[second])

    sizes = np.unique(pids, return_counts=True)[1]
    order = np.argsort(pids, kind="stable")
    intra = random_pairs(order, sizes, is_intra, limit, rng)
    inter = random_pairs(order, np.array([len(order)]), is_inter, limit, rng)
    values = [distances_of_pairs(sample, pairs, metric) for pairs in (intra, inter)]
    for kind, found in zip(("one person", "two people"), values):
        if not len(found):
            logger.warning(f"{sample.name}: no pairs of {kind} among {len(sample):,} images")
    return PairDistances(sample.label, TWO_CAMERAS if across else ONE_CAMERA, *values)


def random_pairs(
    order: np.ndarray, sizes: np.ndarray, is_valid, limit: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `limit` different pairs of images (first, second), both of one group, for which `is_valid` holds.

    Pairs are numbered, and numbers drawn without repetition, so that no list of all pairs is needed.

    Args:
        order: (N,) image indices, group after group.
        sizes: (G,) images in each group.
    """
    ends = np.cumsum(sizes * (sizes - 1) // 2)
    total = int(ends[-1])
    drawn = rng.choice(total, min(total, CANDIDATES * limit), replace=False)
    group = np.searchsorted(ends, drawn, side="right")
    number = drawn - np.concatenate([[0], ends])[group]
    # Within a group, pair number b (b - 1) / 2 + a is (a, b), a < b.
    second = ((1 + np.sqrt(1 + 8 * number.astype(np.float64))) // 2).astype(np.int64)
    first = number - second * (second - 1) // 2
    start = (np.cumsum(sizes) - sizes)[group]
    first, second = order[start + first], order[start + second]
    kept = np.flatnonzero(is_valid(first, second))[:limit]
    return first[kept], second[kept]


def distances_of_pairs(sample: Sample, pairs: tuple[np.ndarray, np.ndarray], metric: str) -> np.ndarray:
    """Return the distance of each pair of images, (M,) float32."""
    first, second = pairs
    found = np.empty(len(first), dtype=np.float32)
    for start in range(0, len(first), PAIR_BLOCK):
        part = slice(start, start + PAIR_BLOCK)
        found[part] = pair_distance(sample.features[first[part]], sample.features[second[part]], metric).numpy()
    return found


def pooled(name: str, parts: Sequence[PairDistances]) -> PairDistances:
    """Return the pairs of several data sets together, each pair within one of them."""
    kinds = " or ".join(dict.fromkeys(part.pairs for part in parts))
    return PairDistances(
        name, kinds, np.concatenate([part.intra for part in parts]), np.concatenate([part.inter for part in parts])
    )


def error_rates(intra: np.ndarray, inter: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return thresholds (T,), and at each the false acceptance and the false rejection rate.

    Two images are taken for one person if their distance is at most the threshold. Thresholds are all distances there
    are, in rising order, after one below them all.
    """
    values = np.unique(np.concatenate([intra, inter]))
    thresholds = np.concatenate([[-np.inf], values])
    accepted, kept = (np.searchsorted(np.sort(d), thresholds, side="right") / len(d) for d in (inter, intra))
    return thresholds, accepted, 1 - kept


def equal_error_rate(intra: np.ndarray, inter: np.ndarray) -> tuple[float, float]:
    """Return the rate (0..1) at which both errors are equal, and the threshold from which acceptances outnumber.

    Exact for the given distances: where the line through the points of the ROC curve meets the diagonal.
    """
    thresholds, accepted, rejected = error_rates(intra, inter)
    after = int(np.argmax(accepted >= rejected))
    above, below = rejected[after - 1] - accepted[after - 1], accepted[after] - rejected[after]
    share = above / (above + below)
    return float(accepted[after - 1] + share * (accepted[after] - accepted[after - 1])), float(thresholds[after])


def threshold_at(intra: np.ndarray, inter: np.ndarray, false_acceptances: float) -> tuple[float, float | None]:
    """Return the share of true pairs accepted (0..1), and the largest threshold with at most that many false ones.

    The threshold is None where even the smallest distance accepts more.
    """
    thresholds, accepted, rejected = error_rates(intra, inter)
    last = int(np.flatnonzero(accepted <= false_acceptances)[-1])
    return float(1 - rejected[last]), float(thresholds[last]) if last else None


def bin_edges(parts: Sequence[np.ndarray], bins: int) -> np.ndarray:
    """Return `bins` even bins, (bins + 1,), over all values, so that histograms can be compared."""
    values = [part for part in parts if len(part)]
    if not values:
        raise UserError("there is no pair of images to measure a distance of: a data set needs at least two images")
    return np.linspace(min(part.min() for part in values), max(part.max() for part in values) + 1e-6, bins + 1)


def shares(distances: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the share of the distances in each bin, summing to 1; zeros without distances."""
    return np.histogram(distances, edges)[0] / max(len(distances), 1)


def overlap(intra: np.ndarray, inter: np.ndarray, edges: np.ndarray) -> float:
    """Return the overlap coefficient of the two histograms: 0 where they are apart, 1 where they are the same."""
    return float(np.minimum(shares(intra, edges), shares(inter, edges)).sum())


def summary(pairs: PairDistances, edges: np.ndarray) -> dict[str, object]:
    """Return one row of numbers; what needs pairs of a kind that is not there is None."""
    row: dict[str, object] = {"data set": pairs.name, "pairs of one person from": pairs.pairs}
    for kind, distances in (("intra", pairs.intra), ("inter", pairs.inter)):
        row[f"{kind} pairs"] = len(distances)
        row[f"{kind} mean"] = float(distances.mean(dtype=np.float64)) if len(distances) else None
        row[f"{kind} std"] = float(distances.std(dtype=np.float64)) if len(distances) else None
    names = ("overlap", "EER", "EER threshold", f"TAR at FAR {FALSE_ACCEPTANCES}", AT_FAR)
    if not (len(pairs.intra) and len(pairs.inter)):
        return row | dict.fromkeys(names)
    both = pairs.intra, pairs.inter
    values = overlap(*both, edges), *equal_error_rate(*both), *threshold_at(*both, FALSE_ACCEPTANCES)
    return row | dict(zip(names, values, strict=True))


def save_identity_distances(folder: Path, found: Sequence[PairDistances], metric: str, bins: int) -> list[dict]:
    """Write `identity_distances.{png,pdf,csv}` and `identity_histograms.csv`, and return the rows of numbers."""
    edges = bin_edges([distances for pairs in found for distances in (pairs.intra, pairs.inter)], bins)
    rows = [summary(pairs, edges) for pairs in found]
    write_csv(folder / "identity_distances.csv", rows)
    histograms = []
    for pairs in found:
        both = shares(pairs.intra, edges).tolist(), shares(pairs.inter, edges).tolist()
        for low, high, intra, inter in zip(edges[:-1].tolist(), edges[1:].tolist(), *both):
            row = {"data set": pairs.name, "from": low, "to": high, "intra share": intra, "inter share": inter}
            histograms.append(row)
    write_csv(folder / "identity_histograms.csv", histograms)
    draw(folder / "identity_distances", found, rows, edges, metric)
    return rows


def draw(path: Path, found: Sequence[PairDistances], rows: list[dict], edges: np.ndarray, metric: str) -> None:
    """Draw one panel for each data set: both histograms and both thresholds."""
    use_style()
    figure, axes = panel_grid(len(found), PANELS_A_ROW, 3.4, 2.6)
    for axis, pairs, row in zip(axes.flat, found, rows):
        draw_panel(axis, pairs, row, edges)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of pairs (%)")
    figure.supxlabel(f"{metric} distance", fontsize=10)
    handles = [plt.Rectangle((0, 0), 1, 1, color=color, alpha=0.55) for color in PALETTE[:2]]
    handles += [plt.Line2D([], [], color="black", linestyle=style) for style in ("-", ":")]
    second = f"threshold at {100 * FALSE_ACCEPTANCES:g} % false acceptances"
    labels = ["one person", "two people", "threshold at equal error rate", second]
    figure.legend(handles, labels, loc="outside upper center", ncol=4 if len(found) > 2 else 2)
    save_figure(figure, path, (".png", ".pdf"))


def draw_panel(axis, pairs: PairDistances, row: dict, edges: np.ndarray) -> None:
    """Draw the histograms of one data set, its numbers in the title."""
    for distances, color in ((pairs.intra, PALETTE[0]), (pairs.inter, PALETTE[1])):
        axis.stairs(100 * shares(distances, edges), edges, fill=True, color=color, alpha=0.55)
    note = "" if pairs.pairs == TWO_CAMERAS else f"\none person from {pairs.pairs}"
    if row["EER"] is None:
        missing = "two people" if len(pairs.intra) else "one person" if len(pairs.inter) else "any kind"
        numbers = f"no pairs of {missing}"
    else:
        numbers = f"EER {100 * row['EER']:.1f} %, overlap {100 * row['overlap']:.0f} %"
        axis.axvline(row["EER threshold"], color="black", linewidth=1)
        if row[AT_FAR] is not None:
            axis.axvline(row[AT_FAR], color="black", linewidth=1, linestyle=":")
    axis.set_title(f"{short(pairs.name)}\n{numbers}{note}", fontsize=9.5)
    axis.tick_params(labelbottom=True)
