"""Properties of the batch samplers, and of sharing their batches among processes."""

import itertools
from collections import Counter

import numpy as np
import pytest

from fastreid.data.samplers import BalancedIdentitySampler, NaiveIdentitySampler, SharedBatches
from fastreid.utils.errors import UserError

K = 4


def items(seed, identities=60, domains=3):
    """Identities of 1 to 11 images in random order; an identity belongs to one domain."""
    rng = np.random.default_rng(seed)
    pids = rng.permutation(np.repeat(np.arange(identities), rng.integers(1, 12, identities)))
    return pids, pids % domains


def make(kind, seed, delete_rem=False, stream=7):
    pids, domains = items(seed)
    if kind == "naive":
        return NaiveIdentitySampler(pids, 6 * K, K, delete_rem, stream)
    return BalancedIdentitySampler(pids, domains, 6 * K, K, delete_rem, stream)


def head(stream, number=40):
    return list(itertools.islice(stream, number))


kinds = pytest.mark.parametrize("kind", ["naive", "balanced"])
seeds = pytest.mark.parametrize("seed", range(5))


@kinds
@seeds
@pytest.mark.parametrize("delete_rem", [False, True])
def test_batch_holds_p_identities_of_k_images(kind, seed, delete_rem):
    pids, domains = items(seed)
    sizes = Counter(pids.tolist())
    for batch in head(make(kind, seed, delete_rem)):
        groups = np.array(batch).reshape(-1, K)
        assert (pids[groups] == pids[groups][:, :1]).all()
        assert len(set(pids[groups[:, 0]])) == 6
        for group in groups:  # an image is twice in a group only where the padding that is shuffled in meets it there
            size = sizes[pids[group[0]]]
            if size >= K:
                assert K - len(set(group)) <= (0 if delete_rem else min(-size % K, K // 2))
        if kind == "balanced":
            assert (np.bincount(domains[batch]) == 2 * K).all()


@kinds
@seeds
def test_epoch_covers_every_identity_but_those_too_few_for_a_batch(kind, seed):
    pids, domains = items(seed)
    sampler = make(kind, seed)
    seen = set(pids[np.concatenate(list(sampler.epoch(0)))])
    missed = np.array(sorted(set(pids) - seen), dtype=int)
    if kind == "naive":
        assert len(missed) < 6
    else:
        assert (np.bincount(missed % 3, minlength=3) < 2).all()


@seeds
def test_naive_epoch_shows_no_image_twice_more_than_padding_needs(seed):
    pids, _ = items(seed)
    shown = Counter(itertools.chain(*make("naive", seed).epoch(0)))
    for pid, size in enumerate(np.bincount(pids)):
        counts = [shown[index] for index in np.flatnonzero(pids == pid)]
        assert sum(count == 2 for count in counts) <= -size % K if size >= K else sum(counts) <= K
        assert max(counts) <= (2 if size >= K else K)


@kinds
def test_same_seed_gives_the_same_stream_and_another_seed_another(kind):
    assert head(make(kind, 0)) == head(make(kind, 0))
    assert head(make(kind, 0)) != head(make(kind, 0, stream=8))
    assert list(make(kind, 0).epoch(0)) != list(make(kind, 0).epoch(1))


@kinds
@seeds
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6])
def test_processes_together_yield_the_single_process_stream(kind, seed, world_size):
    whole = list(enumerate(itertools.chain(*head(make(kind, seed)))))
    shares = [head(SharedBatches(make(kind, seed), rank, world_size)) for rank in range(world_size)]
    for number in range(40):
        together = sorted(itertools.chain(*(share[number] for share in shares)))
        assert together == whole[number * 6 * K : (number + 1) * 6 * K]


@kinds
@pytest.mark.parametrize("world_size", [2, 3, 4, 6])
def test_a_share_has_whole_identities_and_at_most_one_more_than_another(kind, world_size):
    pids, _ = items(0)
    for batches in zip(*(head(SharedBatches(make(kind, 0), rank, world_size)) for rank in range(world_size))):
        counts = []
        for batch in batches:
            found = Counter(pids[[index for _, index in batch]].tolist())
            assert set(found.values()) == {K}
            counts.append(len(found))
        assert max(counts) - min(counts) <= 1


def test_each_process_has_every_domain_where_a_domain_has_an_identity_for_each():
    _, domains = items(0)
    for rank in range(2):
        for batch in head(SharedBatches(make("balanced", 0), rank, 2)):
            assert set(domains[[index for _, index in batch]]) == {0, 1, 2}


def test_more_processes_than_identities_in_a_batch_is_an_error():
    with pytest.raises(UserError, match="6 identities .* too few to share among 7 processes"):
        SharedBatches(make("naive", 0), 0, 7)
