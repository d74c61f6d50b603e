"""Results for people: a workbook, a line for each query, and the CMC curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from openpyxl import Workbook
from openpyxl.styles import Alignment, Font, PatternFill
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.worksheet import Worksheet

from fastreid.report.figures import MARKERS, plt, save_figure, short, style_of_line, use_style
from fastreid.utils.files import atomic_path, write_rows
from fastreid.utils.text import printable

PLOTTED_RANKS = 20
HEADER_FILL = PatternFill("solid", fgColor="DDE6F0")


@dataclass(frozen=True)
class QueryRow:
    """One query of one split; what is measured is None for a query without a true match.

    Attributes:
        average_precision: 0..1.
        first_correct_rank: from 1.
        distance_margin: distance of the nearest image of another identity less that of the nearest true match, above 0
            where the first image is right.
        nearest_other, other_identity, other_camera: of that image of another identity. All four are None too where the
            gallery has no other identity.
    """

    split: str
    query: str
    identity: int
    camera: int
    average_precision: float | None
    first_correct_rank: int | None
    distance_margin: float | None
    nearest_other: str | None
    other_identity: int | None
    other_camera: int | None


def write_queries(path: Path, rows: Sequence[QueryRow]) -> None:
    """Write rows as CSV, None as an empty field."""
    write_rows(path, (field.name for field in fields(QueryRow)), map(astuple, rows))


def write_workbook(
    path: Path, rows: Mapping[str, dict], splits: Mapping[str, dict[str, dict]], columns: Sequence[str]
) -> None:
    """Write a workbook with the published table (sheet `results`) and all metrics of all splits (sheet `splits`).

    Args:
        rows: metrics in percent by the table's row.
        splits: by data set and split.
        columns: the table's columns.
    """
    workbook = Workbook()
    table = workbook.active
    table.title = "results"
    averages = [[name, *(row[c] for c in columns)] for name, row in rows.items()]
    fill_sheet(table, ["Datasets", *columns], averages, labels=1)
    for row in table.iter_rows(min_row=2):
        if row[0].value.startswith("**"):  # the average over data sets
            for cell in row:
                cell.font = Font(bold=True)
    every = list(dict.fromkeys(key for found in splits.values() for row in found.values() for key in row))
    lines = [[name, split, *(row[c] for c in every)] for name, found in splits.items() for split, row in found.items()]
    fill_sheet(workbook.create_sheet("splits"), ["Datasets", "Split", *every], lines, labels=2)
    with atomic_path(path) as temporary:
        workbook.save(temporary)


def fill_sheet(sheet: Worksheet, header: list[str], rows: list[list], labels: int) -> None:
    """Write a header and rows whose first `labels` cells are text; an undefined number (NaN) is an empty cell."""
    for row in (header, *rows):
        sheet.append([None if isinstance(v, float) and math.isnan(v) else v for v in map(sheet_value, row)])
        for cell in sheet[sheet.max_row]:
            if isinstance(cell.value, str):
                cell.data_type = "s"  # never a formula or an error, whatever the text looks like
    for cell in sheet[1]:
        cell.font, cell.fill, cell.alignment = Font(bold=True), HEADER_FILL, Alignment(horizontal="center")
    for line in sheet.iter_rows(min_row=2, min_col=labels + 1):
        for cell in line:
            cell.number_format = "0.00"
    for number, cells in enumerate(sheet.iter_cols(values_only=True), start=1):
        texts = [value for value in cells if isinstance(value, str)]
        sheet.column_dimensions[get_column_letter(number)].width = max(map(len, texts)) + 2
    sheet.freeze_panes = sheet.cell(2, labels + 1)


def sheet_value(value: Any) -> Any:
    """Return a cell's value; a workbook takes no control characters and no bytes that are not UTF-8."""
    return printable(value) if isinstance(value, str) else value


def plot_cmc(path: Path, curves: Mapping[str, np.ndarray]) -> None:
    """Draw the CMC, shares of 1, of each data set as one line of a PNG."""
    use_style()
    figure, axis = plt.subplots(figsize=(6.5, 4.3 + 0.1 * len(curves)), constrained_layout=True)
    for position, (name, curve) in enumerate(curves.items()):
        ranks = np.arange(1, min(len(curve), PLOTTED_RANKS) + 1)
        values = 100 * curve[: len(ranks)]
        label = f"{short(name)} ({values[0]:.1f})"
        marker = style_of_line(position, MARKERS)
        axis.plot(ranks, values, marker=marker, markersize=4, label=label)
    axis.set(title="CMC (Rank-1)", xlabel="rank", ylabel="queries with a match up to this rank (%)", ylim=(None, 101))
    axis.set_xticks([1, 5, 10, 15, 20])
    if curves:
        figure.legend(fontsize=8, loc="outside lower center", ncol=2)
    save_figure(figure, path)
