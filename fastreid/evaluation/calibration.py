"""Same person or not: the distance up to which two images count as one person, for a wanted false accept rate.

Pairs are all pairs of images from two cameras, each once, at least one of them of a person that some query asks for:
distractors may be anybody. The false accept rate (FAR) of a threshold is the share of the pairs of two people whose
distance is at most the threshold, the true accept rate (TAR) that of the pairs of one person.

Pairs that share a person depend on each other, so intervals are percentiles over resamples of people, not of pairs: a
person drawn w times gives w times its own pairs, and w v times those with a person drawn v times. It is the vertex
bootstrap (Snijders and Borgatti, "Non-Parametric Standard Errors and Tests for Network Statistics", Connections 1999;
Fogliato et al., "Confidence Intervals for Error Rates in 1:1 Matching Tasks", IJCV 2024). Each image of a distractor
counts as a person of its own, as data sets file many people under one identity.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from torch import Tensor

from fastreid.data.datasets import Items
from fastreid.evaluation.feature_cache import model_fingerprint
from fastreid.evaluation.rank import check_distances
from fastreid.evaluation.roc import allowed_errors
from fastreid.evaluation.streaming import FeatureDistances
from fastreid.utils import run_files
from fastreid.utils.errors import UserError

if TYPE_CHECKING:
    from fastreid.engine.predictor import Predictor

logger = logging.getLogger(__name__)

CONFIDENCE = 0.95
# Errors below which a rate is known badly, even if pairs were independent (Doddington et al., the "rule of 30", 2000).
ENOUGH_ERRORS = 30
# Of the wanted rate: how many of the nearest pairs of two people are kept at first for the resamples.
KEPT = 4
MEASURED = ("threshold", "measured_far", "tar")  # keys of a row, each with its interval


class People:
    """Who is seen by which camera, so that pairs can be counted before any distance is computed.

    Args:
        items: N images.
        known: (N,) bool, False for distractors, of whom two make no pair.

    Attributes:
        person: (N,) numbers from 0.
        count: people and distractors together.
        same: (count,) pairs of each.
    """

    def __init__(self, items: Items, known: np.ndarray) -> None:
        person = np.where(known, items.pids, items.pids.max(initial=0) + 1 + np.arange(len(items)))
        self.person = np.unique(person, return_inverse=True)[1]
        self.camera = np.unique(items.camids, return_inverse=True)[1]
        self.known, self.count = known, int(self.person.max(initial=-1)) + 1
        images = np.bincount(self.person, minlength=self.count)
        seen, often = np.unique(np.stack([self.person, self.camera]), axis=1, return_counts=True)
        one_camera = np.bincount(seen[0], often**2, minlength=self.count).astype(np.int64)
        self.same = (images**2 - one_camera) // 2

    def different(self, weights: np.ndarray) -> int:
        """Return the number of pairs of two people, each person counting `weights` (count,) times."""
        found = 0
        for sign, part in ((1, slice(None)), (-1, ~self.known)):
            images = weights[self.person[part]]
            by_camera = np.bincount(self.camera[part], images)
            found += sign * (int(images.sum()) ** 2 - int((by_camera**2).sum())) // 2
        return found - int((weights**2 * self.same).sum())

    def check(self, name: str, fars: Sequence[float]) -> None:
        """Raise UserError if there are no pairs of one kind, or too few for a rate; warn where it is known badly."""
        for far in fars:
            if not 0 < far < 1:
                raise UserError(f"--far, a share of the pairs of two people, must be between 0 and 1; found {far:g}")
        known, same = len(np.unique(self.person[self.known])), int(self.same.sum())
        different = self.different(np.ones(self.count, np.int64))
        if not (same and different):
            what = "two people" if same else "one person"
            raise UserError(
                f"{name}: no pair of images of {what} from two cameras among {len(self.person):,} images of {known:,} "
                "people: a threshold needs pairs of one person and of two. Check identities and cameras"
            )
        for far in fars:
            errors = allowed_errors(far, different)
            if not errors:
                raise UserError(
                    f"{name}: a false accept rate of {far:g} cannot be measured with {different:,} pairs of two "
                    f"people, at least {np.ceil(1 / far):,.0f} are needed: ask for a higher --far, or add people"
                )
            if errors < ENOUGH_ERRORS:
                logger.warning(
                    f"{name}: a false accept rate of {far:g} is {errors} of {different:,} pairs of two people: below "
                    f"{ENOUGH_ERRORS} the threshold is known badly, whatever its interval says"
                )


@dataclass(frozen=True, eq=False)
class Pairs:
    """Distances of the pairs of one person (P,) and the smallest of those of two (K,), each ascending.

    Attributes:
        owner: (P,) the person.
        first, second: (K,) the two people.
        limit: each pair of two people up to this distance is there.
    """

    same: np.ndarray
    owner: np.ndarray
    different: np.ndarray
    first: np.ndarray
    second: np.ndarray
    limit: float


def nearest_pairs(
    features: Tensor, people: People, metric: str, block_size: int, keep: int = 0, limit: float = np.inf
) -> Pairs:
    """Return all pairs of one person, and of the pairs of two people up to `limit` the `keep` nearest, 0: all.

    Pairs as far away as the last one that is kept are kept too. Memory holds a few blocks and what is kept.

    Raises:
        UserError: a distance is not a number.
    """
    person, camera, known = people.person, people.camera, people.known
    columns, same, different = np.arange(len(person)), [], []
    for start, block in FeatureDistances(features, features, metric, block_size).blocks():
        check_distances(block, start)
        rows = slice(start, start + len(block))
        counted = (columns > columns[rows, None]) & (camera[rows, None] != camera) & (known[rows, None] | known)
        of_one = counted & (person[rows, None] == person)
        counted &= ~of_one & (block <= limit)
        if keep and np.count_nonzero(counted) > keep:
            limit = min(limit, np.partition(block[counted], keep - 1)[keep - 1])
            counted &= block <= limit
        for found, mask in ((same, of_one), (different, counted)):
            row, column = np.nonzero(mask)
            found.append((block[row, column], person[start + row], person[column]))
        if keep and sum(len(part[0]) for part in different) > 2 * keep:
            joined = [np.concatenate(parts) for parts in zip(*different)]
            limit = min(limit, np.partition(joined[0], keep - 1)[keep - 1])
            kept = joined[0] <= limit
            different = [tuple(part[kept] for part in joined)]
        # A name that is still bound would keep this block while the next one is computed.
        del block
    (near, owner, _), (far, first, second) = (
        tuple(np.concatenate(parts) for parts in zip(*found)) for found in (same, different)
    )
    kept = far <= limit
    order, far_order = np.argsort(near, kind="stable"), np.flatnonzero(kept)[np.argsort(far[kept], kind="stable")]
    return Pairs(near[order], owner[order], far[far_order], first[far_order], second[far_order], float(limit))


class TooFewKept(Exception):
    """A resample's threshold lies beyond the pairs that were kept."""


