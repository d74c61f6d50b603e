"""How many kernels a training step would launch on a GPU, and that the host never waits for it."""

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.engine import SimpleTrainer, train_loop
from fastreid.modeling import build_model
from fastreid.solver import build_optimizer
from fastreid.utils.launches import LaunchCounter

SIZE, IMAGES, DOMAINS = (32, 16), 12, 3
# Operations of a base and of a meta step, some 5 % above what they are.
BOUNDS = {"mobilenet_v2_1.0": (2900, 5900), "resnet18": (1250, 2500)}


def make_trainer(backbone, monkeypatch):
    cfg = get_cfg()
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.NAME": backbone,
        "MODEL.BACKBONE.PRETRAIN": False,
        "MODEL.NORM.TYPE_BACKBONE": "BIN_gate2",
        "MODEL.HEADS.IN_FEAT": 0,
        "MODEL.HEADS.NUM_CLASSES": 6,
        "META.DATA.NAMES": "DG",
        "META.DATA.NUM_DOMAINS": DOMAINS,
        "META.SOLVER.MTRAIN.NUM_DOMAIN": 2,
        "SOLVER.ITERS_PER_EPOCH": 20,
    }
    cfg.merge_from_list([word for option in options.items() for word in option])
    model = build_model(cfg)
    targets = torch.arange(6).repeat_interleave(2)
    batch = {"images": torch.rand(IMAGES, 3, *SIZE) * 255, "img_paths": ["image"] * IMAGES}
    batch |= {"targets": targets, "camids": targets, "domains": targets % DOMAINS}
    # Domains are chosen from a batch on the host, where a GPU is not waited for; a count on the CPU cannot tell.
    parts = {tuple(chosen): train_loop.select_domains(batch, chosen) for chosen in ([0, 1], [2])}
    monkeypatch.setattr(train_loop, "select_domains", lambda batch, chosen: parts[tuple(chosen)])
    optimizers = [build_optimizer(cfg, model, which) for which in ("main", "norm")]
    trainer = SimpleTrainer(cfg, model, [batch], [batch], *optimizers)
    trainer.split_domains = lambda: ([0, 1], [2])
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
