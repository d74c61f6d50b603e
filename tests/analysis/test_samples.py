"""Which images of a data set the analyses look at."""

import numpy as np
import pytest
import torch

from fastreid.analysis.samples import SOURCE, TARGET, Sample, domains, sample_images
from fastreid.data.datasets import Items


def draw(pids, count, per_identity=10, known=None, seed=0):
    pids = np.array(pids)
    known = np.ones(len(pids), dtype=bool) if known is None else np.array(known)
    return sample_images(pids, known, count, per_identity, np.random.default_rng(seed))


def make_sample(role, camids=(1, 2, 2)):
    items = Items.from_rows([(f"{i}.jpg", i, camid) for i, camid in enumerate(camids)])
    return Sample("set", role, items, np.ones(len(items), dtype=bool), torch.arange(2.0 * len(items)).view(-1, 2))


def test_all_images_where_there_are_no_more():
    assert draw([3, 3, 5], count=3).tolist() == [0, 1, 2]


def test_as_many_as_asked_for_each_once_the_same_for_the_same_seed():
    pids = np.random.default_rng(1).integers(0, 300, 5000)
    first, again, other = draw(pids, 100), draw(pids, 100), draw(pids, 100, seed=1)
    assert len(np.unique(first)) == 100
    assert (first == again).all() and (first != other).any()


def test_identities_are_whole():
    pids = np.repeat(np.arange(50), 4)
    _, images = np.unique(pids[draw(pids, 40)], return_counts=True)
    assert (images == 4).all()


def test_one_identity_does_not_fill_the_sample_while_there_are_others():
    pids = np.array([0] * 1000 + list(range(1, 21)))
    assert np.bincount(pids[draw(pids, 30, per_identity=5)])[0] == 10  # 5, then 5 more as there are no others
    assert np.bincount(pids[draw(pids, 10, per_identity=5)])[0] <= 5


def test_unknown_people_count_singly():
    pids = np.array([0] * 100 + list(range(1, 21)) * 5)
    images = np.bincount(pids[draw(pids, 30, per_identity=2, known=pids > 0)], minlength=21)
    assert set(images[1:]) <= {0, 1, 2} and images[0] > 2


@pytest.mark.parametrize("camera_to_domain, names", [(True, ["set c1", "set c2", "set"]), (False, ["set", "set"])])
def test_cameras_of_sources_are_domains_where_the_config_says_so(camera_to_domain, names):
    found = domains([make_sample(SOURCE), make_sample(TARGET)], camera_to_domain)
    assert [domain.name for domain in found] == names
    if camera_to_domain:
        assert found[1].features.tolist() == [[2, 3], [4, 5]] and found[1].items.camids.tolist() == [2, 2]
