"""The gates of a run over training, from its checkpoints or from its TensorBoard logs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastreid.solver.trained_parameters import is_gate
from fastreid.utils.checkpoint import checkpoint_names, read_checkpoint
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"
BINS = 25
EDGES = np.linspace(0, 1, BINS + 1)
PREFIX = "gates/"


@dataclass(frozen=True, eq=False)
class GateHistory:
    """Gates by iteration (T, counted from 1) and layer (L, from the input to the output).

    Attributes:
        mean, std: (T, L).
        shares: (T, L, BINS), the share of a layer's channels in each of the even bins from 0 to 1.
    """

    iterations: list[int]
    layers: list[str]
    mean: np.ndarray
    std: np.ndarray
    shares: np.ndarray


def layer_name(parameter: str) -> str:
    """Return the name of a gate's layer, from the gate's name: `backbone.layer1.bn.gate` -> `layer1.bn`."""
    return parameter.removeprefix("backbone.").removesuffix(".gate")


def read_gates(folder: Path, origin: str | None = None) -> GateHistory:
    """Return the gates of the run in `folder`.

    Args:
        origin: CHECKPOINTS, or TENSORBOARD, which has more iterations; None: TensorBoard where it has gates.

    Raises:
        UserError: there is no such folder, or nothing in it that holds gates.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: expected the output folder of a training run")
    if origin == CHECKPOINTS:
        return from_checkpoints(folder)
    if origin == TENSORBOARD or has_events(folder):
        found = from_tensorboard(folder)
        if found is not None:
            return found
        if origin == TENSORBOARD:
            raise UserError(
                f"{folder} has no TensorBoard logs with gates: give the output folder of a run whose MODEL.NORM."
                f"TYPE_BACKBONE has gates, or read its checkpoints with --from {CHECKPOINTS}"
            )
        logger.info(f"{folder}: its TensorBoard logs hold no gates, its checkpoints are read")
    return from_checkpoints(folder)


def from_checkpoints(folder: Path) -> GateHistory:
    """Return the gates of all checkpoints of a run; of two of one iteration the first by name."""
    names = checkpoint_names(folder)
    if not names:
        raise UserError(f"{folder} has no checkpoints (*.pth): give the output folder of a training run")
    values: dict[int, dict[str, np.ndarray]] = {}
    for name in names:
        content = read_checkpoint(folder / name)
        if not isinstance(content.get("iteration"), int):
            logger.warning(f"{folder / name} holds no iteration: left out")
            continue
        gates = {layer_name(key): value.float().numpy() for key, value in content["model"].items() if is_gate(key)}
        if gates:
            values.setdefault(content["iteration"] + 1, gates)
    if not values:
        raise UserError(
            f"no checkpoint in {folder} ({', '.join(names)}) holds gates and its iteration: only models whose "
            "MODEL.NORM.TYPE_BACKBONE is BIN_gate1 or BIN_gate2 have gates"
        )
    check_layers(folder, values)
    iterations = sorted(values)
    layers = list(values[iterations[0]])
    table = [[values[iteration][layer] for layer in layers] for iteration in iterations]
    mean, std = (np.array([[getattr(gate, name)() for gate in row] for row in table]) for name in ("mean", "std"))
    shares = np.array([[np.histogram(gate, EDGES)[0] / gate.size for gate in row] for row in table])
    return GateHistory(iterations, layers, mean, std, shares)


def check_layers(folder: Path, values: Mapping[int, Mapping[str, object]]) -> None:
    """Raise UserError when the iterations are not all of the same layers."""
    first, *others = values.items()
    for iteration, gates in others:
        if list(gates) != list(first[1]):
            raise UserError(
                f"{folder} mixes runs: its gates at iterations {first[0]} and {iteration} are of different layers. "
                "Move the files of the other run away"
            )


def has_events(folder: Path) -> bool:
    """Tell whether there are TensorBoard logs."""
    return any(folder.glob("events.out.tfevents.*"))


def from_tensorboard(folder: Path) -> GateHistory | None:
    """Return the gates of a run's TensorBoard logs, None where they hold none.

    Means and deviations are exact. Shares are exact where the log's bins are finer than BINS and fit into them; else a
    bin's channels are shared out evenly over its width.
    """
    events = EventAccumulator(str(folder), size_guidance={"histograms": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["histograms"] if tag.startswith(PREFIX)]
    if not tags:
        return None
    values: dict[int, dict[str, object]] = {}
    for tag in tags:
        for event in events.Histograms(tag):
            values.setdefault(event.step + 1, {})[tag.removeprefix(PREFIX)] = event.histogram_value
    # A killed run may have written some layers only.
    values = {iteration: gates for iteration, gates in values.items() if len(gates) == len(tags)}
    if not values:
        return None
    iterations, layers = sorted(values), [tag.removeprefix(PREFIX) for tag in tags]
    table = [[values[iteration][layer] for layer in layers] for iteration in iterations]
    mean = np.array([[gate.sum / gate.num for gate in row] for row in table])
    square = np.array([[gate.sum_squares / gate.num for gate in row] for row in table])
    std = np.sqrt(np.maximum(square - mean**2, 0))
    shares = np.array([[rebin(gate.bucket_limit, gate.bucket, gate.min, gate.max) for gate in row] for row in table])
    return GateHistory(iterations, layers, mean, std, shares)


def rebin(limits: list[float], counts: list[float], lowest: float, highest: float) -> np.ndarray:
    """Return the shares in EDGES' bins, (BINS,), of a histogram with upper limits and counts of its bins.

    Args:
        lowest, highest: of the values; no bin reaches beyond them.
    """
    edges = np.clip(np.concatenate([[lowest], limits]), lowest, highest)
    below = np.concatenate([[0.0], np.cumsum(counts)])
    # Bins without width hold values that are equal: they count as below their limit from there on.
    cumulative = np.array([count_below(edges, below, edge) for edge in EDGES[:-1]] + [below[-1]])
    return np.diff(cumulative) / below[-1]


def count_below(edges: np.ndarray, below: np.ndarray, value: float) -> float:
    """Return how many values of a histogram lie below `value`; below: (len(edges),) counts below each edge."""
    if value <= edges[0]:
        return 0.0
    if value > edges[-1]:
        return float(below[-1])
    after = int(np.searchsorted(edges, value, side="left"))
    width = edges[after] - edges[after - 1]
    return float(below[after - 1] + (below[after] - below[after - 1]) * (value - edges[after - 1]) / width)
