"""Gates of runs: a map of layers over training for each run, and the averages by layer of all of them in one chart."""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from markupsafe import Markup
from PIL import Image

from fastreid.report.charts import Series, line_chart, number
from fastreid.report.figures import SEQUENTIAL
from fastreid.report.gate_history import read_gates
from fastreid.report.html import fill
from fastreid.report.plots import Records
from fastreid.report.runs import Run
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

# Layer names, iterations, and average gates (layers, iterations).
GateMap = tuple[list[str], list[int], np.ndarray]
PREFIX = "gate/"
MOST_COLUMNS = 200
# Where the scale begins at the latest: gates that have hardly moved from 1 should look like it.
LARGEST_LOW = 0.95
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 300, 102, 12, 6, 34
BAR_WIDTH = 96


def gate_charts(runs: Sequence[Run]) -> Markup:
    """Return the gate charts of all runs that have gates, a sentence if none has."""
    maps = {number: found for number, run in enumerate(runs) if (found := gates_of(run)) is not None}
    if not maps:
        return fill("gates.html", charts=())
    lines = []
    for run, (layers, iterations, means) in maps.items():
        numbers = range(1, len(layers) + 1)
        lines.append(Series(run, f"{runs[run].name}, iteration {iterations[0]}", numbers, means[:, 0], dashed=True))
        lines.append(Series(run, f"{runs[run].name}, iteration {iterations[-1]}", numbers, means[:, -1]))
    charts = [line_chart("All runs, last record (dashed: first)", lines, "layer, input to output", (0.0, 1.0))]
    # One scale for all runs: without it a colour would mean another value in each.
    low = min(min(float(means[np.isfinite(means)].min(initial=1)) for _, _, means in maps.values()), LARGEST_LOW)
    return fill(
        "gates.html",
        charts=charts,
        maps=[_map_figure(run, runs[run].name, *found, low) for run, found in maps.items()],
        low=f"{low:.2f}",
        ramp=_png(np.linspace(low, 1, 64)[None], low),
        ramp_left=LEFT + (WIDTH - LEFT - RIGHT - BAR_WIDTH) / 2,
        ramp_width=BAR_WIDTH,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=WIDTH - RIGHT,
        top=TOP,
        bottom=HEIGHT - BOTTOM,
    )


def gates_of(run: Run) -> GateMap | None:
    """Return the gates that metrics.json records, else those of TensorBoard logs or checkpoints; None without any."""
    if (recorded := gate_map(run.records)) is not None:
        return recorded
    try:
        history = read_gates(run.folder)
    except UserError as error:
        logger.info(f"{run.name}: no gates to draw: {error}")
        return None
    return history.layers, history.iterations, history.mean.T


def gate_map(records: Records) -> GateMap | None:
    """Return the gates in the records of a metrics.json, None without any."""
    with_gates = [record for record in records if any(name.startswith(PREFIX) for name in record)]
    if not with_gates:
        return None
    names = list(dict.fromkeys(name for record in with_gates for name in record if name.startswith(PREFIX)))
    chosen = np.unique(np.linspace(0, len(with_gates) - 1, min(len(with_gates), MOST_COLUMNS)).astype(int))
    kept = [with_gates[index] for index in chosen]
    means = np.array([[record.get(name, math.nan) for record in kept] for name in names], dtype=float)
    return [name.removeprefix(PREFIX) for name in names], [record["iteration"] + 1 for record in kept], means


def _map_figure(
    run: int, name: str, layers: list[str], iterations: list[int], means: np.ndarray, low: float
) -> dict[str, object]:
    """Return a map of gates over training: its picture, and what stands beside and below it."""
    height = (HEIGHT - TOP - BOTTOM) / len(layers)
    shown = range(0, len(layers), -(-len(layers) // 12))
    return {
        "run": run,
        "name": name,
        "picture": _png(means, low),
        "layers": [(TOP + (index + 0.5) * height + 3.5, layers[index].removesuffix(".bn")) for index in shown],
        "first": number(iterations[0]),
        "last": number(iterations[-1]),
    }


def _png(values: np.ndarray, low: float) -> str:
    """Return values between `low` and 1 as colours in the data URI of a PNG, one pixel each; NaN is transparent."""
    share = (values - low) / max(1 - low, 1e-9)
    colours = matplotlib.colormaps[SEQUENTIAL](np.ma.masked_invalid(share), bytes=True)
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
