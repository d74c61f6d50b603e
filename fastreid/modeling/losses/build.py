"""From the loss names of a config to one function of a batch's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from torch import Tensor

from fastreid.utils.comm import all_counts, gather_rows
from fastreid.utils.errors import UserError
from fastreid.utils.registry import Registry

# Of functions of a config that return a `Loss`.
LOSS_REGISTRY = Registry("loss", "MODEL.LOSSES.NAME")

Losses = dict[str, Tensor]
LOGITS, FEATURES, RESTITUTED = "logits", ("before", "after"), "restituted"  # what a loss may see of a `HeadOutput`


class Loss(NamedTuple):
    """A loss: its name in logs, its scale, what it sees of a `HeadOutput`, and (seen, *labels) -> scalar.

    Attributes:
        labels: which labels of the images it takes besides, (N,) each: "targets", their identities, and "domains".
    """

    key: str
    scale: float
    sees: str
    function: Callable[..., Tensor]
    labels: tuple[str, ...] = ("targets", "domains")

    def __call__(self, seen: Tensor | tuple, targets: Tensor, domains: Tensor) -> Tensor:
        """Return the loss, without its scale, of what it sees and of the labels that it takes."""
        given = {"targets": targets, "domains": domains}
        return self.function(seen, *(given[name] for name in self.labels))

    def compares_people(self) -> bool:
        """Tell whether it compares images by whom they show, and so needs two of a person."""
        return self.sees != LOGITS and "targets" in self.labels


def build_losses(cfg, names: Iterable[str], option: str) -> Callable[..., Losses]:
    """Return a function (outputs, targets, domains) -> scalar losses by name, each times its SCALE.

    They are the losses of the images of all processes together, the same in each: metric losses see all features,
    and cross entropy, which needs no other image, sums over the processes without sending logits around. A process
    may have no image.

    Args:
        names: values of an option such as `MODEL.LOSSES.NAME`.
        option: that option's name, for messages.

    Raises:
        UserError: no loss has such a name, or none is named, or a FEAT_ORDER is neither before nor after, or what a
            loss raises at its options.
    """
    unknown = [name for name in names if name not in LOSS_REGISTRY]
    if unknown or not names:
        found = repr(unknown[0]) if unknown else "none"
        raise UserError(f"{option} must name losses out of {', '.join(LOSS_REGISTRY)}; found {found}")
    chosen = [LOSS_REGISTRY.get(name)(cfg) for name in names]
    for name, loss in zip(names, chosen):
        if loss.sees not in (LOGITS, RESTITUTED, *FEATURES):
            raise UserError(f"the FEAT_ORDER of {name} in MODEL.LOSSES must be before or after; found {loss.sees!r}")
    compared = list(dict.fromkeys(loss.sees for loss in chosen if loss.sees != LOGITS))

    def losses(outputs, targets: Tensor, domains: Tensor) -> Losses:
        seen = {LOGITS: (outputs.logits, targets, domains)}
        if compared:
            counts = all_counts(len(targets))
            labels = [gather_rows(values, counts) for values in (targets, domains)]
            seen |= {order: (gather_features(getattr(outputs, order), counts), *labels) for order in compared}
        return {loss.key: loss.scale * loss(*seen[loss.sees]) for loss in chosen}

    return losses


def gather_features(features: Tensor | tuple, counts: list[int]) -> Tensor | tuple:
    """Return the rows of all processes; of each tensor, if it is a tuple of tensors or of such tuples."""
    if isinstance(features, tuple):
        return tuple(gather_features(part, counts) for part in features)
    return gather_rows(features, counts)