class Weighted:
    """The rates of pairs when each person counts `weights` (count,) times."""

    def __init__(self, pairs: Pairs, people: People, weights: np.ndarray) -> None:
        self.pairs = pairs
        self.same = np.concatenate([[0], np.cumsum(weights[pairs.owner])])
        self.different = np.concatenate([[0], np.cumsum(weights[pairs.first] * weights[pairs.second])])
        self.total_same, self.total_different = int(self.same[-1]), people.different(weights)

    def threshold(self, far: float) -> float:
        """Return the largest distance of a pair at which the false accept rate is at most `far`; -inf without one."""
        near, others = self.pairs.same, self.pairs.different
        # The pairs before this one are within the rate, and those as far away as it are not.
        beyond = np.searchsorted(self.different, allowed_errors(far, self.total_different), side="right") - 1
        if beyond == len(others):
            raise TooFewKept
        below = [values[: np.searchsorted(values, others[beyond])] for values in (near, others)]
        return max((float(values[-1]) for values in below if len(values)), default=-np.inf)

    def rates(self, threshold: float) -> tuple[float, float]:
        """Return the false and the true accept rate of a threshold not above `pairs.limit`."""
        kinds = (
            (self.pairs.different, self.different, self.total_different),
            (self.pairs.same, self.same, self.total_same),
        )
        far, tar = (
            float(found[np.searchsorted(values, threshold, side="right")] / total) for values, found, total in kinds
        )
        return far, tar


