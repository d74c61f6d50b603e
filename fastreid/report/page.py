"""`report.html`: runs side by side in one file that needs no network."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from importlib import resources
from string import Template

from fastreid.config import CfgNode
from fastreid.evaluation.results import ALL_AVERAGE
from fastreid.report.charts import Series, line_chart
from fastreid.report.comparison import ALL_SETS
from fastreid.report.gates import gate_charts
from fastreid.report.html import element, swatch, text
from fastreid.report.paired import differences_section
from fastreid.report.plots import series
from fastreid.report.query_cards import QueryLists, queries_section
from fastreid.report.runs import Run
from fastreid.report.tables import configs_section, results_section

RATES = {"lr": "Learning rate", "lr_gate": "Learning rate of the gates", "inner_ratio": "Inner ratio"}
NO_LISTS = '<p class="note">The page was made without ranked lists (--no-images).</p>'
SHOWN_MEASURES = (("Rank-1", False), ("mAP", True))


def render(runs: Sequence[Run], base: CfgNode, base_name: str, lists: QueryLists | None) -> str:
    """Return the page.

    Args:
        base, base_name: the config that runs are compared with, and what it is called. lists: None leaves them out.
    """
    names = [run.name for run in runs]
    queries = NO_LISTS if lists is None else queries_section(lists, names)
    differences = "" if lists is None else differences_section([found.measures for found in lists.runs], names)
    sections = {
        "Runs": runs_section(runs),
        "Results": results_section(runs),
        **({"Differences": differences} if differences else {}),
        "Curves": curves_section(runs),
        "Gates": gate_charts(runs),
        "Configs": configs_section(runs, base, base_name),
        "Queries": queries,
    }
    now = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    plural = "s" if len(runs) > 1 else ""
    parts = {
        "title": text(names[0] if len(runs) == 1 else f"{len(runs)} runs side by side"),
        "about": f"Result page of {len(runs)} run{plural}, made {now}. Measures are percentages.",
        "navigation": "".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections),
        "filters": filters(runs, has_cards=lists is not None and any(found.cards for found in lists.sets)),
        "sections": "\n".join(section(name, content) for name, content in sections.items()),
        "style": asset("style.css"),
        "script": asset("script.js"),
    }
    megabytes = sum(len(part.encode(errors="backslashreplace")) for part in parts.values()) / 1e6
    return Template(asset("template.html")).substitute(parts, footer=footer(megabytes, lists))


def asset(name: str) -> str:
    """Return the text of a file that lies beside this module."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def section(name: str, content: str) -> str:
    """Return a section of the page with its heading."""
    anchor = name.lower()
    heading = f'<h2 id="{anchor}-title">{name}</h2>'
    return element("section", {"id": anchor, "aria-labelledby": f"{anchor}-title"}, heading + content)


def footer(megabytes: float, lists: QueryLists | None) -> str:
    """Say how large the page is, and what its limit cost."""
    words = f"This file holds everything it shows: {megabytes:.1f} MB"
    if lists is not None and lists.sets:
        words += (
            f", {lists.thumbnails.used / 1e6:.1f} MB of it thumbnails (--max-mb {lists.thumbnails.most_bytes / 1e6:g})"
        )
        if lists.thumbnails.left_out:
            words += f"; {lists.thumbnails.left_out:,} pictures were left out to keep within it"
    return f"{words}."


def filters(runs: Sequence[Run], has_cards: bool) -> str:
    """Return the controls; those that would have nothing to choose from are left out."""
    data_sets = list(dict.fromkeys(name for run in runs for name in run.data_sets))
    parts = []
    if len(data_sets) > 1:
        parts.append(_select("set", "Data set", {"all": "all", **{name: name for name in data_sets}}))
    if has_cards:
        first = {"all": "right or wrong", "right": "right", "wrong": "wrong"}
        if len(runs) > 1:
            first = {
                "all": "right or wrong",
                "right": "right in every run",
                "wrong": "wrong in a run",
                "differ": "runs differ",
            }
        parts.append(_select("first", "First rank", first))
        parts.append(_select("order", "Order", {"worst": "worst first", "best": "best first"}))
    if len(runs) > 1:
        boxes = "".join(
            f'<label><input type="checkbox" name="run" value="{number}" checked>'
            f"{swatch(number)} {text(run.name)}</label>"
            for number, run in enumerate(runs)
        )
        parts.append(f'<fieldset><legend class="hidden">Runs to show</legend>{boxes}</fieldset>')
    if has_cards:
        parts.append('<output id="count" aria-live="polite"></output>')
    return "".join(parts)


def _select(name: str, label: str, choices: dict[str, str]) -> str:
    options = "".join(f'<option value="{text(value)}">{text(shown)}</option>' for value, shown in choices.items())
    return f'<label>{label} <select name="{name}" autocomplete="off">{options}</select></label>'


def runs_section(runs: Sequence[Run]) -> str:
    """Return a panel for each run: what it is, how far it came, what could not be read."""
    return f'<div class="runs">{"".join(_run_panel(number, run) for number, run in enumerate(runs))}</div>'


def _run_panel(number: int, run: Run) -> str:
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
    rows = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in facts.items())
    problems = "".join(f'<p class="note problem">{text(problem)}</p>' for problem in run.problems)
    content = f"<h3>{swatch(number)} {text(run.name)}</h3><dl>{rows}</dl>{problems}"
    return element("article", {"class": "run", "data-run": number}, content)


def _about_backbone(node: CfgNode) -> str:
    """Return the name, DEPTH for the builders that read it (a name like resnet50 says its size), and options."""
    size = [f"depth {node.DEPTH}"] if node.NAME.startswith("build_") else []
    return ", ".join([node.NAME, *size, *(option for option in ("WITH_IBN", "WITH_SE", "WITH_NL") if node[option])])


def curves_section(runs: Sequence[Run]) -> str:
    """Return the charts of evaluations, losses and learning rates over the iterations, all runs in each."""
    if not any(run.records or run.evaluations for run in runs):
        return '<p class="note">No run has metrics.json or an evaluation.</p>'
    names = list(dict.fromkeys(name for run in runs for record in run.records for name in record))
    losses = [name for name in names if "loss" in name]
    groups = {
        "Rank-1 (solid) and mAP (dashed)": _evaluation_charts(runs),
        "Losses": [line_chart(name, _recorded(runs, name)) for name in losses],
        "Rates": [line_chart(title, _recorded(runs, name), log=True) for name, title in RATES.items() if name in names],
    }
    return "".join(
        f'<h3>{title}</h3><div class="charts">{"".join(charts)}</div>' for title, charts in groups.items() if charts
    )


def _recorded(runs: Sequence[Run], name: str) -> list[Series]:
    return [Series(number, run.name, *series(run.records, name)) for number, run in enumerate(runs)]


def _evaluation_charts(runs: Sequence[Run]) -> list[str]:
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
