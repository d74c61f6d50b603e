"""Which parameters a step trains: by the kind of step, the options, and what `MODEL.FREEZE_LAYERS` freezes."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from fastreid.layers import BatchNorm
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

Parameters = dict[str, nn.Parameter]

# What a name in META.MODEL.META_COMPUTE_LAYER selects, by the parameter's name and number of dimensions.
LAYER_GROUPS = {
    "backbone_bn_gate": lambda name, ndim: name.startswith("backbone.") and is_gate(name),
    "backbone_bn": lambda name, ndim: name.startswith("backbone.") and ndim == 1 and not is_gate(name),
    "backbone_conv": lambda name, ndim: name.startswith("backbone.") and ndim > 1,
    "heads": lambda name, ndim: name.startswith("heads."),
}


def is_gate(name: str) -> bool:
    """Tell whether a parameter of that name is a balancing parameter."""
    return name.rpartition(".")[2] == "gate"


def gate_parameters(model: nn.Module) -> Parameters:
    """Return the balancing parameters by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if is_gate(name)}


def main_parameters(model: nn.Module) -> Parameters:
    """Return the trained parameters that are not balancing parameters, by name, in the model's order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad and not is_gate(name)}


def layer_parameters(model: nn.Module, groups: Iterable[str]) -> Parameters:
    """Return the trained parameters that the names of `META.MODEL.META_COMPUTE_LAYER` select.

    Raises:
        UserError: an unknown name.
    """
    for group in groups:
        if group not in LAYER_GROUPS:
            raise UserError(f"META.MODEL.META_COMPUTE_LAYER: names out of {', '.join(LAYER_GROUPS)}; found {group!r}")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return {name: p for name, p in trained.items() if any(LAYER_GROUPS[g](name, p.dim()) for g in groups)}


class TrainedParameters:
    """The parameters that base steps, inner and outer updates train in an iteration, by name.

    Base steps train all but the gates, outer updates the gates, and inner updates what META.MODEL.META_COMPUTE_LAYER
    selects; with META.MODEL.ALL_PARAMS each of them trains everything. Without meta steps base steps do.

    The modules of `MODEL.FREEZE_LAYERS` stay as they are in iterations 0 .. SOLVER.FREEZE_ITERS - 1: no gradient is
    computed for their parameters, gates among them, so that neither weight decay nor momentum moves them, and their
    batch normalization is in evaluation mode: it normalizes with its running statistics and leaves them alone.

    Args:
        cfg: with iterations, not epochs.
        meta_steps: whether there are any.

    Raises:
        UserError: meta steps have nothing to train, the model has no module of a name, or nothing is left that the base
            steps could train.
    """

    def __init__(self, cfg, model: nn.Module, meta_steps: bool):
        self.gates, self.main = gate_parameters(model), main_parameters(model)
        everything = {**self.main, **self.gates}
        self._base, self._inner, self._outer = everything, everything, everything
        if meta_steps and not cfg.META.MODEL.ALL_PARAMS:
            self._base, self._outer = self.main, self.gates
            self._inner = layer_parameters(model, cfg.META.MODEL.META_COMPUTE_LAYER)
        if meta_steps and not (self._inner and self._outer):
            raise UserError(
                "META.DATA.NAMES asks for meta steps, but the model has no gates to train with them: choose BIN_gate1 "
                f"or BIN_gate2 as MODEL.NORM.TYPE_BACKBONE (found {cfg.MODEL.NORM.TYPE_BACKBONE}), set "
                "META.MODEL.ALL_PARAMS True, or set META.DATA.NAMES ''"
            )
        self.freeze(model, [name for name in cfg.MODEL.FREEZE_LAYERS if name], cfg.SOLVER.FREEZE_ITERS)

    def freeze(self, model: nn.Module, names: list[str], iterations: int) -> None:
        """Freeze the modules called `names`, such as "backbone" or "backbone.layer1", in iterations below a number."""
        modules = [find_module(model, name) for name in names]
        self.frozen_until = iterations if modules else 0
        self.frozen = {parameter for module in modules for parameter in module.parameters()}
        self.frozen_norms = [layer for module in modules for layer in module.modules() if isinstance(layer, BatchNorm)]
        if names and not iterations:
            logger.warning("MODEL.FREEZE_LAYERS has no effect while SOLVER.FREEZE_ITERS, in epochs, is 0")
        if not self.frozen_until:
            return
        if self.frozen.issuperset(self.main.values()):
            raise UserError(f"MODEL.FREEZE_LAYERS {', '.join(names)} leaves nothing to train: name fewer modules")
        size = sum(parameter.numel() for parameter in self.frozen) / 1e6
        logger.info(f"frozen until iteration {iterations}: {', '.join(names)} ({size:.2f} M parameters)")

    def in_base_step(self, iteration: int) -> Parameters:
        """Return what a base step trains in an iteration."""
        return self._but_frozen(self._base, iteration)

    def in_inner_update(self, iteration: int) -> Parameters:
        """Return what the inner update of a meta step moves in an iteration."""
        return self._but_frozen(self._inner, iteration)

    def in_outer_update(self, iteration: int) -> Parameters:
        """Return what the outer update of a meta step trains in an iteration."""
        return self._but_frozen(self._outer, iteration)

    def _but_frozen(self, parameters: Parameters, iteration: int) -> Parameters:
        if iteration >= self.frozen_until:
            return parameters
        return {name: parameter for name, parameter in parameters.items() if parameter not in self.frozen}

    def set_training_mode(self, model: nn.Module, iteration: int) -> None:
        """Put a model in training mode, except the batch normalization that is frozen in an iteration."""
        model.train()
        if iteration < self.frozen_until:
            for layer in self.frozen_norms:
                layer.eval()

    def trains_nothing(self, loss: Tensor, iteration: int) -> bool:
        """Tell whether a loss has no gradient, as all that stands before it is frozen in an iteration."""
        return iteration < self.frozen_until and not loss.requires_grad


@contextmanager
def gradients_for(parameters: Iterable[nn.Parameter], model: nn.Module) -> Iterator[None]:
    """Within the context, no parameter of a model but the given ones asks for a gradient.

    So nothing is kept or computed for the others, compiled or not: a meta step computes no gradient of a convolution's
    weight, a base step none of a gate.
    """
    given = set(parameters)
    others = [p for p in model.parameters() if p.requires_grad and p not in given]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return the module of a model that `MODEL.FREEZE_LAYERS` names.

    Raises:
        UserError: there is none; the message has the names nearest to it.
    """
    modules = dict(model.named_modules())
    if name not in modules:
        near = difflib.get_close_matches(name, filter(None, modules), n=3, cutoff=0.5)
        near = near or [child for child, _ in model.named_children()]
        raise UserError(f"MODEL.FREEZE_LAYERS: the model has no module {name!r}; nearest: {', '.join(near)}")
    return modules[name]
