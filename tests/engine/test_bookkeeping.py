"""What a run keeps in mind: its best result, the iterations it left out, and from where its checkpoints count."""

import math

import pytest
import torch

from fastreid.engine import NonFiniteLossError
from fastreid.engine.recovery import BestResult, Rollback

SAVED = 4  # the iteration after which the checkpoint was written


class Loop:
    """A trainer that notes what is asked of it."""

    def __init__(self):
        self.iter, self.asked = 0, []

    def skip_batches(self):
        self.asked.append(("skip", self.iter))

    def require_finite(self):
        self.asked.append(("check", self.iter))


class TestBestResult:
    def test_the_first_of_equal_results_stays_the_best(self):
        best = BestResult("mAP")
        found = [best.update({"mAP": value, "Rank-1": -value}, i) for i, value in enumerate([40.0, 41.0, 41.0, 40.5])]
        assert found == [True, True, False, False] and (best.value, best.iteration) == (41.0, 1)

    def test_a_result_that_is_not_a_number_is_never_the_best(self):
        best = BestResult("mAP")
        assert not best.update({"mAP": math.nan}, 0) and best.update({"mAP": 0.0}, 1)
        assert not best.update({"mAP": math.nan}, 2) and (best.value, best.iteration) == (0.0, 1)

    @pytest.mark.parametrize(
        "kept, taken",
        [
            ({"iteration": SAVED}, True),  # of the evaluation that came right after the checkpoint
            ({"iteration": 3}, True),
            ({"iteration": 2}, False),  # the checkpoint knows of it
            ({"iteration": 1}, False),
            ({"iteration": SAVED + 1}, False),  # of an iteration that will be run again
            ({"iteration": SAVED, "metric": "Rank-1"}, False),
        ],
    )
    def test_a_resumed_run_takes_the_best_model_s_result_if_newer_and_not_undone(
        self, root, make_full_run, kept, taken
    ):
        run = make_full_run(root / "run")
        run.best.update({"mAP": 30.0}, 2)
        run.checkpointer.save(f"model_{SAVED:07d}", SAVED)
        run.best.load_state_dict({"metric": "mAP", "value": 50.0, "iteration": kept["iteration"]})
        path = run.checkpointer.write("model_best", kept["iteration"])
        content = torch.load(path, weights_only=True)
        content["best_result"] |= kept
        torch.save(content, path)
        resumed = make_full_run(root / "run")
        resumed.resume_or_load(True)
        found = (resumed.best.value, resumed.best.iteration)
        assert resumed.start_iter == SAVED + 1 and found == ((50.0, kept["iteration"]) if taken else (30.0, 2))

    def test_a_result_of_the_very_first_iteration_is_newer_than_none(self, root, make_full_run):
        run = make_full_run(root / "run")
        run.checkpointer.save("model_0000000", 0)
        run.best.update({"mAP": 50.0}, 0)
        run.checkpointer.write("model_best", 0)
        resumed = make_full_run(root / "run")
        resumed.resume_or_load(True)
        assert (resumed.best.value, resumed.best.iteration) == (50.0, 0)

    def test_a_best_model_without_a_result_or_damaged_is_passed_over(self, root, make_full_run):
        run = make_full_run(root / "run")
        run.best.update({"mAP": 30.0}, 2)
        run.checkpointer.save(f"model_{SAVED:07d}", SAVED)
        path = run.checkpointer.write("model_best", SAVED)
        content = torch.load(path, weights_only=True)
        del content["best_result"]
        torch.save(content, path)
        for data in (path.read_bytes(), b"damaged"):
            path.write_bytes(data)
            resumed = make_full_run(root / "run")
            resumed.resume_or_load(True)
            assert (resumed.best.value, resumed.best.iteration) == (30.0, 2)


class TestRollback:
    def test_leaves_out_and_checks_up_to_the_last_iteration_that_failed(self):
        rollback, loop = Rollback(9), Loop()
        rollback.trainer = loop
        rollback.note(3)
        rollback.note(1)  # that of 3 may have come from what 1 has spoilt
        rollback.note(2)
        rollback.note(2)
        assert rollback.done == 4 and rollback.skips == {1: 1, 2: 2}
        for loop.iter in range(4):
            rollback.before_step()
            rollback.after_step()
        skips_and_checks = [("check", 0), ("skip", 1), ("check", 1), ("skip", 2), ("skip", 2), ("check", 2)]
        assert loop.asked == skips_and_checks

    def test_a_run_that_never_failed_is_not_checked(self):
        rollback, loop = Rollback(9), Loop()
        rollback.trainer = loop
        rollback.before_step()
        rollback.after_step()
        assert loop.asked == []

    def test_going_back_forgets_what_was_measured_since(self, root, make_full_run):
        run = make_full_run(root / "run", SOLVER__MAX_ROLLBACKS=1)
        run.best.update({"mAP": 99.0}, 0)
        run.train(0, 2)
        run.checkpointer.save("model_0000001", 1)
        run.storage.clear_new()
        weights = {name: value.clone() for name, value in run.model.state_dict().items()}
        base, meta = run.streams["base"].position, run.streams["meta"].position
        run.iter = 2
        run.run_step()
        run.storage.put_scalar("base/loss_cls", 7.0)
        run.best.update({"mAP": 100.0}, 2)
        run.roll_back(NonFiniteLossError("iteration 2: not finite", 2))
        run.read_losses()  # of the iteration that is undone, which nobody has looked at
        run.storage.flush_sums()
        assert run.storage.new_means() == {}
        assert (run.start_iter, run.rollback.done, run.rollback.skips) == (2, 1, {2: 1})
        assert (run.best.value, run.streams["base"].position, run.streams["meta"].position) == (99.0, base, meta)
        assert not [name for name, value in run.model.state_dict().items() if not torch.equal(value, weights[name])]
        assert all(parameter.grad is None for parameter in run.model.parameters())
        with pytest.raises(NonFiniteLossError, match="^after 1 rollback.s.: again$") as error:
            run.roll_back(NonFiniteLossError("again", 3))
        assert error.value.iteration == 3 and run.rollback.done == 1
