"""SGD over groups of equal hyper-parameters, kept in checkpoints as published: one group per parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Of a group in a checkpoint; how a step is computed is this program's and this machine's business.
HYPER_PARAMETERS = ("lr", "initial_lr", "momentum", "dampening", "weight_decay", "nesterov")
FUSED_DEVICES = ("cpu", "cuda")


class MergedSGD(torch.optim.SGD):
    """SGD that steps all parameters of equal hyper-parameters at once.

    On the CPU and on CUDA a step is PyTorch's fused one; with a gradient scaler it asks the device, not the host,
    whether the gradients are finite.

    Args:
        groups: parameter groups of one parameter each, with its `name`, which is for checkpoints alone.
        defaults: of `torch.optim.SGD`.
    """

    def __init__(self, groups: list[dict[str, Any]], **defaults: Any):
        merged: dict[tuple, dict[str, Any]] = {}
        self.group_of: list[int] = []  # of each parameter, in the order given
        self.names: list[str] = []  # likewise
        parameters: list[nn.Parameter] = []
        for group in groups:
            options = {option: value for option, value in group.items() if option not in ("params", "name")}
            (parameter,) = group["params"]
            key = tuple(sorted(options.items()))
            merged.setdefault(key, {**options, "params": []})["params"].append(parameter)
            self.names.append(group.get("name", ""))
            self.group_of.append(list(merged).index(key))
            parameters.append(parameter)
        fused = all(p.device.type in FUSED_DEVICES for p in parameters)
        super().__init__(list(merged.values()), fused=fused, **defaults)
        position = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        self._in_order = parameters
        self._position = [position[p] for p in parameters]  # in the merged groups, of each parameter

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Step the parameters that have a gradient; those that have one for the first time start without momentum."""
        for group in self.param_groups:
            stepped = [p for p in group["params"] if p.grad is not None]
            for parameter in stepped:
                parameter.grad = laid_out_as(parameter, parameter.grad)
            if group["momentum"]:
                self._give_momentum(stepped)
        return super().step(closure)

    def _give_momentum(self, parameters: list[nn.Parameter]) -> None:
        """Let parameters whose momentum begins now begin with zero.

        The fused step expects momentum of all parameters of a group or of none: with freezing some begin later. And
        where it makes them itself, it leaves them unset if the gradient scaler leaves this step out.
        """
        for parameter in parameters:
            if self.state.get(parameter, {}).get("momentum_buffer") is None:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def state_dict(self) -> dict[str, Any]:
        """Return the state with one group per parameter.

        A group has what a published program's has, and nothing of how this one or this PyTorch computes a step.
        """
        own = super().state_dict()
        groups = []
        for i, (merged, called, parameter) in enumerate(zip(self.group_of, self.names, self._in_order)):
            options = {name: value for name, value in own["param_groups"][merged].items() if name in HYPER_PARAMETERS}
            groups.append({**options, "name": called, "freeze": not parameter.requires_grad, "params": [i]})
        state = {i: own["state"][at] for i, at in enumerate(self._position) if at in own["state"]}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the momentum of a state with one group per parameter; rates, decay and the like stay the config's.

        Raises:
            ValueError: it is of another number of parameters.
        """
        given = state_dict["param_groups"]
        if [group["params"] for group in given] != [[i] for i in range(len(self.group_of))]:
            raise ValueError(f"expected {len(self.group_of)} groups of one parameter, found {len(given)} groups")
        state = {at: state_dict["state"][i] for i, at in enumerate(self._position) if i in state_dict["state"]}
        super().load_state_dict({"state": state, "param_groups": super().state_dict()["param_groups"]})
        for parameter, values in self.state.items():
            for entry, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    values[entry] = laid_out_as(parameter, value)

    def without_momentum(self, name: str, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return a state, one group per parameter, without the momentum of the parameter `name`."""
        left_out = self.names.index(name) if name in self.names else None
        return {**state_dict, "state": {i: values for i, values in state_dict["state"].items() if i != left_out}}

    def per_parameter(self, values: list[float]) -> list[float]:
        """Return a value for each parameter from one for each merged group."""
        return [values[group] for group in self.group_of]


def laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """Return `value`, of the same shape, with its elements in memory in the parameter's order.

    The fused step takes both element by element as they lie in memory; a published checkpoint's momentum is contiguous
    where weights here are channels_last.
    """
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
