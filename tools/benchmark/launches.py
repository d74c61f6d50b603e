"""What a stretch of a program asks of a device: kernel launches, and where the host waits for it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ALLOCATIONS = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
NO_KERNELS = {*ALLOCATIONS, aten.promote_types}
# Values, or numbers of values, that the host must have before it can go on.
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.is_nonzero, aten.masked_select, aten._unique2}


class LaunchCounter(TorchDispatchMode):
    """Within, count the operations that a GPU launches kernels for: what the dispatcher sees but views and allocations.

    It counts on any device, the CPU too, an operation of several kernels as one.

    Attributes:
        launches, waits: how often each operation was called, by its name; of `waits` those that make the host wait for
            the device: a value is read, or decides how large a result is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        options, name = options or {}, str(function.overloadpacket)
        if waits(function, arguments):
            self.waits[name] += 1
        elif not function.is_view and function.overloadpacket not in NO_KERNELS and function.namespace != "profiler":
            self.launches[name] += 1
        return function(*arguments, **options)


def waits(function: Any, arguments: tuple[Any, ...]) -> bool:
    """Tell whether an operation, if it ran on a GPU, would make the host wait for it."""
    if function.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in arguments[1])
    return function.overloadpacket in WAITS
