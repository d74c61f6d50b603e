"""SOLVER.COMPILE, without a compiler's slow part, and what a step computes gradients of."""

import functools
import logging

import pytest
import torch

from fastreid.engine.compile import compile_model, learning_only
from fastreid.engine.hooks import CompilationReport
from fastreid.layers.passes import EAGER
from fastreid.utils.errors import UserError


@pytest.fixture
def quick_compiler(monkeypatch):
    """Graphs are traced, differentiated and guarded as usual, but run as they are."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def run(trainer, steps=2):
    losses = []
    for _ in range(steps):
        losses += [*trainer.run_step_meta_learning1().values(), *trainer.run_step_meta_learning2().values()]
    return [torch.stack(losses), dict(trainer.model.state_dict())]


@pytest.mark.parametrize("choice", ["norm", "model"])
def test_compiled_steps_are_the_same(tiny, choice, quick_compiler, monkeypatch):
    backend = functools.partialmethod(torch.nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(torch.nn.Sequential, "compile", backend)
    plain = tiny.make_trainer()
    weights = {name: value.clone() for name, value in plain.model.state_dict().items()}
    compiled = tiny.make_trainer(SOLVER__COMPILE=choice)
    compiled.model.load_state_dict(weights)
    assert list(compiled.model.state_dict()) == list(weights)
    layers = [module for module in compiled.model.modules() if hasattr(module, "gate")]
    assert all((layer.kernels is EAGER) == (choice == "model") for layer in layers)
    torch.testing.assert_close(run(compiled), run(plain), rtol=1e-8, atol=1e-8)


def test_without_a_working_compiler_a_run_goes_on_after_a_warning(tiny, monkeypatch, caplog):
    def broken(function, **options):
        def call(*arguments):
            raise RuntimeError("g++ not found\nmore lines")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with caplog.at_level(logging.WARNING, logger="fastreid"):
        trainer = tiny.make_trainer(SOLVER__COMPILE="norm")
    assert "no working compiler (RuntimeError: g++ not found): running without" in caplog.text
    trainer.run_step()
    assert all(module.kernels is EAGER for module in trainer.model.modules() if hasattr(module, "gate"))


def test_choices_that_do_not_exist_or_fit_are_one_clear_line(tiny):
    model = tiny.make_trainer().model
    with pytest.raises(UserError, match="SOLVER.COMPILE must be one of off, norm, model; found 'all'"):
        compile_model(model, "all")
    model.backbone.checkpointed = {"layer1"}
    with pytest.raises(UserError, match='choose "norm", or empty MODEL.BACKBONE.CHECKPOINT'):
        compile_model(model, "model")


def test_a_step_computes_no_gradient_that_it_does_not_use(tiny):
    trainer = tiny.make_trainer()
    convolutions = [m.weight for m in trainer.model.backbone if isinstance(m, torch.nn.Conv2d)]
    seen = []
    for name, weight in [("weight", convolutions[0]), ("gate", trainer.model.backbone[1].gate)]:
        weight.register_hook(lambda gradient, name=name: seen.append(name))
    trainer.run_step_meta_learning1()
    assert seen == ["weight"]
    seen.clear()
    trainer.run_step_meta_learning2()
    assert set(seen) == {"gate"}
    assert all(p.requires_grad for n, p in trainer.model.named_parameters() if n != "heads.classifier_norm.bias")


def test_parameters_ask_for_gradients_again_after_an_error(tiny):
    model = tiny.make_trainer().model
    with pytest.raises(ValueError), learning_only(model, []):
        assert not any(p.requires_grad for p in model.parameters())
        raise ValueError
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["heads.classifier_norm.bias"]


def test_the_first_iterations_cost_is_logged(tiny, caplog):
    trainer = tiny.make_trainer(META__SOLVER__INIT__FIRST_INNER_LOOP=1)
    trainer.register_hooks([CompilationReport()])
    with caplog.at_level(logging.INFO, logger="fastreid"):
        trainer.train(5, 8)
    assert caplog.text.count("the first iteration, compiling included, took") == 1
