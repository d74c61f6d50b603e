"""The numbers of a training run."""

import math

import pytest
import torch

from fastreid.utils.events import EventStorage


@pytest.fixture
def storage():
    return EventStorage()


def test_means_are_over_the_values_since_the_last_clearing(storage):
    for value in (1, 2, 6):
        storage.put_scalar("base/loss_cls", value)
    assert storage.new_means() == {"base/loss_cls": 3.0}
    assert storage.new_means() == {"base/loss_cls": 3.0}
    storage.clear_new()
    assert storage.new_means() == {}
    storage.put_scalar("base/loss_cls", 10)
    assert storage.new_means() == {"base/loss_cls": 10.0}


def test_scalars_keep_the_order_of_their_first_values(storage):
    storage.put_scalars({"b": 1, "a": 2})
    storage.put_scalar("c", 3)
    storage.clear_new()
    storage.put_scalars({"c": 3, "a": 2, "b": 1})
    assert list(storage.new_means()) == ["b", "a", "c"]


def test_a_scalar_that_had_no_value_lately_has_no_mean(storage):
    storage.put_scalars({"lr": 0.1, "test/rank": 50})
    storage.clear_new()
    storage.put_scalar("lr", 0.2)
    assert storage.new_means() == {"lr": 0.2}


def test_sums_over_an_iteration_become_one_value(storage):
    for seconds in (0.5, 0.25):
        storage.add_to("data_time", seconds)
    assert storage.new_means() == {}
    storage.flush_sums()
    storage.add_to("data_time", 0.25)
    storage.flush_sums()
    assert storage.new_means() == {"data_time": 0.5}
    storage.flush_sums()
    assert storage.new_means() == {"data_time": 0.5}  # nothing was added, so there is no new value


def test_tensors_are_taken_as_numbers(storage):
    storage.put_scalar("loss", torch.tensor(1.5, requires_grad=True).detach())
    assert type(storage.new_means()["loss"]) is float


def test_a_value_that_is_not_finite_shows(storage):
    storage.put_scalars({"loss": math.nan})
    assert math.isnan(storage.new_means()["loss"])


def test_storages_are_separate_and_begin_at_iteration_0(storage):
    storage.put_scalar("a", 1)
    assert EventStorage().new_means() == {}
    assert EventStorage().iter == 0
