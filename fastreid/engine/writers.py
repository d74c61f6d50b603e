"""Where the numbers of a training run go: the log, `metrics.json`, TensorBoard."""

from __future__ import annotations

import datetime
import json
import logging
import threading
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from fastreid.solver.trained_parameters import gate_parameters
from fastreid.utils.files import writing
from fastreid.utils.memory import peak_memory_mb

logger = logging.getLogger(__name__)

# Gates lie between 0 and 1; TensorBoard's own bins would have only a few there.
GATE_BINS = np.linspace(0, 1, 51)


class Writer:
    """Shows or stores the numbers recorded since the last call."""

    def write(self, trainer) -> None:
        raise NotImplementedError

    def close(self) -> None: ...


class LogWriter(Writer):
    """One line of the log: time left, losses, learning rates, seconds per iteration, waiting time and memory."""

    def __init__(self, iters_per_epoch: int):
        self.iters_per_epoch = iters_per_epoch
        self.seconds_per_iter: float | None = None

    def write(self, trainer) -> None:
        means = trainer.storage.new_means()
        if "time" not in means:
            return
        # The first iteration has more base steps: a mean that forgets slowly keeps the estimate steady.
        previous = self.seconds_per_iter
        self.seconds_per_iter = means["time"] if previous is None else 0.5 * previous + 0.5 * means["time"]
        done = trainer.storage.iter + 1
        left = datetime.timedelta(seconds=int(self.seconds_per_iter * (trainer.max_iter - done)))
        parts = [f"eta {left}", f"epoch {done / self.iters_per_epoch:.1f}", f"iter {done}/{trainer.max_iter}"]
        for group in ("base", "mtrain", "mtest"):
            losses = {k.split("/")[1]: v for k, v in means.items() if k.startswith(f"{group}/")}
            if losses:
                parts.append(
                    f"{group}: " + " ".join(f"{name.removeprefix('loss_')} {v:.3f}" for name, v in losses.items())
                )
        parts += [f"{name} {means[name]:.2e}" for name in ("lr", "lr_gate", "inner_ratio") if name in means]
        if means.get("skipped_steps"):
            parts.append(f"skipped {means['skipped_steps']:.0f}")
        parts += [
            f"{means['time']:.3f} s/iter",
            f"data {means['data_time']:.3f} s",
            f"mem {peak_memory_mb(trainer.device):.0f} MB",
        ]
        logger.info("  ".join(parts))


class JSONWriter(Writer):
    """Append one JSON object a call to `metrics.json`: the iteration and the means since the last one.

    Raises:
        UserError: the file cannot be written, for example as the disk is full.
    """

    def __init__(self, path: Path):
        self.path = path
        torn = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")  # a killed run's last line
        self.append("\n" if torn else "")

    def write(self, trainer) -> None:
        means = trainer.storage.new_means()
        if not means:
            return
        gates = {f"gate/{layer}": float(gate.detach().mean()) for layer, gate in gates_by_layer(trainer.model).items()}
        self.append(json.dumps({"iteration": trainer.storage.iter, **means, **gates}) + "\n")

    def append(self, text: str) -> None:
        # Opened each time: a file that was kept open would try again, when it is closed, what a full disk did not take.
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(text)


class TensorBoardWriter(Writer):
    """Scalars, grouped by what stands before the slash, and a histogram of each layer's gates."""

    def __init__(self, folder: Path):
        self.folder = folder
        threading.excepthook = print_unless_handed_on
        with writing(folder):
            self.writer = SummaryWriter(str(folder))

    def write(self, trainer) -> None:
        means, iteration = trainer.storage.new_means(), trainer.storage.iter
        if not means:
            return
        with writing(self.folder / "events.out.tfevents"):
            for name, value in means.items():
                self.writer.add_scalar(name, value, iteration)
            for layer, gate in gates_by_layer(trainer.model).items():
                self.writer.add_histogram(f"gates/{layer}", gate.detach(), iteration, bins=GATE_BINS)
            self.writer.flush()

    def close(self) -> None:
        with writing(self.folder / "events.out.tfevents"):
            self.writer.close()


def print_unless_handed_on(failure: threading.ExceptHookArgs) -> None:
    """Print what ended a thread, but not a full disk in TensorBoard's, which hands that on to the next `write`."""
    if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard.")):
        threading.__excepthook__(failure)


def gates_by_layer(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the gates of each normalization layer, by the layer's name without `backbone.`."""
    return {name.removeprefix("backbone.").removesuffix(".gate"): gate for name, gate in gate_parameters(model).items()}
