"""Checkpoints: `model_0099999.pth` = {model, optimizer_main, scheduler_main, optimizer_norm, scheduler_norm, iteration}."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastreid.utils.errors import UserError
from fastreid.utils.files import atomic_path, write_text

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
        """Write `<name>.pth` after training iteration `iteration`, then name it in `last_checkpoint`."""
        content = {"model": self.model.state_dict(), "iteration": iteration}
        content |= {entry: thing.state_dict() for entry, thing in self.objects.items()}
        path = self.folder / f"{name}.pth"
        with atomic_path(path) as temporary:
            torch.save(content, temporary)
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
        if "iteration" not in content:
            raise UserError(f"{path} holds weights only, not a run to resume: start from it with MODEL.WEIGHTS {path}")
        fresh = [entry for entry in self.objects if entry not in content]
        for entry, thing in self.objects.items():
            if entry not in content:
                continue
            try:
                thing.load_state_dict(content[entry])
            except (ValueError, KeyError) as error:
                raise UserError(f"{path}: its {entry} does not fit this model and config ({error}): resume with the config it was made with") from error
        if fresh:
            logger.warning(f"{path} does not hold {', '.join(fresh)}: they start anew")
        return int(content["iteration"]) + 1


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint of a folder, None when there is none.

    Raises:
        UserError: `last_checkpoint` names a file that is not there.
    """
    marker = folder / LAST_CHECKPOINT
    if not marker.is_file():
        return None
    # The published program may write an absolute path of another machine: the file lies beside the marker.
    path = folder / Path(marker.read_text(encoding="utf-8").strip()).name
    if not path.is_file():
        others = sorted(p.name for p in folder.glob("*.pth"))
        found = f"found {', '.join(others)}: write the one to use into {marker}" if others else f"remove {marker} to start anew"
        raise UserError(f"{marker} names {path.name}, which is not there; {found}")
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint; a file that holds only weights becomes {"model": weights}.

    Raises:
        UserError: the file is missing, damaged, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}: check the path, or train first (the README says where trained models go)")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler meets, from EOFError to KeyError
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} is damaged, or holds more than tensors and plain values ({reason}): use another checkpoint") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        return content
    if isinstance(content, dict) and content and all(isinstance(value, Tensor) for value in content.values()):
        return {"model": content}
    raise UserError(f"{path} is not a checkpoint: expected a `model` entry with tensors by name")


def load_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load every tensor of `weights` into the model.

    Raises:
        UserError: a tensor is missing, left over or of another shape, so the file is of another architecture.
    """
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
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
