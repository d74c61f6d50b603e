#!/usr/bin/env python3
"""Run every config of a table with several seeds, and write the table: Markdown, CSV and a figure.

python tools/run_table.py configs/Table/ablation.yml               # the same command goes on after a stop
python tools/run_table.py configs/Table/ablation.yml --jobs 2 MODEL.DEVICE cpu
python tools/run_table.py configs/Table/ablation.yml --gpus 0,1,2,3
python tools/run_table.py configs/Table/ablation.yml --dry-run     # how far the runs are
"""

import argparse
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from tabulate import tabulate  # noqa: E402

from fastreid.utils.errors import UserError, run_command  # noqa: E402
from fastreid.utils.files import home_path  # noqa: E402
from fastreid.utils.locks import lock_file  # noqa: E402
from fastreid.utils.logger import setup_logger  # noqa: E402
from tools.table.experiment import Experiment, read_experiment  # noqa: E402
from tools.table.figure import plot_curves, plot_table  # noqa: E402
from tools.table.numbers import write_tables  # noqa: E402
from tools.table.places import places_for  # noqa: E402
from tools.table.runs import TableRun, TableRunner, plan_runs  # noqa: E402


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run every config of a table with several seeds, and write the table.")
    parser.add_argument("table", type=home_path, metavar="TABLE.yml", help="the table's file, as in configs/Table/")
    places = parser.add_mutually_exclusive_group()
    jobs_help = "runs at a time, which share the cores (default: 1)"
    places.add_argument("--jobs", type=int, default=1, metavar="N", help=jobs_help)
    places.add_argument("--gpus", metavar="0,1,...", help="GPUs that have one run at a time each")
    parser.add_argument(
        "--only", nargs="+", metavar="ROW", help="run these rows; the table has all (KEY VALUE come before --only)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, metavar="S", help="instead of the file's")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--collect", action="store_true", help="only write the table of the runs that are finished")
    instead.add_argument("--dry-run", action="store_true", help="only show how far each run is")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="options for all runs, over those of the file")
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    setup_logger()
    experiment = read_experiment(args.table, PROJECT, args.opts, args.seeds)
    places = places_for(args.jobs, args.gpus)
    runs = plan_runs(experiment)
    chosen = choose(runs, args.only)
    if args.dry_run:
        print(tabulate([[run.row.name, run.seed, run.about_state(), run.folder] for run in chosen], tablefmt="plain"))
    elif args.collect:
        finish(experiment, runs)
    else:
        with lock_file(experiment.output / ".run_table.lock") as lock:
            runs = plan_runs(experiment)  # another process may have gone on with them before it gave the lock back
            runner = TableRunner(choose(runs, args.only), PROJECT, places, lock, lambda: write(experiment, runs))
            failed = runner.run_all()
        finish(experiment, runs)
        if failed:
            sys.exit("\n".join([f"{len(failed)} run(s) failed:", *(f"{name}: {why}" for name, why in failed.items())]))


def choose(runs: list[TableRun], rows: list[str] | None) -> list[TableRun]:
    """Return the runs of the rows that are asked for.

    Raises:
        UserError: there is no such row.
    """
    names = list(dict.fromkeys(run.row.name for run in runs))
    unknown = [name for name in rows or () if name not in names]
    if unknown:
        found = ", ".join(names)
        raise UserError(f"--only {unknown[0]}: there is no such row; found {found}. KEY VALUE come before --only")
    return [run for run in runs if not rows or run.row.name in rows]


def write(experiment: Experiment, runs: list[TableRun]) -> None:
    """Write the table's files."""
    plot_table(experiment.output / "table.png", experiment, write_tables(experiment, runs))
    if experiment.curves:
        plot_curves(experiment.output / "curves.png", experiment, runs)


def finish(experiment: Experiment, runs: list[TableRun]) -> None:
    """Write the table's files and show the table."""
    write(experiment, runs)
    finished = sum(run.state == "finished" for run in runs)
    print((experiment.output / "table.md").read_text(encoding="utf-8"))
    files = "runs.csv, table.png and curves.png" if experiment.curves else "runs.csv and table.png"
    print(f"{finished} of {len(runs)} runs are finished; wrote table.md, table.csv, {files} in {experiment.output}")


if __name__ == "__main__":
    run_command(main)
