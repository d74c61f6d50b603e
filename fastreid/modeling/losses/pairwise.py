"""Distances between the images of a batch, and groups of images, shared by the losses."""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastreid.utils.errors import UserError

# Below this squared distance two features count as equal: the square root has no finite slope at 0.
MIN_SQUARED_DISTANCE = 1e-12


def full_precision(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make `loss` cast its first argument to at least float32 and run outside autocast; float64 stays float64.

    Differences of squares and exponentials of distances lose all their digits in half precision, and autocast would
    run the matrix products in it even for float32 inputs.
    """

    @functools.wraps(loss)
    def wrapped(values: Tensor, *args, **kwargs) -> Tensor:
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        with torch.autocast(values.device.type, enabled=False):
            return loss(values, *args, **kwargs)

    return wrapped


def choose(name: str, value: str, choices: dict[str, Callable]) -> Callable:
    """Return `choices[value]`; raises UserError when the option `name` has no such value."""
    if value not in choices:
        raise UserError(f"{name} must be one of {', '.join(choices)}; found {value!r}. Correct it in the config.")
    return choices[value]


def same_value(labels: Tensor) -> Tensor:
    """Return the (N, N) boolean matrix of equal pairs of `labels` (N,)."""
    return labels.unsqueeze(1) == labels.unsqueeze(0)


def safe_sqrt(squared: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0 instead of infinite; its value there is 1e-6."""
    return squared.clamp(min=MIN_SQUARED_DISTANCE).sqrt()


def squared_distances(features: Tensor) -> Tensor:
    """Return the squared Euclidean distances (N, N) between the rows of `features` (N, D); the diagonal is 0."""
    # Distances do not depend on the origin, rounding does: a shared offset would drown small distances.
    features = features - features.detach().mean(0)
    squares = features.square().sum(1)
    squared = squares.unsqueeze(1) + squares.unsqueeze(0) - 2 * features @ features.t()
    return _zero_diagonal(squared.clamp(min=0))


def euclidean_distances(features: Tensor) -> Tensor:
    """Return the Euclidean distances (N, N) between the rows of `features` (N, D); 1e-6, without gradient, if equal."""
    return safe_sqrt(squared_distances(features))


def manhattan_distances(features: Tensor) -> Tensor:
    """Return the sums of absolute differences (N, N) between the rows of `features` (N, D)."""
    return (features.unsqueeze(1) - features.unsqueeze(0)).abs().sum(2)


def cosine_distances(features: Tensor) -> Tensor:
    """Return 1 - cosine similarity (N, N) between the rows of `features` (N, D)."""
    unit = F.normalize(features, dim=1)
    return _zero_diagonal(1 - unit @ unit.t())


def _zero_diagonal(matrix: Tensor) -> Tensor:
    """An image's distance to itself is exactly 0, with no gradient, whatever the rounding said."""
    return matrix.masked_fill(torch.eye(len(matrix), dtype=torch.bool, device=matrix.device), 0)
