"""SOLVER.SWA: the mean of models as the final one."""

import json
import math
import shutil
import types

import pytest
import torch

from fastreid.data.stream import BatchStream
from fastreid.engine import HookBase, NonFiniteLossError
from fastreid.engine.precise_bn import compute_precise_statistics
from fastreid.utils.errors import UserError

SHORT = {
    "SOLVER__IMS_PER_BATCH": 30,  # an epoch is one iteration
    "SOLVER__MAX_ITER": 2,
    "SOLVER__WRITE_PERIOD": 1,
    "META__DATA__MTRAIN_MINI_BATCH": 12,
    "META__SOLVER__INIT__FIRST_INNER_LOOP": 1,
    "TEST__EVAL_PERIOD": 0,
    "TEST__PRECISE_BN__NUM_ITER": 2,
}
AVERAGED = {
    **SHORT,
    "SOLVER__SWA__ENABLED": True,
    "SOLVER__SWA__ITER": 5,
    "SOLVER__SWA__PERIOD": 2,
    "SOLVER__SWA__LR_FACTOR": 4.0,
}


class Witness(HookBase):
    """Keep the parameters after each iteration."""

    def __init__(self):
        self.parameters = []

    def after_step(self):
        self.parameters.append({name: p.detach().clone() for name, p in self.trainer.model.named_parameters()})


def read(folder, name):
    return torch.load(folder / f"{name}.pth", weights_only=True)


def finish(trainer, resume=False):
    trainer.resume_or_load(resume)
    trainer.run()
    return trainer


@pytest.fixture(scope="module")
def whole(shared_root, make_full_run):
    """An undisturbed run, and what its iterations left: 2 of training, 5 of averaging, in which 3 and 5 are taken."""
    trainer = make_full_run(shared_root / "whole", **AVERAGED)
    trainer.witness = Witness()
    trainer.register_hooks([trainer.witness])
    return finish(trainer)


def test_the_final_and_tested_model_is_the_mean_of_each_period_s_with_statistics_of_its_own(whole, shared_root):
    folder = shared_root / "whole"
    final, plain = read(folder, "model_final"), read(folder, "model_0000006")
    assert (folder / "last_checkpoint").read_text() == "model_final.pth"
    first, second = whole.witness.parameters[3], whole.witness.parameters[5]
    assert any(not torch.equal(first[name], second[name]) for name in first if name.endswith(".gate"))
    for name, value in first.items():
        torch.testing.assert_close(final["model"][name], (value + second[name]) / 2, rtol=1e-6, atol=1e-8)
        assert torch.equal(plain["model"][name], whole.witness.parameters[6][name])
        if name.endswith(".gate"):
            assert 0 <= final["model"][name].min() and final["model"][name].max() <= 1
    assert plain["iteration"] == final["iteration"] == 6
    require_own_statistics(whole, final["model"])
    assert whole.results.rows and read(folder, "model_best")["iteration"] == 6
    about = json.loads((folder / "results.json").read_text())
    assert about["iteration"] == about["max_iter"] == 7


def require_own_statistics(whole, final):
    """Check that the tested model is `final`, and that its running statistics are those of its own weights."""
    tested = {name: value.clone() for name, value in whole.model.state_dict().items()}
    for layer in whole.model.modules():
        if hasattr(layer, "running_mean"):
            layer.running_mean.zero_()
    stream = BatchStream(whole.statistics_batches)
    compute_precise_statistics(whole, [next(stream) for _ in range(2)])
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, final[name]) and torch.equal(tested[name], final[name]), name


@pytest.fixture
def copied(whole, shared_root, root):
    """The folder of a copy of that run."""
    return shutil.copytree(shared_root / "whole", root / "copied")


def test_a_finished_run_is_tested_again_and_cannot_go_on_with_the_mean(whole, copied, make_full_run):
    again = finish(make_full_run(copied, **AVERAGED), resume=True)
    assert again.start_iter == 7 and again.results.rows == whole.results.rows
    longer = AVERAGED | {"SOLVER__SWA__ITER": 6}
    with pytest.raises(
        UserError, match="averaged weights, with which training cannot go on to iteration 8.*--num-pth 6"
    ):
        finish(make_full_run(copied, **longer), resume=True)
    trainer = make_full_run(copied, **longer)
    trainer.resume_or_load(True, number=6)
    trainer.run()
    assert trainer.averaging.models == 3 and trainer.max_iter == 8


def test_training_cannot_go_on_with_the_mean_when_averaging_is_switched_off(whole, copied, make_full_run):
    off = {**SHORT, "SOLVER__SWA__ENABLED": False}
    with pytest.raises(
        UserError, match="averaged weights, with which training cannot go on to iteration 9.*--num-pth 6"
    ):
        finish(make_full_run(copied, **off | {"SOLVER__MAX_ITER": 9}), resume=True)
    again = finish(make_full_run(copied, **off | {"SOLVER__MAX_ITER": 7}), resume=True)  # only tested again
    assert again.results.rows == whole.results.rows


