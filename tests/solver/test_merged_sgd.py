"""Groups are merged in the optimizer and one per parameter in checkpoints."""

import copy

import pytest
import torch
from torch import nn

from fastreid.solver.lr_scheduler import ConstantLR
from fastreid.solver.sgd import MergedSGD

RATES = (0.1, 0.2, 0.1, 0.2, 0.1)
MERGED = [[0, 2, 4], [1, 3]]


def make(kind, rates=RATES):
    parameters = [nn.Parameter(torch.arange(i + 1.0, i + 4, dtype=torch.float64)) for i in range(len(rates))]
    groups = [{"params": [p], "lr": lr, "weight_decay": lr / 10} for p, lr in zip(parameters, rates)]
    return parameters, kind(groups, lr=1.0, momentum=0.9)


def train(parameters, optimizer, steps=3):
    for step in range(steps):
        for i, p in enumerate(parameters):
            p.grad = torch.sin(p.detach() * (i + step + 1))
        optimizer.step()


def test_parameters_of_equal_hyper_parameters_share_a_group():
    parameters, optimizer = make(MergedSGD)
    places = {p: i for i, p in enumerate(parameters)}
    assert [[places[p] for p in group["params"]] for group in optimizer.param_groups] == MERGED


def test_steps_and_saved_state_are_those_of_one_group_per_parameter():
    (parameters, merged), (plain_parameters, plain) = make(MergedSGD), make(torch.optim.SGD)
    train(parameters, merged), train(plain_parameters, plain)
    torch.testing.assert_close(parameters, plain_parameters)
    found, expected = merged.state_dict(), plain.state_dict()
    torch.testing.assert_close(found["state"], expected["state"])
    assert [g["params"] for g in found["param_groups"]] == [[i] for i in range(len(RATES))]
    for name in ("lr", "weight_decay", "momentum"):
        assert [g[name] for g in found["param_groups"]] == [g[name] for g in expected["param_groups"]]


@pytest.mark.parametrize("source", [MergedSGD, torch.optim.SGD])
def test_a_published_state_is_taken_over(source):
    parameters, saved = make(source)
    train(parameters, saved)
    for group in saved.param_groups:
        group["lr"] /= 2
    state = copy.deepcopy(saved.state_dict())
    for group in state["param_groups"]:  # older PyTorch versions did not have these
        for name in ("foreach", "fused", "maximize", "differentiable"):
            del group[name]
    resumed_parameters, resumed = make(MergedSGD)
    resumed.load_state_dict(state)
    assert [group["lr"] for group in resumed.param_groups] == [0.05, 0.1] and resumed.param_groups[0]["fused"]
    with torch.no_grad():
        for to, value in zip(resumed_parameters, parameters):
            to.copy_(value)
    train(parameters, saved), train(resumed_parameters, resumed)
    torch.testing.assert_close(resumed_parameters, parameters)


def test_a_state_whose_rates_differ_within_a_group_is_refused():
    _, optimizer = make(MergedSGD)
    _, other = make(torch.optim.SGD, (0.1, 0.2, 0.3, 0.2, 0.1))
    with pytest.raises(ValueError, match="parameters 0 and 2 have the same learning rate"):
        optimizer.load_state_dict(other.state_dict())
    _, shorter = make(torch.optim.SGD, RATES[:3])
    with pytest.raises(ValueError, match="expected 5 groups of one parameter, found 3"):
        optimizer.load_state_dict(shorter.state_dict())


def test_a_schedule_saves_a_rate_for_each_parameter():
    _, optimizer = make(MergedSGD)
    schedule = ConstantLR(optimizer, warmup_iters=4, warmup_factor=0.5, warmup_method="linear")
    optimizer.step(), schedule.step(), schedule.step()
    state = schedule.state_dict()
    assert state["base_lrs"] == list(RATES) and state["_last_lr"] == pytest.approx([rate * 0.75 for rate in RATES])
    _, fresh = make(MergedSGD)
    resumed = ConstantLR(fresh, warmup_iters=4, warmup_factor=0.5, warmup_method="linear")
    resumed.load_state_dict(state)
    assert resumed.base_lrs == schedule.base_lrs and resumed.get_last_lr() == pytest.approx([0.075, 0.15])


def test_a_parameter_whose_gradients_begin_later_steps_as_without_merging():
    (parameters, merged), (plain_parameters, plain) = make(MergedSGD), make(torch.optim.SGD)
    for each, optimizer in ((parameters, merged), (plain_parameters, plain)):
        train(each[1:], optimizer)  # the first one's group has others that have momentum
        assert not optimizer.state_dict()["state"].keys() & {0}
        train(each, optimizer)
    torch.testing.assert_close(parameters, plain_parameters)
    torch.testing.assert_close(merged.state_dict()["state"], plain.state_dict()["state"])
