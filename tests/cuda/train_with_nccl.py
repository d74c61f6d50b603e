"""A run of tests/engine/train_in_processes.py on GPUs; started by test_processes.py with rank, number and folder."""

import importlib.util
import sys
from pathlib import Path

import torch
import torch.distributed as dist

RUN = "metabin"


def script():
    path = Path(__file__).parents[1] / "engine" / "train_in_processes.py"
    spec = importlib.util.spec_from_file_location("train_in_processes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.cuda.set_device(rank)
    meeting_point = f"file://{folder}/meeting_point"
    dist.init_process_group("cpu:gloo,cuda:nccl", init_method=meeting_point, rank=rank, world_size=world)
    torch.save(script().train(RUN, rank, world, "cuda"), folder / f"process_{rank}.pth")
    dist.destroy_process_group()
