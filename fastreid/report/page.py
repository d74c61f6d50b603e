"""`report.html`: runs side by side in one file that needs no network."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence

from markupsafe import Markup

from fastreid.config import CfgNode
from fastreid.evaluation.results import ALL_AVERAGE
from fastreid.report.charts import Series, line_chart
from fastreid.report.comparison import ALL_SETS
from fastreid.report.gates import gate_charts
from fastreid.report.html import fill
from fastreid.report.paired import differences_section
from fastreid.report.plots import series
from fastreid.report.query_cards import QueryLists, queries_section
from fastreid.report.runs import Run
from fastreid.report.tables import configs_section, results_section

RATES = {"lr": "Learning rate", "lr_gate": "Learning rate of the gates", "inner_ratio": "Inner ratio"}
SHOWN_MEASURES = (("Rank-1", False), ("mAP", True))


def render(runs: Sequence[Run], base: CfgNode, base_name: str, lists: QueryLists | None) -> Markup:
    """Return the page.

    Args:
        base, base_name: the config that runs are compared with, and what it is called.
        lists: None leaves them out.
    """
    names = [run.name for run in runs]
    differences = "" if lists is None else differences_section([found.measures for found in lists.runs], names)
    sections = {
        "Runs": runs_section(runs),
        "Results": results_section(runs),
        **({"Differences": differences} if differences else {}),
        "Curves": curves_section(runs),
        "Gates": gate_charts(runs),
        "Configs": configs_section(runs, base, base_name),
        "Queries": queries_section(lists, names),
    }
    data_sets = list(dict.fromkeys(name for run in runs for name in run.data_sets))
    return fill(
        "page.html",
        title=names[0] if len(runs) == 1 else f"{len(runs)} runs side by side",
        made=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        runs=runs,
        sections=sections,
        data_sets={name: name for name in ("all", *data_sets)},
        has_cards=lists is not None and any(found.cards for found in lists.sets),
        thumbnails=lists.thumbnails if lists is not None and lists.sets else None,
        megabytes=lambda page: len(page.encode(errors="backslashreplace")) / 1e6,
    )


def runs_section(runs: Sequence[Run]) -> Markup:
    """Return a panel for each run: what it is, how far it came, what could not be read."""
    return fill("runs.html", panels=[(run, _facts(run)) for run in runs])


def _facts(run: Run) -> dict[str, object]:
    facts = {"Folder": run.folder, "Status": run.about_progress()}
    if run.about.get("checkpoint"):
        facts["Checkpoint tested"] = run.about["checkpoint"]
    if run.config is not None:
        facts["Sources"] = ", ".join(run.config.DATASETS.NAMES)
        facts["Backbone"] = _about_backbone(run.config.MODEL.BACKBONE)
        facts["Normalization"] = run.config.MODEL.NORM.TYPE_BACKBONE
        if run.config.MODEL.STYLE.NAME:
            facts["Styles"] = run.config.MODEL.STYLE.NAME
    for metric, _ in SHOWN_MEASURES:
        if best := run.best(ALL_AVERAGE, metric):
            at = f" at iteration {best[1]:,}" if best[1] else ""
            last = run.last.get(ALL_AVERAGE, {}).get(metric, math.nan)
            facts[f"Average {metric}"] = f"{last:.2f} (best {best[0]:.2f}{at})"
    return facts


def _about_backbone(node: CfgNode) -> str:
    """Return the name, DEPTH for the builders that read it (a name like resnet50 says its size), and options."""
    size = [f"depth {node.DEPTH}"] if node.NAME.startswith("build_") else []
    return ", ".join([node.NAME, *size, *(option for option in ("WITH_IBN", "WITH_SE", "WITH_NL") if node[option])])


def curves_section(runs: Sequence[Run]) -> Markup:
    """Return the charts of evaluations, losses and learning rates over the iterations, all runs in each."""
    if not any(run.records or run.evaluations for run in runs):
        return fill("curves.html", groups={})
    names = list(dict.fromkeys(name for run in runs for record in run.records for name in record))
    losses = [name for name in names if "loss" in name]
    groups = {
        "Rank-1 (solid) and mAP (dashed)": _evaluation_charts(runs),
        "Losses": [line_chart(name, _recorded(runs, name)) for name in losses],
        "Rates": [line_chart(title, _recorded(runs, name), log=True) for name, title in RATES.items() if name in names],
    }
    return fill("curves.html", groups=groups)


def _recorded(runs: Sequence[Run], name: str) -> list[Series]:
    return [Series(number, run.name, *series(run.records, name)) for number, run in enumerate(runs)]


def _evaluation_charts(runs: Sequence[Run]) -> list[Markup]:
    data_sets = list(dict.fromkeys(name for run in runs for name in run.data_sets))
    rows = {name: f"{name}_average" for name in data_sets}
    if len(data_sets) != 1:  # the average of one data set is that data set
        rows[ALL_SETS] = ALL_AVERAGE
    charts = []
    for name, row in rows.items():
        lines = []
        for number, run in enumerate(runs):
            timed = [found for found in run.evaluations if found.iteration is not None]
            for metric, dashed in SHOWN_MEASURES:
                points = [
                    (found.iteration, found.rows[row][metric]) for found in timed if metric in found.rows.get(row, {})
                ]
                xs, ys = [x for x, _ in points], [y for _, y in points]
                lines.append(Series(number, f"{run.name} {metric}", xs, ys, dashed, marks=True))
        charts.append(line_chart(name, lines, y_range=(0.0, 0.0), data={"data-set": name}))
    return charts
