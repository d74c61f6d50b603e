"""One process's share of a stream of batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from fastreid.data.samplers.triplet_sampler import BalancedIdentitySampler, NaiveIdentitySampler
from fastreid.utils.errors import UserError


class SharedBatches:
    """A sampler's endless stream, of whose every batch this process takes some of the identities.

    Identities are dealt like cards: process r of n has the r-th, (r + n)-th, ... of the batch with all their images.
    So each has images of every domain of a balanced batch where there are enough, and the processes together have
    exactly the batch of a single process. Each item index comes with its position in the single process's stream.

    Args:
        rank: of this process, 0 .. world_size - 1.

    `start` is the number of batches to leave out: those that a resumed run has seen.

    Raises:
        UserError: a batch has fewer identities than there are processes.
    """

    def __init__(self, sampler: NaiveIdentitySampler | BalancedIdentitySampler, rank: int = 0, world_size: int = 1):
        identities = sampler.batch_size // sampler.num_instances
        if not 0 <= rank < world_size:
            raise ValueError(f"expected a rank from 0 to {world_size - 1}, found {rank}")
        if identities < world_size:
            raise UserError(
                f"a batch of {sampler.batch_size} images has {identities} identities with {sampler.num_instances} "
                f"images each, too few to share among {world_size} processes: raise the batch size or use fewer "
                "processes"
            )
        self.sampler = sampler
        self.start = 0
        self.places = [p for p in range(sampler.batch_size) if p // sampler.num_instances % world_size == rank]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield lists of (position in the stream, item index)."""
        for number, batch in enumerate(islice(self.sampler, self.start, None), self.start):
            first = number * self.sampler.batch_size
            yield [(first + place, batch[place]) for place in self.places]
