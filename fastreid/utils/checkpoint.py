"""Checkpoints: `model_0099999.pth` = {model, optimizer_main, scheduler_main, optimizer_norm, scheduler_norm, iteration}."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_path, write_text
from fastreid.utils.processes import process_rank

logger = logging.getLogger(__name__)

LAST_CHECKPOINT = "last_checkpoint"
CLASSIFIER = "heads.classifier_fc.weight"


class Checkpointer:
    """Save and load a model with whatever moves along with it.

    Args:
        folder: where checkpoints lie. objects: by entry name, things with `state_dict` and `load_state_dict`.
    """

    def __init__(self, model: nn.Module, folder: Path, **objects: Any):
        self.model, self.folder, self.objects = model, folder, objects

    def save(self, name: str, iteration: int) -> Path:
        """Write `<name>.pth` after training iteration `iteration`, then name it in `last_checkpoint`.

        Of several processes, the first one writes.
        """
        if process_rank() > 0:
            return self.folder / f"{name}.pth"
        content = {"model": self.model.state_dict(), "iteration": iteration}
        content |= {entry: thing.state_dict() for entry, thing in self.objects.items()}
        path = self.folder / f"{name}.pth"
        # By way of memory: writing to a full disk, torch.save raises RuntimeError, which could be anything.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())
        write_text(self.folder / LAST_CHECKPOINT, path.name)
        logger.info(f"saved {path}")
        return path

    def load(self, path: Path) -> None:
        """Start from the weights of a checkpoint; its classifier is left out if it is of other identities."""
        weights, own = read_checkpoint(path)["model"], self.model.state_dict()
        if CLASSIFIER in weights and CLASSIFIER in own and weights[CLASSIFIER].shape != own[CLASSIFIER].shape:
            logger.warning(f"{path} was trained on {len(weights[CLASSIFIER])} identities: the classifier starts anew")
            weights = {**weights, CLASSIFIER: own[CLASSIFIER]}
        load_weights(self.model, weights, path)

    def resume(self, path: Path) -> int:
        """Load everything a checkpoint holds and return the iteration to go on with."""
        content = read_checkpoint(path)
        load_weights(self.model, content["model"], path)
        if not isinstance(content.get("iteration"), int):
            raise UserError(f"{path} holds no iteration, so it is no run to resume: start from it with MODEL.WEIGHTS {path}")
        fresh = [entry for entry in self.objects if entry not in content]
        for entry, thing in self.objects.items():
            if entry not in content:
                continue
            try:
                thing.load_state_dict(content[entry])
            except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:  # any, from a foreign state
                raise UserError(
                    f"{path}: its {entry} does not fit this model and config ({error}): resume with the config it was "
                    "made with"
                ) from error
        if fresh:
            logger.warning(f"{path} does not hold {', '.join(fresh)}: they start anew")
        return content["iteration"] + 1


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a folder, None when there is none.

    Raises:
        UserError: `last_checkpoint` names a file that is not there.
    """
    marker = folder / LAST_CHECKPOINT
    if not marker.is_file():
        return None
    # The published program may write an absolute path of another machine: the file lies beside the marker.
    name = Path(marker.read_text(encoding="utf-8").strip()).name
    if name and (folder / name).is_file():
        return folder / name
    problem = f"names {name}, which is not there" if name else "is empty"
    others = checkpoint_names(folder)
    found = f"found {', '.join(others)}: write the one to use into {marker}" if others else f"remove {marker} to start anew"
    raise UserError(f"{marker} {problem}; {found}")


def checkpoint_names(folder: Path) -> list[str]:
    """Return the file names of a folder's checkpoints; hidden files, such as a killed run's, are passed over."""
    return sorted(path.name for path in folder.glob("*.pth") if not path.name.startswith("."))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint; a file that holds only weights becomes {"model": weights}.

    DataParallel's prefix `module.` is taken off the names.

    Raises:
        UserError: the file is missing, damaged, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: check the path, or train first (the README says where trained models go)")
    content = load_tensors(path)
    if isinstance(content, dict) and content:
        content = content if isinstance(content.get("model"), dict) else {"model": content}
        if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content["model"].items()):
            weights = {name.removeprefix("module."): value for name, value in content["model"].items()}
            return {**content, "model": weights}
    raise UserError(f"{path} is not a checkpoint: expected a `model` entry with tensors by name")


def load_tensors(path: Path) -> Any:
    """Return the content of a PyTorch file, which may hold nothing that could run code when it is loaded.

    Raises:
        UserError: the file is damaged, or holds anything but tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler meets, from EOFError to KeyError
        raise UserError(
            f"{path} is damaged, or not a PyTorch file of tensors and plain values ({type(error).__name__}): use another file"
        ) from error


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load every tensor of `weights` into the model.

    Raises:
        UserError: a tensor is missing, left over or of another shape, so the file is of another architecture.
    """
    own = model.state_dict()
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
            "MODEL.BACKBONE.DEPTH, MODEL.NORM.TYPE_BACKBONE and the training data sets"
        )
    model.load_state_dict(weights)
    logger.info(f"loaded {path}")