def resampled(people: People, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each person is drawn, (people.count,), in `count` resamples that have pairs of both kinds."""
    rng = np.random.default_rng(seed)
    while count:
        weights = np.bincount(rng.integers(people.count, size=people.count), minlength=people.count)
        if people.different(weights) and (weights * people.same).any():
            count -= 1
            yield weights


def interval(samples: np.ndarray) -> list[float | None]:
    """Return the percentile interval of numbers; None for an end without a finite number."""
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(samples, [tail, 1 - tail], method="inverted_cdf").tolist()
    return [end if np.isfinite(end) else None for end in ends]


def measure(
    pairs: Pairs, people: People, fars: Sequence[float], given: Sequence[float], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return for each wanted rate the threshold with its FAR and TAR, and intervals; for each given threshold the same.

    The threshold's interval is of the thresholds that the resamples would give, those of the rates are at the point.
    """
    once = Weighted(pairs, people, np.ones(people.count, np.int64))
    points = [once.threshold(far) for far in fars] + list(given)
    for far, point in zip(fars, points):
        if not np.isfinite(point):
            raise UserError(
                f"no threshold has a false accept rate of {far:g}: more pairs of two people than that are equally "
                "near, and nearer than all pairs of one. Are there copies of images under two names?"
            )
    samples = []
    for weights in resampled(people, resamples, seed):
        sample = Weighted(pairs, people, weights)
        again = [sample.threshold(far) for far in fars] + list(given)
        samples.append([(value, *sample.rates(point)) for value, point in zip(again, points)])
    rows = []
    for number, point in enumerate(points):
        wanted = {"far": fars[number]} if number < len(fars) else {}
        row = dict(zip(MEASURED, (point, *once.rates(point))))
        intervals = [interval(column) for column in np.array(samples)[:, number].T]
        rows.append(wanted | row | {f"{key}_interval": ends for key, ends in zip(MEASURED, intervals)})
    return rows


def calibrate(
    features: Tensor,
    people: People,
    metric: str,
    block_size: int,
    fars: Sequence[float] = (),
    given: Sequence[float] = (),
    resamples: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the rows of `measure` from the features (N, D) of all images: the same for the same seed.

    Either `fars` are wanted or thresholds `given`. More pairs are kept, in a further pass over the distances, where
    some resample needs them.
    """
    if bool(fars) == bool(given):
        raise ValueError("expected either wanted rates or given thresholds")
    total = people.different(np.ones(people.count, np.int64))
    keep = min(total, KEPT * max((allowed_errors(far, total) for far in fars), default=0) + 1)
    while True:
        if given:
            pairs = nearest_pairs(features, people, metric, block_size, limit=max(given))
        else:
            pairs = nearest_pairs(features, people, metric, block_size, keep if keep < total else 0)
        try:
            return measure(pairs, people, fars, given, resamples, seed)
        except TooFewKept:
            keep *= 2


def model_record(cfg, model, checkpoint: str) -> dict[str, Any]:
    """Return what distances depend on: the metric, the checkpoint and its weights' hash, options of the features."""
    found = model_fingerprint(cfg, model)
    return {
        "metric": cfg.TEST.METRIC,
        "checkpoint": checkpoint,
        "weights": found["weights"],
        "options": json.loads(found["options"]),
    }


def require_model(found: dict[str, Any], expected: dict[str, Any], path: Path) -> None:
    """Raise UserError if the thresholds in `path` are not of the model, metric and options of a `model_record`."""
    other = [] if found["metric"] == expected["metric"] else [f"metric {found['metric']}"]
    if found["weights"] != expected["weights"]:  # the same weights may be a copy, or in a folder that was moved
        other.append(f"weights of the checkpoint {found['checkpoint']}")
    other += [f"{key} {found['options'].get(key)}" for key, value in expected["options"].items()
              if found["options"].get(key) != value]  # fmt: skip
    if other:
        raise UserError(
            f"the thresholds in {path} are of another model ({', '.join(other)}) than {expected['checkpoint']} with "
            "these options: their distances do not compare. Calibrate this one with tools/calibrate.py"
        )


class Threshold(NamedTuple):
    """A distance up to which two images count as one person, and the false accept rate that it was calibrated for."""

    distance: float
    far: float

    def most_alarms(self, gallery: int) -> float:
        """Return a bound, 0..1, on the share of queries of people not in the gallery that find someone in it.

        Each of the `gallery` images is one more chance (Boole's inequality), where the false accept rate holds.
        """
        return min(1.0, self.far * gallery)


def load_threshold(predictor: Predictor, path: Path | None = None, far: float | None = None) -> Threshold:
    """Return the threshold of a file of tools/calibrate.py for the model of a predictor.

    Args:
        path: the file; None: threshold.json beside the checkpoint.
        far: which, where the file has several.

    Raises:
        UserError: there is no such file or rate, it is damaged, or of another checkpoint, metric or options.
    """
    path = predictor.checkpoint.parent / run_files.THRESHOLDS if path is None else path
    found = read_thresholds(path)
    require_model(found, model_record(predictor.cfg, predictor.model, str(predictor.checkpoint)), path)
    rows = {row["far"]: row["threshold"] for row in found["thresholds"]}
    if far is None and len(rows) == 1:
        far = next(iter(rows))
    if far not in rows:
        asked = "several false accept rates" if far is None else f"no false accept rate {far:g}"
        raise UserError(f"{path} has {asked}: name one of {', '.join(f'{rate:g}' for rate in rows)}")
    return Threshold(rows[far], far)


def read_thresholds(path: Path) -> dict[str, Any]:
    """Return the content of a file of tools/calibrate.py; UserError if it is missing or no such file."""
    if not path.is_file():
        raise UserError(f"no thresholds {path}: tools/calibrate.py writes them from a folder of labelled images")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [(row["far"], row["threshold"]) for row in found["thresholds"]]
        if not (rows and np.isfinite(rows).all() and found["options"].keys()):
            raise ValueError("no thresholds in it")
        _ = [found[key] for key in ("metric", "checkpoint", "weights")]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no file of tools/calibrate.py ({error}): make it again") from error
    return found
