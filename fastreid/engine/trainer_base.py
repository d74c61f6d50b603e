"""A loop over iterations that knows nothing of models; everything periodic is a hook (engine/hooks.py)."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from fastreid.utils.events import EventStorage

logger = logging.getLogger(__name__)


class HookBase:
    """What may happen around iterations. The trainer is in `self.trainer`.

    A hook whose state a resumed run needs names, in `checkpoint_entry`, the entry of a checkpoint that holds it, and
    has `state_dict`, of tensors and plain values, and `load_state_dict`.
    """

    trainer: TrainerBase
    checkpoint_entry = ""  # none

    def before_train(self) -> None: ...

    def before_step(self) -> None: ...

    def after_step(self) -> None: ...

    def after_train(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TrainerBase:
    """A loop over iterations with hooks."""

    def __init__(self) -> None:
        self.hooks: list[HookBase] = []
        self.iter = self.start_iter = 0
        self.max_iter = 0
        self.storage = EventStorage()

    def register_hooks(self, hooks: Iterable[HookBase]) -> None:
        """Append hooks; they run in this order."""
        for hook in hooks:
            hook.trainer = self
            self.hooks.append(hook)

    def train(self, start_iter: int, max_iter: int) -> None:
        """Run iterations start_iter .. max_iter - 1. `after_train` of the hooks runs only if all of them ended well."""
        logger.info(f"training from iteration {start_iter} to {max_iter}")
        self.iter = self.start_iter = start_iter
        self.max_iter = max_iter
        self.storage.iter = start_iter
        for hook in self.hooks:
            hook.before_train()
        for self.iter in range(start_iter, max_iter):
            self.storage.iter = self.iter
            for hook in self.hooks:
                hook.before_step()
            self.run_step()
            for hook in self.hooks:
                hook.after_step()
        self.read_losses()
        self.iter = max_iter
        for hook in self.hooks:
            hook.after_train()

    def run_step(self) -> None:
        raise NotImplementedError

    def read_losses(self) -> None:
        """Move what steps have measured but not yet looked at into the storage; nothing, unless a trainer defers it."""

    def require_finite(self) -> None:
        """Check what was computed until now, before a checkpoint keeps it."""
        self.read_losses()
