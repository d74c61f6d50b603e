"""Every normalization layer against the published program's outputs, gradients and running statistics."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastreid.layers import norm_factory, running_stats

GOLDEN = Path(__file__).parents[1] / "golden"
VECTORS = np.load(GOLDEN / "norms.npz")
CASES = sorted({tuple(key.split("/")[:2]) for key in VECTORS.files})


def vector_gates(recipe_gates):
    """Return the gates that the vectors of this file were made with: 0.8 - 0.2 |z| where the recipe has 1 - 0.1 |z|.

    Fitted: a published output is an exact mixture of its BN and IN for these gates and for no others.
    """
    return (2 * recipe_gates.detach() - 1.2).clamp(0, 1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind, mode", CASES)
def test_layer_matches_the_published_one(kind, mode, memory_format, recipe):
    layer = norm_factory(kind)(7)
    recipe.fill_model(layer)
    if hasattr(layer, "gate"):
        layer.gate.data = vector_gates(layer.gate)
    layer.train(mode != "test")
    x, w, y, grad_x = (torch.from_numpy(VECTORS[f"{kind}/{mode}/{name}"]) for name in ("x", "w", "y", "grad_x"))
    x = x.contiguous(memory_format=memory_format).requires_grad_()
    with running_stats(layer, "general" if mode == "test" else mode):
        out = layer(x)
    (out * w).sum().backward()
    torch.testing.assert_close(out, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad, grad_x, rtol=1e-4, atol=1e-5)
    tensors = {f"grad/{n}": p.grad for n, p in layer.named_parameters()}
    tensors |= {f"buffer_after/{n}": b for n, b in layer.named_buffers() if b.is_floating_point()}
    stored = {key.split("/", 2)[2] for key in VECTORS.files if key.startswith(f"{kind}/{mode}/")}
    assert stored == tensors.keys() | {"x", "w", "y", "grad_x"}
    for name, value in tensors.items():
        torch.testing.assert_close(value, torch.from_numpy(VECTORS[f"{kind}/{mode}/{name}"]), rtol=1e-4, atol=1e-4)
