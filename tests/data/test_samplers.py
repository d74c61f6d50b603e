"""The batches of P identities x K images."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from fastreid.data.samplers import BalancedIdentitySampler, NaiveIdentitySampler
from fastreid.utils.errors import UserError

K = 4


def some_people(seed, identities=17, most=11):
    """Identity of each item, in no order: numbers with gaps, from 1 to `most` images each."""
    rng = np.random.default_rng(seed)
    names = rng.choice(1000, identities, replace=False)
    pids = np.repeat(names, rng.integers(1, most + 1, identities))
    return rng.permutation(pids)


def some_cameras(pids, cameras, seed):
    """Camera of each item; every identity is seen in several."""
    return np.random.default_rng(seed).integers(0, cameras, len(pids))


def groups_in(batch):
    """A batch's images by K, in which one identity each is expected."""
    return np.array(batch).reshape(-1, K)


def unit_names(pids, domains):
    """One number for each identity in each domain."""
    return pids * 1000 + domains


@pytest.mark.parametrize("delete_rem", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_every_naive_batch_has_p_distinct_identities_with_k_images_each(seed, delete_rem):
    pids = some_people(seed)
    for batch in islice(NaiveIdentitySampler(pids, 5 * K, K, delete_rem, seed), 30):
        groups = pids[groups_in(batch)]
        assert groups.shape == (5, K)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0])) == 5


