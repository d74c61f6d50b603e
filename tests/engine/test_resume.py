"""A run that was stopped and resumed against one that was not."""

import numpy as np
import pytest
import torch
from PIL import Image

from fastreid.config import get_cfg
from fastreid.engine import HookBase
from fastreid.engine.defaults import DefaultTrainer

DOMAINS = ("folder:a", "folder:b", "folder:c")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Three sources of 5 people with 3 images each, and a target."""
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "target"):
        for part in ("query", "gallery") if name == "target" else ("train",):
            folder = tmp_path / "data" / name / part
            folder.mkdir(parents=True)
            for person in range(5):
                for k in range(3):
                    pixels = rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)
                    camera = {"query": 1, "gallery": 2}.get(part, k)
                    Image.fromarray(pixels).save(folder / f"{person}_c{camera}_{k}.png")
    monkeypatch.setenv("FASTREID_DATASETS", str(tmp_path / "data"))
    return tmp_path


def make_trainer(folder, workers):
    cfg = get_cfg()
    options = {
        "MODEL.DEVICE": "cpu",
        "MODEL.BACKBONE.NAME": "build_mobilenet_v2_backbone",
        "MODEL.BACKBONE.DEPTH": 2,
        "MODEL.BACKBONE.PRETRAIN": False,
        "MODEL.HEADS.IN_FEAT": 1280,
        "MODEL.NORM.TYPE_BACKBONE": "BIN_gate2",
        "INPUT.SIZE_TRAIN": [32, 16],
        "INPUT.SIZE_TEST": [32, 16],
        "INPUT.CJ.ENABLED": True,
        "DATASETS.NAMES": DOMAINS,
        "DATASETS.TESTS": ("folder:target",),
        "DATALOADER.NUM_WORKERS": workers,
        "DATALOADER.NUM_INSTANCE": 2,
        "SOLVER.IMS_PER_BATCH": 6,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.BASE_LR": 0.0005,
        "SOLVER.WARMUP_ITERS": 1,
        "SOLVER.CHECKPOINT_PERIOD": 1,
        "SOLVER.WRITE_PERIOD": 100,
        "META.DATA.NAMES": DOMAINS,
        "META.DATA.MTRAIN_MINI_BATCH": 6,
        "META.DATA.MTRAIN_NUM_INSTANCE": 2,
        "META.SOLVER.MTRAIN.NUM_DOMAIN": 2,
        "META.SOLVER.INIT.FIRST_INNER_LOOP": 3,
        "OUTPUT_DIR": str(folder),
    }
    cfg.merge_from_list([word for option in options.items() for word in option])
    folder.mkdir(exist_ok=True)
    torch.manual_seed(cfg.SEED)
    return DefaultTrainer(cfg)


class Stop(Exception):
    """The machine dies."""


class StopAfter(HookBase):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_step(self):
        if self.trainer.iter == self.iteration:
            raise Stop


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(root, workers):
    whole = make_trainer(root / "whole", workers)
    whole.resume_or_load(False)
    whole.run()
    epoch = whole.cfg.SOLVER.ITERS_PER_EPOCH

    stopped = make_trainer(root / "stopped", 0)
    stopped.resume_or_load(False)
    stopped.register_hooks([StopAfter(epoch + 1)])
    with pytest.raises(Stop):
        stopped.run()

    torch.manual_seed(99)  # another process starts with other random numbers
    resumed = make_trainer(root / "stopped", workers)
    resumed.resume_or_load(True)
    assert resumed.start_iter == epoch
    resumed.run()
    expected = whole.model.state_dict()
    assert not [name for name, value in resumed.model.state_dict().items() if not torch.equal(value, expected[name])]
