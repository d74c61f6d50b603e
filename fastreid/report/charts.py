"""Charts as SVG text: colours come from the page's style sheet, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator

from fastreid.report.html import fill

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

    def points(self) -> str:
        """Return what the script shows at the pointer; four digits are what a reader takes in."""
        return " ".join(f"{x:.0f},{y:.4g}" for x, y in zip(self.xs, self.ys))


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
) -> Markup:
    """Return a figure with one line for each series that has a finite point (above 0 on a logarithmic scale).

    Args:
        y_range: the values that the chart must include at least.
        data: attributes of the figure, for filters.
    """
    lines = [drawn for line in lines if (drawn := _finite(line, log)).xs]
    if not lines:
        return fill("chart.html", title=title, data=data or {}, lines=())
    x_axis, y_axis = _axes(lines, y_range, log)
    ends = (f"{line.name}: {number(line.ys[0])} at first, {number(line.ys[-1])} at last" for line in lines)
    return fill(
        "chart.html",
        title=title,
        data=data or {},
        label=f"{title}. {'; '.join(ends)}",
        lines=[(line, _places(line, x_axis, y_axis)) for line in lines],
        x_label=x_label,
        x_ticks=[(x_axis.place(tick), number(tick)) for tick in x_axis.ticks(5)],
        y_ticks=[(y_axis.place(tick), number(tick)) for tick in y_axis.ticks(5)],
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        bottom=HEIGHT - BOTTOM,
    )


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


def _places(line: Series, x_axis: Axis, y_axis: Axis) -> list[tuple[str, str]]:
    ys = (max(TOP, min(HEIGHT - BOTTOM, y_axis.place(y))) for y in line.ys)
    return [(f"{x_axis.place(x):g}", f"{y:g}") for x, y in zip(line.xs, ys)]


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
