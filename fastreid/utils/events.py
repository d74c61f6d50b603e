"""What a training run measures: numbers by name."""

from __future__ import annotations

from collections import defaultdict
from statistics import fmean


class EventStorage:
    """Values of each scalar since the writers last wrote.

    `iter` is the present iteration. A name's group is what stands before its first slash ("base/loss_cls").
    """

    def __init__(self) -> None:
        self.iter = 0
        self._new: dict[str, list[float]] = defaultdict(list)
        self._sums: dict[str, float] = defaultdict(float)

    def put_scalar(self, name: str, value: float) -> None:
        """Append one value."""
        self._new[name].append(float(value))

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

    def new_means(self) -> dict[str, float]:
        """Return the mean of each scalar over its values since `clear_new`, in the order of their first value."""
        return {name: fmean(values) for name, values in self._new.items() if values}

    def clear_new(self) -> None:
        """Begin a new period of means."""
        for values in self._new.values():
            values.clear()

    def discard(self) -> None:
        """Forget everything since the writers last wrote: it is of iterations that will be run again."""
        self.clear_new()
        self._sums.clear()
