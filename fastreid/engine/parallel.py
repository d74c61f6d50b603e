"""One model in several processes: the same parameters and running statistics in all of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastreid.layers import running_statistics
from fastreid.solver.trained_parameters import gradients_for
from fastreid.utils.comm import average, broadcast
from fastreid.utils.processes import num_processes

# DistributedDataParallel's option to leave buffers alone has another name in newer versions of PyTorch.
_OPTIONS = inspect.signature(DistributedDataParallel).parameters
FORWARD_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their means over the processes, with one collective for all of them."""
    if num_processes() == 1:
        return
    reached = [parameter for parameter in parameters if parameter.grad is not None]
    for parameter, gradient in zip(reached, average([parameter.grad for parameter in reached])):
        parameter.grad.copy_(gradient)  # in its layout, which is the parameter's: fused optimizers rely on it


class ParallelModel:
    """A model, its parameters and buffers at first those of process 0, with what keeps them equal in base steps.

    Args:
        statistics_in_common: the batch statistics are those of all processes' images (`MODEL.NORM.SYNC`). Otherwise the
            running statistics become the means over the processes after each base step.
    """

    def __init__(self, model: nn.Module, statistics_in_common: bool):
        self.model, self.statistics_in_common = model, statistics_in_common
        self.replica: DistributedDataParallel | None = None
        self.trained: set[nn.Parameter] = set()
        broadcast(list(model.state_dict().values()))

    @property
    def base_model(self) -> nn.Module:
        """What to call in a base step."""
        return self.replica or self.model

    @property
    def averages_gradients(self) -> bool:
        """Whether the backward pass of `base_model` averages gradients over the processes while it computes them."""
        return self.replica is not None

    def before_base_step(self, trained: Iterable[nn.Parameter]) -> None:
        """Give up the replica where other parameters are trained than in the last step, as when freezing ends."""
        if num_processes() > 1 and self.trained != (trained := set(trained)):
            self.trained, self.replica = trained, None

    def after_base_step(self, trained: Iterable[nn.Parameter]) -> None:
        """Make running statistics equal; where there is no replica yet, find out which parameters the losses reach.

        DistributedDataParallel waits for the gradient of every parameter that it knows, so it must not know those that
        get none: without cross entropy, that is the classifier.
        """
        if num_processes() == 1:
            return
        if not self.statistics_in_common:
            self.average_running_statistics()
        if self.replica is None:
            self.replica = self.replicate([parameter for parameter in trained if parameter.grad is not None])

    def replicate(self, reached: list[nn.Parameter]) -> DistributedDataParallel:
        """Return the model with the gradients of the parameters `reached` averaged in its backward pass."""
        with gradients_for(reached, self.model):  # it leaves out what asks for no gradient
            return DistributedDataParallel(self.model, **{FORWARD_BUFFERS: False})

    @torch.no_grad()
    def average_running_statistics(self) -> None:
        """Make the running statistics of all processes their mean, where the step may have moved them."""
        statistics = running_statistics(self.model, only_training=True)
        for own, mean in zip(statistics, average(statistics)):
            own.copy_(mean)
