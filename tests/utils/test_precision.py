"""The gradient scaler that counts."""

import torch

from fastreid.solver.sgd import MergedSGD
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


def test_counting_reads_nothing_from_the_device(monkeypatch):
    scaler = CountingScaler("cpu", init_scale=8.0)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = MergedSGD([{"params": [weight]}], lr=0.5)
    scaler.scale(weight).sum().backward()
    for name in ("item", "__bool__", "__int__", "__float__", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, None)
    scaler.step(optimizer)
    scaler.update()
    monkeypatch.undo()
    assert scaler.skipped == 0 and weight.item() == 0.5


def test_a_first_update_that_is_left_out_leaves_no_momentum():
    scaler = CountingScaler("cpu", init_scale=2.0**16)
    weights = [torch.nn.Parameter(torch.zeros(64)) for _ in range(2)]
    optimizer = MergedSGD([{"params": [weight]} for weight in weights], lr=0.1, momentum=0.9)
    # What the heap holds is what a buffer that nothing sets would hold.
    heap = [torch.full((64,), 7.0) for _ in range(200)]
    del heap
    for factor in (1e35, 1.0):
        optimizer.zero_grad()
        scaler.scale(sum((weight * factor).sum() for weight in weights)).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.skipped == 1
    for weight in weights:
        torch.testing.assert_close(weight.detach(), torch.full((64,), -0.1))


def test_a_scaler_that_is_off_counts_nothing():
    scaler = CountingScaler("cpu", enabled=False)
    scaler.update()
    assert scaler.skipped == 0 and scaler.state_dict() == {}
