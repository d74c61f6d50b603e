"""What a process does that is one of several, as far as it can be seen without the others."""

import logging
from pathlib import Path

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.data.build import worker_options
from fastreid.engine import defaults, train_loop
from fastreid.engine.defaults import DefaultTrainer, report
from fastreid.layers import BatchNorm
from fastreid.modeling.meta_arch import build
from fastreid.modeling.meta_arch.build import select_device
from fastreid.utils import logger as logs
from fastreid.utils.errors import UserError
from fastreid.utils.machine import num_cores


@pytest.fixture
def gpus(monkeypatch):
    """A machine with two GPUs, on which this is process 1 of the run's two."""
    monkeypatch.setattr(build, "num_processes", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_each_process_has_its_own_gpu(gpus):
    assert select_device("cuda") == torch.device("cuda:1") and gpus == [1]
    assert select_device("cpu") == torch.device("cpu")


def test_a_particular_gpu_for_all_is_an_error(gpus):
    with pytest.raises(UserError, match="MODEL.DEVICE is cuda:0: with several processes it must be cuda"):
        select_device("cuda:0")


def test_more_processes_than_gpus_is_an_error(gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(UserError, match="3 processes on this machine need as many GPUs; PyTorch finds 2"):
        select_device("cuda")


@pytest.mark.parametrize("choice", [True, False])
def test_an_option_chooses_statistics_in_common(choice):
    cfg = get_cfg()
    model = {
        "DEVICE": "cpu",
        "BACKBONE.NAME": "build_mobilenet_v2_backbone",
        "BACKBONE.DEPTH": 2,
        "BACKBONE.PRETRAIN": False,
    }
    model |= {"NORM.TYPE_BACKBONE": "BIN_gate2", "NORM.SYNC": choice, "HEADS.IN_FEAT": 1280, "HEADS.NUM_CLASSES": 2}
    for key, value in model.items():
        cfg.set_leaf(f"MODEL.{key}", value, where="test")
    layers = [layer for layer in build.build_model(cfg).modules() if isinstance(layer, BatchNorm)]
    assert len(layers) > 50 and all(layer.synchronize is choice for layer in layers)


def test_collectives_cannot_be_compiled(tiny, monkeypatch):
    monkeypatch.setattr(train_loop, "num_processes", lambda: 2)
    with pytest.raises(UserError, match="SOLVER.COMPILE model cannot compile MODEL.NORM.SYNC"):
        tiny.make_trainer(SOLVER__COMPILE="model", MODEL__NORM__SYNC=True)


def test_processes_share_the_machines_cores(monkeypatch):
    cfg = get_cfg()
    cfg.DATALOADER.NUM_WORKERS = 1000
    for processes, workers in ((1, num_cores()), (2, max(1, num_cores() // 2)), (1000, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert worker_options(cfg)["num_workers"] == workers


def test_other_processes_than_the_first_show_only_warnings_with_their_number(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(logs, "process_rank", lambda: 3)
    logging.getLogger("fastreid").handlers.clear()
    logs.setup_logger(tmp_path / "run")
    logging.getLogger("fastreid.test").info("progress")
    logging.getLogger("fastreid.test").warning("trouble")
    shown = capsys.readouterr().out
    assert "process 3] WARNING: trouble" in shown and "progress" not in shown
    assert not (tmp_path / "run").exists()


def test_other_processes_than_the_first_write_no_results(monkeypatch):
    monkeypatch.setattr(defaults, "process_rank", lambda: 1)
    results = object()
    assert report(get_cfg(), results) is results


def test_processes_that_see_different_checkpoints_do_not_start(tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "gather", lambda value: [value, "model_0000099.pth"])
    trainer = DefaultTrainer.__new__(DefaultTrainer)
    trainer.cfg, trainer.folder = get_cfg(), Path(tmp_path)
    with pytest.raises(UserError, match=r"\(none, model_0000099.pth\): OUTPUT_DIR .* one folder that all machines see"):
        trainer.resume_or_load(False)
