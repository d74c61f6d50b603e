"""Whole training steps, in float64, against the published program."""

import pytest

# relative to the norm of each tensor; rounding grows with every update
TOLERANCES = [1e-9, 1e-7, 1e-6]
WAYS = {
    "as published": (),
    "stages computed again": ("MODEL.BACKBONE.CHECKPOINT", "('layer1','layer3')"),
    "compiled normalization": ("SOLVER.COMPILE", "norm"),
    "compiled backbone": ("SOLVER.COMPILE", "model"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["step_dg_mobilenet", "step_m_resnet"])
def test_steps_match_the_published_program(name, way, golden_steps, recipe, request):
    if way != "as published" and not request.config.getoption("--long"):
        pytest.skip("takes minutes: --long")
    golden_steps.check(name, recipe, TOLERANCES, WAYS[way])
