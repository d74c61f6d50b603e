"""`log.txt` of a run, ours or the published program's: how far training came, and every table of results."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from statistics import fmean

from fastreid.evaluation.results import ALL_AVERAGE

ROWS = ("_average", "_std", ALL_AVERAGE)  # ends of the names of a table's rows, except data sets with one split
Rows = dict[str, dict[str, float]]

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# The first line that a process writes: ours, and the published program's.
PROCESS = re.compile(r"\bconfig .+, output folder |Rank of current process")
TRAINING = re.compile(r"\btraining from iteration (\d+)", re.IGNORECASE)
# Ours is `iter 200/480`, the number done; the published program writes `iter: 199`, the number of the last, from 0.
PROGRESS = re.compile(r"\biter(:?) +(\d+)(?:/(\d+))?")


@dataclass
class Evaluation:
    """One table of results: metrics in percent by row: `X_average`, `X_std`, `** all_average **` (see `with_averages`).

    Attributes:
        iteration: how many training iterations were done; None for a test outside of training.
    """

    rows: Rows
    iteration: int | None = None


@dataclass
class RunLog:
    """done, total: iterations, total None where the log does not say; evaluations of training, and later tests."""

    done: int = 0
    total: int | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    tests: list[Evaluation] = field(default_factory=list)


def parse_log(text: str) -> RunLog:
    """Read a log in which several processes may have written one after another.

    A training from the beginning makes what stands before it another run's; one that goes on from an iteration, what
    stands beyond that iteration.
    """
    log, training, table = RunLog(), False, []
    pending: list[Evaluation] = []  # a table is written before the line that tells its iteration
    for line in (*text.splitlines(), ""):
        line = COLOUR.sub("", line).strip()
        if line.startswith("|"):
            table.append(line)
            continue
        rows, table = parse_table(table), []
        if rows and training:
            log.evaluations.append(Evaluation(rows, log.done))
            if log.done != log.total:
                pending.append(log.evaluations[-1])
        elif rows:
            log.tests.append(Evaluation(rows))
        if PROCESS.search(line):
            training = False
        elif start := TRAINING.search(line):
            training, log.done, log.total = True, int(start[1]), None
            log.evaluations = [found for found in log.evaluations if found.iteration <= log.done and log.done]
            log.tests, pending = [], []
        elif training and (progress := PROGRESS.search(line)):
            log.done = int(progress[2]) + (progress[1] == ":")
            log.total = int(progress[3]) if progress[3] else None
            for found in pending:
                found.iteration = log.done
            pending = []
    return log


def parse_table(lines: list[str]) -> Rows:
    """Return the rows of a pipe table whose first column is `Datasets`; nothing for another or a torn table."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    if len(cells) < 3 or cells[0][0] != "Datasets":
        return {}
    names = cells[0][1:]
    return with_averages(
        {
            row[0]: {name: percentage(text) for name, text in zip(names, row[1:])}
            for row in cells[2:]
            if len(row) == len(names) + 1
        }
    )


def with_averages(rows: Rows) -> Rows:
    """Return a table's rows with those that it leaves out where data sets have one split.

    The row `X` of such a data set is its `X_average` here. Where all are such, their mean is `** all_average **`.
    """
    single = {row for row in rows if not row.endswith(ROWS)}
    named = {f"{row}_average" if row in single else row: metrics for row, metrics in rows.items()}
    if single and len(single) == len(rows):
        metrics = dict.fromkeys(key for row in rows.values() for key in row)
        named[ALL_AVERAGE] = {key: fmean(row.get(key, math.nan) for row in rows.values()) for key in metrics}
    return named


def percentage(text: str) -> float:
    """Return the number in a table's cell, with or without a percent sign; NaN for anything else."""
    try:
        return float(text.removesuffix("%"))
    except ValueError:
        return math.nan
