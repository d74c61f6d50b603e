"""A run that was stopped and resumed against one that was not."""

import logging

import pytest
import torch

from fastreid.engine import HookBase, defaults
from fastreid.modeling.backbones import resnet
from fastreid.utils.checkpoint import CLASSIFIER


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
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(root, make_full_run, workers, older, caplog, monkeypatch):
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
        torch.save({entry: value for entry, value in content.items() if entry not in NEW_ENTRIES or entry == "config"}, path)
    torch.manual_seed(99)  # another process starts with other random numbers
    resumed = make_full_run(root / "stopped", workers)
    resumed.resume_or_load(True)
    assert resumed.start_iter == epoch
    assert ("does not hold random_states, best_result: they start anew" in caplog.text) == older
    resumed.run()
    expected = whole.model.state_dict()
    assert not [name for name, value in resumed.model.state_dict().items() if not torch.equal(value, expected[name])]


def contiguous(tree):
    """The same content with every tensor contiguous, as the published program has them."""
    if isinstance(tree, dict):
        return {key: contiguous(value) for key, value in tree.items()}
    return tree.contiguous() if isinstance(tree, torch.Tensor) else tree


def test_a_published_checkpoint_goes_on_with_the_step_it_would_have_made_but_for_the_classifier(root, make_full_run, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    run = make_full_run(root / "run")
    run.train(0, 2)
    run.checkpointer.save("model_0000001", 1)
    path = root / "run" / "model_0000001.pth"
    content = torch.load(path, weights_only=True)
    published = ("model", "optimizer_main", "scheduler_main", "optimizer_norm", "scheduler_norm", "iteration")
    torch.save({entry: contiguous(content[entry]) for entry in published}, path)

    resumed = make_full_run(root / "run")
    before = resumed.model.state_dict()[CLASSIFIER].clone()
    resumed.resume_or_load(True)
    assert resumed.start_iter == 2 and "numbers them in another order (15 there, 15 here)" in caplog.text
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


def test_sources_in_another_order_start_the_classifier_anew(root, make_full_run):
    run = make_full_run(root / "run")
    run.checkpointer.save("model_0000001", 1)
    other = {"DATASETS__NAMES": ("folder:b", "folder:a", "folder:c")}
    for options, kept in (({}, True), (other, False)):
        for weights in (True, False):
            torch.manual_seed(7)
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

    whole = make_full_run(root / "whole", **options)
    whole.train(0, 4)
    before = make_full_run(root / "stopped", **options)
    before.train(0, 2)
    before.checkpointer.save("model_0000001", 1)
    torch.manual_seed(99)
    resumed = make_full_run(root / "stopped", **options)
    resumed.resume_or_load(True)
    assert resumed.start_iter == 2
    resumed.train(2, 4)
    first, expected = before.model.state_dict(), whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
        if name.endswith((".se.fc.0.weight", "bn1.IN.weight", "bn1.BN.running_mean", "W.1.weight", "theta.weight")):
            assert not torch.equal(value, first[name]), name


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

    monkeypatch.setattr(defaults, "evaluate", lambda cfg, model: None)
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
    assert sorted(path.name for path in (root / "run").iterdir()) == ["model_best.previous.pth", "model_final.pth"]


def test_changed_options_are_named(root, make_full_run, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    caplog.set_level(logging.INFO, "fastreid")
    make_full_run(root / "run").checkpointer.save("model_0000001", 1)
    make_full_run(root / "run", SOLVER__BASE_LR=0.25).resume_or_load(True)
    assert "options changed since" in caplog.text and "model_0000001.pth: SOLVER.BASE_LR 0.0005 -> 0.25\n" in caplog.text
