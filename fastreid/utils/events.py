"""What a training run measures: numbers by name, and the writers that show or store them."""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import fmean

WINDOW = 200


class EventStorage:
    """The newest values of each scalar, over a window of iterations.

    `iter` is the present iteration. A name's group is what stands before its first slash ("base/loss_cls").
    """

    def __init__(self, window: int = WINDOW):
        self.iter = 0
        self._history: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=window))
        self._sums: dict[str, float] = defaultdict(float)

    def put_scalar(self, name: str, value: float) -> None:
        """Append one value."""
        self._history[name].append(float(value))

    def put_scalars(self, values: dict[str, float]) -> None:
        """Append one value for each name."""
        for name, value in values.items():
            self.put_scalar(name, value)

    def add_to(self, name: str, value: float) -> None:
        """Add to a sum over the iteration, which `flush_sums` appends as one value."""
        self._sums[name] += value

    def flush_sums(self) -> None:
        """Append the sums of this iteration and begin new ones."""
        self.put_scalars(self._sums)
        self._sums.clear()

    def names(self, prefix: str = "") -> list[str]:
        """Return the names that begin with `prefix`, in the order of their first value."""
        return [name for name in self._history if name.startswith(prefix)]

    def latest(self, name: str) -> float:
        """Return the newest value of a name."""
        return self._history[name][-1]

    def mean(self, name: str, last: int = WINDOW) -> float:
        """Return the mean over the last values of a name."""
        return fmean(list(self._history[name])[-last:])

    def __contains__(self, name: str) -> bool:
        return name in self._history
