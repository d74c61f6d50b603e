"""Checkpoints, as published, with more in them.

`model_0099999.pth` = {model, optimizer_main, scheduler_main, optimizer_norm, scheduler_norm, iteration}. Beside these
published entries, this program's hold the config as text, and whatever else moves during a run: a
training run's are listed by `ResumableTrainer.checkpoint_entries`.
`last_checkpoint` names the newest; `checkpoints.json` lists those of the present run, the oldest first.
"""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.config.config import read_dump
from fastreid.utils import run_files
from fastreid.utils.errors import UserError
from fastreid.utils.files import write_bytes, write_json, write_text
from fastreid.utils.launch import note_checkpoint
from fastreid.utils.processes import process_rank
from fastreid.utils.tensor_files import DamagedFileError, load_tensors, named_tensors

logger = logging.getLogger(__name__)

CLASSIFIER = "heads.classifier_fc.weight"


class Checkpointer:
    """Save and load a model with whatever moves along with it.

    Args:
        folder: where checkpoints lie.
        keep: the number of numbered checkpoints to keep, the newest; 0: all.
        config: kept as text.
        objects: by entry name, things with `state_dict` and `load_state_dict`.
    """

    def __init__(self, model: nn.Module, folder: Path, keep: int = 0, config: str = "", **objects: Any):
        self.model, self.folder, self.keep, self.config, self.objects = model, folder, keep, config, objects
        self.history: list[str] = []  # of this run, the newest last

    def save(self, name: str, iteration: int) -> Path:
        """Write a checkpoint after training iteration `iteration`, then name it in `last_checkpoint`.

        All processes must call it, as they all have random states; the first one writes.

        Args:
            name: of the file; `.pth` may be left out.

        Raises:
            UserError: it cannot be written; an older file of that name is as it was.
        """
        path = self.write(name, iteration)
        self.history = [other for other in self.history if other != path.name] + [path.name]
        if process_rank() == 0:
            write_json(self.folder / run_files.CHECKPOINTS, self.history, durable=True)
            write_text(self.folder / run_files.LAST_CHECKPOINT, path.name, durable=True)
            note_checkpoint()
        self.remove_old()
        return path

    def write(self, name: str, iteration: int) -> Path:
        """Write the file `name` beside the run's line of checkpoints, as for the best one."""
        content = {"model": self.model.state_dict(), "iteration": iteration}
        content |= {"config": self.config} if self.config else {}
        content |= {entry: thing.state_dict() for entry, thing in self.objects.items()}
        path = self.folder / f"{name.removesuffix('.pth')}.pth"
        if process_rank() == 0:
            # By way of memory: writing to a full disk, torch.save raises RuntimeError, which could be anything.
            buffer = io.BytesIO()
            torch.save(content, buffer)
            # Not getbuffer: a view that an error's traceback keeps is a BufferError when Python 3.13 ends the buffer.
            write_bytes(path, buffer.getvalue())
            logger.info(f"saved {path}")
        return path

    def remove_old(self) -> None:
        """Remove all but the newest `keep` numbered checkpoints of this run."""
        numbered = [name for name in self.history if run_files.NUMBERED.fullmatch(name)]
        for name in numbered[: -self.keep] if self.keep else []:
            self.history.remove(name)
            if process_rank() == 0:
                (self.folder / name).unlink(missing_ok=True)

    def load(self, path: Path, trust: bool = False) -> None:
        """Take the weights of a checkpoint, except a classifier of other identities than this run's."""
        content = read_checkpoint(path, trust)
        found, own = (classifier_shape(weights) for weights in (content["model"], self.model.state_dict()))
        if found != own or self.other_identities(content):
            content = self.with_new_classifier(path, content)
        load_weights(self.model, content["model"], path)

    def other_identities(self, content: dict[str, Any]) -> bool:
        """Tell whether a checkpoint's classifier is of other identities than this run's, or numbers them differently.

        Identities are numbered over the data sets in their order. The published program, whose files hold no config,
        numbers them in another order.
        """
        return source_names(content.get("config", "")) != source_names(self.config)

    def with_new_classifier(self, path: Path, content: dict[str, Any]) -> dict[str, Any]:
        """Return a checkpoint's content with the classifier as it is in this model now, and no momentum of it."""
        own = self.model.state_dict().get(CLASSIFIER)
        if own is None:
            return content
        found = content["model"].get(CLASSIFIER)
        why = "has no classifier"
        if found is not None:
            counts = f"{len(found)} there, {len(own)} here"
            why = f"has a classifier of other identities, or numbers them differently ({counts})"
        logger.warning(f"{path} {why}: the classifier and its momentum start from the beginning")
        content = {**content, "model": {**content["model"], CLASSIFIER: own}}
        if "optimizer_main" in content and "optimizer_main" in self.objects:
            content["optimizer_main"] = self.objects["optimizer_main"].without_momentum(
                CLASSIFIER, content["optimizer_main"]
            )
        return content

    def resume(self, path: Path) -> int:
        """Load everything a checkpoint holds and return the iteration to go on with."""
        return self.restore(path, read_checkpoint(path))

    def restore(self, path: Path, content: dict[str, Any]) -> int:
        """Load the content of the checkpoint `path` and return the iteration to go on with.

        Raises:
            UserError: it is of another architecture or config, or holds no iteration.
        """
        if not isinstance(content.get("iteration"), int):
            raise UserError(
                f"{path} holds no iteration, so it is no run to resume: start from it with MODEL.WEIGHTS {path}"
            )
        if self.other_identities(content):
            content = self.with_new_classifier(path, content)
        load_weights(self.model, content["model"], path)
        fresh = [entry for entry in self.objects if entry not in content]
        for entry, thing in self.objects.items():
            if entry not in content:
                continue
            try:
                thing.load_state_dict(content[entry])
            except (
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
                IndexError,
                RuntimeError,
            ) as error:  # a foreign state
                raise UserError(
                    f"{path}: its {entry} does not fit this model and config ({error}): resume with the config it was "
                    "made with"
                ) from error
        if fresh:
            logger.warning(f"{path} does not hold {', '.join(fresh)}: they start from the beginning")
        self.history = earlier_names(self.folder, path.name) + [path.name]
        return content["iteration"] + 1


