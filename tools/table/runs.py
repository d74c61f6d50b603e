"""The runs of a table: how far each has come, and running what is left."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import BinaryIO

from fastreid.config import CfgNode
from fastreid.engine.stopping import StopSignals
from fastreid.evaluation.results import ALL_AVERAGE
from fastreid.report.comparison import config_differences, show
from fastreid.report.plots import Records
from fastreid.report.runs import Run, read_run
from fastreid.utils import run_files
from fastreid.utils.checkpoint import last_checkpoint
from fastreid.utils.errors import Stopped, UserError
from tools.table.experiment import Experiment, Row

logger = logging.getLogger("fastreid.run_table")

POLL = 0.2  # seconds between two looks at the processes
REPORT_PERIOD = 180.0  # seconds between two lines on what is running
# Options that a machine asks for, and that change no number: a run may go on with others.
CHECKPOINTS = tuple(f"SOLVER.CHECKPOINT_{option}" for option in ("PERIOD", "SAME_AS_EVAL", "KEEP"))
OF_THE_MACHINE = ("DATALOADER.NUM_WORKERS", "DATALOADER.CACHE", *CHECKPOINTS)
SHOWN_DIFFERENCES = 5


@dataclass
class TableRun:
    """One row with one seed, and what its folder holds.

    Attributes:
        state: "finished", "trained" (the test is missing), "begun" or "to do".
        done: iterations that are trained.
        run: numbers of a finished run.
    """

    row: Row
    seed: int
    folder: Path
    state: str = "to do"
    done: int = 0
    run: Run | None = None

    @property
    def name(self) -> str:
        return f"{self.row.name}, seed {self.seed}"

    def look(self) -> None:
        """See how far the run has come.

        Raises:
            UserError: the folder holds a run with other options, or its last checkpoint is missing.
        """
        self.state, self.done, self.run = "to do", 0, None
        newest = last_checkpoint(self.folder)
        if newest is None and not (self.folder / run_files.RESULTS).is_file():
            return
        run = read_run(self.folder)
        self.require_same_options(run.config)
        if newest is None:
            return
        if newest.name != run_files.FINAL:
            self.state, self.done = "begun", run.done
            if numbered := run_files.NUMBERED.fullmatch(newest.name):
                self.done = int(numbered[1]) + 1
        elif run.about.get("iteration") is None or run.about["iteration"] != run.about.get("max_iter"):
            self.state, self.done = "trained", run.done
        else:
            self.state, self.done, self.run = "finished", run.about["iteration"], run

    def require_same_options(self, found: CfgNode | None) -> None:
        """Raise UserError when the folder's run had other options than this one has."""
        if found is None:
            raise UserError(
                f"{self.folder} has no readable {run_files.CONFIG}: remove it, or give the table another `output`"
            )
        asked = self.row.cfg.clone()
        asked.SEED = self.seed
        differences = config_differences(asked, [found])
        differences = {key: values for key, values in differences.items() if key not in OF_THE_MACHINE}
        if differences:
            shown = [f"{key} {show(had)}, asked for {show(now)}" for key, (now, had) in differences.items()]
            more = f" and {len(shown) - SHOWN_DIFFERENCES} more" if len(shown) > SHOWN_DIFFERENCES else ""
            raise UserError(
                f"{self.folder} holds a run with other options: {'; '.join(shown[:SHOWN_DIFFERENCES])}{more}. Give its "
                "options, or another `output` to the table, or remove the folder to run it again"
            )

    def command(self) -> list[str]:
        """Return the arguments of tools/train_net.py."""
        given = ["OUTPUT_DIR", str(self.folder), "SEED", str(self.seed)]
        return ["--config-file", str(self.row.config), "--resume", *given, *self.row.words]

    def about_state(self) -> str:
        """Say how far the run has come."""
        if self.state == "begun":
            return f"to resume at iteration {self.done:,}"
        if self.state == "trained":
            return "trained, to be tested"
        return f"finished, {self.done:,} iterations" if self.state == "finished" else "to do"


