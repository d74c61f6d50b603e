"""`result.png`: a training run on one page."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from fastreid.report.figures import (
    BLACK,
    LINES,
    MARKERS,
    PALETTE,
    plt,
    save_figure,
    short,
    style_of_line,
    use_log_scale,
    use_style,
)
from fastreid.utils.errors import UserError

Records = list[dict[str, float]]
AVERAGE = "all_average"


def read_metrics(path: Path) -> Records:
    """Return the records of a `metrics.json`; of two for one iteration (a resumed run) the later value holds.

    A line that a killed run left half-written is passed over; its iterations are run, and recorded, again.

    Raises:
        UserError: the file holds something else.
    """
    merged: dict[int, dict[str, float]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            merged.setdefault(record["iteration"], {}).update(record)
        return [merged[iteration] for iteration in sorted(merged)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # what lines that are no records lead to
        raise UserError(
            f"{path} is not a list of records with an `iteration` ({type(error).__name__}): rename or remove it"
        ) from error


def plot_result(metrics: Path, output: Path) -> None:
    """Draw losses, learning rates, Rank-1 and mAP per evaluation, and gate averages by layer.

    Args:
        metrics: a run's `metrics.json`.
        output: the PNG file to write.
    """
    records = read_metrics(metrics)
    use_style()
    figure, axes = plt.subplots(2, 2, figsize=(13, 8), constrained_layout=True)
    names = list(dict.fromkeys(name for record in records for name in record))
    draw_lines(axes[0, 0], records, [n for n in names if "/loss_" in n], "Losses")
    draw_lines(axes[0, 1], records, [n for n in ("lr", "lr_gate", "inner_ratio") if n in names], "Learning rates")
    use_log_scale(axes[0, 1])
    draw_evaluations(axes[1, 0], records, [n for n in names if n.startswith("test/")])
    draw_gates(axes[1, 1], records, [n for n in names if n.startswith("gate/")])
    for axis in axes.flat:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    save_figure(figure, output)


def series(records: Records, name: str) -> tuple[list[float], list[float]]:
    """Return the iterations that have a value of `name`, counted from 1, and the values."""
    points = [(record["iteration"] + 1, record[name]) for record in records if name in record]
    return [x for x, _ in points], [y for _, y in points]


def draw_lines(axis, records: Records, names: list[str], title: str) -> None:
    """Draw one line for each name; a single point is no line, so it is marked."""
    for position, name in enumerate(names):
        xs, ys = series(records, name)
        axis.plot(xs, ys, style_of_line(position, LINES), marker="o" if len(xs) == 1 else "", label=name)
    axis.set(title=title, xlabel="iteration")
    if names:
        axis.legend(fontsize=8)
    else:
        axis.text(0.5, 0.5, "none recorded", ha="center", va="center", transform=axis.transAxes)


def draw_evaluations(axis, records: Records, names: list[str]) -> None:
    """Draw Rank-1 and mAP at each evaluation, and of several data sets the averages, in black."""
    if not names:
        draw_lines(axis, records, [], "Rank-1 and mAP on the test sets (%)")
        return
    sets = list(dict.fromkeys(name.removeprefix("test/").rpartition(" ")[0] for name in names))
    if len(sets) == 2 and AVERAGE in sets:  # the average of one data set is that data set
        sets.remove(AVERAGE)
    colours = [colour for colour in PALETTE if colour != BLACK]
    for number, name in enumerate(sets):
        colour = BLACK if name == AVERAGE else colours[number % len(colours)]
        look = {"color": colour, "marker": style_of_line(number, MARKERS), "markersize": 5}
        for measure, style in (("Rank-1", "-"), ("mAP", "--")):
            label = short(name) if measure == "Rank-1" else None
            axis.plot(*series(records, f"test/{name} {measure}"), style, label=label, **look)
    axis.set(title="Rank-1 (solid) and mAP (dashed) on the test sets (%)", xlabel="iteration", ylim=(0, 100))
    axis.legend(fontsize=8, ncol=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))


def draw_gates(axis, records: Records, names: list[str]) -> None:
    """Draw the average gate of each layer, from the input to the output, at the beginning, half-way and at the end."""
    with_gates = [record for record in records if names and names[0] in record]
    if not with_gates:
        draw_lines(axis, records, [], "Gates by layer")
        return
    for position in sorted({0, len(with_gates) // 2, len(with_gates) - 1}):
        record = with_gates[position]
        axis.plot(range(1, len(names) + 1), [record[n] for n in names], label=f"iteration {record['iteration'] + 1}")
    axis.set(title="Average gate by layer (1: batch, 0: instance norm.)", xlabel="layer, input to output")
    axis.legend(fontsize=8)
