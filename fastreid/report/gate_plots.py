"""Pictures of the gates: averages and histograms by layer over training, and before against after."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastreid.report.figures import PALETTE, SEQUENTIAL, panel_grid, plt, save_figure, use_style
from fastreid.report.gate_history import EDGES, GateHistory
from fastreid.utils.files import write_csv

MOST_TICKS = 30  # layers beyond which not every one is named beside an axis
PANELS_A_ROW = 6
GATE = "gate (1: batch, 0: instance normalization)"


def save_gates(folder: Path, history: GateHistory) -> None:
    """Write `gates_over_training`, `gates_by_layer` and `gates_before_after` (png, pdf) and `gates.csv`."""
    rows = []
    for t, iteration in enumerate(history.iterations):
        for layer, name in enumerate(history.layers):
            row = {"iteration": iteration, "layer": name, "mean": history.mean[t, layer], "std": history.std[t, layer]}
            bins = zip(EDGES[:-1], EDGES[1:], history.shares[t, layer])
            rows.append(row | {f"{low:.2f}-{high:.2f}": share for low, high, share in bins})
    write_csv(folder / "gates.csv", rows)
    draw_over_training(folder / "gates_over_training", history)
    draw_by_layer(folder / "gates_by_layer", history)
    draw_before_after(folder / "gates_before_after", history)


def draw_over_training(path: Path, history: GateHistory) -> None:
    """Draw the average gate as a heat map, layers from the input at the top, and the average over all layers."""
    use_style()
    height = np.clip(0.16 * len(history.layers), 2.5, 12)
    size, ratios = (9, height + 2.2), (height, 1.3)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=size, height_ratios=ratios, layout="constrained", sharex=True)
    edges = iteration_edges(history.iterations)
    image = top.pcolormesh(edges, np.arange(len(history.layers) + 1), history.mean.T, cmap=SEQUENTIAL)
    top.grid(False)
    top.invert_yaxis()
    name_layers(top, history.layers)
    top.set_title("average gate by layer (1: batch, 0: instance normalization)")
    figure.colorbar(image, ax=top, aspect=40)
    bottom.plot(history.iterations, history.mean.mean(axis=1), marker=".", color=PALETTE[0])
    bottom.set(xlabel="iteration", ylabel="over all layers", xlim=(edges[0], edges[-1]))
    save_figure(figure, path, (".png", ".pdf"))


def iteration_edges(iterations: list[int]) -> np.ndarray:
    """Return the borders (T + 1,) half-way between iterations, so that each has a column of a heat map."""
    if len(iterations) == 1:
        return np.array([iterations[0] - 0.5, iterations[0] + 0.5])
    middle = (np.array(iterations[1:]) + np.array(iterations[:-1])) / 2
    first, last = 1.5 * iterations[0] - 0.5 * iterations[1], 1.5 * iterations[-1] - 0.5 * iterations[-2]
    return np.concatenate([[first], middle, [last]])


def name_layers(axis, layers: list[str]) -> None:
    """Name the rows of a heat map, so many of them as can be read."""
    step = -(-len(layers) // MOST_TICKS)
    shown = range(0, len(layers), step)
    axis.set_yticks([row + 0.5 for row in shown], [layers[row] for row in shown], fontsize=7.5)


def draw_by_layer(path: Path, history: GateHistory) -> None:
    """Draw a panel for each layer: its histogram over training as a heat map, its average as a line."""
    use_style()
    figure, axes = panel_grid(len(history.layers), PANELS_A_ROW, 2.2, 1.5, sharey=True)
    edges = iteration_edges(history.iterations)
    for layer, axis in zip(range(len(history.layers)), axes.flat):
        image = draw_shares(axis, edges, EDGES, history.shares[:, layer].T)
        axis.plot(history.iterations, history.mean[:, layer], color=PALETTE[3], linewidth=1.2)
        axis.set_title(history.layers[layer], fontsize=8)
        axis.tick_params(labelsize=7)
    add_bar(figure, image, axes, aspect=60, pad=0.01)
    figure.legend(handles=[plt.Line2D([], [], color=PALETTE[3], label="average")], loc="outside upper right")
    figure.supxlabel("iteration", fontsize=10)
    figure.supylabel(GATE, fontsize=10)
    save_figure(figure, path, (".png", ".pdf"))


def draw_shares(axis, x: np.ndarray, y: np.ndarray, shares: np.ndarray):
    """Draw shares of channels as a heat map: by the root, to show bins of a few beside one that holds nearly all."""
    axis.grid(False)
    return axis.pcolormesh(x, y, np.sqrt(shares), cmap="Greys", vmin=0, vmax=1, rasterized=True)


def add_bar(figure, image, axes, **options) -> None:
    """Add the colour bar of `draw_shares`."""
    bar = figure.colorbar(image, ax=axes, **options)
    ticks = (0, 0.05, 0.25, 0.5, 1)
    bar.set_ticks(np.sqrt(ticks), labels=[f"{100 * tick:g} %" for tick in ticks])
    bar.set_label("share of the layer's channels")


def draw_before_after(path: Path, history: GateHistory) -> None:
    """Draw the histograms of all layers at the first and at the last iteration, with both averages."""
    use_style()
    height = np.clip(0.16 * len(history.layers), 2.5, 12)
    figure, axes = plt.subplots(1, 2, figsize=(9, height + 1.7), layout="constrained", sharey=True)
    rows = np.arange(len(history.layers) + 1)
    for axis, t in zip(axes, (0, -1)):
        image = draw_shares(axis, EDGES, rows, history.shares[t])
        for moment, color, style, name in ((0, PALETTE[5], "--", "before"), (-1, PALETTE[3], "-", "after")):
            middle = rows[:-1] + 0.5
            axis.plot(history.mean[moment], middle, style, color=color, linewidth=1.5, label=f"average {name}")
        axis.set(title=f"iteration {history.iterations[t]}")
    axes[0].invert_yaxis()
    name_layers(axes[0], history.layers)
    add_bar(figure, image, axes, aspect=40)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncol=2)
    figure.supxlabel(GATE, fontsize=10)
    save_figure(figure, path, (".png", ".pdf"))
