"""The Triton kernels against PyTorch's functions: by Triton's interpreter, or on a GPU where there is one."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastreid.layers import IBN, norm_factory, passes, population_statistics, running_stats
from fastreid.layers.passes import EAGER

kernels = pytest.importorskip("fastreid.layers.kernels", reason="PyTorch for this machine comes without Triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
KINDS = ("IN", "BIN_half", "IBN", "BIN_gate1", "BIN_gate2")
ACTIVATIONS = {"IN": "relu", "BIN_half": "relu6", "BIN_gate2": "relu6"}
ODD = (3, 5, 7, 3)
SHAPES = {"wide": (2, 70, 4, 2), "one image": (1, 4, 5, 5), "several tiles": (2, 3, 50, 45), "no image": (0, 4, 3, 2)}


def make_layer(kind, channels, dtype=torch.float64):
    layer = IBN(channels, 0.5) if kind == "IBN" else norm_factory(kind, "random", 0.5)(channels)
    with torch.no_grad():
        for name, tensor in layer.state_dict().items():
            if tensor.is_floating_point() and not name.endswith("gate"):
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return layer.to(DEVICE, dtype)


def maps(shape, layout, dtype=torch.float64):
    """Return three maps: an input whose mean is far from 0, a residual and a gradient."""
    drawn = [torch.randn(shape, device=DEVICE, dtype=dtype) * 3 for _ in range(3)]
    drawn[0] += 20
    return [t.contiguous(memory_format=LAYOUTS[layout]) for t in drawn]


def run(layer, mode, x, activation, residual, cotangent):
    """Return the output, the gradients and the buffers."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, residual) if t is not None]
    with running_stats(layer, mode):
        y = layer(leaves[0], activation, *leaves[1:])
    found = torch.autograd.grad(y, [*leaves, *layer.parameters()], cotangent)
    return [y.detach(), *found, *layer.buffers()]


def run_both(layer, *arguments):
    """Return what `run` does with the kernels and without."""
    twin = copy.deepcopy(layer)
    twin.kernels = kernels.TRITON
    return run(twin, *arguments), run(layer, *arguments)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["general", "hold", "eval"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_type_and_mode_of_statistics(kind, mode, layout):
    x, residual, cotangent = maps(ODD, layout)
    residual = residual if kind in ("IBN", "BIN_gate2") else None
    found, expected = run_both(make_layer(kind, ODD[1]), mode, x, ACTIVATIONS.get(kind), residual, cotangent)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert found[0].stride() == expected[0].stride()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_size(shape, layout):
    x, residual, cotangent = maps(SHAPES[shape], layout)
    found, expected = run_both(make_layer("BIN_gate2", x.shape[1]), "general", x, "relu", residual, cotangent)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_type_of_numbers(dtype, layout):
    x, residual, cotangent = maps((4, 6, 9, 5), layout, dtype)
    layer = make_layer("BIN_gate2", 6, torch.float32)
    found, expected = run_both(layer, "general", x, None, residual, cotangent)
    digits = 16 * torch.finfo(dtype).eps
    for ours, theirs in zip(found, expected):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=digits, atol=digits * (1 + theirs.abs().max().item()))


@pytest.mark.parametrize("name", ["mean 1e4", "images of unlike means", "constant"])
def test_what_would_cancel(name):
    """Errors against float64 are a few times those of PyTorch's functions, or what the last digits of x bring about."""
    x, _, cotangent = maps((3, 4, 16, 8), "channels_last", torch.float32)
    offset = {"mean 1e4": 1e4, "images of unlike means": 1e4 * torch.arange(3, device=DEVICE).view(3, 1, 1, 1)}
    x = x * 0 + 7.3 if name == "constant" else x + offset[name]
    layer = make_layer("BIN_gate2", 4, torch.float32)
    spread = (x.double().var((2, 3), correction=0) + 1e-5).sqrt()
    last_digits = 8 * torch.finfo(x.dtype).eps * float((x.abs().amax((2, 3)) / spread).max())
    exact = run(copy.deepcopy(layer).double(), "hold", x.double(), None, None, cotangent.double())
    found, usual = run_both(layer, "hold", x, None, None, cotangent)
    for ours, theirs, right in zip(found, usual, exact):
        errors = [float((t.double() - right).abs().max()) for t in (ours, theirs)]
        assert errors[0] <= 3 * errors[1] + last_digits * float(right.abs().max())


def test_what_is_not_a_number_stays_so():
    x, _, cotangent = maps(ODD, "nchw")
    x[0, 0, 0, 0] = torch.nan
    found, expected = run_both(make_layer("IN", ODD[1]), "hold", x, "relu", None, cotangent)
    assert all(torch.equal(ours.isnan(), theirs.isnan()) for ours, theirs in zip(found, expected))


def test_maps_with_gaps_in_memory_and_populations():
    x = maps((3, 5, 7, 6), "nchw")[0][..., ::2]
    layers = [make_layer("BIN_gate2", 5)]
    layers.append(copy.deepcopy(layers[0]))
    layers[1].kernels = kernels.TRITON
    seen = []
    for layer in layers:
        with torch.no_grad(), population_statistics(layer) as populations:
            seen.append([layer(x), *((p.mean, p.var) for p in populations.values())])
    torch.testing.assert_close(*seen, rtol=1e-9, atol=1e-9)


def test_what_was_given_is_not_changed():
    x, residual, cotangent = maps(ODD, "channels_last")
    before = [t.clone() for t in (x, residual, cotangent)]
    layer = make_layer("BIN_gate2", ODD[1])
    layer.kernels = kernels.TRITON
    run(layer, "general", x, "relu", residual, cotangent)
    torch.testing.assert_close([x, residual, cotangent], before, rtol=0, atol=0)


def test_the_kernels_take_what_the_passes_take():
    """`normalize` calls either."""
    assert kernels.TRITON._fields == EAGER._fields
    for name in ("moments", "coefficients", "output", "coefficient_gradients", "gradients", "input_gradient"):
        code = (getattr(kernels, name).__code__, getattr(passes, name).__code__)
        ours, theirs = (list(c.co_varnames[: c.co_argcount]) for c in code)
        assert ours == [argument for argument in theirs if argument != "out"]


def test_they_compile_for_gpus_without_spilling_registers():
    script = Path(__file__).parents[2] / "tools/benchmark/kernel_resources.py"
    command = [sys.executable, script, "--json", "--types", "float32", "float16", "--layouts", "channels_last"]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert not done.returncode, done.stderr
    rows = json.loads(done.stdout)
    assert len(rows) == 2 * 2 * len(EAGER)
    for row in rows:
        assert row["spilled bytes"] == 0 and row["registers"] <= 128 and row["shared bytes"] <= 48 * 1024, row
