"""The tables of a page: results of the runs, and what their configs change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastreid.config import CfgNode
from fastreid.evaluation.results import ALL_AVERAGE, TABLE_METRICS
from fastreid.report.comparison import ALL_SETS, config_differences, show
from fastreid.report.html import element, swatch, table, text
from fastreid.report.runs import Run


def results_section(runs: Sequence[Run]) -> str:
    """Return the table of the last evaluations: mean and standard deviation over the splits, the best run in bold."""
    evaluated = {number: run for number, run in enumerate(runs) if run.evaluations}
    if not evaluated:
        return '<p class="note">No run was evaluated.</p>'
    names = [*dict.fromkeys(name for run in evaluated.values() for name in run.data_sets), ALL_SETS]
    groups = [_result_rows(name, evaluated, grouped=len(runs) > 1) for name in names]
    header = [f'<th scope="col">{text(name)}</th>' for name in ("Data set", *TABLE_METRICS)]
    note = "Last evaluation of each run: mean ± standard deviation over the splits."
    if len(evaluated) > 1:
        note += " The best run of each data set is bold."
    return f'<p class="note">{note}</p>{table(header, groups, "Results by data set")}'


def _result_rows(name: str, runs: Mapping[int, Run], grouped: bool) -> str:
    row = ALL_AVERAGE if name == ALL_SETS else f"{name}_average"
    found = {number: run.last[row] for number, run in runs.items() if row in run.last}
    best = {metric: _best(metrics.get(metric, math.nan) for metrics in found.values()) for metric in TABLE_METRICS}
    lines = []
    for number, metrics in found.items():
        spread = runs[number].last.get(f"{name}_std", {})
        spread = spread if any(spread.values()) else {}  # of a single split it is 0
        cells = "".join(_cell(metrics.get(m, math.nan), spread.get(m), best[m]) for m in TABLE_METRICS)
        label = f"{swatch(number)} {text(runs[number].name)}" if grouped else text(name)
        lines.append(f'<tr data-run="{number}"><th scope="row">{label}</th>{cells}</tr>')
    title = f'<tr><th scope="rowgroup" colspan="{len(TABLE_METRICS) + 1}">{text(name)}</th></tr>' if grouped else ""
    return element("tbody", {"class": "group" if grouped else None, "data-set": name}, title + "".join(lines))


def _best(values: Iterable[float]) -> float:
    """Return the highest value where runs differ; NaN where there is nothing to tell apart."""
    known = [value for value in values if not math.isnan(value)]
    return max(known) if known and min(known) < max(known) else math.nan


def _cell(value: float, spread: float | None, best: float) -> str:
    if math.isnan(value):
        return "<td>–</td>"
    shown = f'<span class="best">{value:.2f}</span>' if value == best else f"{value:.2f}"
    return f"<td>{shown}{'' if spread is None else f' <small>±{spread:.2f}</small>'}</td>"


def configs_section(runs: Sequence[Run], base: CfgNode, base_name: str) -> str:
    """Return the options in which a run differs from the base; of several runs, those first in which they differ."""
    configured = {number: run for number, run in enumerate(runs) if run.config is not None}
    if not configured:
        return '<p class="note">No run has a readable config.yaml.</p>'
    differences = config_differences(base, [run.config for run in configured.values()])
    if not differences:
        return f'<p class="note">No option differs from {text(base_name)}.</p>'
    names = [
        f'<th scope="col" data-run="{number}">{swatch(number)} {text(run.name)}</th>'
        for number, run in configured.items()
    ]
    header = ['<th scope="col">Option</th>', f'<th scope="col">{text(base_name)}</th>', *names]
    groups: dict[str, list[str]] = {"The runs differ": [], "The runs agree": []}
    for key, (expected, *values) in differences.items():
        agree = all(value == values[0] for value in values)
        groups["The runs agree" if agree else "The runs differ"].append(
            _config_row(key, expected, dict(zip(configured, values)))
        )
    bodies = []
    for name, rows in groups.items():
        if rows and len(configured) > 1:
            title = f'<tr><th scope="rowgroup" colspan="{len(header)}">{name}</th></tr>'
            bodies.append(f'<tbody class="group">{title}{"".join(rows)}</tbody>')
        elif rows:
            bodies.append(f"<tbody>{''.join(rows)}</tbody>")
    note = f"{len(differences)} options differ from {text(base_name)}; what differs is marked."
    return f'<p class="note">{note}</p><div class="config">{table(header, bodies, "Options that differ")}</div>'


def _config_row(key: str, expected: Any, values: Mapping[int, Any]) -> str:
    cells = "".join(
        element("td", {"data-run": number, "class": "changed" if value != expected else None}, text(show(value)))
        for number, value in values.items()
    )
    return f'<tr><th scope="row">{text(key)}</th><td>{text(show(expected))}</td>{cells}</tr>'
