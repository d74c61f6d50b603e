"""The numbers of a table's finished runs: mean and deviation over the seeds, as Markdown and CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from statistics import fmean, stdev
from typing import Any

from tabulate import tabulate

from fastreid.utils.files import write_csv, write_text
from tools.table.experiment import ALL, Experiment, Row
from tools.table.runs import TableRun, training_seconds

GROUP, TEST_SET, GAP = "group", "test set", "gap"
EMPTY = "–"


@dataclass(frozen=True)
class Measured:
    """One metric, in percent, of one row on a group of test sets, on a test set, or between two groups.

    Attributes:
        kind: GROUP, TEST_SET or GAP.
        values: by the seeds of the finished runs.
    """

    row: str
    kind: str
    name: str
    metric: str
    values: dict[int, float]
    published: float | None

    @property
    def mean(self) -> float | None:
        return fmean(self.values.values()) if self.values else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation over the seeds, None with less than two."""
        return stdev(self.values.values()) if len(self.values) > 1 else None

    def text(self) -> str:
        """Return mean ± deviation."""
        if self.mean is None:
            return EMPTY
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


Table = dict[tuple[str, str, str, str], Measured]  # by row, kind, name and metric


def measure(experiment: Experiment, runs: Sequence[TableRun]) -> Table:
    """Return what the finished runs measured: of each row all groups, the gap, and the test sets, for each metric."""
    table: Table = {}
    for row in experiment.rows:
        finished = {run.seed: run.run.last for run in finished_runs(row, runs)}
        for metric in experiment.metrics:
            on_sets = {
                name: {seed: rows.get(f"{name}_average", {}).get(metric, math.nan) for seed, rows in finished.items()}
                for name in row.test_sets
            }
            on_groups = {
                group: {seed: fmean(on_sets[name][seed] for name in sets) for seed in finished}
                for group, sets in experiment.groups_of(row).items()
            }
            found = [(GROUP, name, values) for name, values in on_groups.items()]
            if experiment.gap:
                first, second = experiment.gap
                gap = {seed: on_groups[first][seed] - on_groups[second][seed] for seed in finished}
                found.append((GAP, gap_name(experiment), gap))
            found += [(TEST_SET, name, values) for name, values in on_sets.items()]
            for kind, name, values in found:
                known = {seed: value for seed, value in values.items() if not math.isnan(value)}
                published = published_figure(experiment, row, kind, name, metric)
                table[row.name, kind, name, metric] = Measured(row.name, kind, name, metric, known, published)
    return table


def gap_name(experiment: Experiment) -> str:
    return f"{experiment.gap[0]} − {experiment.gap[1]}"


def published_figure(experiment: Experiment, row: Row, kind: str, name: str, metric: str) -> float | None:
    """Return a published figure, None without one; a gap's is that of its groups."""
    if kind != GAP:
        return row.published.get(name, {}).get(metric)
    first, second = (row.published.get(group, {}).get(metric) for group in experiment.gap)
    return None if first is None or second is None else first - second


def write_tables(experiment: Experiment, runs: Sequence[TableRun]) -> Table:
    """Write table.md, table.csv and runs.csv into the table's folder and return the numbers."""
    table = measure(experiment, runs)
    write_text(experiment.output / "table.md", markdown(experiment, runs, table))
    write_csv(experiment.output / "table.csv", [csv_row(found) for found in table.values()])
    write_csv(experiment.output / "runs.csv", run_rows(table))
    return table


def csv_row(found: Measured) -> dict[str, Any]:
    """Return a line of table.csv."""
    labels = {"row": found.row, "kind": found.kind, "name": found.name, "metric": found.metric}
    return {**labels, "mean": found.mean, "std": found.std, "seeds": len(found.values), "published": found.published}


def run_rows(table: Table) -> list[dict[str, Any]]:
    """Return the lines of runs.csv: one for each seed of each number."""
    labels = ("row", "seed", "kind", "name", "metric", "value")
    rows = [
        dict(zip(labels, (found.row, seed, found.kind, found.name, found.metric, value)))
        for found in table.values()
        for seed, value in found.values.items()
    ]
    return rows or [dict.fromkeys(labels)]


def markdown(experiment: Experiment, runs: Sequence[TableRun], table: Table) -> str:
    """Return the tables with what was run, as Markdown."""
    parts = [f"# {experiment.title}", *about(experiment, runs), group_table(experiment, runs, table)]
    # One set to a group is that set.
    if any(len(sets) > 1 for row in experiment.rows for sets in experiment.groups_of(row).values()):
        for metric in experiment.metrics:
            columns = [(TEST_SET, name, metric) for name in experiment.test_sets]
            body = [[row.name, *cells(row, columns, table, experiment)] for row in experiment.rows]
            header = ["", *headings(columns, table, experiment, lambda column: column[1])]
            parts.append(f"{metric} on each test set:\n\n{pipe_table(header, body)}")
    return "\n\n".join(parts) + "\n"