@pytest.mark.parametrize("iterations, averaged, period", [(2, 1, 1), (1, 1, 1), (1, 3, 2)])
def test_a_run_that_is_past_all_models_is_refused_and_keeps_its_weights(
    root, make_full_run, iterations, averaged, period
):
    """A run of 3 iterations: at the end of averaging, past it, and past the only model, taken after 1 + 2 of 1 + 3."""
    finish(make_full_run(root / "run", **SHORT | {"SOLVER__MAX_ITER": 3}))
    trained = read(root / "run", "model_final")
    options = {"SOLVER__MAX_ITER": iterations, "SOLVER__SWA__ITER": averaged, "SOLVER__SWA__PERIOD": period}
    with pytest.raises(UserError, match="this run is at iteration 3 already: raise SOLVER.SWA.ITER, or .* --num-pth"):
        finish(make_full_run(root / "run", **AVERAGED | options), resume=True)
    assert same(read(root / "run", "model_final")["model"], trained["model"])


def after_two_models(folder, make_full_run, begin):
    """A run that took two models, after 1 + 2 iterations, and is to go on from there; averaging then begins again."""
    short = AVERAGED | {"SOLVER__MAX_ITER": 1, "SOLVER__SWA__ITER": 2, "SOLVER__SWA__PERIOD": 1}
    finish(make_full_run(folder, **short))
    trainer = make_full_run(folder, **short | {"SOLVER__MAX_ITER": begin})
    trainer.witness = Witness()
    trainer.register_hooks([trainer.witness])
    trainer.resume_or_load(True, number=2)
    return trainer


def test_models_of_an_earlier_phase_are_not_in_the_mean(root, make_full_run):
    """The run is at iteration 3, and averaging begins after 4."""
    trainer = after_two_models(root / "run", make_full_run, 4)
    assert trainer.averaging.models == 2
    trainer.run()
    assert trainer.averaging.models == 2 and trainer.max_iter == 6
    final = read(root / "run", "model_final")["model"]
    for name, value in trainer.witness.parameters[1].items():  # iterations 3; 4 and 5
        torch.testing.assert_close(final[name], (value + trainer.witness.parameters[2][name]) / 2, rtol=1e-6, atol=1e-8)


def test_models_of_before_are_forgotten_where_the_run_stands_at_the_very_beginning_of_averaging(root, make_full_run):
    """Averaging began after 1 iteration and took two models; now it begins after 3, where the run is."""
    trainer = after_two_models(root / "run", make_full_run, 3)
    trainer.run()
    final = read(root / "run", "model_final")
    assert (final["weight_averaging"]["models"], final["iteration"], len(trainer.witness.parameters)) == (2, 4, 2)
    first, second = trainer.witness.parameters
    for name, value in first.items():
        torch.testing.assert_close(final["model"][name], (value + second[name]) / 2, rtol=1e-6, atol=1e-8)


def test_a_mean_that_is_not_finite_is_no_final_model(root, make_full_run):
    """The model of the last iteration is: the mean is looked at on its own."""
    trainer = make_full_run(root / "run", **AVERAGED)
    trainer.register_hooks([StopAt(4)])
    with pytest.raises(Stop):
        finish(trainer)
    path = root / "run" / (root / "run" / "last_checkpoint").read_text()
    content = torch.load(path, weights_only=True)
    assert content["weight_averaging"]["models"] == 1
    next(iter(content["weight_averaging"]["parameters"].values())).fill_(math.nan)
    torch.save(content, path)
    with pytest.raises(NonFiniteLossError, match="not finite: backbone"):
        finish(make_full_run(root / "run", **AVERAGED), resume=True)
    assert (root / "run" / "last_checkpoint").read_text() == "model_0000006.pth"
    assert not (root / "run" / "model_final.pth").exists()


def test_weights_that_end_not_finite_are_neither_kept_nor_replaced_by_their_mean(root, make_full_run):
    """Spoilt after the last iteration, the model of which the mean does not have."""
    trainer = make_full_run(root / "run", **{**AVERAGED, "SOLVER__SWA__ITER": 4})

    class Spoil(HookBase):
        def after_step(self):
            if self.trainer.iter == self.trainer.max_iter - 1:
                next(self.trainer.model.parameters()).data.fill_(math.nan)

    trainer.register_hooks([Spoil()])
    with pytest.raises(NonFiniteLossError, match="not finite: backbone"):
        finish(trainer)
    assert not (root / "run" / "model_final.pth").exists()


