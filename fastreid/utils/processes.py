"""The processes of a run; everything here works in a single one, too."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def num_processes() -> int:
    """Return the number of processes of this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if num_processes() > 1 else 0


def hide_progress_bar() -> bool | None:
    """Return tqdm's `disable`: one process shows a bar, and None lets it do so on a terminal only."""
    return True if process_rank() > 0 else None


def gather(value: Any) -> list[Any]:
    """Return every process's `value`, a plain value, by rank; all processes must call it."""
    if num_processes() == 1:
        return [value]
    values: list[Any] = [None] * num_processes()
    dist.all_gather_object(values, value)
    return values


def any_process(flag: bool) -> bool:
    """Tell whether `flag` is set in any process; all must call it."""
    if num_processes() == 1:
        return flag
    raised = torch.tensor(int(flag))
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return bool(raised)
