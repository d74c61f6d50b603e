"""SOLVER.COMPILE, without a compiler's slow part."""

import functools
import logging
import sys

import pytest
import torch

import fastreid.engine.compile as compiling
from fastreid.engine.compile import compile_model
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


def test_auto_is_eager_on_the_cpu_and_where_triton_is_missing(tiny, monkeypatch, caplog):
    model = tiny.make_trainer(SOLVER__COMPILE="auto").model
    layers = [module for module in model.modules() if hasattr(module, "gate")]
    assert layers and all(layer.kernels is EAGER for layer in layers)
    monkeypatch.setitem(sys.modules, "fastreid.layers.kernels", None)
    with caplog.at_level(logging.WARNING, logger="fastreid"):
        compile_model(model, "auto", torch.device("cuda"))
    assert "SOLVER.COMPILE auto: no working compiler (ModuleNotFoundError: " in caplog.text
    assert all(layer.kernels is EAGER for layer in layers)


def test_auto_takes_the_kernels_on_a_gpu(tiny, monkeypatch):
    pytest.importorskip("triton", reason="PyTorch for this machine comes without Triton")
    from fastreid.layers.kernels import TRITON

    model = tiny.make_trainer(SOLVER__COMPILE="off").model
    monkeypatch.setattr(compiling, "try_out", lambda kernels, device: None)
    compile_model(model, "auto", torch.device("cuda"))
    assert all(module.kernels is TRITON for module in model.modules() if hasattr(module, "gate"))


def test_choices_that_do_not_exist_or_fit_are_one_clear_line(tiny):
    model = tiny.make_trainer().model
    with pytest.raises(UserError, match="SOLVER.COMPILE must be one of auto, off, norm, model; found 'all'"):
        compile_model(model, "all", torch.device("cpu"))
    model.backbone.checkpointed = {"layer1"}
    with pytest.raises(UserError, match='choose "norm", or empty MODEL.BACKBONE.CHECKPOINT'):
        compile_model(model, "model", torch.device("cpu"))


def test_the_first_iterations_cost_is_logged(tiny, caplog):
    trainer = tiny.make_trainer(META__SOLVER__INIT__FIRST_INNER_LOOP=1)
    trainer.register_hooks([CompilationReport()])
    with caplog.at_level(logging.INFO, logger="fastreid"):
        trainer.train(5, 8)
    assert caplog.text.count("the first iteration, compiling included, took") == 1
