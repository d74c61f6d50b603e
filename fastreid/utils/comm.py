"""Tensors across the processes of a run.

The processes together compute the mean of what each of them computes: gradients are averaged. Each collective has its
adjoint as its backward pass, made of the same collectives, so that gradients of any order are those of one process that
had all the images. In a single process every function returns its input.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from fastreid.utils.processes import num_processes, process_rank


def all_sum(values: Tensor) -> Tensor:
    """Return the sum of a tensor over the processes; all must call it, with tensors of one shape."""
    return values if num_processes() == 1 else AllSum.apply(values)


def gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """Return the rows of all processes, those of process 0 first; all must call it.

    Args:
        counts: the number of rows of each process, see `all_counts`.
    """
    return rows if num_processes() == 1 else GatherRows.apply(rows, *counts)


def average(tensors: list[Tensor]) -> list[Tensor]:
    """Return the means over the processes of tensors of one type, by one collective for all of them together."""
    if num_processes() == 1 or not tensors:
        return tensors
    mean = all_sum(torch.cat([tensor.flatten() for tensor in tensors])) / num_processes()
    parts = mean.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors)]


def all_counts(count: int) -> list[int]:
    """Return a number of each process, by rank; all must call it."""
    if num_processes() == 1:
        return [count]
    # On the CPU, so that no GPU has to be waited for: the collectives of `join_processes` know both.
    counts = torch.empty(num_processes(), dtype=torch.long)
    dist.all_gather(list(counts.split(1)), torch.tensor([count]))
    return counts.tolist()


@torch.no_grad()
def broadcast(tensors: list[Tensor]) -> None:
    """Overwrite tensors by those of process 0; all must call it."""
    if num_processes() == 1:
        return
    for tensor in tensors:
        dist.broadcast(tensor, src=0)


class AllSum(torch.autograd.Function):
    """Sum over the processes, which is its own adjoint."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return AllSum.apply(gradient)


class GatherRows(torch.autograd.Function):
    """Rows of all processes. A process's rows get the gradients that all the processes have for them."""

    @staticmethod
    def forward(ctx, rows: Tensor, *counts: int) -> Tensor:
        ctx.counts = counts
        longest = max(counts)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = rows.new_empty(len(counts), *padded.shape)
        dist.all_gather(list(gathered.unbind()), padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        own = AllSum.apply(gradient).split(ctx.counts)[process_rank()]
        return own, *(None for _ in ctx.counts)
