"""Gradients that are left over, overflow, or are looked at."""

import pytest
import torch

from fastreid.engine import NonFiniteLossError, train_loop
from fastreid.utils.precision import CountingScaler


def test_a_step_s_gradients_are_those_of_its_own_loss(tiny):
    """Whatever the parameters hold from before: earlier steps, or someone's `backward`."""
    clean, stale = tiny.make_trainer(), tiny.make_trainer()
    for parameter in stale.model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    for trainer in (clean, stale):
        trainer.run_step_meta_learning1()
        trainer.run_step_meta_learning2()
    expected = clean.model.state_dict()
    assert not [name for name, value in stale.model.state_dict().items() if not torch.equal(value, expected[name])]


def test_the_second_step_s_gradient_is_that_of_the_second_loss_alone(tiny):
    trainer, batch = tiny.make_trainer(), tiny.make_batch()
    trainer.base_batches = train_loop.batches([batch])
    trainer.run_step_meta_learning1()
    weight = trainer.model.backbone[0].weight
    losses = trainer.compute_losses(batch, trainer.base_loss)
    (expected,) = torch.autograd.grad(sum(losses.values()), weight)
    trainer.run_step_meta_learning1()
    torch.testing.assert_close(weight.grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scaled", [True, False])
def test_a_gradient_that_is_not_finite_is_the_scaler_s_to_leave_out_where_there_is_one(tiny, scaled):
    """With SOLVER.CHECK_FINITE: without a scaler it ends the run, before any weight is updated."""
    trainer = tiny.make_trainer(dtype=torch.float32, SOLVER__CHECK_FINITE=True)
    compute = trainer.compute_losses

    def overflowing(*args, **kwargs):
        losses = compute(*args, **kwargs)
        weight = trainer.model.backbone[0].weight
        return {name: loss + (weight.sum() * 0).sqrt() for name, loss in losses.items()}  # of finite value

    trainer.compute_losses = overflowing
    before = tiny.snapshot(trainer)
    if scaled:
        trainer.scaler = CountingScaler("cpu", init_scale=4.0)
        trainer.run_step_meta_learning1()
        assert trainer.scaler.skipped == 1 and trainer.scaler.get_scale() == 2
    else:
        with pytest.raises(NonFiniteLossError, match="the gradient of backbone.0.weight. No weight was updated"):
            trainer.run_step_meta_learning1()
    assert not tiny.changed(trainer, before) & {name for name, _ in trainer.model.named_parameters()}
