"""The tables of a page: results of the runs, and what their configs change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from markupsafe import Markup

from fastreid.config import CfgNode
from fastreid.evaluation.results import ALL_AVERAGE, TABLE_METRICS
from fastreid.report.comparison import ALL_SETS, config_differences, show
from fastreid.report.html import fill
from fastreid.report.runs import Run


def results_section(runs: Sequence[Run]) -> Markup:
    """Return the table of the last evaluations: mean and standard deviation over the splits, the best run in bold."""
    evaluated = {number: run for number, run in enumerate(runs) if run.evaluations}
    names = [*dict.fromkeys(name for run in evaluated.values() for name in run.data_sets), ALL_SETS]
    return fill(
        "results.html",
        groups={name: _result_rows(name, evaluated) for name in names} if evaluated else {},
        runs=runs,
        metrics=list(TABLE_METRICS),
        grouped=len(runs) > 1,
        several=len(evaluated) > 1,
    )


Cell = tuple[str, str, bool]  # a value, its deviation (may be empty), whether it is the best


def _result_rows(name: str, runs: Mapping[int, Run]) -> dict[int, list[Cell]]:
    row = ALL_AVERAGE if name == ALL_SETS else f"{name}_average"
    found = {number: run.last[row] for number, run in runs.items() if row in run.last}
    best = {metric: _best(metrics.get(metric, math.nan) for metrics in found.values()) for metric in TABLE_METRICS}
    rows = {}
    for number, metrics in found.items():
        spread = runs[number].last.get(f"{name}_std", {})
        spread = spread if any(spread.values()) else {}  # of a single split it is 0
        rows[number] = [_cell(metrics.get(m, math.nan), spread.get(m), best[m]) for m in TABLE_METRICS]
    return rows


def _best(values: Iterable[float]) -> float:
    """Return the highest value where runs differ; NaN where there is nothing to tell apart."""
    known = [value for value in values if not math.isnan(value)]
    return max(known) if known and min(known) < max(known) else math.nan


def _cell(value: float, spread: float | None, best: float) -> Cell:
    if math.isnan(value):
        return "–", "", False
    return f"{value:.2f}", "" if spread is None else f"{spread:.2f}", value == best


def configs_section(runs: Sequence[Run], base: CfgNode, base_name: str) -> Markup:
    """Return the options in which a run differs from the base; of several runs, those first in which they differ."""
    configured = {number: run for number, run in enumerate(runs) if run.config is not None}
    differences = config_differences(base, [run.config for run in configured.values()])
    groups: dict[str, list[tuple]] = {"The runs differ": [], "The runs agree": []}
    for key, (expected, *values) in differences.items():
        agree = all(value == values[0] for value in values)
        title = "The runs agree" if agree else "The runs differ"
        groups[title].append((key, expected, dict(zip(configured, values))))
    count = len(differences)
    return fill("configs.html", groups=groups, count=count, runs=configured, base_name=base_name, show=show)
