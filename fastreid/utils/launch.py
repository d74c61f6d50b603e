"""Starting the processes of a run: one for each GPU, on one machine or several.

The processes of a machine are watched by the one that started them: when one of them fails, or is killed, all are
ended, and the first failure is what the user sees; `--max-restarts` starts them again. Processes that torchrun (or
another launcher that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT) has started only join each other.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from fastreid.utils.errors import UserError
from fastreid.utils.machine import num_cores, num_local_processes
from fastreid.utils.supervision import Lost, Supervisor

Main = Callable[[argparse.Namespace], object]

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
MEETING_MINUTES = 10  # how long the processes wait for each other at the start
# How long one waits in a collective: the others wait while process 0 ranks a large gallery.
COLLECTIVE_TIMEOUT = timedelta(minutes=60)
SAVED = "saved"  # what the meeting point holds once the last checkpoint is one of this run

_meeting_point: dist.TCPStore | None = None  # of this process, if `launch` has started it


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say how many processes a run has, and where they meet."""
    group = parser.add_argument_group("several processes (not with torchrun, which has arguments of its own)")
    group.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="processes on this machine, one for each GPU"
    )
    group.add_argument(
        "--num-machines", type=int, default=1, metavar="M", help="machines, each of which runs this command"
    )
    group.add_argument("--machine-rank", type=int, default=0, metavar="R", help="number of this machine, from 0")
    group.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="tcp://HOST:PORT of machine 0; auto: a free port, for one machine",
    )
    group.add_argument(
        "--max-restarts", type=int, default=0, metavar="N", help="start lost processes again, from the last checkpoint"
    )


