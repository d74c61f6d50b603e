"""The numbers of an evaluation, its table and its files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from fastreid.evaluation.open_set import GALLERY, KNOWN, RANK_1, UNKNOWN
from fastreid.evaluation.result_files import QueryRow, plot_cmc, write_queries, write_workbook
from fastreid.utils import run_files
from fastreid.utils.files import file_stem, write_json, write_text

Metrics = dict[str, float]

FPRS = ("0.0001", "0.001", "0.01")
TABLE_METRICS = ("Rank-1", "Rank-5", "Rank-10", "mAP", "mINP", *(f"TPR@FPR={fpr}" for fpr in FPRS))
ALL_AVERAGE = "** all_average **"


@dataclass(frozen=True)
class Counts:
    """The images that the numbers of one split are of.

    Attributes:
        queries: all.
        without_match: those without a gallery image of the same identity from another camera, which take part in no
            mean.
        gallery: all its images.
        distractors: those of them whose identity no query asks for.
    """

    queries: int
    without_match: int
    gallery: int
    distractors: int


@dataclass
class Results:
    """What an evaluation found, by data set.

    Attributes:
        splits: metrics in percent of each split.
        cmc: the curve of each split, as shares.
        counts: the images of each split.
        queries: if asked for, one row for each query of each split.
        open_set: if asked for, the figures of `open_set_rates` of each split.
    """

    splits: dict[str, dict[str, Metrics]] = field(default_factory=dict)
    cmc: dict[str, list[np.ndarray]] = field(default_factory=dict)
    counts: dict[str, dict[str, Counts]] = field(default_factory=dict)
    queries: dict[str, list[QueryRow]] = field(default_factory=dict)
    open_set: dict[str, dict[str, Metrics]] = field(default_factory=dict)

    @property
    def averages(self) -> dict[str, Metrics]:
        """The mean over the splits of each data set."""
        return {name: _over(np.mean, splits.values()) for name, splits in self.splits.items()}

    @property
    def overall(self) -> Metrics:
        """The mean over the data sets of several splits; where none has several, over all."""
        return _over(np.mean, [self.averages[name] for name in self._averaged or self.splits])

    @property
    def _averaged(self) -> list[str]:
        """The data sets of several splits, which alone take part in the table's averages."""
        return [name for name, splits in self.splits.items() if len(splits) > 1]

    @property
    def rows(self) -> dict[str, Metrics]:
        """The table: `X_average` and `X_std` (population) over the splits of X, or one row X for a single split.

        Then the average of the averages, if there are any.
        """
        rows: dict[str, Metrics] = {}
        for name, average in self.averages.items():
            if name in self._averaged:
                rows |= {f"{name}_average": average, f"{name}_std": _over(np.std, self.splits[name].values())}
            else:
                rows[name] = average
        return rows | ({ALL_AVERAGE: self.overall} if self._averaged else {})

    @property
    def curves(self) -> dict[str, np.ndarray]:
        """Return each data set's CMC, (K,) shares, averaged over its splits up to the smallest gallery's length."""
        return {
            name: np.mean([curve[: min(map(len, curves))] for curve in curves], axis=0)
            for name, curves in self.cmc.items()
        }

    def table(self) -> str:
        """Return the published pipe table, in percent."""
        rows = [[name, *(f"{row[metric]:.2f}%" for metric in TABLE_METRICS)] for name, row in self.rows.items()]
        return tabulate(rows, headers=["Datasets", *TABLE_METRICS], tablefmt="pipe")

    def counted(self) -> str:
        """Return a line on the images of each data set; where its splits differ, from the least to the most."""
        lines = []
        for name, splits in self.counts.items():
            every = list(splits.values())
            queries, without, gallery, distractors = (
                _span(getattr(counts, field.name) for counts in every) for field in fields(Counts)
            )
            lines.append(
                f"{name}: {len(every)} split(s), {queries} queries ({without} without a match, left out), {gallery} "
                f"gallery images ({distractors} of people that no query asks for)"
            )
        return "\n".join(lines)

    def open_set_table(self) -> str:
        """Return the open-set figures of each data set, means over its splits, as a pipe table after an empty line.

        Empty if they were not asked for; a dash where they cannot be measured.
        """
        rows = []
        for name, splits in self.open_set.items():
            counts = {key: _span(row[key] for row in splits.values()) for key in (KNOWN, UNKNOWN, GALLERY)}
            means = _over(np.mean, splits.values())
            shares = {key: value for key, value in means.items() if key == RANK_1 or key.startswith("DIR")}
            percent = {key: "-" if math.isnan(value) else f"{value:.2f}%" for key, value in shares.items()}
            rows.append({"Open set": name, **counts, **percent})
        return f"\n\n{tabulate(rows, headers='keys', tablefmt='pipe', disable_numparse=True)}" if rows else ""

    def save(self, folder: Path, **about: Any) -> None:
        """Write the results into a folder.

        `results.json` (all metrics in percent, null where undefined, with `about` beside them, and the images' counts),
        `results.txt` (the table, and the counts), `results.xlsx`, `cmc.png`, and, for data sets with rows of queries,
        `per_query/<data set>.csv`.
        """
        splits = {
            name: {split: _valid_json(row) for split, row in found.items()} for name, found in self.splits.items()
        }
        rows = {name: _valid_json(row) for name, row in self.rows.items()}
        counts = {name: {split: asdict(found) for split, found in every.items()} for name, every in self.counts.items()}
        cmc = {name: (100 * curve).tolist() for name, curve in self.curves.items()}
        found = {**about, "results": rows, "splits": splits, "counts": counts, "cmc": cmc}
        if self.open_set:
            found["open_set"] = {
                name: {split: _valid_json(row) for split, row in every.items()} for name, every in self.open_set.items()
            }
        write_json(folder / run_files.RESULTS, found)
        write_text(folder / run_files.RESULTS_TEXT, f"{self.table()}\n\n{self.counted()}{self.open_set_table()}\n")
        write_workbook(folder / run_files.RESULTS_WORKBOOK, self.rows, self.splits, TABLE_METRICS)
        plot_cmc(folder / run_files.CMC_FIGURE, self.curves)
        for name, queries in self.queries.items():
            write_queries(folder / run_files.PER_QUERY / f"{file_stem(name)}.csv", queries)


def _over(statistic: Callable[[list[float]], Any], metrics: Iterable[Metrics]) -> Metrics:
    """Return a statistic, such as the mean, of each metric."""
    found = list(metrics)
    return {key: float(statistic([row[key] for row in found])) for key in found[0]}


def _span(values: Iterable[int]) -> str:
    found = list(values)
    least, most = min(found), max(found)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _valid_json(metrics: Metrics) -> dict[str, float | None]:
    """Replace NaN, which JSON does not have."""
    return {key: None if math.isnan(value) else value for key, value in metrics.items()}
