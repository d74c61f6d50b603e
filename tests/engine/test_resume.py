"""A run that was stopped and resumed against one that was not."""

import logging
import signal

import pytest
import torch

from fastreid.engine import HookBase, defaults
from fastreid.engine.hooks import SchedulerStep
from fastreid.engine.stopping import StopRequested
from fastreid.modeling.backbones import resnet
from fastreid.report.plots import read_metrics
from fastreid.utils.checkpoint import CLASSIFIER
from fastreid.utils.errors import Stopped, UserError


class Stop(Exception):
    """The machine dies."""


class StopAfter(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise Stop


NEW_ENTRIES = ("data_positions", "random_states", "best_result", "inner_ratio", "config")


@pytest.mark.parametrize("workers, older", [(0, True), (2, False)])
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(
    root, make_full_run, workers, older, caplog, monkeypatch
):
    """Also from a checkpoint that holds less (`older`), as long as no batch was left out before."""
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    whole = make_full_run(root / "whole", workers)
    whole.resume_or_load(False)
    whole.run()
    epoch = whole.cfg.SOLVER.ITERS_PER_EPOCH

    stopped = make_full_run(root / "stopped", 1)
    stopped.resume_or_load(False)
    stopped.register_hooks([StopAfter(epoch + 1)])
    with pytest.raises(Stop):
        stopped.run()

    path = root / "stopped" / f"model_{epoch - 1:07d}.pth"
    content = torch.load(path, weights_only=True)
    assert {*NEW_ENTRIES, "optimizer_main", "scheduler_norm"} <= content.keys()
    if older:
        torch.save(
            {entry: value for entry, value in content.items() if entry not in NEW_ENTRIES or entry == "config"}, path
        )
    torch.manual_seed(99)  # another process starts with other random numbers
    resumed = make_full_run(root / "stopped", workers)
    resumed.resume_or_load(True)
    assert resumed.start_iter == epoch
    assert ("does not hold random_states, best_result: they start from the beginning" in caplog.text) == older
    resumed.run()
    expected = whole.model.state_dict()
    assert not [name for name, value in resumed.model.state_dict().items() if not torch.equal(value, expected[name])]


def stepping(trainer):
    """The trainer with no hook but the one by which its rates follow its schedules."""
    trainer.hooks.clear()
    trainer.register_hooks([SchedulerStep(trainer.schedulers)])
    return trainer


def whole_and_stopped(root, make_full_run, options):
    """A run of four iterations, one that was saved after two, and that one resumed by another process."""
    whole = stepping(make_full_run(root / "whole", **options))
    whole.train(0, 4)
    before = stepping(make_full_run(root / "stopped", **options))
    before.train(0, 2)
    before.checkpointer.save("model_0000001", 1)
    torch.manual_seed(99)
    resumed = stepping(make_full_run(root / "stopped", **options))
    resumed.resume_or_load(True)
    return whole, before, resumed


def contiguous(tree):
    """The same content with every tensor contiguous, as the published program has them."""
    if isinstance(tree, dict):
        return {key: contiguous(value) for key, value in tree.items()}
    return tree.contiguous() if isinstance(tree, torch.Tensor) else tree


def test_a_published_checkpoint_goes_on_with_the_step_it_would_have_made_but_for_the_classifier(
    root, make_full_run, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    run = stepping(make_full_run(root / "run"))
    run.train(0, 2)
    run.checkpointer.save("model_0000001", 1)
    path = root / "run" / "model_0000001.pth"
    content = torch.load(path, weights_only=True)
    published = ("model", "optimizer_main", "scheduler_main", "optimizer_norm", "scheduler_norm", "iteration")
    torch.save({entry: contiguous(content[entry]) for entry in published}, path)

    resumed = make_full_run(root / "run")
    before = resumed.model.state_dict()[CLASSIFIER].clone()
    resumed.resume_or_load(True)
    assert resumed.start_iter == 2 and "numbers them differently (15 there, 15 here)" in caplog.text
    assert torch.equal(resumed.model.state_dict()[CLASSIFIER], before)
    assert CLASSIFIER not in [resumed.optimizer_main.names[i] for i in resumed.optimizer_main.state_dict()["state"]]
    with torch.no_grad():
        dict(resumed.model.named_parameters())[CLASSIFIER].copy_(dict(run.model.named_parameters())[CLASSIFIER])
    for trainer in (run, resumed):
        for i, parameter in enumerate(trainer.model.parameters()):
            parameter.grad = torch.sin(i + torch.arange(float(parameter.numel()))).view(parameter.shape)
        trainer.optimizer_main.step(), trainer.optimizer_norm.step()
    expected = dict(run.model.named_parameters())
    assert any(not parameter.is_contiguous() for parameter in expected.values()), "no convolution is channels_last"
    for name, parameter in resumed.model.named_parameters():
        assert torch.equal(parameter, expected[name]) == (name != CLASSIFIER), name


class Counter(HookBase):
    checkpoint_entry = "counter"
    count = 0

    def after_step(self):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_a_hook_of_the_user_s_goes_on_where_it_was(root, make_full_run):
    run, resumed = (stepping(make_full_run(root / "run", META__SOLVER__INIT__FIRST_INNER_LOOP=1)) for _ in range(2))
    for trainer in (run, resumed):
        trainer.counter = Counter()
        trainer.register_hooks([trainer.counter])
    run.train(0, 2)
    run.checkpointer.save("model_0000001", 1)
    resumed.resume_or_load(True)
    resumed.train(2, 3)
    assert (run.counter.count, resumed.counter.count) == (2, 3)
    with pytest.raises(ValueError, match="Counter: a checkpoint has an entry counter already"):
        run.register_hooks([Counter()])


def test_a_checkpoint_holds_what_the_list_of_its_entries_says(root, make_full_run):
    run = make_full_run(root / "run", SOLVER__SWA__ENABLED=True)
    found = torch.load(run.checkpointer.write("model_0000001", 1), weights_only=True).keys()
    assert found == {"model", "iteration", "config", *run.checkpoint_entries()}
    expected = {"optimizer_main", "scheduler_main", "optimizer_norm", "scheduler_norm", "inner_ratio", "data_positions"}
    assert found >= expected | {"random_states", "best_result", "weight_averaging"}


def test_sources_in_another_order_start_the_classifier_anew(root, make_full_run):
    run = make_full_run(root / "run")
    torch.nn.init.ones_(run.model.heads.classifier_fc.weight)
    run.checkpointer.save("model_0000001", 1)
    other = {"DATASETS__NAMES": ("folder:b", "folder:a", "folder:c")}
    for options, kept in (({}, True), (other, False)):
        for weights in (True, False):
            trainer = make_full_run(root / ("other" if weights else "run"), **options)
            if weights:
                trainer.checkpointer.load(root / "run" / "model_0000001.pth")
            else:
                trainer.resume_or_load(True)
            found, saved = (each.model.state_dict() for each in (trainer, run))
            assert torch.equal(found[CLASSIFIER], saved[CLASSIFIER]) == kept
            assert torch.equal(found["backbone.layer9.conv.weight"], saved["backbone.layer9.conv.weight"])


def test_a_resumed_resnet_with_every_option_is_the_one_that_was_not_stopped(root, make_full_run, monkeypatch):
    monkeypatch.setitem(resnet.VARIANTS, 18, (resnet.BasicBlock, (1, 1, 1, 1)))
    options = dict.fromkeys((f"MODEL__BACKBONE__WITH_{name}" for name in ("IBN", "SE", "NL")), True)
    options |= {"MODEL__BACKBONE__NAME": "resnet18", "MODEL__HEADS__IN_FEAT": 0}
    options |= {"MODEL__BACKBONE__CHECKPOINT": ("layer2",), "META__SOLVER__INIT__FIRST_INNER_LOOP": 1}

    whole, before, resumed = whole_and_stopped(root, make_full_run, options)
    assert resumed.start_iter == 2
    resumed.train(2, 4)
    first, expected = before.model.state_dict(), whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
        if name.endswith((".se.fc.0.weight", "bn1.IN.weight", "bn1.BN.running_mean", "W.1.weight", "theta.weight")):
            assert not torch.equal(value, first[name]), name


METHODS = {
    "MixStyle": {"MODEL__STYLE__NAME": "MixStyle", "MODEL__STYLE__PARTNER": "domain"},
    "EFDMix": {"MODEL__STYLE__NAME": "EFDMix"},
    "DSU": {"MODEL__STYLE__NAME": "DSU"},
    "SNR": {"MODEL__STYLE__NAME": "SNR", "MODEL__LOSSES__NAME": ("CrossEntropyLoss", "DualCausalityLoss")},
    "SN": {"MODEL__NORM__TYPE_BACKBONE": "SN", "META__DATA__NAMES": ()},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_of_a_method_draws_what_the_one_that_was_not_stopped_draws(root, make_full_run, method):
    options = METHODS[method] | {"META__SOLVER__INIT__FIRST_INNER_LOOP": 1}
    whole, _, resumed = whole_and_stopped(root, make_full_run, options)
    resumed.train(2, 4)
    expected = whole.model.state_dict()
    assert not [name for name, value in resumed.model.state_dict().items() if not torch.equal(value, expected[name])]
    if method in ("MixStyle", "EFDMix", "DSU"):
        other = stepping(make_full_run(root / "stopped", **options))
        other.resume_or_load(True)
        torch.manual_seed(99)  # as if the checkpoint had not held the generator's state
        other.train(2, 4)
        weights = other.model.state_dict()
        assert any(not torch.equal(value, expected[name]) for name, value in weights.items()), "nothing was drawn"


def test_best_model_is_kept_and_outlives_a_stop(root, make_full_run, monkeypatch):
    trainer = make_full_run(root / "run", TEST__BEST_METRIC="Rank-1")
    trainer.resume_or_load(False)
    values = iter([40.0, 60.0, 50.0])

    class Table:
        @property
        def overall(self):
            return {"Rank-1": self.value, "mAP": 100 - self.value}

        @property
        def averages(self):
            return {"t": self.overall}

    def report(*args, **about):
        table = Table()
        table.value = next(values)
        return table

    monkeypatch.setattr(defaults, "evaluate", lambda cfg, model, test_sets: None)
    monkeypatch.setattr(defaults, "report", report)
    trainer.checkpointer.save("model_0000001", 1)
    for finished in (2, 3, 4):
        trainer.evaluate(finished)
    best = torch.load(root / "run" / "model_best.pth", weights_only=True)
    assert best["iteration"] == 2 and best["best_result"] == {"metric": "Rank-1", "value": 60.0, "iteration": 2}
    trainer.checkpointer.save("model_0000004", 4)
    (root / "run" / "model_best.pth").unlink()
    for name, value in [("model_0000004", 60.0), ("model_0000001", -float("inf"))]:
        (root / "run" / "last_checkpoint").write_text(f"{name}.pth")
        resumed = make_full_run(root / "run", TEST__BEST_METRIC="Rank-1")
        resumed.resume_or_load(True)
        assert resumed.best.value == value
    other = make_full_run(root / "run", TEST__BEST_METRIC="mAP")
    (root / "run" / "last_checkpoint").write_text("model_0000004.pth")
    other.resume_or_load(True)
    assert other.best.value == -float("inf")


def test_a_run_from_the_beginning_sets_the_earlier_best_aside(root, make_full_run):
    trainer = make_full_run(root / "run")
    trainer.checkpointer.write("model_best", 1)
    trainer.checkpointer.save("model_final", 1)
    trainer.resume_or_load(False)
    assert sorted(path.name for path in (root / "run").iterdir()) == [
        ".lock",
        "model_best.previous.pth",
        "model_final.pth",
    ]


EPOCH = 9  # iterations


@pytest.fixture
def two_epochs(root, make_full_run):
    """A folder with a run's checkpoint after two epochs at SOLVER.STEPS [1], with momentum, not the two epochs."""
    trainer = make_full_run(root / "run", SOLVER__STEPS=[1], META__SOLVER__INIT__FIRST_INNER_LOOP=1)
    trainer.run_step()
    for scheduler in trainer.schedulers.values():
        scheduler.go_to(2 * EPOCH)
    trainer.checkpointer.save(f"model_{2 * EPOCH - 1:07d}", 2 * EPOCH - 1)
    return root / "run"


@pytest.mark.parametrize(
    "options",
    [
        {"SOLVER__MAX_ITER": 8, "SOLVER__STEPS": [5, 7]},
        {"SOLVER__BASE_LR": 0.25, "SOLVER__GAMMA": 0.5, "SOLVER__STEPS": [1, 2]},
        {"SOLVER__SCHED": "WarmupCosineAnnealingLR", "SOLVER__MAX_ITER": 8, "SOLVER__DELAY_ITERS": 1},
        {"SOLVER__WARMUP_ITERS": 4, "SOLVER__WARMUP_FACTOR": 0.5, "META__SOLVER__NORM_SCHEDULER": "same"},
        {"META__SOLVER__LR_FACTOR__GATE": 3.0, "META__SOLVER__NORM_SCHEDULER": "cyclic"},
        {
            "SOLVER__WEIGHT_DECAY": 0.1,
            "SOLVER__MOMENTUM": 0.5,
            "SOLVER__BIAS_LR_FACTOR": 1.0,
            "SOLVER__WEIGHT_DECAY_BIAS": 0.1,
        },
        {"SOLVER__HEADS_LR_FACTOR": 2.0},
    ],
)
def test_rates_and_decay_of_a_resumed_run_are_those_of_the_present_options(root, make_full_run, two_epochs, options):
    """They are those of a run that had the options from the beginning and came to the same iteration."""
    resumed, whole = (make_full_run(root / name, **options) for name in ("run", "whole"))
    resumed.resume_or_load(True)
    assert resumed.start_iter == 2 * EPOCH
    for _ in range(2 * EPOCH):
        for scheduler in whole.schedulers.values():
            scheduler.step()
    for _ in range(3 * EPOCH):
        for found, expected in zip(
            (resumed.optimizer_main, resumed.optimizer_norm), (whole.optimizer_main, whole.optimizer_norm)
        ):
            for mine, theirs in zip(found.param_groups, expected.param_groups, strict=True):
                assert mine["lr"] == pytest.approx(theirs["lr"], rel=1e-12)
                assert [mine[key] for key in ("weight_decay", "momentum")] == [
                    theirs[key] for key in ("weight_decay", "momentum")
                ]
        for trainer in (resumed, whole):
            for scheduler in trainer.schedulers.values():
                scheduler.step()
    momentum = [state["momentum_buffer"] for state in resumed.optimizer_main.state.values()]
    assert len(momentum) == len(resumed.trained.main) and any(buffer.abs().max() > 0 for buffer in momentum)


@pytest.mark.parametrize("size, epoch", [(4, 14), (10, 5)])
def test_another_batch_size_keeps_the_epochs_that_are_done(
    root, make_full_run, two_epochs, caplog, monkeypatch, size, epoch
):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    resumed = make_full_run(two_epochs, SOLVER__IMS_PER_BATCH=size, SOLVER__MAX_ITER=4, SOLVER__STEPS=[3])
    assert resumed.cfg.SOLVER.ITERS_PER_EPOCH == epoch
    resumed.resume_or_load(True)
    assert resumed.start_iter == 2 * epoch and resumed.optimizer_main.param_groups[0]["lr"] == 0.0005
    assert f"it had {EPOCH}: its iteration {2 * EPOCH}, epoch 2.0, is iteration {2 * epoch} here" in caplog.text
    assert resumed.streams["base"].position == resumed.steps_before(2 * epoch)[0]
    assert resumed.streams["meta"].position == resumed.inner_ratio.steps == 2 * epoch


def test_a_file_that_does_not_say_its_epochs_length_is_told_of(root, make_full_run, two_epochs, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    path = next(two_epochs.glob("model_*.pth"))
    content = torch.load(path, weights_only=True)
    del content["data_positions"]["iters_per_epoch"]
    torch.save(content, path)
    resumed = make_full_run(two_epochs, SOLVER__IMS_PER_BATCH=4)
    resumed.resume_or_load(True)
    assert resumed.start_iter == 2 * EPOCH
    assert "does not say how many iterations an epoch had, and SOLVER.IMS_PER_BATCH 6 -> 4" in caplog.text
    assert f"its iteration {2 * EPOCH} counts as epoch 1.3" in caplog.text


def test_changed_options_are_named_and_so_are_those_that_are_not_applied(
    root, make_full_run, two_epochs, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    caplog.set_level(logging.INFO, "fastreid")
    options = {"SOLVER__BASE_LR": 0.25, "MODEL__WEIGHTS": "start.pth", "MODEL__NORM__BIN_INIT": "half", "SEED": 7}
    resumed = make_full_run(two_epochs, SOLVER__STEPS=[1], META__SOLVER__INIT__FIRST_INNER_LOOP=1, **options)
    expected = torch.Generator().manual_seed(7)
    for _ in range(2 * EPOCH):
        torch.randperm(3, generator=expected)
    resumed.resume_or_load(True)
    applied, ignored = (
        record.getMessage() for record in caplog.records if "options changed since" in record.getMessage()
    )
    assert applied.endswith("applied from here on: SEED 2020 -> 7, SOLVER.BASE_LR 0.0005 -> 0.25")
    assert (
        "not applied, as they only say how a run begins: MODEL.NORM.BIN_INIT one -> half, MODEL.WEIGHTS  -> start.pth."
        in ignored
    )
    assert torch.equal(resumed.domain_rng.get_state(), expected.get_state())


def test_meta_learning_that_begins_with_a_resumed_run_begins_with_its_data(root, make_full_run):
    make_full_run(root / "run", META__DATA__NAMES=()).checkpointer.save("model_0000008", 8)
    resumed = make_full_run(root / "run")
    resumed.resume_or_load(True)
    assert resumed.streams["meta"].position == resumed.inner_ratio.steps == EPOCH


class TestWhatWasDue:
    """A run that was killed between a checkpoint and the end of its evaluation."""

    @pytest.fixture(autouse=True)
    def count_tests(self, monkeypatch):
        self.tested = []

        def evaluate(trainer, finished):
            self.tested.append(finished)
            trainer.results = None
            return {"test/all_average Rank-1": 50.0, "test/all_average mAP": 40.0}

        monkeypatch.setattr(defaults.DefaultTrainer, "evaluate", evaluate)

    def make(self, folder, make_full_run, done):
        """Leave the checkpoint of a run of two epochs, tested after each, after `done` iterations."""
        options = {"TEST__EVAL_PERIOD": 1, "SOLVER__WRITE_PERIOD": 9, "META__SOLVER__INIT__FIRST_INNER_LOOP": 1}
        trainer = make_full_run(folder, **options)
        trainer.checkpointer.save("model_final" if done == 2 * EPOCH else f"model_{done - 1:07d}", done - 1)
        resumed = make_full_run(folder, **options)
        resumed.resume_or_load(True)
        resumed.run_step = lambda: resumed.storage.add_to("data_time", 0.0)
        return resumed

    @pytest.mark.parametrize(
        "done, tested", [(EPOCH, [EPOCH, 2 * EPOCH]), (EPOCH - 1, [EPOCH, 2 * EPOCH]), (2 * EPOCH, [2 * EPOCH])]
    )
    def test_is_done_first_and_recorded(self, root, make_full_run, done, tested):
        self.make(root / "run", make_full_run, done).run()
        records = read_metrics(root / "run" / "metrics.json")
        assert self.tested == tested
        assert [r["iteration"] for r in records if "test/all_average mAP" in r] == [finished - 1 for finished in tested]
        assert (root / "run" / "result.png").is_file()

    @pytest.mark.parametrize("done, tested", [(EPOCH, [2 * EPOCH]), (2 * EPOCH, [2 * EPOCH])])
    def test_is_not_repeated_where_it_is_recorded(self, root, make_full_run, done, tested):
        run = self.make(root / "run", make_full_run, done)
        (root / "run" / "metrics.json").write_text(f'{{"iteration": {done - 1}, "test/all_average mAP": 40.0}}\n')
        run.run()
        assert self.tested == tested

    def test_a_signal_meanwhile_does_not_skip_an_iteration(self, root, make_full_run, monkeypatch):
        def stop(trainer, finished):
            raise StopRequested(signal.SIGTERM)

        monkeypatch.setattr(defaults.DefaultTrainer, "evaluate", stop)
        run = self.make(root / "run", make_full_run, EPOCH)
        with pytest.raises(Stopped, match=f"goes on from model_{EPOCH - 1:07d}.pth"):
            run.run()
        assert not (root / "run" / f"model_{EPOCH:07d}.pth").exists()

    def test_a_foreign_metrics_file_is_refused_before_training(self, root, make_full_run):
        run = self.make(root / "run", make_full_run, EPOCH)
        (root / "run" / "metrics.json").write_text("[]\n")
        with pytest.raises(UserError, match="metrics.json is not a list of records"):
            run.run()
