"""Stages whose maps are computed again: the same numbers, less kept."""

import copy

import pytest
import torch
from torch.func import functional_call

from fastreid.layers import norm_factory, running_stats
from fastreid.modeling.backbones.mobilenet_v2 import MobileNetV2
from fastreid.modeling.backbones.resnet import ResNet
from fastreid.utils.errors import UserError

BUILDERS = {
    "mobilenet": lambda checkpoint: MobileNetV2(norm_factory("BIN_gate2", "half"), 0.2, checkpoint=checkpoint),
    "resnet": lambda checkpoint: ResNet(norm_factory("BIN_gate2", "half"), 18, checkpoint=checkpoint),
    "batch norm": lambda checkpoint: MobileNetV2(norm_factory("BN"), 0.2, checkpoint=checkpoint),
}


def pair(name, stages=("layer2", "layer4")):
    checkpointed = BUILDERS[name](stages).double()
    usual = BUILDERS[name](()).double()
    usual.load_state_dict(checkpointed.state_dict())
    return checkpointed, usual


@pytest.mark.parametrize("mode", ["general", "hold", "eval"])
@pytest.mark.parametrize("name", BUILDERS)
def test_gradients_and_running_statistics_are_the_same(name, mode):
    images = torch.rand(4, 3, 32, 16, dtype=torch.float64)
    results = []
    for model in pair(name):
        with running_stats(model, mode):
            out = model(images)
        gradients = torch.autograd.grad(out.square().sum(), list(model.parameters()))  # the mode is over by now
        results.append((out.detach(), gradients, dict(model.named_buffers())))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_substituted_gates_are_the_ones_that_are_used_again():
    images = torch.rand(4, 3, 32, 16, dtype=torch.float64)
    results = []
    for model in pair("mobilenet"):
        gates = {n: p for n, p in model.named_parameters() if n.endswith("gate")}
        moved = {n: (p * 0.3).clamp(0, 1) for n, p in gates.items()}
        with running_stats(model, "hold"):
            out = functional_call(model, moved, (images,))
        results.append(torch.autograd.grad(out.square().sum(), list(gates.values())))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("name", BUILDERS)
def test_a_graph_can_be_gone_through_twice(name, second_order):
    """By the inner update and then by the meta step: with both losses combined, or of second order."""
    images = torch.rand(4, 3, 32, 16, dtype=torch.float64)
    results = []
    for model in pair(name):
        weights = [p for n, p in model.named_parameters() if n.startswith("layer2")]
        with running_stats(model, "general"):
            loss = model(images).square().sum()
        inner = torch.autograd.grad(loss, weights, create_graph=second_order, retain_graph=True)
        total = loss + sum(gradient.square().sum() for gradient in inner) if second_order else loss
        results.append((inner, torch.autograd.grad(total, weights), dict(model.named_buffers())))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def test_fewer_maps_are_kept():
    sizes = []
    for model in pair("resnet"):
        kept = {}
        weights = {p.data_ptr() for p in model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.update({t.data_ptr(): t.nbytes}) or t, lambda t: t
        ):
            model(torch.rand(4, 3, 64, 32, dtype=torch.float64))
        sizes.append(sum(size for pointer, size in kept.items() if pointer not in weights))
    assert sizes[0] < 0.8 * sizes[1]


@pytest.mark.parametrize("name", BUILDERS)
def test_a_stage_is_computed_again_once(name):
    model, _ = pair(name)
    calls = []
    first = next(m for m in model.layer2.modules() if isinstance(m, torch.nn.Conv2d))
    first.register_forward_hook(lambda *_: calls.append(1))
    model(torch.rand(4, 3, 32, 16, dtype=torch.float64)).sum().backward()
    assert len(calls) == 2


def test_evaluation_computes_nothing_twice():
    checkpointed, usual = (model.eval() for model in pair("resnet"))
    images = torch.rand(2, 3, 32, 16, dtype=torch.float64)
    torch.testing.assert_close(checkpointed(images), usual(images), rtol=0, atol=0)
    assert not copy.deepcopy(usual).checkpointed


@pytest.mark.parametrize("name", BUILDERS)
def test_a_stage_that_is_not_there_is_one_clear_line(name):
    with pytest.raises(UserError, match=r"MODEL.BACKBONE.CHECKPOINT must name stages out of layer1.*found 'layer0'"):
        BUILDERS[name](("layer0",))