@pytest.mark.parametrize("seed", range(5))
def test_an_epoch_has_each_image_once_and_as_many_again_as_fill_the_last_group(seed):
    pids = some_people(seed)
    times = [Counter(np.ravel(list(NaiveIdentitySampler(pids, K, K, seed=seed).epoch(e))).tolist()) for e in range(40)]
    for pid, count in Counter(pids.tolist()).items():
        images = np.flatnonzero(pids == pid).tolist()
        found = [[epoch[image] for image in images] for epoch in times]
        if count < K:  # K draws with replacement
            assert all(sum(epoch) == K for epoch in found)
            assert len({tuple(epoch) for epoch in found}) > 1 or count == 1
            assert max(max(epoch) for epoch in found) > -(-K // count) or count == 1
        else:
            assert all(sorted(epoch) == [1] * (count - -count % K) + [2] * (-count % K) for epoch in found)
            assert np.min(found, 0).max() == 1  # which ones come twice is drawn in each epoch


def test_an_image_and_its_repetition_may_meet_in_a_group_as_the_padding_is_shuffled():
    batches = [batch for e in range(40) for batch in NaiveIdentitySampler(np.zeros(5, int), K, K).epoch(e)]
    assert {len(set(batch)) for batch in batches} > {K}


@pytest.mark.parametrize("seed", range(5))
def test_a_naive_epoch_ends_when_fewer_than_p_identities_have_groups_left(seed):
    pids = some_people(seed)
    groups = {pid: -(-count // K) for pid, count in Counter(pids.tolist()).items()}
    sampler = NaiveIdentitySampler(pids, 3 * K, K, seed=seed)
    batches = list(sampler.epoch(0))
    dealt = Counter(pids[group[0]] for batch in batches for group in groups_in(batch))
    left = {pid: number - dealt[pid] for pid, number in groups.items()}
    assert min(left.values()) >= 0
    assert sum(number > 0 for number in left.values()) < 3
    seen = {index for batch in batches for index in batch}
    assert all(index in seen for index, pid in enumerate(pids) if not left[pid] and (pids == pid).sum() >= K)


def test_an_epoch_of_identities_one_by_one_has_every_image_of_those_with_k():
    pids = some_people(0)
    enough = {index for index, pid in enumerate(pids) if (pids == pid).sum() >= K}
    sampler = NaiveIdentitySampler(pids, K, K)
    for number in range(3):
        batches = list(sampler.epoch(number))
        assert {index for batch in batches for index in batch} >= enough
        assert len(batches) * K == sampler.total_images + K


@pytest.mark.parametrize("seed", range(5))
def test_the_remainder_can_be_dropped(seed):
    pids = some_people(seed)
    have = Counter(pids.tolist())
    batches = list(NaiveIdentitySampler(pids, 2 * K, K, delete_rem=True, seed=seed).epoch(0))
    times = Counter(index for batch in batches for index in batch)
    assert all(times[index] <= 1 for index, pid in enumerate(pids) if have[pid] >= K)
    dealt = Counter(pids[group[0]] for batch in batches for group in groups_in(batch))
    assert all(dealt[pid] <= max(count // K, 1) for pid, count in have.items())


def test_total_images_of_the_naive_sampler_are_the_published_formula():
    counts = [1, 4, 5, 9, 13]  # padded to 4 + 4 + 8 + 12 + 16 = 44; dropped to 4 + 4 + 4 + 8 + 12 = 32
    pids = np.repeat(np.arange(5), counts)
    assert NaiveIdentitySampler(pids, 12, K).total_images == 44 - 8 - 12
    assert NaiveIdentitySampler(pids, 8, K).total_images == 44 - 4 - 8
    assert NaiveIdentitySampler(pids, 12, K, delete_rem=True).total_images == 32 - 8 - 12
    assert NaiveIdentitySampler(pids, 16, K, delete_rem=True).total_images == 32 - 0 - 16


@pytest.mark.parametrize("delete_rem", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_every_balanced_batch_has_the_same_share_of_each_domain(seed, delete_rem):
    pids = some_people(seed, identities=24)
    domains = some_cameras(pids, 3, seed)
    for batch in islice(BalancedIdentitySampler(pids, domains, 3 * 2 * K, K, delete_rem, seed), 30):
        groups = groups_in(batch)
        assert (pids[groups] == pids[groups[:, :1]]).all()
        assert (domains[groups] == domains[groups[:, :1]]).all()
        assert Counter(domains[groups[:, 0]].tolist()) == {0: 2, 1: 2, 2: 2}
        units = unit_names(pids, domains)[groups[:, 0]]
        assert len(set(units)) == 6


def test_an_identity_in_two_cameras_is_a_unit_in_each():
    pids = np.array([7] * 4 + [7] * 4)
    domains = np.array([0] * 4 + [1] * 4)
    [batch] = BalancedIdentitySampler(pids, domains, 2 * K, K).epoch(0)
    assert sorted(batch) == list(range(8))


@pytest.mark.parametrize("seed", range(5))
def test_a_balanced_epoch_ends_when_each_domain_has_run_out_once(seed):
    pids = some_people(seed, identities=30, most=30)
    domains = np.digitize(np.searchsorted(np.unique(pids), pids), [20, 27])  # 20, 7 and 3 identities
    units = unit_names(pids, domains)
    groups = {unit: -(-count // K) for unit, count in Counter(units.tolist()).items()}
    batches = list(BalancedIdentitySampler(pids, domains, 3 * 2 * K, K, seed=seed).epoch(0))
    ended_at = []
    for domain in range(3):
        left = {unit: number for unit, number in groups.items() if unit % 1000 == domain}
        ended = len(batches)
        for number, batch in enumerate(batches):
            if sum(count > 0 for count in left.values()) < 2:
                ended = number
                break
            for group in groups_in(batch):
                if domains[group[0]] == domain:
                    left[units[group[0]]] -= 1
        assert min(left.values()) >= 0
        assert sum(count > 0 for count in left.values()) < 2
        ended_at.append(ended)
    assert max(ended_at) == len(batches)


def test_a_small_domain_starts_again_until_the_large_one_has_run_out():
    pids = np.concatenate([np.repeat([0, 1], K), np.repeat([2, 3], 5 * K)])
    domains = np.repeat([0, 1], [2 * K, 10 * K])
    batches = list(BalancedIdentitySampler(pids, domains, 4 * K, K).epoch(0))
    times = Counter(index for batch in batches for index in batch)
    assert len(batches) == 5
    assert times == {index: 5 if index < 2 * K else 1 for index in range(12 * K)}


def test_total_images_of_the_balanced_sampler_follow_the_largest_domain():
    counts = {0: [4, 4, 4], 1: [9, 13, 6], 2: [1, 1, 1]}  # the largest, padded: 12 + 16 + 8 = 36
    pids = np.concatenate([np.repeat(np.arange(3) + 10 * domain, count) for domain, count in counts.items()])
    domains = np.concatenate([np.full(sum(count), domain) for domain, count in counts.items()])
    share = 2 * K  # 36 - 36 mod 8 - 8 = 24 images of each of three domains
    assert BalancedIdentitySampler(pids, domains, 3 * share, K).total_images == 3 * 24
    assert BalancedIdentitySampler(pids, domains, 3 * share, K, delete_rem=True).total_images == 3 * (24 - 0 - 8)


def samplers(seed):
    pids = some_people(1, identities=24)
    domains = some_cameras(pids, 3, 1)
    return [
        NaiveIdentitySampler(pids, 6 * K, K, seed=seed),
        BalancedIdentitySampler(pids, domains, 6 * K, K, seed=seed),
    ]


@pytest.mark.parametrize("which", [0, 1], ids=["naive", "balanced"])
def test_the_seed_alone_decides_the_stream(which):
    def stream(seed):
        return list(islice(samplers(seed)[which], 25))

    np.random.seed(1)
    first = stream(5)
    np.random.seed(2)
    assert stream(5) == first
    assert stream(6) != first
    again = samplers(5)[which]
    assert list(islice(again, 25)) == first and list(islice(again, 25)) == first


@pytest.mark.parametrize("which", [0, 1], ids=["naive", "balanced"])
def test_the_stream_is_one_epoch_after_another_and_no_two_are_alike(which):
    sampler = samplers(3)[which]
    epochs = [list(sampler.epoch(number)) for number in range(3)]
    joined = [batch for epoch in epochs for batch in epoch]
    assert list(islice(sampler, len(joined))) == joined
    assert epochs[0] != epochs[1] and epochs[1] != epochs[2]


def test_batches_are_lists_of_python_integers():
    for sampler in samplers(0):
        batch = next(iter(sampler))
        assert isinstance(batch, list) and {type(index) for index in batch} == {int}


@pytest.mark.parametrize("batch, instances", [(10, 4), (2, 4), (0, 4), (8, 0), (8, -1)])
def test_a_batch_that_does_not_divide_into_identities_is_an_error(batch, instances):
    pids = np.repeat(np.arange(9), 4)
    with pytest.raises(
        UserError, match=rf"a batch must be a multiple of {instances} images.*found {batch} .*NUM_INSTANCE"
    ):
        NaiveIdentitySampler(pids, batch, instances)


def test_a_balanced_batch_must_divide_by_domains_and_instances():
    pids = np.repeat(np.arange(9), 4)
    with pytest.raises(
        UserError, match="a batch must be a multiple of 3 domains x 4 images an identity = 12; found 16 "
    ):
        BalancedIdentitySampler(pids, pids % 3, 16, K)


def test_too_few_identities_for_a_batch_are_an_error():
    pids = np.repeat(np.arange(3), 4)
    with pytest.raises(
        UserError, match="16 images needs 4 identities with 4 images each; the training data has 3: lower"
    ):
        NaiveIdentitySampler(pids, 16, K)
    assert len(list(NaiveIdentitySampler(pids, 12, K).epoch(0))) == 1


def test_a_domain_with_fewer_identities_than_its_share_is_an_error():
    pids = np.repeat(np.arange(5), 4)
    domains = np.repeat([0, 0, 0, 1, 1], 4)
    with pytest.raises(
        UserError, match="2 domains and 4 images an identity needs 3 identities of each domain; domain 1 has 2: "
    ):
        BalancedIdentitySampler(pids, domains, 24, K)
