"""Batch samplers of P identities x K images, for losses that compare images in a batch.

Both are endless streams of lists of item indices that depend on nothing but the items, the options and the seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastreid.utils.errors import UserError


class IdentityGroups:
    """Groups of K images of one identity: those of one epoch, dealt out without repetition until they run out.

    Each epoch draws what pads an identity to a multiple of K: images of it that are then there twice, or, for an
    identity with fewer than K images, K with replacement. The rest of its order is random, too.

    Args:
        indices: (n,) item indices to deal out.
        pids: (n,) their identities.
        num_instances: K.
        delete_rem: drop an identity's images beyond a multiple of K instead of padding them; an identity with fewer
            than K images is padded in any case.
    """

    def __init__(self, indices: np.ndarray, pids: np.ndarray, num_instances: int, delete_rem: bool):
        _, identity, self.counts = np.unique(pids, return_inverse=True, return_counts=True)
        by_identity = np.argsort(identity, kind="stable")
        self.indices, self.identity = indices[by_identity], identity[by_identity]
        self.num_instances = num_instances
        self.starts = np.cumsum(self.counts) - self.counts
        per_identity = self.counts // num_instances if delete_rem else -(-self.counts // num_instances)
        self.groups = np.maximum(per_identity, 1)
        self.group_starts = np.cumsum(self.groups) - self.groups

    @property
    def num_identities(self) -> int:
        return len(self.counts)

    @property
    def num_images(self) -> int:
        """Images of an epoch, after padding or dropping."""
        return int(self.groups.sum()) * self.num_instances

    def shuffle(self, rng: np.random.Generator) -> None:
        """Begin an epoch: every identity's images in a new order, padded to whole groups, all groups undealt."""
        order = self._shuffled(np.arange(len(self.indices)), rng)
        place = np.arange(len(order)) - self.starts[self.identity]  # of each image in the order of its identity
        enough = self.counts >= self.num_instances
        missing = self.groups * self.num_instances - self.counts  # below 0: images to drop
        kept = enough[self.identity] & (place < (self.counts + missing)[self.identity])
        added = enough[self.identity] & (place < missing[self.identity])
        few = np.repeat(np.flatnonzero(~enough), self.num_instances)
        drawn = self.starts[few] + rng.integers(self.counts[few])
        self.shuffled = self._shuffled(np.concatenate([order[kept], order[added], drawn]), rng)
        self.left = self.groups.copy()

    def _shuffled(self, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return positions in `indices` by identity, those of each identity in random order."""
        # One sort by (identity, random key) shuffles within all identities at once.
        return positions[np.lexsort((rng.random(len(positions)), self.identity[positions]))]

    def deal(self, num_identities: int, rng: np.random.Generator) -> np.ndarray | None:
        """Return (P * K,) item indices of P distinct identities; None when fewer than P have a group left."""
        available = np.flatnonzero(self.left)
        if len(available) < num_identities:
            return None
        chosen = rng.choice(available, num_identities, replace=False)
        self.left[chosen] -= 1
        group = self.group_starts[chosen] + self.left[chosen]
        return self.indices[self.shuffled.reshape(-1, self.num_instances)[group]].ravel()


class NaiveIdentitySampler:
    """Draw the P identities of a batch over all domains alike.

    An epoch ends when fewer than P identities have images left; the stream goes on with the next one.

    Args:
        pids: (N,) identity of each item.
        batch_size: P * K.
        num_instances: K.
        seed: of the stream.

    Raises:
        UserError: P is not a whole number, or there are fewer than P identities.
    """

    def __init__(self, pids: np.ndarray, batch_size: int, num_instances: int, delete_rem: bool = False, seed: int = 0):
        self.num_identities = whole_identities(batch_size, num_instances, 1)
        self.groups = IdentityGroups(np.arange(len(pids)), pids, num_instances, delete_rem)
        self.batch_size, self.num_instances, self.seed = batch_size, num_instances, seed
        if self.groups.num_identities < self.num_identities:
            raise UserError(
                f"a batch of {batch_size} images needs {self.num_identities} identities with {num_instances} images "
                f"each; the training data has {self.groups.num_identities}: lower the batch size"
            )

    @property
    def total_images(self) -> int:
        """Images that count as one epoch: whole batches, one left out for identities that do not fit at the end."""
        images = self.groups.num_images
        return images - images % self.batch_size - self.batch_size

    def epoch(self, number: int) -> Iterator[list[int]]:
        """Yield the batches of one epoch."""
        rng = np.random.default_rng([self.seed, number])
        self.groups.shuffle(rng)
        while (batch := self.groups.deal(self.num_identities, rng)) is not None:
            yield batch.tolist()

    def __iter__(self) -> Iterator[list[int]]:
        yield from endless(self)


class BalancedIdentitySampler:
    """Give every domain the same share of a batch: P / D identities each.

    A domain that runs out starts again; an epoch ends when each has run out once. An identity that is seen in several
    domains (cameras as domains) is a unit of its own in each.

    Args:
        pids, domains: (N,) identity and domain of each item.
        batch_size: D * P / D * K.
        num_instances: K.

    Raises:
        UserError: the batch does not divide by domains x K, or a domain has fewer identities than its share.
    """

    def __init__(
        self,
        pids: np.ndarray,
        domains: np.ndarray,
        batch_size: int,
        num_instances: int,
        delete_rem: bool = False,
        seed: int = 0,
    ):
        names = np.unique(domains)
        self.num_identities = whole_identities(batch_size, num_instances, len(names))
        self.batch_size, self.num_instances, self.seed = batch_size, num_instances, seed
        self.domains = []
        for name in names:
            index = np.flatnonzero(domains == name)
            groups = IdentityGroups(index, pids[index], num_instances, delete_rem)
            if groups.num_identities < self.num_identities:
                raise UserError(
                    f"a batch of {batch_size} images, {len(names)} domains and {num_instances} images an identity "
                    f"needs {self.num_identities} identities of each domain; domain {name} has "
                    f"{groups.num_identities}: lower the batch size"
                )
            self.domains.append(groups)

    @property
    def total_images(self) -> int:
        """Images that count as one epoch: the largest domain's, in whole batches, for each domain."""
        share = self.batch_size // len(self.domains)
        largest = max(groups.num_images for groups in self.domains)
        return len(self.domains) * (largest - largest % share - share)

    def epoch(self, number: int) -> Iterator[list[int]]:
        """Yield the batches of one epoch."""
        rng = np.random.default_rng([self.seed, number])
        for groups in self.domains:
            groups.shuffle(rng)
        ran_out = [False] * len(self.domains)
        while True:
            parts = []
            for position, groups in enumerate(self.domains):
                part = groups.deal(self.num_identities, rng)
                if part is None:
                    ran_out[position] = True
                    if all(ran_out):
                        return
                    groups.shuffle(rng)
                    part = groups.deal(self.num_identities, rng)
                parts.append(part)
            yield np.concatenate(parts).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        yield from endless(self)


def endless(sampler: NaiveIdentitySampler | BalancedIdentitySampler) -> Iterator[list[int]]:
    """Yield the batches of epoch 0, 1, 2, ..."""
    number = 0
    while True:
        yield from sampler.epoch(number)
        number += 1


def whole_identities(batch_size: int, num_instances: int, num_domains: int) -> int:
    """Return the identities of each domain in a batch.

    Raises:
        UserError: the batch does not divide into them.
    """
    unit = num_instances * num_domains
    if num_instances < 1 or batch_size < unit or batch_size % unit:
        shares = f"{num_domains} domains x " if num_domains > 1 else ""
        raise UserError(
            f"a batch must be a multiple of {shares}{num_instances} images an identity = {unit}; found {batch_size} "
            "(SOLVER.IMS_PER_BATCH and DATALOADER.NUM_INSTANCE, META.DATA.MTRAIN_MINI_BATCH and MTRAIN_NUM_INSTANCE)"
        )
    return batch_size // unit
