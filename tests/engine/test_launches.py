"""How many kernels a training step would launch on a GPU, and that the host never waits for it."""

import pytest
import torch

from fastreid.engine import SimpleTrainer, train_loop
from fastreid.layers.passes import EAGER, Kernels
from fastreid.modeling import build_model
from fastreid.solver import build_optimizer
from tests.engine.small_steps import PARTS, make_batch, make_cfg, parts_of
from tools.benchmark.launches import LaunchCounter

# Operations of a base and of a meta step, some 5 % above what they are; then where each of a layer's `Kernels` is one.
BOUNDS = {"mobilenet_v2_1.0": (2900, 5900), "resnet18": (1250, 2500)}
BOUNDS_OF_KERNELS = {"mobilenet_v2_1.0": (650, 1350), "resnet18": (400, 850)}


def make_trainer(backbone, monkeypatch):
    cfg = make_cfg(backbone)
    model, batch = build_model(cfg), make_batch()
    # Domains are chosen from a batch on the host, where a GPU is not waited for; a count on the CPU cannot tell.
    parts = parts_of(batch)
    monkeypatch.setattr(train_loop, "select_domains", lambda batch, chosen: parts[tuple(chosen)])
    optimizers = [build_optimizer(cfg, model, which) for which in ("main", "norm")]
    trainer = SimpleTrainer(cfg, model, [batch], [batch], *optimizers)
    trainer.split_domains = lambda: PARTS
    return trainer


@pytest.mark.parametrize("backbone", BOUNDS)
def test_steps_launch_few_kernels_and_wait_for_none(backbone, monkeypatch):
    trainer = make_trainer(backbone, monkeypatch)
    for step, bound in zip((trainer.run_step_meta_learning1, trainer.run_step_meta_learning2), BOUNDS[backbone]):
        step()  # the first one makes the momentum
        with LaunchCounter() as counter:
            step()
        assert not counter.waits
        assert 0.8 * bound < counter.launches.total() <= bound


class OneLaunchEach:
    """`EAGER`, with the number of calls, and of operations in them."""

    def __init__(self):
        self.calls, self.operations = 0, 0
        self.kernels = Kernels(*map(self.counted, EAGER))

    def counted(self, function):
        def call(*arguments):
            self.calls += 1
            with LaunchCounter() as inside:
                result = function(*arguments)
            self.operations += inside.launches.total()
            return result

        return call


@pytest.mark.parametrize("backbone", BOUNDS_OF_KERNELS)
def test_with_the_kernels_of_a_gpu_there_are_a_few_for_each_layer(backbone, monkeypatch):
    trainer = make_trainer(backbone, monkeypatch)
    steps = trainer.run_step_meta_learning1, trainer.run_step_meta_learning2
    for step, bound in zip(steps, BOUNDS_OF_KERNELS[backbone]):
        step()
        one_each = OneLaunchEach()
        for module in trainer.model.modules():
            if hasattr(module, "gate"):
                module.kernels = one_each.kernels
        with LaunchCounter() as counter:
            step()
        total = counter.launches.total() - one_each.operations + one_each.calls
        assert one_each.calls and total <= bound


def test_reading_a_value_and_shapes_that_depend_on_values_are_waits():
    values = torch.arange(4.0)
    with LaunchCounter() as counter:
        float(values.sum())
        values[values > 1]
        values[torch.tensor([0, 2])]
        values.nonzero()
        values.view(2, 2).t()
        torch.empty(3)
    assert counter.waits == {"aten._local_scalar_dense": 1, "aten.index": 1, "aten.nonzero": 1}
    assert counter.launches == {"aten.sum": 1, "aten.gt": 1, "aten.index": 1}
