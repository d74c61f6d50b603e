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
    state = copy.deepcopy(saved.state_dict())
    for group in state["param_groups"]:  # older PyTorch versions did not have these
        for name in ("foreach", "fused", "maximize", "differentiable"):
            group.pop(name, None)
        group["lr"] /= 2  # of its schedule
    resumed_parameters, resumed = make(MergedSGD)
    resumed.load_state_dict(state)
    assert [group["lr"] for group in resumed.param_groups] == [0.1, 0.2] and resumed.param_groups[0]["fused"]
    with torch.no_grad():
        for to, value in zip(resumed_parameters, parameters):
            to.copy_(value)
    train(parameters, saved), train(resumed_parameters, resumed)
    torch.testing.assert_close(resumed_parameters, parameters)


def layouts():
    """The same convolution's weight in both memory formats, and a gradient for it."""
    weight, grad = torch.randn(2, 4, 3, 3, 3, dtype=torch.float64)
    return weight, weight.to(memory_format=torch.channels_last), grad


@pytest.mark.parametrize("saved_in, resumed_in", [(0, 1), (1, 0)], ids=["published to ours", "and back"])
def test_momentum_of_a_file_takes_the_memory_format_of_its_parameter(saved_in, resumed_in):
    *weights, grad = layouts()
    runs = []
    for weight in (weights[saved_in], weights[resumed_in]):
        parameter = nn.Parameter(weight)
        runs.append((parameter, MergedSGD([{"params": [parameter]}], lr=0.1, momentum=0.9)))
    (parameter, saved), (resumed_parameter, resumed) = runs
    parameter.grad = grad
    saved.step()
    with torch.no_grad():
        resumed_parameter.copy_(parameter)
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert resumed.state[resumed_parameter]["momentum_buffer"].stride() == resumed_parameter.stride()
    parameter.grad = resumed_parameter.grad = grad.sin()
    saved.step(), resumed.step()
    torch.testing.assert_close(resumed_parameter.detach(), parameter.detach(), rtol=0, atol=1e-14)


def test_a_gradient_in_another_memory_format_is_stepped_element_by_element():
    contiguous, channels_last, grad = layouts()
    parameter = nn.Parameter(channels_last)
    parameter.grad = grad
    MergedSGD([{"params": [parameter]}], lr=0.5, momentum=0.9).step()
    torch.testing.assert_close(parameter.detach(), contiguous - 0.5 * grad, rtol=0, atol=1e-14)


def test_a_saved_group_has_what_the_published_program_reads_and_nothing_of_this_machine():
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    groups = [{"name": f"layer.{i}", "params": [p], "lr": 0.1} for i, p in enumerate(parameters)]
    optimizer = MergedSGD(groups, lr=0.1, momentum=0.9)
    parameters[1].requires_grad_(False)
    found = optimizer.state_dict()["param_groups"]
    assert [(group["name"], group["freeze"], group["params"]) for group in found] == [
        ("layer.0", False, [0]),
        ("layer.1", True, [1]),
    ]
    assert found[0].keys() == {"name", "freeze", "params", "lr", "momentum", "dampening", "weight_decay", "nesterov"}
    published = torch.optim.SGD(
        [{**group, "params": [p], "freeze": False} for group, p in zip(groups, parameters)], lr=0.1
    )
    published.load_state_dict(optimizer.state_dict())
    assert published.param_groups[1]["name"] == "layer.1" and published.param_groups[1]["freeze"]


def test_the_momentum_of_one_parameter_can_be_left_out():
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = MergedSGD([{"name": f"p{i}", "params": [p]} for i, p in enumerate(parameters)], lr=0.1, momentum=0.9)
    train(parameters, optimizer)
    state = optimizer.state_dict()
    assert optimizer.without_momentum("p1", state)["state"].keys() == {0, 2}
    assert optimizer.without_momentum("other", state)["state"].keys() == {0, 1, 2}


def test_rates_decay_and_momentum_are_those_of_the_present_run_however_the_files_groups_are():
    parameters, saved = make(torch.optim.SGD, (0.1, 0.2, 0.3, 0.2, 0.1))
    train(parameters, saved)
    resumed_parameters, resumed = make(MergedSGD)
    resumed.load_state_dict(saved.state_dict())
    assert [(g["lr"], g["weight_decay"], g["momentum"]) for g in resumed.param_groups] == [
        (0.1, 0.01, 0.9),
        (0.2, 0.02, 0.9),
    ]
    for mine, theirs in zip(resumed_parameters, parameters):
        assert torch.equal(resumed.state[mine]["momentum_buffer"], saved.state[theirs]["momentum_buffer"])
    _, shorter = make(torch.optim.SGD, RATES[:3])
    with pytest.raises(ValueError, match="expected 5 groups of one parameter, found 3"):
        resumed.load_state_dict(shorter.state_dict())


def test_a_schedule_saves_a_rate_for_each_parameter():
    _, optimizer = make(MergedSGD)
    schedule = ConstantLR(optimizer, warmup_iters=4, warmup_factor=0.5, warmup_method="linear")
    optimizer.step(), schedule.step(), schedule.step()
    state = schedule.state_dict()
    assert state["base_lrs"] == list(RATES) and state["_last_lr"] == pytest.approx([rate * 0.75 for rate in RATES])
    parameters, fresh = make(MergedSGD)
    resumed = ConstantLR(
        fresh, warmup_iters=8, warmup_factor=0.5, warmup_method="linear"
    )  # other options than the file's
    resumed.load_state_dict(state)
    assert resumed.last_epoch == 2 and resumed.get_last_lr() == pytest.approx([0.0625, 0.125])
    assert [group["lr"] for group in fresh.param_groups] == resumed.get_last_lr()
    fresh.step(), resumed.step()
    assert resumed.get_last_lr() == pytest.approx([0.06875, 0.1375])


def test_a_parameter_whose_gradients_begin_later_steps_as_without_merging():
    (parameters, merged), (plain_parameters, plain) = make(MergedSGD), make(torch.optim.SGD)
    for each, optimizer in ((parameters, merged), (plain_parameters, plain)):
        train(each[1:], optimizer)  # the first one's group has others that have momentum
        assert not optimizer.state_dict()["state"].keys() & {0}
        train(each, optimizer)
    torch.testing.assert_close(parameters, plain_parameters)
    torch.testing.assert_close(merged.state_dict()["state"], plain.state_dict()["state"])