def classifier_shape(weights: dict[str, Tensor]) -> torch.Size | None:
    """Return the shape of the classifier's weight; None without one."""
    return weights[CLASSIFIER].shape if CLASSIFIER in weights else None


def source_names(config: str) -> list[str]:
    """Return DATASETS.NAMES of a config as text; none where there is no config."""
    return list(read_dump(config).get("DATASETS.NAMES", ()))


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a folder, None when there is none.

    Raises:
        UserError: `last_checkpoint` names a file that is not there.
    """
    marker = folder / run_files.LAST_CHECKPOINT
    if not marker.is_file():
        return None
    # The published program may write an absolute path of another machine: the file lies beside the marker.
    name = Path(marker.read_text(encoding="utf-8").strip()).name
    if name and (folder / name).is_file():
        return folder / name
    problem = f"names {name}, which is not there" if name else "is empty"
    others = checkpoint_names(folder)
    found = (
        f"found {', '.join(others)}: write the one to use into {marker}"
        if others
        else f"remove {marker} to start again"
    )
    raise UserError(f"{marker} {problem}; {found}")


def checkpoint_names(folder: Path) -> list[str]:
    """Return the file names of a folder's checkpoints; hidden files, such as a killed run's, are passed over."""
    return sorted(path.name for path in folder.glob("*.pth") if not path.name.startswith("."))


def earlier_names(folder: Path, name: str) -> list[str]:
    """Return the names of the checkpoints that were saved before `name` in the same run, the oldest first.

    A folder of the published program has no list of them: there all numbered ones below `name` count.
    """
    listed = folder / run_files.CHECKPOINTS
    if listed.is_file():
        try:
            names = list(map(str, json.loads(listed.read_text(encoding="utf-8"))))
        except (ValueError, TypeError) as error:
            raise UserError(f"{listed} is damaged, expected a list of file names ({error}): remove it") from error
        names = names[: names.index(name)] if name in names else []
    else:
        names = [other for other in checkpoint_names(folder) if run_files.NUMBERED.fullmatch(other) and other < name]
    return [other for other in names if (folder / other).is_file()]


def read_last(folder: Path, trust: bool = False) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint of a folder that is not damaged, with its content; None when there is none at all.

    Raises:
        UserError: all are damaged, or the newest one is no checkpoint.
    """
    newest = last_checkpoint(folder)
    if newest is None:
        return None
    damaged = []
    for path in [newest, *(folder / name for name in reversed(earlier_names(folder, newest.name)))]:
        try:
            content = read_checkpoint(path, trust)
        except DamagedFileError:
            damaged.append(path.name)
            continue
        if damaged:
            logger.warning(f"{', '.join(damaged)} damaged: {path} is used instead")
        return path, content
    raise UserError(
        f"{folder}: no checkpoint can be read ({', '.join(damaged)} damaged): copy one from elsewhere, or remove "
        f"{folder / run_files.LAST_CHECKPOINT} to start again"
    )


def read_checkpoint(path: Path, trust: bool = False) -> dict[str, Any]:
    """Return the content of a checkpoint; a file that holds only weights becomes {"model": weights}.

    Their names are those of the plain model: see `named_tensors`.

    Args:
        trust: take a file that could run code while it is read.

    Raises:
        UserError: the file is missing, damaged (DamagedFileError), or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise UserError(
            f"no checkpoint {path}: check the path, or train first (tools/README.md says where trained models go)"
        )
    content = load_tensors(path, trust)
    weights = named_tensors(content)
    if weights is None:
        raise UserError(f"{path} is not a checkpoint: expected a `model` or `state_dict` entry with tensors by name")
    return {**(content if isinstance(content.get("model"), dict) else {}), "model": weights}


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load every tensor of `weights` into the model.

    The counters `num_batches_tracked`, on which no feature depends, may be missing, as in files of PyTorch before
    0.4.1.

    Raises:
        UserError: a tensor is missing, left over or of another shape, so the file is of another architecture.
    """
    own = model.state_dict()
    weights = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")} | weights
    problems = [f"it has no {name}" for name in own if name not in weights]
    problems += [f"it has {name} besides" for name in weights if name not in own]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more differences)" if len(problems) > 1 else ""
        raise UserError(
            f"{path} is of another architecture than the config: {problems[0]}{more}. Check MODEL.BACKBONE.NAME, "
            "MODEL.BACKBONE.DEPTH, WITH_IBN, IBN_TYPE, WITH_SE, WITH_NL, MODEL.NORM.TYPE_BACKBONE, MODEL.STYLE.NAME, "
            "and the training data sets"
        )
    model.load_state_dict(weights)
    logger.info(f"loaded {path}")
