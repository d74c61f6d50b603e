"""The operation behind the normalization layers: adversarial inputs, derivatives, parts, compilation."""

import gc
import math
import weakref

import pytest
import torch
import torch.nn.functional as F

from fastreid.layers import norm_factory, passes
from fastreid.layers.coefficients import EPS, Mixture
from fastreid.layers.moments import Source
from fastreid.layers.normalize import composed, normalize
from fastreid.layers.passes import PASSES, RELU, RELU6, activate, moments, with_passes

LAYOUTS = [torch.contiguous_format, torch.channels_last]
WHOLE = with_passes(*PASSES)  # the passes without being cut into parts
N, C, SHAPE = 4, 6, (4, 6, 9, 5)


def pooled(like):
    """Return a source of statistics that are the images' own."""
    return Source(torch.zeros_like(like), torch.ones_like(like), pooled=True)


def mixture(weight, bias, gate):
    """Return that of two normalizations with unlike parameters."""
    return Mixture(weight, bias, 0.5 + weight.square(), 2 * bias, gate)


def inputs(shape=SHAPE, dtype=torch.float64, layout=torch.channels_last):
    x, residual = ((torch.randn(shape, dtype=dtype) * 3).contiguous(memory_format=layout) for _ in range(2))
    weight, gate = torch.rand(2, shape[1], dtype=dtype) + torch.tensor([[0.5], [0]], dtype=dtype)
    return [t.requires_grad_() for t in (x, residual, weight, torch.randn(shape[1], dtype=dtype), gate)]


def run(function, x, residual, parameters, activation, cotangent):
    """Return output and gradients."""
    y = function(x, mixture(*parameters), pooled(parameters[0]), activation, residual)
    leaves = [t for t in (x, residual, *parameters) if t is not None]
    return [y.detach(), *torch.autograd.grad(y, leaves, cotangent)]


def by_composition(x, mixture, source, activation, residual):
    return composed(x, mixture, source, EPS, activation, residual)


