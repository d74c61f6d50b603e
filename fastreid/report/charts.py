"""Charts as SVG text: colours come from the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from fastreid.report.html import element, text

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
# More points than this cannot be told apart at the width of a chart.
MOST_POINTS = 300
MOST_DECADES = 4


@dataclass(frozen=True)
class Series:
    """One line of a chart: of which run (from 0), its name, its points (xs above 0), whether dashed or with marks."""

    run: int
    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    dashed: bool = False
    marks: bool = False


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self, wanted: int) -> list[float]:
        locator = LogLocator(numticks=wanted + 2) if self.log else MaxNLocator(wanted, steps=[1, 2, 2.5, 5, 10])
        return [t for t in locator.tick_values(self.low, self.high) if self.low * 0.999 <= t <= self.high * 1.001]


def line_chart(
    title: str,
    lines: Sequence[Series],
    x_label: str = "iteration",
    y_range: tuple[float, float] | None = None,
    log: bool = False,
    data: dict[str, str] | None = None,
) -> str:
    """Return a figure with one line for each series that has a finite point (above 0 on a logarithmic scale).

    Args:
        y_range: the values that the chart must include at least. data: attributes of the figure, for filters.
    """
    lines = [drawn for line in lines if (drawn := _finite(line, log)).xs]
    data = {"class": "chart", **(data or {})}
    caption = f"<figcaption>{text(title)}</figcaption>"
    if not lines:
        return element("figure", data, f'{caption}<p class="note">Not recorded.</p>')
    x_axis, y_axis = _axes(lines, y_range, log)
    parts = [_grid(x_axis, y_axis, x_label), *(_line(line, x_axis, y_axis) for line in lines)]
    label = f"{title}. " + "; ".join(
        f"{line.name}: {number(line.ys[0])} at first, {number(line.ys[-1])} at last" for line in lines
    )
    drawing = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": label, "data-unit": x_label}
    return element("figure", data, caption + element("svg", drawing, "".join(parts)))


def _finite(line: Series, log: bool) -> Series:
    """Return a series without values that have no place on the chart, thinned out to what a chart can show."""
    points = [(x, y) for x, y in zip(line.xs, line.ys) if math.isfinite(y) and (y > 0 or not log)]
    if len(points) > MOST_POINTS:
        # Means of neighbours, and not every n-th point, so that a spike still leaves a trace.
        points = [tuple(part.mean(axis=0)) for part in np.array_split(np.array(points), MOST_POINTS)]
    return Series(line.run, line.name, [x for x, _ in points], [y for _, y in points], line.dashed, line.marks)


def _axes(lines: Sequence[Series], y_range: tuple[float, float] | None, log: bool) -> tuple[Axis, Axis]:
    xs, ys = [x for line in lines for x in line.xs], [y for line in lines for y in line.ys]
    low, high = min(ys + list(y_range or ())), max(ys + list(y_range or ()))
    if log:
        low, high = max(low, high / 10**MOST_DECADES) / 1.3, high * 1.3
    elif y_range is None:
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - margin, high + margin
    return Axis(0.0, max(xs), LEFT, WIDTH - RIGHT), Axis(low, high, HEIGHT - BOTTOM, TOP, log)


def _grid(x_axis: Axis, y_axis: Axis, x_label: str) -> str:
    parts = []
    for tick in y_axis.ticks(5):
        y = y_axis.place(tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in x_axis.ticks(5):
        parts.append(
            f'<text x="{x_axis.place(tick)}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{number(tick)}</text>'
        )
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">{text(x_label)}</text>')
    return "".join(parts)


def _line(line: Series, x_axis: Axis, y_axis: Axis) -> str:
    places = [(x_axis.place(x), max(TOP, min(HEIGHT - BOTTOM, y_axis.place(y)))) for x, y in zip(line.xs, line.ys)]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
    parts = [f'<path class="line{" dashed" if line.dashed else ""}" d="{path}"/>']
    # A single point is no line, so it is always marked.
    if line.marks or len(places) == 1:
        parts += [f'<circle cx="{x:g}" cy="{y:g}" r="3"/>' for x, y in places]
    # The script shows these at the pointer: four digits are what a reader takes in.
    points = " ".join(f"{x:.0f},{y:.4g}" for x, y in zip(line.xs, line.ys))
    about = {"class": "series", "data-run": line.run, "data-name": line.name, "data-points": points}
    return element("g", about, "".join(parts))


def number(value: float) -> str:
    """Return a number as short as people read it: 1200 as 1.2k, 0.00025 as 2.5e-4."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000 or (abs(value) >= 1000 and value % 100 == 0):
        return f"{value / 1000:.4g}k"
    if abs(value) < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"