def group_table(experiment: Experiment, runs: Sequence[TableRun], table: Table) -> str:
    """Return the table of the groups, with the number of runs where not all are finished, iterations and time."""
    columns = [(GROUP, name, metric) for name in experiment.group_names for metric in experiment.metrics]
    if experiment.gap:
        columns += [(GAP, gap_name(experiment), metric) for metric in experiment.metrics]
    finished = {row.name: finished_runs(row, runs) for row in experiment.rows}
    partial = any(len(found) < len(experiment.seeds) for found in finished.values())
    body = []
    for row in experiment.rows:
        found = finished[row.name]
        number = [f"{len(found)} of {len(experiment.seeds)}"] if partial else []
        body.append([row.name, *number, *cells(row, columns, table, experiment), *effort(found)])
    names = headings(columns, table, experiment, lambda column: f"{column[1]} {column[2]}")
    return pipe_table(["", *(["seeds"] if partial else []), *names, "iterations", "training time"], body)


def effort(finished: Sequence[TableRun]) -> list[str]:
    """Return the iterations of each of a row's runs, and the time that the training of all took."""
    if not finished:
        return [EMPTY, EMPTY]
    least, most = (f"{choose(run.done for run in finished):,}" for choose in (min, max))
    seconds = sum(training_seconds(run.run.records) for run in finished)
    return [least if least == most else f"{least} to {most}", str(timedelta(seconds=round(seconds)))]


def about(experiment: Experiment, runs: Sequence[TableRun]) -> list[str]:
    """Return what was run, and what the numbers are."""
    finished = [run for run in runs if run.run is not None]
    seeds = ", ".join(map(str, experiment.seeds))
    several = len(experiment.seeds) > 1
    spread = " ± sample standard deviation over the seeds" if several else " of a single seed, so without a deviation"
    state = "" if len(finished) == len(runs) else f" {len(finished)} of {len(runs)} runs are finished."
    machines = sorted({run.run.about.get("machine", "unknown") for run in finished})
    lines = [
        f"{experiment.path.name}: {len(experiment.rows)} row(s), seed{'s' if several else ''} {seeds}.{state} "
        f"In percent, {'mean' if several else 'the result'}{spread}; the best of a column is bold. "
        "The training time is that of all iterations of a row's runs, without tests."
        + (f" Machine: {'; '.join(machines)}." if machines else "")
    ]
    found = [experiment.groups_of(row) for row in experiment.rows]
    if any(groups != found[0] for groups in found):
        lines.append(f"- {ALL}: mean over all test sets of the row, which are not the same for all rows")
    else:
        lines.append("\n".join(f"- {name}: {average_of(sets)}" for name, sets in found[0].items()))
    return lines


def average_of(sets: Sequence[str]) -> str:
    return sets[0] if len(sets) == 1 else f"mean over {', '.join(sets)}"


def finished_runs(row: Row, runs: Sequence[TableRun]) -> list[TableRun]:
    return [run for run in runs if run.row.name == row.name and run.run is not None]


Column = tuple[str, str, str]  # kind, name, metric


def headings(
    columns: Sequence[Column], table: Table, experiment: Experiment, name: Callable[[Column], str]
) -> list[str]:
    """Return the columns' names, each followed by one for the published figures if there are any."""
    shown = []
    for column in columns:
        shown += [name(column), "published"] if has_published(column, table, experiment) else [name(column)]
    return shown


def cells(row: Row, columns: Sequence[Column], table: Table, experiment: Experiment) -> list[str]:
    """Return a row's cells, the best mean of a column in bold."""
    shown = []
    for column in columns:
        found = table.get((row.name, *column))
        text = EMPTY if found is None else found.text()
        best = best_mean(column, table, experiment)
        shown.append(f"**{text}**" if best is not None and found is not None and found.mean == best else text)
        if has_published(column, table, experiment):
            published = None if found is None else found.published
            shown.append(EMPTY if published is None else f"{published:.2f}")
    return shown


def column_of(column: Column, table: Table, experiment: Experiment) -> list[Measured]:
    """Return what the rows measured in a column."""
    return [table[(row.name, *column)] for row in experiment.rows if (row.name, *column) in table]


def has_published(column: Column, table: Table, experiment: Experiment) -> bool:
    return any(found.published is not None for found in column_of(column, table, experiment))


def best_mean(column: Column, table: Table, experiment: Experiment) -> float | None:
    """Return the highest mean of a column of two or more; None for what does not tell a good row.

    That is a gap, which a bad model can have small, and the average of rows that are tested on different sets.
    """
    kind, name, _ = column
    means = [found.mean for found in column_of(column, table, experiment) if found.mean is not None]
    comparable = kind == TEST_SET
    if kind == GROUP:
        comparable = len({experiment.groups_of(row)[name] for row in experiment.rows}) == 1
    return max(means) if len(means) > 1 and comparable else None


def pipe_table(header: list[str], rows: list[list[str]]) -> str:
    alignment = ("left", *["right"] * (len(header) - 1))
    header, *rows = ([cell.replace("|", r"\|") for cell in row] for row in (header, *rows))
    return tabulate(rows, headers=header, tablefmt="pipe", colalign=alignment, disable_numparse=True)
