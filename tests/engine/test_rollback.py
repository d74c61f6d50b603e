"""Losses, gradients and weights that are not finite: the run stops, or goes back and leaves the batch out."""

import logging

import pytest
import torch

from fastreid.engine import NonFiniteLossError, hooks

BAD = 12  # an iteration of the second epoch, whose one base batch is at position 14 of the stream
POSITION = 14
ROLLBACK = {"SOLVER__ON_NAN": "rollback"}


def train(trainer):
    """Train with checkpoints and schedules, without tests and plots."""
    checkpoints = hooks.PeriodicCheckpoint(trainer.checkpointer, trainer.cfg.SOLVER.CHECKPOINT_PERIOD)
    trainer.hooks.clear()
    trainer.register_hooks([trainer.rollback, hooks.SchedulerStep(trainer.schedulers), checkpoints])
    trainer.resume_or_load(False)
    trainer.train_or_roll_back()
    return trainer


def spoil_losses(trainer, is_bad):
    """Make the losses of base steps not a number where `is_bad` says so."""
    change_losses(trainer, is_bad, lambda loss: loss * float("nan"))


def spoil_gradients(trainer, is_bad):
    """Make the gradients of base steps not a number, but not their losses."""
    parameter = next(p for name, p in trainer.trained.main.items() if name.endswith("classifier_fc.weight"))
    change_losses(trainer, is_bad, lambda loss: loss + (parameter.sum() * 0).sqrt())


def change_losses(trainer, is_bad, change):
    compute = trainer.compute_losses

    def changed(batch, losses, *args, **kwargs):
        values = compute(batch, losses, *args, **kwargs)
        if losses is trainer.base_loss and is_bad():
            return {name: change(value) for name, value in values.items()}
        return values

    trainer.compute_losses = changed


def bad_batch(trainer):
    return lambda: trainer.streams["base"].position == POSITION + 1


def finite(state):
    return all(value.isfinite().all() for value in state.values() if value.is_floating_point())


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    caplog.set_level(logging.WARNING, "fastreid")
    return caplog


@pytest.fixture(scope="module")
def without_batch(shared_root, make_full_run):
    """The weights of a run in which the batches of iteration BAD are left out."""
    trainer = make_full_run(shared_root / "without")
    trainer.rollback.skips = {BAD: 1}
    return train(trainer).model.state_dict()


@pytest.mark.parametrize(
    "spoil, check, rollbacks",
    [
        (spoil_losses, False, 1),
        # The losses show it one iteration late: the second time, every iteration is looked at.
        (spoil_gradients, False, 2),
        (spoil_gradients, True, 1),
    ],
)
def test_rollback_leaves_the_batch_out(root, make_full_run, without_batch, warnings, spoil, check, rollbacks):
    trainer = make_full_run(root / "run", **ROLLBACK, SOLVER__CHECK_FINITE=check)
    spoil(trainer, bad_batch(trainer))
    train(trainer)
    assert trainer.rollback.done == rollbacks
    weights = trainer.model.state_dict()
    assert finite(weights)
    assert not [name for name, value in weights.items() if not torch.equal(value, without_batch[name])]
    lines = [record.getMessage() for record in warnings.records if "Rolled back" in record.getMessage()]
    assert len(lines) == rollbacks
    assert (
        f"model_0000008.pth; the batches of iteration {BAD} are left out (rollback {rollbacks} of at most 3)"
        in lines[-1]
    )


def test_every_checkpoint_is_finite(root, make_full_run):
    trainer = make_full_run(root / "run")
    spoil_gradients(trainer, lambda: trainer.iter == 8)  # the last iteration before a checkpoint
    with pytest.raises(NonFiniteLossError, match="iteration 8: not finite: .* after the update") as error:
        train(trainer)
    assert error.value.iteration == 8
    assert not list((root / "run").glob("*.pth"))


def test_rollbacks_come_to_an_end(root, make_full_run):
    trainer = make_full_run(root / "run", **ROLLBACK, SOLVER__MAX_ROLLBACKS=1, SOLVER__CHECK_FINITE=True)
    spoil_losses(trainer, lambda: trainer.iter == BAD)
    with pytest.raises(NonFiniteLossError, match=f"after 1 rollback.*iteration {BAD}: not finite"):
        train(trainer)
    assert finite(torch.load(root / "run" / "model_0000008.pth", weights_only=True)["model"])


def test_without_a_checkpoint_there_is_nothing_to_roll_back_to(root, make_full_run):
    trainer = make_full_run(root / "run", **ROLLBACK)
    spoil_losses(trainer, lambda: trainer.iter == 2)
    with pytest.raises(NonFiniteLossError, match="no checkpoint yet to roll back to: iteration 2: not finite"):
        train(trainer)


def test_stop_is_the_default(root, make_full_run):
    trainer = make_full_run(root / "run", SOLVER__CHECK_FINITE=True)
    spoil_losses(trainer, bad_batch(trainer))
    with pytest.raises(NonFiniteLossError, match=f"iteration {BAD}: not finite"):
        train(trainer)
    assert trainer.rollback.done == 0 and trainer.checkpointer.history == ["model_0000008.pth"]