def launch(main: Main, args: argparse.Namespace) -> None:
    """Run `main(args)` in as many processes as the arguments or torchrun's variables say; in this one if it is one.

    Raises:
        UserError: the arguments contradict each other, the port is in use, or what a process raised.
        SystemExit: a process failed otherwise; its traceback has been shown.
    """
    if started_by_launcher():
        check_launcher(args)
        os.environ.setdefault("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
        run_joined(main, args, store=None)
        return
    host, port = meeting_point(args)
    world = args.num_gpus * args.num_machines
    if world == 1 and not args.max_restarts:
        main(args)
        return
    store = host_store(host, port) if args.machine_rank == 0 else None
    # The machine that hosts the meeting point need not know its own name.
    address = ("localhost", store.port) if store else (host, port)
    for attempt in range(args.max_restarts + 1):
        supervisor = Supervisor()
        for local_rank in range(args.num_gpus):
            environment = {
                "RANK": args.machine_rank * args.num_gpus + local_rank,
                "WORLD_SIZE": world,
                "LOCAL_RANK": local_rank,
                "LOCAL_WORLD_SIZE": args.num_gpus,
            }
            environment = {name: str(value) for name, value in environment.items()}
            supervisor.add(run_process, main, args, environment, address, attempt)
        try:
            return supervisor.run()
        except Lost as lost:
            if attempt == args.max_restarts:
                raise
            # A status alone means that a traceback has been shown.
            what = "" if isinstance(lost.code, int) else f"{lost.code}\n"
            sys.stderr.write(f"{what}restart {attempt + 1} of at most {args.max_restarts}\n")


def started_by_launcher() -> bool:
    """Tell whether torchrun or the like has started this process.

    Raises:
        UserError: only some of its variables are set.
    """
    found = [name for name in LAUNCHER_VARIABLES if name in os.environ]
    # A variable alone may be another program's.
    if "RANK" not in found or "WORLD_SIZE" not in found:
        return False
    missing = [name for name in LAUNCHER_VARIABLES if name not in found]
    if missing:
        raise UserError(
            f"the environment has {', '.join(found)} but not {', '.join(missing)}: start the command with torchrun, "
            "which sets them all, or unset them"
        )
    return True


def check_launcher(args: argparse.Namespace) -> None:
    """Raise UserError when arguments contradict the processes that torchrun has started."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", args.num_gpus))
    if args.num_gpus not in (1, local) or args.num_machines != 1 or args.dist_url != "auto" or args.max_restarts:
        raise UserError(
            f"torchrun has started {local} process(es) on this machine: leave --num-gpus, --num-machines, "
            "--machine-rank, --dist-url and --max-restarts out, and give torchrun --nproc-per-node, --nnodes, "
            "--node-rank, --master-addr and --max-restarts (with --resume here)"
        )


def meeting_point(args: argparse.Namespace) -> tuple[str, int]:
    """Return host and port of --dist-url, port 0 for any free one.

    Raises:
        UserError: the arguments are out of range or contradict each other.
    """
    if args.num_gpus < 1 or args.num_machines < 1:
        raise UserError(
            f"--num-gpus and --num-machines must be at least 1; found {args.num_gpus} and {args.num_machines}"
        )
    if args.max_restarts < 0:
        raise UserError(f"--max-restarts must be at least 0; found {args.max_restarts}")
    if not 0 <= args.machine_rank < args.num_machines:
        raise UserError(
            f"--machine-rank must be from 0 to {args.num_machines - 1}, as there are {args.num_machines} machine(s); "
            f"found {args.machine_rank}"
        )
    if args.dist_url == "auto":
        if args.num_machines > 1:
            raise UserError(
                "--dist-url auto is for one machine: with several, give all of them the address of machine 0, such as "
                "--dist-url tcp://10.0.0.1:29500"
            )
        return "localhost", 0
    match = re.fullmatch(r"tcp://(?P<host>[^:/\s]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})/?", args.dist_url)
    if not match or not 0 < int(match["port"]) < 2**16:
        raise UserError(f"--dist-url must be auto or like tcp://10.0.0.1:29500; found {args.dist_url!r}")
    return match["host"].strip("[]"), int(match["port"])


def host_store(host: str, port: int) -> dist.TCPStore:
    """Open the meeting point on this machine; port 0 takes a free one.

    Raises:
        UserError: the port is in use.
    """
    try:
        return dist.TCPStore(host, port, None, True, timedelta(minutes=MEETING_MINUTES), wait_for_workers=False)
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise UserError(f"--dist-url: cannot listen on port {port} ({error}): choose another") from error
        raise UserError(
            f"port {port} is in use, perhaps by another run: give --dist-url tcp://{host}:PORT with another port"
            " (or auto, on one machine)"
        ) from error


def run_process(
    main: Main, args: argparse.Namespace, environment: dict[str, str], address: tuple[str, int], attempt: int
) -> None:
    """Run `main(args)` as one process of several, which meet at an address.

    Args:
        attempt: how often the processes were started before. If these have saved a checkpoint, this one resumes it.
    """
    global _meeting_point
    os.environ.update(environment)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, num_cores() // num_local_processes()))
    _meeting_point = reach_store(*address)
    if _meeting_point.check([SAVED]):
        args.resume, args.num_pth = True, None
    run_joined(main, args, dist.PrefixStore(f"attempt{attempt}", _meeting_point))


def note_checkpoint() -> None:
    """Let processes that are started again resume: the last checkpoint is no longer an earlier run's."""
    if _meeting_point is not None:
        _meeting_point.set(SAVED, "")


def reach_store(host: str, port: int) -> dist.TCPStore:
    """Connect to the meeting point.

    Raises:
        UserError: it does not answer.
    """
    try:
        return dist.TCPStore(host, port, None, False, timedelta(minutes=MEETING_MINUTES))
    except dist.DistError as error:
        raise UserError(
            f"no answer from tcp://{host}:{port} in {MEETING_MINUTES} minutes: start the command on machine 0 too, and "
            "check the address of --dist-url and the firewall"
        ) from error


def run_joined(main: Main, args: argparse.Namespace, store: dist.Store | None) -> None:
    """Join the other processes, by torchrun's meeting point or `store`, run `main(args)`, and part."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # Both where there is CUDA: small numbers travel between CPUs without waiting for a GPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if store is not None:
        meet(store, rank, world)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=COLLECTIVE_TIMEOUT)
    main(args)
    dist.destroy_process_group()


def meet(store: dist.Store, rank: int, world: int) -> None:
    """Wait until all processes have come.

    Raises:
        UserError: some have not come, or two have the same number.
    """
    if store.add(f"here/{rank}", 1) > 1:
        raise UserError(
            f"two processes have number {rank}: give each machine its own --machine-rank, and a run its own port"
        )
    try:
        store.wait([f"here/{other}" for other in range(world)], timedelta(minutes=MEETING_MINUTES))
    except dist.DistError as error:
        missing = [other for other in range(world) if not store.check([f"here/{other}"])]
        raise UserError(
            f"processes {', '.join(map(str, missing))} of {world} have not come in {MEETING_MINUTES} minutes: start "
            "the command on every machine, with the same --num-gpus, --num-machines and --dist-url"
        ) from error
