"""The one style of all figures: colours that colour-blind readers tell apart, letters that can be read, no screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

from fastreid.utils.files import atomic_path
from fastreid.utils.fonts import drawable, fallback_families

__all__ = [
    "BLACK",
    "GREY",
    "LINES",
    "MARKERS",
    "PALETTE",
    "SEQUENTIAL",
    "panel_grid",
    "plt",
    "save_figure",
    "short",
    "style_of_line",
    "use_log_scale",
    "use_style",
]

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color), yellow last: it is the palest on white.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442"]
GREY, BLACK = "#BBBBBB", "#000000"
SEQUENTIAL = "viridis"
MARKERS = "osD^vP*X"
LINES = ("-", "--", ":", "-.")
DPI = 110
LONGEST = 36  # characters of a name: more of it would take the place of what is drawn
SIZES = {"axes.titlesize": 11, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9, "legend.fontsize": 9}


def use_style() -> None:
    """Set colours, grid and font sizes of the figures that are made from now on."""
    import seaborn as sns  # imported late: it takes as long as PyTorch, and most commands end without a figure

    # Type 42: text in a PDF stays text, which can be searched and edited. No math: a name may hold dollar signs.
    fonts = {"pdf.fonttype": 42, "text.parse_math": False, "font.family": ["sans-serif", *fallback_families()]}
    sns.set_theme(style="whitegrid", palette=PALETTE, rc=SIZES | fonts)


def use_log_scale(axis: Axes) -> None:
    """Make the vertical axis of a panel logarithmic, with plain numbers: the usual labels need `text.parse_math`."""
    axis.set_yscale("log", nonpositive="mask")
    axis.yaxis.set_major_formatter(PlainLogFormatter())
    axis.yaxis.set_minor_formatter(PlainLogFormatter(labelOnlyBase=False))


class PlainLogFormatter(LogFormatter):
    """0.001 or 1e-05 for the powers of ten, and between them where an axis has few of them."""

    def __call__(self, value: float, position: int | None = None) -> str:
        return f"{value:g}" if super().__call__(value, position) else ""


def short(name: str) -> str:
    """Return a name as figures show it: of a long one the middle is left out, as names differ at both ends."""
    pieces = [drawable(char) for char in name]  # an escaped character stays whole
    if sum(map(len, pieces)) <= LONGEST:
        return "".join(pieces)
    while sum(map(len, pieces)) >= LONGEST:
        del pieces[len(pieces) // 2]
    middle = len(pieces) // 2
    return "".join([*pieces[:middle], "\u2026", *pieces[middle:]])


def style_of_line(position: int, styles: Sequence[str]) -> str:
    """Return one of the styles or markers for a line, so that lines of one colour, eight apart, have different ones."""
    # The number of styles may divide that of colours: without the second term a ninth line would look like the first.
    return styles[(position + position // len(PALETTE)) % len(styles)]


def panel_grid(
    count: int, columns: int, width: float, height: float, sharey: bool = False
) -> tuple[Figure, np.ndarray]:
    """Return a figure with `count` panels of about `width` x `height` inches in a grid, and its axes (lines, columns).

    Panels have one x axis; those of the last line that are not needed show nothing.
    """
    columns = min(columns, count)
    lines = -(-count // columns)
    size = (max(width * columns, 7), height * lines + 1)
    options = {"squeeze": False, "layout": "constrained", "sharex": True, "sharey": sharey}
    figure, axes = plt.subplots(lines, columns, figsize=size, **options)
    for axis, above in zip(axes.flat[count:], axes.flat[count - columns :]):
        axis.set_axis_off()
        above.tick_params(labelbottom=True)  # of the common x axis, which the lowest panels alone show
    return figure, axes


def save_figure(figure: Figure, path: Path, suffixes: tuple[str, ...] = (".png",)) -> None:
    """Write a figure as `path` with each of the suffixes, and close it; letters that no font has are escaped.

    Raises:
        UserError: the folder cannot be written to.
    """
    for text in figure.findobj(Text):
        text.set_text(drawable(text.get_text()))
    for suffix in suffixes:
        with atomic_path(path.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, dpi=DPI)
    plt.close(figure)
