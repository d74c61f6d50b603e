"""A command of several processes that meet; started by test_launch.py with the usual arguments and what they do."""

import argparse
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist

from fastreid.utils.errors import UserError, run_command
from fastreid.utils.launch import add_launch_arguments, launch, note_checkpoint


def main(args):
    total = torch.tensor(dist.get_rank() + 1.0)
    dist.all_reduce(total)
    if args.wrong:
        raise UserError("no such path: check it")
    facts = [
        os.getpid(),
        dist.get_world_size(),
        int(total),
        os.environ["LOCAL_RANK"],
        torch.get_num_threads(),
        int(args.resume),
    ]
    if (args.folder / "checkpoints").exists() and dist.get_rank() == 0:
        note_checkpoint()
    (args.folder / str(dist.get_rank())).write_text(" ".join(map(str, facts)))
    while args.endless:
        dist.all_reduce(total)
        time.sleep(0.01)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_launch_arguments(parser)
    for option in ("--endless", "--wrong", "--resume"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("folder", type=Path)
    run_command(lambda: launch(main, parser.parse_args()))
