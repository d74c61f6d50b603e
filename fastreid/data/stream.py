"""The batches of a run, by their place in the stream."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any, Iterator

import torch
from torch.utils.data import DataLoader

Batch = dict[str, Any]


class BatchStream:
    """The endless batches of a loader of `SharedBatches`; `position` is the number of those that were taken.

    Batches that workers have prepared ahead do not count, so that a resumed run gets them again.
    """

    def __init__(self, loader: DataLoader):
        self.loader = loader
        self.position = 0
        self.batches: Iterator[Batch] | None = None

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> Batch:
        if self.batches is None:
            self.loader.batch_sampler.start = self.position
            self.batches = iter(self.loader)
        batch = next(self.batches)
        self.position += 1
        return batch

    def seek(self, position: int) -> None:
        """Go on with the batch at `position`."""
        if position != self.position:
            self.position, self.batches = position, None


class DataPositions:
    """What a checkpoint keeps of the data: the place in each stream, and the generator of the domain splits.

    All processes have the same. Args:
        streams: by name. domain_rng: None without meta steps.
    """

    def __init__(self, streams: dict[str, BatchStream], domain_rng: torch.Generator | None):
        self.streams, self.domain_rng = streams, domain_rng

    def state_dict(self) -> dict[str, Any]:
        state = {name: stream.position for name, stream in self.streams.items()}
        return state | ({"domain_splits": self.domain_rng.get_state()} if self.domain_rng is not None else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, stream in self.streams.items():
            stream.seek(int(state[name]))
        if self.domain_rng is not None:
            self.domain_rng.set_state(state["domain_splits"])


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
