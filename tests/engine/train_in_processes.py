"""Runs that one and several processes train alike; started by test_parallel_training.py with rank and folder."""

import importlib.util
import itertools
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from fastreid.engine.precise_bn import compute_precise_statistics
from fastreid.layers import synchronize_statistics

WORLDS = (3, 2)  # numbers of processes, the largest first
ITERATIONS = 3
BATCHES = 4

# Options of each run. "shares" tells how identities are shared out; "overflows" is the parameters whose gradient is
# infinite in the last process, and when. All of them but the last two have statistics in common.
SECOND_ORDER = {"META__SOLVER__MTRAIN__SECOND_ORDER": True, "META__SOLVER__STOP_GRADIENT": False}
RUNS = {
    "metabin": {"META__LOSS__COMBINED": True},
    "missing_domains": {"shares": "lopsided"},
    "second_order": {"shares": "lopsided", **SECOND_ORDER},
    "gate1": {"shares": "lopsided", "MODEL__NORM__TYPE_BACKBONE": "BIN_gate1"},
    "batch_norm_and_mldg": {"shares": "lopsided", "MODEL__NORM__TYPE_BACKBONE": "BN", "META__MODEL__ALL_PARAMS": True},
    "half_and_second_order_mldg": {
        "MODEL__NORM__TYPE_BACKBONE": "BIN_half",
        "META__MODEL__ALL_PARAMS": True,
        "META__LOSS__MTRAIN_NAME": ("CrossEntropyLoss", "STD"),
        **SECOND_ORDER,
    },
    "losses_that_leave_the_classifier_out": {
        "MODEL__LOSSES__NAME": ("TripletLoss", "CircleLoss", "MMD"),
        "META__LOSS__MTRAIN_NAME": ("CrossEntropyLoss", "STD"),
    },
    "no_meta_step": {"meta": False},
    "overflow_in_one_process": {"overflows": {"backbone.0.weight": 2, "backbone.1.gate": 4}},
    "frozen_at_first": {"MODEL__FREEZE_LAYERS": ("backbone.0", "backbone.1"), "SOLVER__FREEZE_ITERS": 2},
    "own_statistics": {"MODEL__NORM__SYNC": False},
    "own_statistics_and_missing_domains": {"MODEL__NORM__SYNC": False, "shares": "lopsided"},
}


def tiny_run():
    """Return tests/engine/conftest.py, where the tiny model is."""
    spec = importlib.util.spec_from_file_location("tiny_run", Path(__file__).with_name("conftest.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def share(batch, rank, world, shares):
    """Return a process's part of a batch; identities are whole, and of different numbers in 2 and 3 processes."""
    identities = batch["targets"]
    if shares == "dealt":
        mine = identities % world == rank
    else:  # the last process has the first domain, and nothing else
        mine = (
            (batch["domains"] == 0)
            if rank == world - 1
            else (batch["domains"] > 0) & (identities % (world - 1) == rank)
        )
    index = mine.nonzero().squeeze(1)
    part = {key: value[index] for key, value in batch.items() if key != "img_paths"}
    return {**part, "img_paths": [batch["img_paths"][i] for i in index.tolist()]}


def overflow(parameter, time):
    """Make the gradient of a parameter infinite when it is computed for the `time`-th time."""
    times = itertools.count(1)
    parameter.register_hook(lambda gradient: gradient * torch.inf if next(times) == time else gradient)


def train(name, rank=0, world=1, device="cpu"):
    """Return the state of the model after one of the RUNS on a kind of device, and the losses of its iterations."""
    options = {"MODEL__NORM__SYNC": True, "META__SOLVER__INIT__FIRST_INNER_LOOP": 2, **RUNS[name]}
    meta, shares, overflows = options.pop("meta", True), options.pop("shares", "dealt"), options.pop("overflows", {})
    tiny = tiny_run()
    trainer = tiny.make_trainer(meta=meta, device=device, **options)
    trainer.model.to(memory_format=torch.channels_last)  # as real models are: gradients must have the weights' layout
    synchronize_statistics(trainer.model, trainer.cfg.MODEL.NORM.SYNC)
    if overflows:
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for parameter, time in overflows.items() if rank == world - 1 else ():
        overflow(trainer.model.get_parameter(parameter), time)
    torch.manual_seed(7)
    streams = [[tiny.make_batch() for _ in range(BATCHES)] for _ in ("base", "meta")]
    if world > 1:
        streams = [[share(batch, rank, world, shares) for batch in stream] for stream in streams]
    trainer.base_batches, trainer.meta_batches = (itertools.cycle(stream) for stream in streams)
    trainer.train(0, ITERATIONS)
    means = trainer.storage.new_means()
    if overflows:
        means["scale"] = trainer.scaler.get_scale()
    return trainer.model.state_dict(), means


def statistics_after_one_step(rank, world):
    """Return the running statistics after a base step on this process's share of a batch."""
    trainer = tiny_run().make_trainer()
    torch.manual_seed(7)
    trainer.base_batches = iter([share(tiny_run().make_batch(), rank, world, "dealt")])
    trainer.run_step_meta_learning1()
    return {name: value for name, value in trainer.model.state_dict().items() if "running" in name}


def precise_statistics(rank=0, world=1):
    """Return the model after precise statistics of this process's shares of two batches, without any step."""
    trainer = tiny_run().make_trainer()
    torch.manual_seed(7)
    batches = [tiny_run().make_batch() for _ in range(2)]
    compute_precise_statistics(
        trainer, [share(batch, rank, world, "lopsided") if world > 1 else batch for batch in batches]
    )
    return trainer.model.state_dict()


def main(rank: int, folder: Path) -> None:
    for world in WORLDS:
        if rank < world:
            meeting_point = f"file://{folder}/meeting_point_{world}"
            dist.init_process_group("gloo", init_method=meeting_point, rank=rank, world_size=world)
            torch.save(statistics_after_one_step(rank, world), folder / f"statistics_{rank}_of_{world}.pth")
            torch.save(precise_statistics(rank, world), folder / f"precise_{rank}_of_{world}.pth")
            torch.save({name: train(name, rank, world) for name in RUNS}, folder / f"process_{rank}_of_{world}.pth")
            dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
