"""The batches of a run, by their place in the stream."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from fastreid.utils.errors import UserError

Batch = dict[str, Any]
SILENCE = 600  # seconds without a batch from any worker after which a loader has failed
SHARED_MEMORY = (
    "the shared memory (/dev/shm), through which workers hand over batches, is too small or full: give it more space "
    "(docker run --shm-size=8g), or set DATALOADER.NUM_WORKERS 0"
)
# What PyTorch says when a loader's worker is gone or silent, and what to do about it.
WORKER_ERRORS = {
    "Bus error|SIGBUS": SHARED_MEMORY,
    "received 0 items of ancdata|Too many open files": "the workers need more open files than are allowed: ulimit -n "
    "65536, or lower DATALOADER.NUM_WORKERS",
    "DataLoader timed out": f"no batch came in {SILENCE} s, perhaps a disk or network folder does not answer: look at "
    "it, and go on from the last checkpoint with --resume",
    # A bus error, too, if PyTorch notices the end before its cause.
    r"DataLoader worker \(pid": "a worker was ended. If the machine killed it as memory ran out, lower "
    "DATALOADER.NUM_WORKERS or the batch size; after a bus error, give /dev/shm more space (docker run --shm-size=8g). "
    "Go on from the last checkpoint with --resume",
}


class BatchStream:
    """The endless batches of a loader of `SharedBatches`; `position` is the number of those that were taken.

    Batches that workers have prepared ahead do not count, so that a resumed run gets them again.
    """

    def __init__(self, loader: DataLoader):
        self.loader = loader
        self.position = 0
        self.batches: Iterator[Batch] | None = None
        self.workers: list[BaseProcess] = []

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Batch:
        if self.batches is None:
            self.begin()
        try:
            batch = next(self.batches)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:  # what a broken connection ends in
            self.raise_if_killed(error)
            raise
        self.position += 1
        return batch

    def begin(self) -> None:
        """Let the loader begin with the batch at `position`."""
        self.loader.batch_sampler.start = self.position
        before = multiprocessing.active_children()
        self.batches = iter(self.loader)
        self.workers = [child for child in multiprocessing.active_children() if child not in before]

    def raise_if_killed(self, error: Exception) -> None:
        """Raise the error that PyTorch raises in most cases if a worker was killed, naming it and the signal."""
        for worker in self.workers:
            worker.join(timeout=1)
            if worker.exitcode is not None and worker.exitcode < 0:
                name = signal.Signals(-worker.exitcode).name
                raise RuntimeError(f"DataLoader worker (pid {worker.pid}) is killed by signal: {name}.") from error

    def seek(self, position: int) -> None:
        """Go on with the batch at `position`."""
        if position != self.position:
            self.position = position
            self.end()

    def end(self) -> None:
        """End the workers. Left to the garbage collector, which meets a run's cycles, each would take seconds."""
        self.batches = None


class DataPositions:
    """What a checkpoint keeps of the data: the place in each stream, and the generator of the domain splits.

    Beside them stands the number of iterations in an epoch, for runs that go on with another one. All processes have
    the same. Args:
        streams: by name. domain_rng: None without meta steps.
    """

    def __init__(self, streams: dict[str, BatchStream], domain_rng: torch.Generator | None, iters_per_epoch: int):
        self.streams, self.domain_rng, self.iters_per_epoch = streams, domain_rng, iters_per_epoch

    def state_dict(self) -> dict[str, Any]:
        state = {name: stream.position for name, stream in self.streams.items()}
        state["iters_per_epoch"] = self.iters_per_epoch
        return state | ({"domain_splits": self.domain_rng.get_state()} if self.domain_rng is not None else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, stream in self.streams.items():
            stream.seek(int(state[name]))
        if self.domain_rng is not None:
            self.domain_rng.set_state(state["domain_splits"])


class SharedCollate:
    """A function that makes a batch of items, whose tensors a loader's worker moves to shared memory at once.

    Left to PyTorch, a thread of the worker does it, whose errors nobody sees: with too little shared memory the batch
    would never come.
    """

    def __init__(self, collate: Callable[[list], Batch]):
        self.collate = collate

    def __call__(self, items: list) -> Batch:
        batch = self.collate(items)
        if get_worker_info() is None:
            return batch
        try:
            for value in batch.values():
                if isinstance(value, Tensor):
                    value.share_memory_()
        except (RuntimeError, OSError) as error:
            raise UserError(f"{SHARED_MEMORY} ({' '.join(str(error).split())})") from error
        return batch


@contextmanager
def worker_errors() -> Iterator[None]:
    """Turn what PyTorch raises when a loader's worker is gone or silent into an error of one line.

    Raises:
        UserError: says what to do about it.
    """
    try:
        yield
    except RuntimeError as error:
        for pattern, advice in WORKER_ERRORS.items():
            if re.search(pattern, str(error)):
                raise UserError(f"{str(error).strip().splitlines()[0].rstrip('.')}: {advice}") from error
        raise


def shield_worker(worker: int) -> None:
    """Let a loader's worker outlive SIGINT and SIGTERM that are meant for the run.

    A terminal and a batch system send them to all processes of a run, which then finishes its iteration and needs the
    worker's batches. Only the process that started the worker ends it: by a message, at last by SIGTERM.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):  # macOS cannot tell who sent a signal
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_by_parent, daemon=True).start()


def _end_by_parent() -> None:
    """Wait for a SIGTERM of the parent process, then end this one."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
