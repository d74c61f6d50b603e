"""A table as figures: mean, deviation and single seeds of each row beside the published figures; the runs' curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from fastreid.report.figures import (
    GREY,
    LINES,
    MARKERS,
    PALETTE,
    panel_grid,
    plt,
    save_figure,
    short,
    style_of_line,
    use_log_scale,
    use_style,
)
from fastreid.report.plots import series
from tools.table.experiment import Experiment
from tools.table.numbers import GROUP, Measured, Table, finished_runs
from tools.table.runs import TableRun

ROW_HEIGHT = 0.24  # inches for each group of a row
LOG_FROM = 20  # curves of which the highest value is that many times the lowest have a logarithmic axis
LEGEND_WIDTH = 2.4  # inches beside the panels of one group over the other


def plot_table(path: Path, experiment: Experiment, table: Table) -> None:
    """Draw a panel for each metric, a line for each row and group; with a gap, panels of one group over the other."""
    use_style()
    metrics, groups = experiment.metrics, experiment.group_names
    height = max(2.2, ROW_HEIGHT * (len(groups) + 0.6) * len(experiment.rows) + 1.1)
    heights = [height, 4.2] if experiment.gap else [height]
    figure, axes = plt.subplots(
        len(heights),
        len(metrics),
        figsize=(max(7.0, 4.2 * len(metrics) + 1) + LEGEND_WIDTH * bool(experiment.gap), sum(heights)),
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    for column, metric in enumerate(metrics):
        draw_rows(axes[0, column], experiment, table, metric)
        axes[0, column].set_yticklabels([short(row.name) for row in experiment.rows] if column == 0 else [])
        if experiment.gap:
            draw_gap(axes[1, column], experiment, table, metric)
    entries = legend_entries(axes[0, 0])
    if len(entries) > 1:
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=5)
    if experiment.gap and legend_entries(axes[1, 0]):
        axes[1, -1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.suptitle(experiment.title, fontsize=12)
    save_figure(figure, path)


def legend_entries(axis: Axes) -> dict:
    """Return what a legend shows by its text: each once, the groups first."""
    handles, names = axis.get_legend_handles_labels()
    found = dict(zip(names, handles))
    return {name: found[name] for name in sorted(found, key=lambda name: name in ("single seeds", "published"))}


def draw_rows(axis: Axes, experiment: Experiment, table: Table, metric: str) -> None:
    """Draw each row's groups one below the other."""
    groups = experiment.group_names
    step = 0.8 / len(groups)
    for place, row in enumerate(experiment.rows):
        for number, group in enumerate(groups):
            found = table[row.name, GROUP, group, metric]
            draw_point(axis, found, place + (number - (len(groups) - 1) / 2) * step, number)
    axis.set(title=metric, xlabel="%", ylim=(len(experiment.rows) - 0.5, -0.5))
    axis.set_yticks(range(len(experiment.rows)))
    axis.grid(False, axis="y")
    for place in range(1, len(experiment.rows)):
        axis.axhline(place - 0.5, color=GREY, linewidth=0.6)


def draw_point(axis: Axes, found: Measured, height: float, number: int) -> None:
    """Draw the seeds as dots, mean and deviation over them, and the published figure as a hollow diamond."""
    colour = PALETTE[number % len(PALETTE)]
    seeds = list(found.values.values())
    if seeds:
        style = {"fmt": MARKERS[number % len(MARKERS)], "color": colour, "markersize": 6, "capsize": 3}
        axis.errorbar(found.mean, height, xerr=found.std, label=found.name, **style)
        if len(seeds) > 1:
            dots = {"markerfacecolor": "white", "markeredgecolor": colour, "markersize": 4, "zorder": 3}
            axis.plot(seeds, [height] * len(seeds), "o", label="single seeds", **dots)
    if found.published is not None:
        hollow = {"markerfacecolor": "none", "markeredgecolor": "black", "markersize": 7}
        axis.plot(found.published, height, "d", label="published", **hollow)


def draw_gap(axis: Axes, experiment: Experiment, table: Table, metric: str) -> None:
    """Draw each row by its two groups; on the dashed line both are equal."""
    first, second = experiment.gap
    # Not the groups' colours, which are beside them.
    for number, row in enumerate(experiment.rows, start=len(experiment.group_names)):
        across, up = (table[row.name, GROUP, group, metric] for group in (first, second))
        if across.mean is None or up.mean is None:
            continue
        style = {"fmt": style_of_line(number, MARKERS), "color": PALETTE[number % len(PALETTE)], "capsize": 3}
        axis.errorbar(across.mean, up.mean, xerr=across.std, yerr=up.std, label=short(row.name), **style)
    ends = [min(axis.get_xlim()[0], axis.get_ylim()[0]), max(axis.get_xlim()[1], axis.get_ylim()[1])]
    axis.plot(ends, ends, "--", color=GREY, linewidth=1, zorder=0)
    axis.set(title=f"{metric}: {second} over {first}", xlabel=f"{first} (%)", ylabel=f"{second} (%)")


def plot_curves(path: Path, experiment: Experiment, runs: Sequence[TableRun]) -> None:
    """Draw a panel for each of the table's curves, with a line for each finished run, those of a row alike."""
    use_style()
    figure, axes = panel_grid(len(experiment.curves), columns=2, width=5.5, height=3.6)
    for axis, name in zip(axes.flat, experiment.curves):
        for number, row in enumerate(experiment.rows):
            look = {"color": PALETTE[number % len(PALETTE)], "linestyle": style_of_line(number, LINES)}
            for run in finished_runs(row, runs):
                axis.plot(*series(run.run.records, name), label=short(row.name), linewidth=1.2, **look)
        drawn = [value for line in axis.lines for value in line.get_ydata()]
        above_zero = [value for value in drawn if value > 0]
        if above_zero and min(drawn) >= 0 and LOG_FROM * min(above_zero) < max(drawn):
            use_log_scale(axis)
        axis.set(title=name, xlabel="iteration")
    entries = {text: handle for axis in axes.flat for text, handle in legend_entries(axis).items()}
    if entries:
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
    save_figure(figure, path)
