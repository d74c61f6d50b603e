"""Stopping a run by a signal without losing what it has done."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fastreid.utils.processes import any_process, num_processes

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ECHO_SECONDS = 1.0  # a batch system and the process that started this one may both pass on one signal
PATIENCE = 30.0  # seconds that a stop waits for a batch
AGREEMENT_PERIOD = 10  # iterations between two questions to the other processes, which cost time


class StopRequested(Exception):
    """A signal asks the run to stop, at a moment at which its state can be saved, or else `midway` in an iteration."""

    def __init__(self, signum: int, midway: bool = False):
        super().__init__(signal.Signals(signum).name)
        self.signum, self.midway = signum, midway


class StopSignals:
    """While entered, SIGINT and SIGTERM ask for a stop; a second one acts at once, as without this.

    What comes within a second of the first is taken for the same signal, sent to a group and passed on by its leader.

    Outside the main thread, which alone may handle signals, it does nothing. A signal that is ignored, as in a
    shell's background jobs, stays so.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.received_at = 0.0
        self.immediate = self.waits = False
        self.previous: dict[int, signal.Handlers] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for signum in SIGNALS:
                if signal.getsignal(signum) is not signal.SIG_IGN:
                    self.previous[signum] = signal.signal(signum, self.handle)
            self.previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self.give_up)
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Give the signals back their earlier handlers."""
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        self.previous = {}

    def handle(self, signum: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if time.monotonic() - self.received_at > ECHO_SECONDS:
                self.restore()
                os.kill(os.getpid(), signum)
            return
        self.received, self.received_at = signum, time.monotonic()
        name = signal.Signals(signum).name
        # Not by the log: its streams may be in the middle of a line.
        os.write(
            2, f"{name}: stopping after this iteration, with a checkpoint; a second signal stops at once\n".encode()
        )
        if self.immediate:
            raise StopRequested(signum)
        if self.waits:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)

    def give_up(self, signum: int, frame: FrameType | None) -> None:
        if self.waits:
            raise StopRequested(self.received, midway=True)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within, for a batch: a stop that was asked for raises StopRequested after PATIENCE seconds."""
        self.waits = True
        if self.received is not None:
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        try:
            yield
        finally:
            self.waits = False
            if self.received is not None:
                signal.setitimer(signal.ITIMER_REAL, 0)

    def check(self, iteration: int) -> None:
        """Raise StopRequested if a signal came, in all processes after the same iteration."""
        if num_processes() > 1:
            if (iteration + 1) % AGREEMENT_PERIOD or not any_process(self.received is not None):
                return
            self.received = self.received or signal.SIGTERM
        if self.received is not None:
            raise StopRequested(self.received)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within, a signal raises StopRequested at once; not with several processes, of which others would wait."""
        if num_processes() == 1:
            if self.received is not None:
                raise StopRequested(self.received)
            self.immediate = True
        try:
            yield
        finally:
            self.immediate = False
