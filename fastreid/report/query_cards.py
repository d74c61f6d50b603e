"""The ranked lists of a page: a card for each query, in it a list by each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from fastreid.report.html import fill
from fastreid.report.queries import QuerySet, RunLists, Thumbnails

# Images in a row of a list, where the window is wide enough.
IMAGES_A_ROW = 10


@dataclass
class QueryLists:
    """The queries to show, the runs' lists that they were chosen from, and where their pictures come from."""

    sets: Sequence[QuerySet]
    runs: Sequence[RunLists]
    thumbnails: Thumbnails


def queries_section(lists: QueryLists | None, names: Sequence[str]) -> Markup:
    """Return the cards of all data sets, after the checkpoints they are of and the reasons why lists are missing.

    Args:
        names: of the runs.
    """
    if lists is None:
        return fill("queries.html", sets=None)
    return fill(
        "queries.html",
        runs=list(zip(names, lists.runs)),
        sets=lists.sets,
        thumbnails=lists.thumbnails,
        has_heat=any(run.heat for run in lists.runs),
        images_a_row=IMAGES_A_ROW,
        Path=Path,
    )