def plan_runs(experiment: Experiment) -> list[TableRun]:
    """Return all runs of a table and how far they have come, seed by seed, so that a part of them is a table, too.

    Raises:
        UserError: a folder holds a run with other options.
    """
    runs = [
        TableRun(row, seed, experiment.output / row.folder / f"seed{seed}")
        for seed in experiment.seeds
        for row in experiment.rows
    ]
    for run in runs:
        run.look()
    return runs


def training_seconds(records: Records) -> float:
    """Return the seconds that the iterations of a metrics.json took, hooks such as evaluation aside.

    A record's `time` is the mean over the iterations since the record before.
    """
    seconds, before = 0.0, -1
    for record in records:
        if "time" in record:
            seconds += record["time"] * (record["iteration"] - before)
            before = record["iteration"]
    return seconds


@dataclass
class Child:
    """The process of a run. began_at: how much of the console's file is of earlier processes. end: when it may end."""

    run: TableRun
    process: subprocess.Popen
    console: BinaryIO
    began_at: int
    started: float = field(default_factory=time.monotonic)
    end: float | None = None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def last_error(self) -> str:
        """Return the last line that says why the process ended, without its log's time."""
        text = Path(self.console.name).read_bytes()[self.began_at :].decode("utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["it printed nothing"])[-1]


class TableRunner:
    """Runs what is left of a table, several runs at a time if there are several places.

    Args:
        project: the folder with tools/train_net.py.
        places: environment variables of each run at a time.
        lock: a file descriptor that the processes inherit.
        finished: called after each run that ended.
    """

    def __init__(
        self,
        runs: Sequence[TableRun],
        project: Path,
        places: Sequence[dict[str, str]],
        lock: int,
        finished: Callable[[], None],
    ):
        self.runs, self.project, self.places, self.lock, self.finished = runs, project, places, lock, finished
        self.waiting = deque(run for run in runs if run.state != "finished")
        self.total = len(self.waiting)
        self.running: dict[int, Child] = {}
        self.failed: dict[str, str] = {}
        # By row: seconds of whole runs, and of one that still runs as its progress tells, for the time that is left.
        self.seconds: dict[str, list[float]] = {}
        self.estimates: dict[str, float] = {}
        for run in runs:
            if run.run is not None:
                self.note(run.row, training_seconds(run.run.records))

    def run_all(self) -> dict[str, str]:
        """Run everything; return the runs that failed, and why.

        Raises:
            Stopped: by SIGINT or SIGTERM, after the runs have saved a checkpoint.
        """
        reported, told = time.monotonic(), False
        with StopSignals() as signals:
            try:
                while self.running or (self.waiting and signals.received is None):
                    if signals.received is None:
                        self.fill_places()
                    elif not told:
                        self.stop_children()
                        told = True
                    time.sleep(POLL)
                    self.look_at_children()
                    if time.monotonic() - reported > REPORT_PERIOD:
                        self.report()
                        reported = time.monotonic()
            finally:
                # After an error, or a second signal: for the processes it is as if this one were gone.
                for child in self.running.values():
                    child.process.stdin.close()
        if signals.received is not None and any(run.state != "finished" for run in self.runs):
            done = sum(run.state == "finished" for run in self.runs)
            name = signal.Signals(signals.received).name
            message = f"stopped by {name}, {done} of {len(self.runs)} runs are finished: the same command goes on"
            raise Stopped(message, signals.received)
        return self.failed

    def fill_places(self) -> None:
        """Start the next runs in the places that are free."""
        for place in range(len(self.places)):
            if self.waiting and place not in self.running:
                self.start(place, self.waiting.popleft())

    def start(self, place: int, run: TableRun) -> None:
        """Start a run's process, in a session of its own: signals of the terminal go to this process alone."""
        number = self.total - len(self.waiting)
        logger.info(f"{number}/{self.total} {run.name}: {run.about_state()}{self.about_rest()}")
        run.folder.mkdir(parents=True, exist_ok=True)
        console = (run.folder / run_files.CONSOLE).open("ab")
        paths = [str(self.project), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **self.places[place]}
        tool = str(self.project / "tools" / "train_net.py")
        process = subprocess.Popen(
            [sys.executable, "-m", "fastreid.utils.tether", tool, *run.command()],
            stdin=subprocess.PIPE,
            stdout=console,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=[self.lock],
        )
        self.running[place] = Child(run, process, console, console.tell())

    def stop_children(self) -> None:
        """Ask the processes to save a checkpoint and end."""
        for child in self.running.values():
            child.process.terminate()
        if self.running:
            logger.info(f"waiting for {', '.join(child.run.name for child in self.running.values())}")

    def look_at_children(self) -> None:
        """Conclude the runs whose process has ended."""
        ended = [place for place, child in self.running.items() if child.process.poll() is not None]
        for place in ended:
            child = self.running.pop(place)
            child.process.stdin.close()
            child.console.close()
            self.conclude(child)
            self.finished()

    def conclude(self, child: Child) -> None:
        """See what became of a run whose process has ended."""
        run, status, began_at = child.run, child.process.returncode, child.run.done
        minutes = f"{child.seconds / 60:.1f} min"
        try:
            run.look()
        except UserError as error:
            self.failed[run.name] = str(error)
            logger.error(f"{run.name}: failed after {minutes}: {error}")
            return
        if run.state == "finished":
            if began_at == 0:
                self.note(run.row, child.seconds)
            logger.info(f"{run.name}: finished in {minutes}, {summary(run)}{self.about_rest()}")
        elif status in (-signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT):
            logger.info(f"{run.name}: stopped after {minutes}, {run.about_state()}")
            self.failed[run.name] = child.last_error()
        else:
            killed = f"killed by {signal.Signals(-status).name}; " if status < 0 else ""
            self.failed[run.name] = f"{killed}{child.last_error()}"
            logger.error(f"{run.name}: failed after {minutes}: {self.failed[run.name]} (see {child.console.name})")

    def report(self) -> None:
        """Tell how far the running processes are."""
        for child in self.running.values():
            run = read_run(child.run.folder)
            if run.total and run.done > child.run.done:
                seconds = child.seconds / (run.done - child.run.done)
                self.estimates[child.run.row.name] = seconds * run.total
                child.end = time.monotonic() + seconds * (run.total - run.done)
            progress = run.about_progress() if run.usable else "starting"
            logger.info(f"{child.run.name}: {progress} after {child.seconds / 60:.1f} min{self.about_rest()}")

    def note(self, row: Row, seconds: float) -> None:
        self.seconds.setdefault(row.name, []).append(seconds)

    def about_rest(self) -> str:
        """Return the time that is left for the whole table, once there is a run to tell it from."""
        if not self.seconds and not self.estimates:
            return ""
        now = time.monotonic()
        ends = [child.end or child.started + self.expected(child.run.row) for child in self.running.values()]
        rest = [max(0.0, end - now) for end in ends] + [self.expected(run.row) for run in self.waiting]
        left = max(sum(rest) / len(self.places), max(rest, default=0.0))
        return f", eta {timedelta(seconds=round(left))}"

    def expected(self, row: Row) -> float:
        """Return the seconds that a run of a row takes: the mean of the row's runs, or of the other rows'."""
        known = {name: [seconds] for name, seconds in self.estimates.items()} | self.seconds
        return fmean(known.get(row.name) or [fmean(seconds) for seconds in known.values()])


def summary(run: TableRun) -> str:
    """Return Rank-1 and mAP of a finished run, averaged over its test sets."""
    metrics = run.run.last[ALL_AVERAGE]
    return f"Rank-1 {metrics['Rank-1']:.2f}, mAP {metrics['mAP']:.2f}"
