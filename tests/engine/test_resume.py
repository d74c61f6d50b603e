"""A run that was stopped and resumed against one that was not."""

import pytest
import torch

from fastreid.engine import HookBase


class Stop(Exception):
    """The machine dies."""


class StopAfter(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise Stop


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(root, make_run, workers):
    whole = make_run(root / "whole", workers)
    whole.resume_or_load(False)
    whole.run()
    epoch = whole.cfg.SOLVER.ITERS_PER_EPOCH

    stopped = make_run(root / "stopped", 1)
    stopped.resume_or_load(False)
    stopped.register_hooks([StopAfter(epoch + 1)])
    with pytest.raises(Stop):
        stopped.run()

    torch.manual_seed(99)  # another process starts with other random numbers
    resumed = make_run(root / "stopped", workers)
    resumed.resume_or_load(True)
    assert resumed.start_iter == epoch
    resumed.run()
    expected = whole.model.state_dict()
    assert not [name for name, value in resumed.model.state_dict().items() if not torch.equal(value, expected[name])]