def rates(make_full_run, folder, resume=False, **options):
    """Return the main rate over BASE_LR, for each iteration of a run that takes no steps."""
    trainer = make_full_run(folder, **{**AVERAGED, "SOLVER__WARMUP_ITERS": 0, **options})
    used = []

    def run_step(self):
        used.append(self.optimizer_main.param_groups[0]["lr"])
        self.storage.add_to("data_time", 0)

    trainer.run_step = types.MethodType(run_step, trainer)
    trainer.resume_or_load(resume)
    trainer.optimizer_main.step(), trainer.optimizer_norm.step()  # schedules want to come after a step
    gates = trainer.optimizer_norm.param_groups[0]
    before = gates["lr"]
    trainer.run()
    assert gates["lr"] == before
    return [rate / trainer.cfg.SOLVER.BASE_LR for rate in used]


def test_the_rate_is_constant_or_falls_in_each_period(root, make_full_run):
    assert rates(make_full_run, root / "constant") == pytest.approx([1, 1, 4, 4, 4, 4, 4])
    cycle = {"SOLVER__SWA__LR_SCHED": True, "SOLVER__SWA__ETA_MIN_LR": 0.0005, "SOLVER__SWA__PERIOD": 3}
    fall = [1 + 3 * (1 + math.cos(math.pi * t / 3)) / 2 for t in range(3)]
    assert rates(make_full_run, root / "cycle", **cycle) == pytest.approx([1, 1, *fall, *fall[:2]])
    cosine = {"SOLVER__SCHED": "WarmupCosineAnnealingLR", "SOLVER__ETA_MIN_LR": 0.00005}
    assert rates(make_full_run, root / "cosine", **cosine) == pytest.approx([1, 0.55, *[0.4] * 5])


def test_a_run_that_ended_without_averaging_goes_on_with_it(root, make_full_run):
    assert rates(make_full_run, root / "run", SOLVER__SWA__ENABLED=False) == [1, 1]
    assert rates(make_full_run, root / "run", resume=True) == pytest.approx([4] * 5)


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("ITER", 1, "SOLVER.SWA.PERIOD must be from 1 to SOLVER.SWA.ITER .* found 2 and 1"),
        ("PERIOD", 0, "SOLVER.SWA.PERIOD must be from 1"),
        ("LR_FACTOR", 0.0, "SOLVER.SWA.LR_FACTOR must be above 0; found 0.0"),
    ],
)
def test_options_that_average_nothing_are_errors(root, make_full_run, option, value, message):
    with pytest.raises(UserError, match=message):
        make_full_run(root / "run", **{**AVERAGED, f"SOLVER__SWA__{option}": value})


class Stop(Exception):
    """The machine dies."""


def die():
    raise Stop


class StopAt(HookBase):
    """Die after an iteration and before what other hooks do after it, such as a checkpoint."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise Stop


EVERYTHING = {
    **AVERAGED,
    "SOLVER__SWA__ITER": 4,
    "MODEL__FREEZE_LAYERS": ("backbone.layer1", "backbone.layer2", "heads.classifier_norm"),
    "SOLVER__FREEZE_ITERS": 2,
    "TEST__PRECISE_BN__ENABLED": True,
    "TEST__PRECISE_BN__DATASET": "",
    "TEST__EVAL_PERIOD": 2,
}


def same(a, b):
    """Compare contents of checkpoints bit by bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_a_run_stopped_anywhere_resumes_to_the_same_bits(root, make_full_run, monkeypatch):
    """Frozen at first, averaged at last, with precise statistics at each test."""
    finish(make_full_run(root / "whole", **EVERYTHING))
    folder = root / "stopped"
    for iteration in (1, 3, 5):  # still frozen; in the first period of averaging; with one model taken
        trainer = make_full_run(folder, **EVERYTHING)
        trainer.register_hooks([StopAt(iteration)])
        trainer.hooks.insert(0, trainer.hooks.pop())
        with pytest.raises(Stop):
            finish(trainer, resume=iteration > 1)
    trainer = make_full_run(folder, **EVERYTHING)
    monkeypatch.setattr(trainer.averaging, "swap", die)
    with pytest.raises(Stop):  # between the last iteration and the final checkpoint
        finish(trainer, resume=True)
    assert (folder / "last_checkpoint").read_text() == "model_0000005.pth"
    torch.manual_seed(99)  # another process starts with other random numbers
    resumed = finish(make_full_run(folder, **EVERYTHING), resume=True)
    assert resumed.start_iter == 6 and resumed.averaging.in_model
    entries = (
        "model",
        "optimizer_main",
        "optimizer_norm",
        "scheduler_main",
        "weight_averaging",
        "random_states",
        "data_positions",
    )
    for name in ("model_0000001", "model_0000003", "model_0000004", "model_0000005", "model_final"):
        ours, theirs = read(folder, name), read(root / "whole", name)
        assert [entry for entry in entries if not same(ours[entry], theirs[entry])] == [], name
