"""`result.png`: a training run on one page."""

from __future__ import annotations

import json
from pathlib import Path

from fastreid.utils.errors import UserError
from fastreid.utils.figures import plt, save_figure, style_of_line, use_style

Records = list[dict[str, float]]


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
        metrics: a run's `metrics.json`. output: the PNG file to write.
    """
    records = read_metrics(metrics)
    use_style()
    figure, axes = plt.subplots(2, 2, figsize=(13, 8), constrained_layout=True)
    names = list(dict.fromkeys(name for record in records for name in record))
    draw_lines(axes[0, 0], records, [n for n in names if "/loss_" in n], "Losses")
    draw_lines(axes[0, 1], records, [n for n in ("lr", "lr_gate", "inner_ratio") if n in names], "Learning rates")
    axes[0, 1].set_yscale("log")
    draw_evaluations(axes[1, 0], records, [n for n in names if n.startswith("test/")])
    draw_gates(axes[1, 1], records, [n for n in names if n.startswith("gate/")])
    save_figure(figure, output)


def series(records: Records, name: str) -> tuple[list[float], list[float]]:
    """Return the iterations that have a value of `name`, counted from 1, and the values."""
    points = [(record["iteration"] + 1, record[name]) for record in records if name in record]
    return [x for x, _ in points], [y for _, y in points]


def draw_lines(axis, records: Records, names: list[str], title: str, marker: str = "") -> None:
    """Draw one line for each name."""
    styles = ("-", "--", ":", "-.")
    for position, name in enumerate(names):
        axis.plot(*series(records, name), style_of_line(position, styles), marker=marker, label=name.removeprefix("test/"))
    axis.set(title=title, xlabel="iteration")
    if names:
        axis.legend(fontsize=8)
    else:
        axis.text(0.5, 0.5, "none recorded", ha="center", va="center", transform=axis.transAxes)


def draw_evaluations(axis, records: Records, names: list[str]) -> None:
    """Draw Rank-1 and mAP at each evaluation, and of several data sets the averages."""
    averages = [name for name in names if "all_average" in name]
    single = len(names) == 2 * len(averages)  # the average of one data set is that data set
    shown = [name for name in names if not (single and name in averages)]
    draw_lines(axis, records, shown, "Rank-1 and mAP on the test sets (%)", marker="o")
    axis.set_ylim(0, 100)
    if shown:
        axis.legend(fontsize=8, ncol=2, loc="upper left")


def draw_gates(axis, records: Records, names: list[str]) -> None:
    """Draw the average gate of each layer, from the input to the output, at the beginning, half-way and at the end."""
    with_gates = [record for record in records if names and names[0] in record]
    if not with_gates:
        draw_lines(axis, records, [], "Gates by layer")
        return
    for position in sorted({0, len(with_gates) // 2, len(with_gates) - 1}):
        record = with_gates[position]
        axis.plot(range(1, len(names) + 1), [record[n] for n in names], label=f"iteration {record['iteration'] + 1}")
    axis.set(title="Average gate by layer (1: batch, 0: instance normalization)", xlabel="layer, input to output")
    axis.legend(fontsize=8)
