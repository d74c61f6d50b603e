"""A run's folder as it is found: ended, stopped, still running, or broken."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode, get_cfg
from fastreid.evaluation.results import ALL_AVERAGE
from fastreid.report.plots import Records, read_metrics
from fastreid.report.run_log import Evaluation, Rows, parse_log, with_averages
from fastreid.utils import run_files
from fastreid.utils.errors import UserError
from fastreid.utils.files import walk_folders

logger = logging.getLogger(__name__)

# By which a run's folder is known.
RUN_FILES = (run_files.CONFIG, run_files.METRICS, run_files.RESULTS, run_files.LOG)
# A run that wrote nothing for so long is taken to have stopped.
STOPPED_AFTER_SECONDS = 15 * 60


@dataclass
class Run:
    """What a run's folder holds; what could not be read is said in `problems`.

    Attributes:
        config: None without a readable config.yaml.
        records: metrics.json.
        evaluations: in order of time, those of training before later tests.
        about: what results.json says beside its numbers.
        done, total: training iterations.
        status: "ended", "running", "stopped", "tested" (never trained here) or "broken" (no usable file).
    """

    folder: Path
    name: str
    config: CfgNode | None = None
    records: Records = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    done: int = 0
    total: int | None = None
    status: str = "broken"
    problems: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether there is any number to show."""
        return bool(self.records or self.evaluations)

    @property
    def last(self) -> Rows:
        """The rows of the last evaluation."""
        return self.evaluations[-1].rows if self.evaluations else {}

    @property
    def data_sets(self) -> list[str]:
        """The data sets of any evaluation."""
        names = [row for evaluation in self.evaluations for row in evaluation.rows if row.endswith("_average")]
        return list(dict.fromkeys(name.removesuffix("_average") for name in names))

    def best(self, row: str, metric: str) -> tuple[float, int | None] | None:
        """Return the highest value of a metric in a row over all evaluations, with its iteration; None without any."""
        values = [(found.rows.get(row, {}).get(metric, math.nan), found.iteration) for found in self.evaluations]
        return max((pair for pair in values if not math.isnan(pair[0])), key=lambda pair: pair[0], default=None)

    def about_progress(self) -> str:
        """Say how far training came."""
        if self.status == "tested":
            return "tested, not trained here"
        if self.status == "broken":
            return "broken"
        return f"{self.status} at iteration {self.done:,}" + (f" of {self.total:,}" if self.total else "")


def find_runs(root: Path) -> list[Path]:
    """Return every folder at or below `root`, links followed, that holds a file of a run, in name order, each once.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"no folder {root}: give the folder that holds the runs' output folders, such as logs")
    found = walk_folders(root)
    return sorted(
        folder for folder, names in found if any((folder / name).is_file() for name in {*RUN_FILES} & {*names})
    )


def read_run(folder: Path, name: str = "") -> Run:
    """Read what a run left in its folder; a file that cannot be read becomes one of the run's problems."""
    run = Run(folder, name or folder.name)
    if not folder.is_dir():
        run.problems.append("there is no such folder")
        return run
    present = {file for file in RUN_FILES if (folder / file).is_file()}
    if not present:
        run.problems.append(f"not a run's folder: it has none of {', '.join(RUN_FILES)}")
        return run
    readers = {
        run_files.CONFIG: _read_config,
        run_files.METRICS: _read_metrics,
        run_files.LOG: _read_log,
        run_files.RESULTS: _read_results,
    }
    for file, read in readers.items():
        if file in present:
            try:
                read(run, folder / file)
            except (UserError, OSError, UnicodeDecodeError) as error:
                run.problems.append(str(error))
    if not run.usable:
        run.problems.append("no numbers: neither losses nor results were written")
    elif not run.evaluations:
        run.problems.append("not evaluated yet")
    run.status = _status(run, present)
    return run


def _status(run: Run, present: set[str]) -> str:
    if not run.usable:
        return "broken"
    if not run.records and run.done == 0:
        return "tested"
    if run.done == run.total or (run.total is None and (run.folder / run_files.FINAL).is_file()):
        return "ended"
    newest = max((run.folder / file).stat().st_mtime for file in present)
    return "running" if time.time() - newest < STOPPED_AFTER_SECONDS else "stopped"


def _read_config(run: Run, path: Path) -> None:
    cfg = get_cfg()
    cfg.merge_from_file(path)
    run.config = cfg


def _read_metrics(run: Run, path: Path) -> None:
    run.records = read_metrics(path)
    if not run.records and path.stat().st_size:
        raise UserError(f"{path}: no line of it is a JSON record")
    if not run.records:
        return
    run.done = run.records[-1]["iteration"] + 1
    run.evaluations = [
        Evaluation(rows, record["iteration"] + 1) for record in run.records if (rows := evaluation_rows(record))
    ]


def evaluation_rows(record: dict[str, float]) -> Rows:
    """Return the results in a record of metrics.json, `test/<data set> <metric>`, by the rows of a table."""
    rows: Rows = {}
    for key, value in record.items():
        name, _, metric = key.removeprefix("test/").rpartition(" ")
        if key.startswith("test/") and name:
            rows.setdefault(ALL_AVERAGE if name == "all_average" else f"{name}_average", {})[metric] = value
    return rows


def _read_log(run: Run, path: Path) -> None:
    log = parse_log(path.read_text(encoding="utf-8", errors="replace"))
    run.done, run.total = max(run.done, log.done), log.total
    # The tables have every metric, metrics.json two of them, but with all digits.
    recorded = {found.iteration: found for found in run.evaluations}
    for found in log.evaluations:
        same = recorded.get(found.iteration)
        if same is None:
            recorded[found.iteration] = found
            continue
        for row, metrics in found.rows.items():
            same.rows[row] = {**metrics, **same.rows.get(row, {})}
    run.evaluations = sorted(recorded.values(), key=lambda found: found.iteration) + log.tests


def _read_results(run: Run, path: Path) -> None:
    """Let the last evaluation be that of results.json, which has all metrics with all digits."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = with_averages(
            {
                row: {key: math.nan if value is None else float(value) for key, value in metrics.items()}
                for row, metrics in content.pop("results").items()
            }
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} does not hold results ({type(error).__name__}: {error})") from error
    about = {key: value for key, value in content.items() if key not in ("splits", "cmc", "counts")}
    iteration, last = about.get("iteration"), run.evaluations[-1] if run.evaluations else None
    # A trained run that is started again only tests: its log has a table without an iteration.
    if last is not None and (last.iteration == iteration or (last.iteration is None and iteration == run.done)):
        last.rows, last.iteration = rows, iteration
    elif iteration is None or run.done == 0:
        run.evaluations.append(Evaluation(rows, iteration))
    else:
        raise UserError(f"{path} is of an earlier run (iteration {iteration}), it was left out")
    run.about = about


def run_names(folders: Iterable[Path], root: Path | None = None) -> list[str]:
    """Return a name for each folder: its path below `root`, or as few of its last parts as tell them all apart."""
    folders = list(folders)
    if root is not None:
        return [(folder.relative_to(root).as_posix() if folder != root else root.resolve().name) for folder in folders]
    resolved = [folder.resolve() for folder in folders]
    for depth in range(1, max((len(path.parts) for path in resolved), default=1) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(set(resolved)):
            break
    return names