@pytest.mark.parametrize("memory_format", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 5, 16, 8), (2, 4, 1, 1), (2, 3, 7, 1)])
def test_without_gradients_the_moments_are_the_same(shape, memory_format):
    x = (100 + torch.randn(shape)).contiguous(memory_format=memory_format)
    before = x.clone()
    expected = moments(x.double())
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with context:
            for found, right in zip(moments(x), expected):
                assert found.shape == shape[:2]
                torch.testing.assert_close(found, right.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("activation", [None, RELU, RELU6])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part_bytes", [1, 2 * 8 * math.prod(SHAPE[1:]), 2**30])
def test_value_and_gradients_are_those_of_the_composition_whatever_the_parts(
    activation, has_residual, layout, part_bytes, monkeypatch
):
    monkeypatch.setattr(passes, "PART_BYTES", part_bytes)
    x, residual, *parameters = inputs(layout=layout)
    residual = residual if has_residual else None
    cotangent = torch.randn(SHAPE, dtype=torch.float64)
    found = run(normalize, x, residual, parameters, activation, cotangent)
    expected = run(by_composition, x, residual, parameters, activation, cotangent)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert all(t.is_contiguous(memory_format=layout) for t in found[:2])
    with torch.no_grad():
        plain = normalize(x, mixture(*parameters), pooled(parameters[0]), activation, residual)
    torch.testing.assert_close(plain, expected[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", [None, RELU, RELU6])
def test_first_and_second_derivatives_by_finite_differences(activation):
    leaves = inputs((3, 2, 3, 2))

    def function(x, residual, *parameters):
        return normalize(x, mixture(*parameters), pooled(parameters[0]), activation, residual)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


def test_a_second_derivative_counts_only_what_goes_through_the_operation():
    """A weight that is itself computed from x, as an inner update's is, must not add its own path to x's gradient."""
    x, _, weight, *others = inputs()
    results = []
    for function in (normalize, by_composition):
        made = weight * x.mean((0, 2, 3)).tanh()
        y = function(x, mixture(made, *others), pooled(weight), RELU, None)
        (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append((first.detach(), *torch.autograd.grad(first.square().sum(), (x, weight, *others))))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


def adversary(name, shape=(6, 4, 16, 8)):
    x = torch.randn(shape)
    if name == "mean 1e4":
        return x + 1e4
    if name == "means of both signs":
        return x + torch.tensor([1e4, -1e4, 1e3, 0]).view(1, 4, 1, 1)
    if name == "images of unlike means":
        return x + 1e4 * torch.arange(len(x)).view(-1, 1, 1, 1)
    if name == "constant channels":
        return torch.where(torch.arange(4).view(1, 4, 1, 1) % 2 == 0, torch.full((), 7.3), x)
    if name == "tiny":
        return x * 1e-4
    return x[:1] if name == "one image" else x[:, :, :1, :1]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["IN", "BIN_half", "BIN_gate1", "BIN_gate2"])
@pytest.mark.parametrize(
    "name",
    ["mean 1e4", "means of both signs", "images of unlike means", "constant channels", "tiny", "one image", "1x1 maps"],
)
def test_float32_loses_no_more_than_the_last_digits_of_x(name, kind, layout):
    """Errors against float64, of output and gradient, are what a change of x in its last digits would bring about.

    A variance as E[x²] - E[x]² would be wrong altogether on most of these.
    """
    layer = norm_factory(kind, "half", 0.5)(4)
    x = adversary(name).contiguous(memory_format=layout)
    cotangent = torch.randn_like(x)

    def result(layer, x, cotangent, plain):
        leaf = x.clone().requires_grad_()
        y = plain_layer(kind, layer, leaf) if plain else layer(leaf)
        return [y.detach(), *torch.autograd.grad(y, leaf, cotangent)]

    # The reference on the same input in the plain layout: PyTorch's own gradient is wrong for one image otherwise.
    dense = x.contiguous(), cotangent.contiguous()
    right = result(layer.double(), *(t.double() for t in dense), plain=True)
    found = result(layer.float(), x, cotangent, plain=False)
    plain = result(layer, *dense, plain=True)
    spread = (x.double().var((2, 3), correction=0) + 1e-5).sqrt()
    last_digits = 4 * torch.finfo(x.dtype).eps * float((x.abs().amax((2, 3)) / spread).max())
    for ours, theirs, exact in zip(found, plain, right):
        scale = float(exact.abs().max()) + 1e-12
        error, usual = (float((t.double() - exact).abs().max()) / scale for t in (ours, theirs))
        assert error <= 2 * usual + last_digits


def plain_layer(kind, layer, x):
    """Return the layer's output by PyTorch's functions."""
    single_pixel = x.shape[2:] == (1, 1)

    def instance(x, weight=None, bias=None):
        return x * 0.5 if single_pixel else F.instance_norm(x, weight=weight, bias=bias)

    def batch(x):
        return F.batch_norm(x, None, None, None, None, True)

    if kind == "IN":
        return instance(x)
    if kind == "BIN_half":
        return torch.cat([batch(x[:, :2]), instance(x[:, 2:])], 1)
    if kind == "BIN_gate1" and single_pixel:
        return 0.5 * batch(x)
    return 0.5 * batch(x) + 0.5 * instance(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("part_bytes", [1, 2**30])
def test_half_precision_has_statistics_in_float32(dtype, part_bytes, monkeypatch):
    monkeypatch.setattr(passes, "PART_BYTES", part_bytes)
    half = torch.full((2, 3, 64, 32), 300.0).to(dtype) + torch.randn(2, 3, 64, 32).to(dtype) * 16
    parameters = [values.requires_grad_() for values in (torch.ones(3), torch.zeros(3), torch.full((3,), 0.4))]
    cotangent = torch.randn(half.shape).to(dtype)
    found = run(normalize, half.requires_grad_(), None, parameters, RELU6, cotangent)
    wide = half.detach().float().requires_grad_()
    expected = run(by_composition, wide, None, parameters, RELU6, cotangent.float())
    assert found[0].dtype == found[1].dtype == dtype and found[2].dtype == torch.float32
    steps = torch.finfo(dtype).eps
    torch.testing.assert_close(found[0].float(), expected[0], rtol=steps, atol=steps)
    # A value that rounds to the bound 6 has no slope: these few pixels differ.
    differing = (found[1].float() - expected[1]).abs() > 4 * steps * expected[1].abs().max()
    assert differing.float().mean() < 0.02


def test_no_gradient_is_computed_for_an_input_that_needs_none(monkeypatch):
    x, _, *parameters = inputs()
    called = []
    kernels = WHOLE._replace(input_gradient=lambda *arguments: called.append(1) or PASSES[3](*arguments))
    for needed in (True, False):
        y = normalize(x.detach().requires_grad_(needed), mixture(*parameters), pooled(parameters[0]), kernels=kernels)
        y.sum().backward()
        assert called == [1]


def test_only_x_and_the_output_are_kept():
    x, _, *parameters = inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = normalize(x, mixture(*parameters), pooled(parameters[0]), RELU)
    maps = {t.data_ptr() for t in kept if t.dim() == 4 and t.shape[2:] == SHAPE[2:]}
    assert maps == {x.data_ptr(), y.data_ptr()}


@pytest.mark.parametrize("activation, bounds", [(RELU, (0, math.inf)), (RELU6, (0, 6)), (None, (-math.inf, math.inf))])
def test_activations(activation, bounds):
    x = torch.linspace(-9, 9, 19)
    torch.testing.assert_close(activate(x, activation), x.clamp(*bounds))
    torch.testing.assert_close(activate(x, activation, residual=x), (2 * x).clamp(*bounds))


def test_nothing_outlives_a_step():
    """Without the help of the garbage collector, which does not see what a graph holds."""
    gc.collect()
    gc.disable()
    try:
        x, residual, *parameters = inputs()
        references = []

        def watched(x):
            found = moments(x)
            references.extend(map(weakref.ref, found))
            return found

        for backward in (True, False):
            y = normalize(
                x, mixture(*parameters), pooled(parameters[0]), RELU, residual, WHOLE._replace(moments=watched)
            )
            references.append(weakref.ref(y))
            if backward:
                y.sum().backward()
            del y
        assert [reference() for reference in references] == [None] * 6
    finally:
        gc.enable()
