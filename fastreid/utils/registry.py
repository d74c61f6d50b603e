"""A name -> builder table, so that a config can choose code and a user's module can add to the choice."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator

from fastreid.utils.errors import UserError


class Registry:
    """Functions or classes by name.

    Args:
        kind: what is registered, for messages ("backbone").
        option: the config key that selects one.

    Example:
        BACKBONE_REGISTRY = Registry("backbone", "MODEL.BACKBONE.NAME")

        @BACKBONE_REGISTRY.register()
        def build_my_backbone(cfg): ...
    """

    def __init__(self, kind: str, option: str):
        self.kind, self.option = kind, option
        self._entries: dict[str, Callable] = {}

    def register(self, name: str | None = None) -> Callable[[Callable], Callable]:
        """Return a decorator that enters what it decorates under `name`, or under its own name."""

        def enter(entry: Callable) -> Callable:
            key = name or entry.__name__
            if key in self._entries:
                raise KeyError(f"the {self.kind} {key} is registered already")
            self._entries[key] = entry
            return entry

        return enter

    def get(self, name: str) -> Callable:
        """Return the entry called `name`.

        Raises:
            UserError: there is none; the message names the nearest one.
        """
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]}" if near else ""
            raise UserError(
                f"{self.option}: no {self.kind} is called {name!r}{hint} (known: {', '.join(self._entries)})"
            )
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
