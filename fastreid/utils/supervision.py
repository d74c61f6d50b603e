"""Watching over the processes of a run on one machine: one fails, all end; none outlives the process that started them.

`launch` of launch.py starts them, and starts them again (`--max-restarts`) when one is `Lost`.

PyTorch's own `elastic_launch` was tried in the place of this. It kills the processes 30 s after a signal, checkpoint or
not (PyTorch 2.10 has no option for that); it leaves the children (loader workers) of processes that are killed; and it
starts again what a wrong input has ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from typing import NamedTuple

from fastreid.utils.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, Stopped, UserError

POLL = 0.2  # seconds
# Seconds the others may take to end by themselves, by how the first one left: after a failure to say what befell them
# (the first to report need not be the cause), after a stop, on which all agree, to save a checkpoint.
GRACE = {"failure": 1.0, "user error": 1.0, "exit": 3.0, "stop": 300.0}
FORWARDED = (signal.SIGINT, signal.SIGTERM)


class Lost(SystemExit):
    """A process failed, or was killed: the machine, not the user, may be to blame, and another start may go well."""


class Report(NamedTuple):
    """Why a process ends: `kind` is a key of GRACE, `text` a message or a traceback."""

    time: float
    kind: str
    status: int
    text: str = ""


@dataclass
class Child:
    """One process: what it reported, and the exit status that it had before it was ended."""

    process: multiprocessing.process.BaseProcess
    reports: connection.Connection
    report: Report | None = None
    status: int | None = None

    def look(self) -> None:
        """Take in what became of it."""
        # The status first: one that has ended has written its report before.
        self.status = self.process.exitcode
        try:
            if self.report is None and self.reports.poll():
                self.report = self.reports.recv()
        except EOFError:  # it had nothing to report
            pass

    @property
    def left(self) -> str | None:
        """The kind of its leaving before the work was done, if it did."""
        if self.report is not None:
            return self.report.kind
        return "failure" if self.status else None


class Supervisor:
    """Start processes, wait for them, and end them all when one fails or this one is told to stop."""

    def __init__(self) -> None:
        self.work: list[tuple] = []
        self.children: list[Child] = []
        self.signal: int | None = None

    def add(self, function: Callable, *args) -> None:
        """Plan a process that runs `function(*args)`, which must be picklable."""
        self.work.append((function, args))

    def run(self) -> None:
        """Run the processes to their end. SIGINT and SIGTERM are passed on to them.

        Raises:
            UserError: raised by one of them.
            Lost: one failed, or was killed.
            SystemExit: one exited with a status other than 0, or a signal was passed on.
        """
        before = {number: signal.getsignal(number) for number in FORWARDED}
        try:
            self.start()
            while self.running() and not self.first_to_leave():
                self.watch()
            first, since = self.first_to_leave(), time.monotonic()
            while self.running() and time.monotonic() - since < GRACE[first]:
                self.watch()
        finally:
            self.end()
            for number, handler in before.items():
                signal.signal(number, handler)
        self.conclude()

    def start(self) -> None:
        """Start the processes; signals that come meanwhile reach them when they are able to deal with them."""
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # started with the first process, it would unblock the signals
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            for function, args in self.work:
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=run_child, args=(sender, function, args))
                process.start()
                sender.close()
                self.children.append(Child(process, receiver))
            for number in FORWARDED:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, self.forward)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def forward(self, number: int, frame) -> None:
        """Pass a signal on to the processes."""
        self.signal = number
        for child in self.running():
            os.kill(child.process.pid, number)

    def running(self) -> list[Child]:
        """Return the processes that have not ended."""
        return [child for child in self.children if child.status is None]

    def first_to_leave(self) -> str | None:
        """Return how the first process left before its work was done, None if none did; a failure goes first."""
        return min((child.left for child in self.children if child.left), key=list(GRACE).index, default=None)

    def watch(self) -> None:
        """Wait a moment, or until a process ends, and look at all of them."""
        # Not for ever: loader workers, which outlive a killed process for a while, hold its sentinel open.
        connection.wait([child.process.sentinel for child in self.running()], POLL)
        for child in self.children:
            child.look()

    def end(self) -> None:
        """End the processes that still run, and the children (loader workers) of all that did not end well."""
        for child in self.children:
            if child.status is None or child.left:
                kill_with_children(child.process)
        for child in self.children:
            child.process.join()

    def conclude(self) -> None:
        """Show why the run did not end well, if it did not, and leave with its status."""
        if not self.first_to_leave():
            return
        reports = sorted((child.report, rank) for rank, child in enumerate(self.children) if child.report)
        orderly = [report for report, _ in reports if report.kind in ("exit", "stop")]
        if self.signal is not None or (orderly and orderly[0] is reports[0][0]):
            # Whatever befell the others followed from it.
            if orderly and orderly[0].text:
                sys.stderr.write(f"{orderly[0].text}\n")
            sys.exit(orderly[0].status if orderly else 128 + self.signal)
        killed = [rank for rank, child in enumerate(self.children) if was_killed(child)]
        if killed or not reports:
            raise Lost(f"error: {self.obituary(killed)}")
        report, rank = reports[0]
        if report.kind == "user error":
            raise UserError(report.text)
        sys.stderr.write(f"process {rank} of {len(self.children)} failed, which ends the run:\n{report.text}")
        raise Lost(report.status)

    def obituary(self, killed: list[int]) -> str:
        """Return the message on processes that ended without a word."""
        rank = killed[0] if killed else next(r for r, child in enumerate(self.children) if child.left)
        child = self.children[rank]
        how = f"exited with status {child.status}"
        if child.status < 0:
            how = f"was killed by {signal.Signals(-child.status).name}"
        return (
            f"process {rank} (pid {child.process.pid}) {how}, so the run was ended. A machine that runs out of memory "
            "kills processes like this. --resume goes on from the last checkpoint"
        )


def was_killed(child: Child) -> bool:
    """Tell whether a process was killed from outside; one that aborts may have lost its peers first."""
    return child.report is None and (child.status or 0) < 0 and child.status != -signal.SIGABRT


def kill_with_children(process: multiprocessing.process.BaseProcess) -> None:
    """Kill a process and its own children; either may have ended already."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # nothing is left, or the process is too young to be in a group of its own
        process.kill()


def run_child(reports: connection.Connection, function: Callable, args: tuple) -> None:
    """Run `function(*args)` as one of several processes, and report how it ends if it does not end well."""
    # Signals of the terminal go to the parent alone, which passes them on; and workers can be killed with the process.
    os.setpgid(0, 0)
    threading.Thread(target=follow_parent, daemon=True).start()
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        function(*args)
        return
    except UserError as error:
        kind, status, text = "user error", EXIT_USER_ERROR, str(error)
    except Stopped as stopped:
        reports.send(Report(time.time(), "stop", 128 + stopped.signum, str(stopped)))
        return
    except KeyboardInterrupt:
        kind, status, text = "exit", EXIT_INTERRUPTED, ""
    except SystemExit as exit_:
        if not exit_.code:
            return
        number = isinstance(exit_.code, int)
        kind, status, text = "exit", exit_.code if number else 1, "" if number else str(exit_.code)
    except BaseException:
        kind, status, text = "failure", 1, traceback.format_exc()
    reports.send(Report(time.time(), kind, status, text))
    sys.stdout.flush()
    sys.stderr.flush()
    # At once: the usual end of a process waits for workers and for peers that will not answer.
    os._exit(status)


def follow_parent() -> None:
    """Kill this process and its children when its parent is gone."""
    connection.wait([multiprocessing.parent_process().sentinel])
    os.killpg(0, signal.SIGKILL)
