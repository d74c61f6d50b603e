"""The gradient scaler that counts."""

import torch

from fastreid.utils.precision import CountingScaler


def test_updates_that_are_left_out_are_counted_and_the_count_is_kept():
    scaler = CountingScaler("cpu", init_scale=8.0)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    for factor in (1.0, float("inf"), float("nan"), 1.0):
        optimizer.zero_grad()
        scaler.scale(weight * factor).sum().backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.skipped == 2 and weight.item() == 0
    again = CountingScaler("cpu")
    again.load_state_dict(scaler.state_dict())
    assert again.skipped == 2 and again.get_scale() == scaler.get_scale() == 2
    published = {name: value for name, value in scaler.state_dict().items() if name != "skipped"}
    again.load_state_dict(published)
    assert again.skipped == 0


def test_a_scaler_that_is_off_counts_nothing():
    scaler = CountingScaler("cpu", enabled=False)
    scaler.update()
    assert scaler.skipped == 0 and scaler.state_dict() == {}
