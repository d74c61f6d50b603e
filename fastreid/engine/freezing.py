"""Modules that do not learn in the first iterations: `MODEL.FREEZE_LAYERS`, `SOLVER.FREEZE_ITERS`."""

from __future__ import annotations

import difflib
import logging
from typing import Iterable

from torch import Tensor, nn

from fastreid.layers import BatchNorm
from fastreid.solver.build import main_parameters
from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)


class Freezing:
    """Modules of a model that stay as they are in iterations 0 .. `iterations` - 1.

    No gradient is computed for their parameters, gates among them, so that neither weight decay nor momentum moves them,
    and their batch normalization is in evaluation mode: it normalizes with its running statistics and leaves them alone.

    Args:
        names: of modules, such as "backbone" or "backbone.layer1"; empty names are passed over.

    Raises:
        UserError: the model has no module of that name, or nothing is left that the base steps could train.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], iterations: int):
        names = [name for name in names if name]
        modules = [find_module(model, name) for name in names]
        self.iterations = iterations if modules else 0
        self.parameters = {parameter for module in modules for parameter in module.parameters()}
        self.norms = [layer for module in modules for layer in module.modules() if isinstance(layer, BatchNorm)]
        if names and not iterations:
            logger.warning("MODEL.FREEZE_LAYERS has no effect while SOLVER.FREEZE_ITERS, in epochs, is 0")
        if not self.iterations:
            return
        if self.parameters.issuperset(main_parameters(model).values()):
            raise UserError(f"MODEL.FREEZE_LAYERS {', '.join(names)} leaves nothing to train: name fewer modules")
        size = sum(parameter.numel() for parameter in self.parameters) / 1e6
        logger.info(f"frozen until iteration {iterations}: {', '.join(names)} ({size:.2f} M parameters)")

    def active(self, iteration: int) -> bool:
        """Tell whether anything is frozen in an iteration."""
        return iteration < self.iterations

    def learning(self, parameters: dict[str, nn.Parameter], iteration: int) -> dict[str, nn.Parameter]:
        """Return those of the parameters that learn in an iteration."""
        if not self.active(iteration):
            return parameters
        return {name: parameter for name, parameter in parameters.items() if parameter not in self.parameters}

    def training_mode(self, model: nn.Module, iteration: int) -> None:
        """Put a model in training mode, but for what is frozen in an iteration."""
        model.train()
        if self.active(iteration):
            for layer in self.norms:
                layer.eval()

    def hides(self, loss: Tensor, iteration: int) -> bool:
        """Tell whether a loss depends on nothing that learns, as only frozen modules stand before it."""
        return self.active(iteration) and not loss.requires_grad

    def require_reached(self, loss: Tensor, iteration: int) -> None:
        """Raise UserError if a base step's loss depends on nothing that learns."""
        if self.hides(loss, iteration):
            raise UserError(
                "MODEL.FREEZE_LAYERS leaves nothing that MODEL.LOSSES.NAME depends on: name fewer modules, or add "
                "CrossEntropyLoss, which trains the classifier"
            )


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
