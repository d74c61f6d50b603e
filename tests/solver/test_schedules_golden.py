"""Learning rates and the inner step's cycle against the published program's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastreid.config import get_cfg
from fastreid.solver import InnerRatio, build_lr_scheduler
from fastreid.solver.lr_scheduler import triangle
from fastreid.utils.errors import UserError

VECTORS = np.load(Path(__file__).parents[1] / "golden" / "schedules.npz")


def config(*options):
    cfg = get_cfg()
    cfg.merge_from_list(["SOLVER.MAX_ITER", 100, "SOLVER.DELAY_ITERS", 30, "SOLVER.ITERS_PER_EPOCH", 20, *options])
    return cfg


def rates(cfg, which, lr=0.01, n=100):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = build_lr_scheduler(cfg, optimizer, which)
    used = []
    for _ in range(n):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return used


@pytest.mark.parametrize(
    "name, sched, which",
    [
        ("multistep", "WarmupMultiStepLR", "main"),
        ("cosine", "WarmupCosineAnnealingLR", "main"),
        ("gate_equal", "WarmupMultiStepLR", "norm"),
    ],
)
def test_schedule_matches_the_published_one(name, sched, which):
    np.testing.assert_allclose(rates(config("SOLVER.SCHED", sched), which), VECTORS[name], rtol=0, atol=1e-12)


def test_inner_ratio_cycle_matches_the_published_one():
    ratio = InnerRatio(config())
    expected = VECTORS["inner_ratio_cyclic_iters_per_epoch=20"]
    np.testing.assert_allclose([ratio.advance() for _ in expected], expected, rtol=0, atol=1e-12)


def test_an_odd_period_rises_for_its_smaller_half():
    cfg = config(
        "SOLVER.ITERS_PER_EPOCH", 1787
    )  # of the published run: a period of 8,935 meta steps, 4,467 of them rising
    ratio = InnerRatio(cfg)
    steps = [ratio.value] + [ratio.advance() for _ in range(8935)]
    assert np.argmax(steps) == 4467 and steps[4467] == pytest.approx(0.1, abs=1e-15)
    np.testing.assert_allclose(np.diff(steps[:4468]), (0.1 - 0.001) / 4467, rtol=1e-6)
    np.testing.assert_allclose(np.diff(steps[4467:]), (0.001 - 0.1) / 4468, rtol=1e-6)


@pytest.mark.parametrize("up_ratio, top", [(0.0, 0), (0.25, 25), (0.999, 99), (1.0, 99)])
def test_a_cycle_may_rise_for_any_share_of_its_period(up_ratio, top):
    heights = [triangle(step, 100, up_ratio) for step in range(201)]
    assert np.argmax(heights) == top and min(heights) >= 0 and heights[0] == heights[100] == (0 if top else 1)
    assert heights[100:200] == heights[:100]


def test_fixed_inner_ratio_needs_no_cycle():
    ratio = InnerRatio(config("META.SOLVER.LR_FACTOR.META", 0.5, "SOLVER.ITERS_PER_EPOCH", 0))
    assert [ratio.advance(), ratio.advance()] == [0.5, 0.5]


def test_gate_schedules_differ_as_named():
    main = rates(config(), "main")
    assert rates(config("SOLVER.NORM_SCHEDULER", "same"), "norm") == main
    no_warm = rates(config("SOLVER.NORM_SCHEDULER", "no_warm"), "norm")
    assert no_warm[0] == 0.01 and no_warm[10:] == main[10:]
    # 20 iterations an epoch
    cyclic = rates(config("SOLVER.NORM_SCHEDULER", "cyclic"), "norm", n=101)
    assert cyclic[0] == cyclic[20] == min(cyclic) == pytest.approx(0.0001)
    assert cyclic[10] == max(cyclic) == pytest.approx(0.01) and cyclic[5] == cyclic[15] == pytest.approx(0.00505)
    cycle = ["SOLVER.CYCLIC_MIN_LR", 0.2, "SOLVER.CYCLIC_MAX_LR", 0.6, "SOLVER.CYCLIC_PERIOD_PER_EPOCH", 5.0]
    assert rates(config("SOLVER.NORM_SCHEDULER", "cyclic", *cycle), "norm", n=5) == pytest.approx(
        [0.2, 0.4, 0.6, 0.4, 0.2]
    )


@pytest.mark.parametrize("per_epoch", [10.0, 20.0, 30.0, 1000.0])
def test_a_cycle_that_is_shorter_than_two_steps_has_two(per_epoch):
    """20 iterations an epoch: a period of 2 iterations, of 1, and of less than 1."""
    cycle = ["SOLVER.CYCLIC_MIN_LR", 0.2, "SOLVER.CYCLIC_MAX_LR", 0.6, "SOLVER.CYCLIC_PERIOD_PER_EPOCH", per_epoch]
    found = rates(config("SOLVER.NORM_SCHEDULER", "cyclic", *cycle), "norm", n=5)
    assert found == pytest.approx([0.2, 0.6, 0.2, 0.6, 0.2])
    ratio = InnerRatio(config("META.SOLVER.LR_FACTOR.META_CYCLIC_PERIOD_PER_EPOCH", per_epoch))
    values = [ratio.value, *(ratio.advance() for _ in range(3))]
    assert values == pytest.approx([0.001, 0.1, 0.001, 0.1])


@pytest.mark.parametrize("iters, per_epoch", [(0, 1.0), (20, 0.0), (20, -1.0)])
def test_a_cycle_without_a_period_is_an_error(iters, per_epoch):
    options = ["SOLVER.ITERS_PER_EPOCH", iters, "SOLVER.CYCLIC_PERIOD_PER_EPOCH", per_epoch]
    with pytest.raises(UserError, match=f"SOLVER.CYCLIC_PERIOD_PER_EPOCH above 0; found {iters} and {per_epoch}"):
        rates(config("SOLVER.NORM_SCHEDULER", "cyclic", *options), "norm")


def test_warmup_method_and_factor_are_read():
    constant = rates(config("SOLVER.WARMUP_METHOD", "constant", "SOLVER.WARMUP_FACTOR", 0.5), "main")
    assert constant[:11] == [0.005] * 10 + [0.01]
