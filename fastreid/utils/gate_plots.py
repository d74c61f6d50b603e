"""Pictures of the gates: averages and histograms by layer over training, and before against after."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastreid.utils.figures import PALETTE, SEQUENTIAL, plt, save_figure, use_style
from fastreid.utils.files import write_csv
from fastreid.utils.gate_history import EDGES, GateHistory

MOST_TICKS = 30  # layers beyond which not every one is named beside an axis
COLUMNS = 6
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
    return np.concatenate([[1.5 * iterations[0] - 0.5 * iterations[1]], middle, [1.5 * iterations[-1] - 0.5 * iterations[-2]]])


def name_layers(axis, layers: list[str]) -> None:
    """Name the rows of a heat map, so many of them as can be read."""
    step = -(-len(layers) // MOST_TICKS)
    shown = range(0, len(layers), step)
    axis.set_yticks([row + 0.5 for row in shown], [layers[row] for row in shown], fontsize=7.5)


def draw_by_layer(path: Path, history: GateHistory) -> None:
    """Draw a panel for each layer: its histogram over training as a heat map, its average as a line."""
    use_style()
    columns = min(COLUMNS, len(history.layers))
    lines = -(-len(history.layers) // columns)
    size = (max(2.2 * columns, 5), 1.5 * lines + 1.2)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained", sharex=True, sharey=True)
    edges = iteration_edges(history.iterations)
    for layer, axis in enumerate(axes.flat):
        if layer >= len(history.layers):
            axis.set_axis_off()
            continue
        # The root shows bins with a few channels beside one that holds nearly all.
        image = axis.pcolormesh(edges, EDGES, np.sqrt(history.shares[:, layer].T), cmap="Greys", vmin=0, vmax=1, rasterized=True)
        axis.plot(history.iterations, history.mean[:, layer], color=PALETTE[3], linewidth=1.2)
        axis.set_title(history.layers[layer], fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(False)
    bar = figure.colorbar(image, ax=axes, aspect=60, pad=0.01)
    ticks = (0, 0.05, 0.25, 0.5, 1)
    bar.set_ticks(np.sqrt(ticks), labels=[f"{100 * tick:g} %" for tick in ticks])
    bar.set_label("share of the layer's channels")
    figure.legend(handles=[plt.Line2D([], [], color=PALETTE[3], label="average")], loc="outside upper right")
    figure.supxlabel("iteration", fontsize=10)
    figure.supylabel(GATE, fontsize=10)
    save_figure(figure, path, (".png", ".pdf"))


def draw_before_after(path: Path, history: GateHistory) -> None:
    """Draw the histograms of all layers at the first and at the last iteration, with both averages."""
    use_style()
    height = np.clip(0.16 * len(history.layers), 2.5, 12)
    figure, axes = plt.subplots(1, 2, figsize=(9, height + 1.7), layout="constrained", sharey=True)
    rows = np.arange(len(history.layers) + 1)
    for axis, t in zip(axes, (0, -1)):
        image = axis.pcolormesh(EDGES, rows, np.sqrt(history.shares[t]), cmap="Greys", vmin=0, vmax=1)
        for moment, color, style, name in ((0, PALETTE[5], "--", "average before"), (-1, PALETTE[3], "-", "average after")):
            axis.plot(history.mean[moment], rows[:-1] + 0.5, style, color=color, linewidth=1.5, label=name)
        axis.set(title=f"iteration {history.iterations[t]}")
        axis.grid(False)
    axes[0].invert_yaxis()
    name_layers(axes[0], history.layers)
    bar = figure.colorbar(image, ax=axes, aspect=40)
    ticks = (0, 0.05, 0.25, 0.5, 1)
    bar.set_ticks(np.sqrt(ticks), labels=[f"{100 * tick:g} %" for tick in ticks])
    bar.set_label("share of the layer's channels")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncol=2)
    figure.supxlabel(GATE, fontsize=10)
    save_figure(figure, path, (".png", ".pdf"))
