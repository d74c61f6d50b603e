"""Many runs in one table: best and last of every metric, and what their configs have in common or not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openpyxl import Workbook
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.worksheet.worksheet import Worksheet

from fastreid.config import CfgNode, get_cfg
from fastreid.config.config import leaves
from fastreid.evaluation.result_files import fill_sheet
from fastreid.evaluation.results import ALL_AVERAGE, TABLE_METRICS
from fastreid.report.runs import Run
from fastreid.utils.files import atomic_path

LABELS = ("Run", "Datasets", "Status", "Notes")
NOT_OF_THE_METHOD = ("OUTPUT_DIR",)
CHANGED = PatternFill("solid", fgColor="FFF2CC")
ALL_SETS = "all_average"


@dataclass(frozen=True)
class Line:
    """One run on one data set (`all_average`: the mean over them): its best and last value of every column.

    Attributes:
        values: by `best Rank-1`, `best at Rank-1` (the iteration), `last Rank-1` and so on, None where there is none.
    """

    run: str
    data_set: str
    status: str
    notes: str
    values: dict[str, float | int | None]


def value_names() -> list[str]:
    """Return the names of a line's values, metric by metric."""
    return [f"{kind} {metric}" for metric in TABLE_METRICS for kind in ("best", "best at", "last")]


def lines(run: Run) -> list[Line]:
    """Return the lines of a run, the average first; a run without numbers has one line that says why."""
    about = run.about_progress(), "; ".join(run.problems)
    if not run.evaluations:
        return [Line(run.name, "", *about, dict.fromkeys(value_names()))]
    rows = {ALL_SETS: ALL_AVERAGE} | {name: f"{name}_average" for name in run.data_sets}
    return [Line(run.name, name, *about, _values(run, row)) for name, row in rows.items()]


def _values(run: Run, row: str) -> dict[str, float | int | None]:
    values: dict[str, float | int | None] = {}
    for metric in TABLE_METRICS:
        best, iteration = run.best(row, metric) or (None, None)
        last = run.last.get(row, {}).get(metric, math.nan)
        values |= {f"best {metric}": best, f"best at {metric}": iteration}
        values[f"last {metric}"] = None if math.isnan(last) else last
    return values


def base_config(path: Path | None) -> CfgNode:
    """Return the config that runs are compared with: a file's, or without one the options' defaults.

    Raises:
        UserError: there is no such file, or it is no config.
    """
    cfg = get_cfg()
    if path is not None:
        cfg.merge_from_file(path)
    return cfg


def config_differences(base: CfgNode, configs: Sequence[CfgNode | None]) -> dict[str, list[Any]]:
    """Return by option the base's value and each config's (None without a config), where any config differs from it."""
    flat = [None if cfg is None else dict(leaves(cfg)) for cfg in configs]
    differences = {}
    for key, value in leaves(base):
        found = [None if options is None else options[key] for options in flat]
        if key not in NOT_OF_THE_METHOD and any(v is not None and v != value for v in found):
            differences[key] = [value, *found]
    return differences


def csv_rows(table: Sequence[Line]) -> list[dict[str, Any]]:
    """Return the lines as rows of a CSV file."""
    return [dict(zip((*LABELS, *value_names()), _cells(line))) for line in table]


def _cells(line: Line) -> list[Any]:
    return [line.run, line.data_set, line.status, line.notes, *line.values.values()]


def write_comparison(path: Path, table: Sequence[Line], runs: Sequence[Run], base: CfgNode, base_name: str) -> None:
    """Write a workbook: the lines with each data set's best values in bold, and the options that differ from the base.

    Args:
        base_name: what the base's column is called.
    """
    workbook = Workbook()
    _write_results(workbook.active, table)
    _write_differences(workbook.create_sheet("config differences"), runs, base, base_name)
    with atomic_path(path) as temporary:
        workbook.save(temporary)


def _write_results(sheet: Worksheet, table: Sequence[Line]) -> None:
    sheet.title = "results"
    fill_sheet(sheet, [*LABELS, *value_names()], [_cells(line) for line in table], labels=len(LABELS))
    best = best_values(table)
    for cells, line in zip(sheet.iter_rows(min_row=2, min_col=len(LABELS) + 1), table):
        for cell, (name, value) in zip(cells, line.values.items()):
            if name.startswith("best at"):
                cell.number_format = "#,##0"
            elif value is not None and value == best.get((line.data_set, name)):
                cell.font = Font(bold=True)
    # Of the labels the run and the data set stay in sight; notes may be long sentences.
    sheet.freeze_panes = "C2"
    sheet.column_dimensions["D"].width = 36
    sheet.auto_filter.ref = sheet.dimensions


def best_values(table: Sequence[Line]) -> dict[tuple[str, str], float]:
    """Return the highest value by data set and name of the value, where at least two runs have one."""
    found: dict[tuple[str, str], list[float]] = {}
    for line in table:
        for name, value in line.values.items():
            if value is not None:
                found.setdefault((line.data_set, name), []).append(value)
    return {key: max(values) for key, values in found.items() if len(values) > 1}


def _write_differences(sheet: Worksheet, runs: Sequence[Run], base: CfgNode, base_name: str) -> None:
    differences = config_differences(base, [run.config for run in runs])
    header = ["Option", base_name, *(run.name if run.config else f"{run.name} (no config)" for run in runs)]
    rows = [[key, *("" if value is None else show(value) for value in values)] for key, values in differences.items()]
    fill_sheet(sheet, header, rows, labels=2)
    for row, values in enumerate(differences.values(), start=2):
        for column, value in enumerate(values, start=2):
            cell = sheet.cell(row, column)
            cell.alignment = Alignment(wrap_text=True, vertical="top")
            if value is not None and value != values[0]:
                cell.fill = CHANGED
    for column in sheet.column_dimensions.values():
        column.width = min(column.width, 44)


def show(value: Any) -> str:
    """Return an option's value as it is written on a command line."""
    if isinstance(value, (list, tuple)):
        return "(" + ", ".join(map(str, value)) + ")"
    return "''" if value == "" else str(value)
