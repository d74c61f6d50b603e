"""What the virtual step of a meta step does, against the meta step itself."""

import importlib.util
from pathlib import Path

import pytest
import torch

from fastreid.analysis.meta_probe import probe_meta_steps, usual_ratios
from fastreid.engine import train_loop
from fastreid.utils.errors import UserError

TOOL = Path(__file__).resolve().parents[2] / "tools" / "probe_meta_step.py"
SECOND_ORDER = {"META__SOLVER__MTRAIN__SECOND_ORDER": True, "META__SOLVER__STOP_GRADIENT": False}


@pytest.fixture
def command():
    """Call tools/probe_meta_step.py with arguments."""
    spec = importlib.util.spec_from_file_location("probe_meta_step", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


def gradient_of_meta_step(trainer, ratio):
    """Return the gradient (P,) that a meta step of this inner ratio trains with; nothing is trained."""
    kept = []
    trainer.inner_ratio.fixed = ratio
    trainer.step = lambda loss, learned: kept.extend(torch.autograd.grad(loss, list(learned.values())))
    trainer.run_step_meta_learning2()
    return torch.cat([gradient.flatten() for gradient in kept])


@pytest.mark.parametrize(
    "options", [{}, SECOND_ORDER, {"META__MODEL__ALL_PARAMS": True}], ids=["first", "second", "mldg"]
)
def test_gradients_are_those_that_meta_steps_train_with(tiny, options):
    # Cross entropy too, so that MLDG's meta steps reach the classifier.
    trainer = tiny.prepare_meta(META__LOSS__MTEST_NAME=("CrossEntropyLoss", "TripletLoss"), **options)
    steps, silent = probe_meta_steps(trainer, [0.1, 5.0], num_steps=1)
    # A ratio of (nearly) nothing is a meta step without its virtual step.
    plain, *virtual = (gradient_of_meta_step(trainer, ratio) for ratio in (1e-12, 0.1, 5.0))
    assert silent == 0
    for (probed,), gradient in zip(steps.values(), virtual, strict=True):
        assert probed.cosine == pytest.approx(torch.cosine_similarity(gradient, plain, dim=0).item(), abs=1e-9)
        assert probed.change == pytest.approx(((gradient - plain).norm() / plain.norm()).item(), rel=1e-4)
    assert steps[5.0][0].change > 10 * steps[0.1][0].change > 0


def test_lengths_are_those_of_the_virtual_step(tiny):
    trainer = tiny.prepare_meta()
    steps, _ = probe_meta_steps(trainer, [0.5], num_steps=1)
    mtrain = train_loop.select_domains(trainer.meta_batch, [2, 0])
    fast = trainer.inner_update(sum(trainer.compute_losses(mtrain, trainer.mtrain_loss).values()), 0.5)
    moved = torch.cat([(fast[name] - gate).detach().abs() for name, gate in trainer.gates.items()])
    assert steps[0.5][0].mean == pytest.approx(moved.mean().item()) and moved.mean() > 0
    assert steps[0.5][0].largest == pytest.approx(moved.max().item())


def test_nothing_is_trained(tiny):
    trainer = tiny.make_trainer()
    before, asking = tiny.snapshot(trainer), [p.requires_grad for p in trainer.model.parameters()]
    steps, _ = probe_meta_steps(trainer, [0.1], num_steps=3)
    assert len(steps[0.1]) == 3
    assert tiny.changed(trainer, before) == set()
    assert [p.requires_grad for p in trainer.model.parameters()] == asking
    assert all(p.grad is None for p in trainer.model.parameters())


def test_meta_steps_without_a_gradient_are_counted_and_left_out(tiny):
    trainer = tiny.make_trainer(MODEL__LOSSES__TRI_MTEST__SCALE=0.0)
    steps, silent = probe_meta_steps(trainer, [0.1], num_steps=2)
    assert (steps, silent) == ({0.1: []}, 2)


def test_ratios_are_those_of_training_and_larger_ones(tiny):
    fixed = tiny.make_trainer(META__SOLVER__LR_FACTOR__META=0.5)
    assert usual_ratios(fixed) == [0.5, 5.0, 50.0]
    cycle = tiny.make_trainer(META__SOLVER__LR_FACTOR__META=0.0, META__SOLVER__LR_FACTOR__META_CYCLIC_MIDDLE_LR=0.02)
    assert usual_ratios(cycle) == pytest.approx([0.002, 0.02, 0.2, 2.0, 20.0])


def test_runs_without_meta_steps_are_refused(tiny):
    with pytest.raises(UserError, match="no meta steps"):
        probe_meta_steps(tiny.make_trainer(meta=False), [0.1], 1)
    frozen = tiny.make_trainer(MODEL__FREEZE_LAYERS=("backbone",), SOLVER__FREEZE_ITERS=5)
    with pytest.raises(UserError, match="frozen in iteration 0"):
        probe_meta_steps(frozen, [0.1], 1)


def test_the_command_shows_a_row_for_each_ratio(command, root, make_full_run, capsys):
    trainer = make_full_run(root / "run", SOLVER__MAX_ITER=1, META__DATA__MTRAIN_MINI_BATCH=12)
    (root / "run" / "config.yaml").write_text(trainer.checkpointer.config)
    trainer.run()
    left = sorted(path.name for path in (root / "run").iterdir())
    capsys.readouterr()
    command(root / "run", "--steps", 2, "--ratios", 0.1, 10)
    printed = capsys.readouterr().out
    assert f"{root}/run/model_final.pth, iteration 9: 2 meta steps, " in printed and "learning rate 0.005" in printed
    rows = [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("|")]
    assert rows[2:] == ["0.1", "10"]
    assert sorted(path.name for path in (root / "run").iterdir()) == left


@pytest.mark.parametrize("options", [("--steps", 0), ("--ratios", 0.1, -1), ("--ratios", "nan")])
def test_the_command_refuses_what_makes_no_sense(command, tmp_path, options):
    with pytest.raises(UserError, match="--steps must be at least 1, and --ratios above 0"):
        command(tmp_path, *options)
