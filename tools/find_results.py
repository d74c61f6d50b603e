#!/usr/bin/env python3
"""Collect every run below a folder into one table: .xlsx with formatted sheets, .csv, and a short one to look at.

python tools/find_results.py                      # all runs below logs/
python tools/find_results.py logs/Sample --output results/sample
"""

import argparse
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from tabulate import tabulate  # noqa: E402

from fastreid.report.comparison import ALL_SETS, Line, base_config, csv_rows, lines, write_comparison  # noqa: E402
from fastreid.report.runs import find_runs, read_run, run_names  # noqa: E402
from fastreid.utils import run_files  # noqa: E402
from fastreid.utils.errors import UserError, run_command  # noqa: E402
from fastreid.utils.files import home_path, refuse_inputs, write_csv  # noqa: E402
from fastreid.utils.logger import setup_logger  # noqa: E402

BASE = PROJECT / "configs" / "Base-DG.yml"
SHOWN = ("Rank-1", "mAP")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Collect every run below a folder into one table.")
    parser.add_argument("root", nargs="?", type=home_path, default=Path("logs"), help="folder of runs (default: logs)")
    parser.add_argument(
        "--output", type=home_path, metavar="NAME", help="write NAME.xlsx and NAME.csv (default: ROOT/all_results)"
    )
    parser.add_argument(
        "--base", type=home_path, metavar="FILE", help=f"config to compare with (default: {BASE.relative_to(PROJECT)})"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    setup_logger()
    base_file = args.base or BASE
    base = base_config(base_file)
    folders = find_runs(args.root)
    if not folders:
        raise UserError(f"no run below {args.root}: a run's folder holds log.txt, metrics.json or results.json")
    # Not with_suffix: a name may have a dot of its own.
    output = args.output or args.root / "all_results"
    workbook, text = (output.with_name(output.name + suffix) for suffix in (".xlsx", ".csv"))
    names = run_files.RESULTS_WORKBOOK, f"{run_files.PER_QUERY}/*.csv"
    written = [path for folder in folders for name in names for path in folder.glob(name)]
    refuse_inputs(workbook, written)
    refuse_inputs(text, written)
    runs = [read_run(folder, name) for folder, name in zip(folders, run_names(folders, args.root))]
    table = [line for run in runs for line in lines(run)]
    write_comparison(workbook, table, runs, base, base_file.stem)
    write_csv(text, csv_rows(table))
    print(short_table(table))
    for run in runs:
        if run.problems:
            print(f"{run.name}: {'; '.join(run.problems)}")
    broken = sum(run.status == "broken" for run in runs)
    print(f"{len(runs)} run(s), {broken} of them broken; wrote {workbook} and {text}")


def short_table(table: list[Line]) -> str:
    """Return the average over the data sets of each run: best (and when) and last Rank-1 and mAP."""
    header = [
        "Run",
        "Status",
        *(text for metric in SHOWN for text in (f"best {metric}", "iteration", f"last {metric}")),
    ]
    rows = []
    for line in table:
        if line.data_set in ("", ALL_SETS):
            values = [line.values[f"{kind} {metric}"] for metric in SHOWN for kind in ("best", "best at", "last")]
            rows.append([line.run, line.status, *values])
    formats = ("", "", *(".2f", ",", ".2f") * len(SHOWN))
    return tabulate(rows, headers=header, tablefmt="pipe", floatfmt=formats, intfmt=",", missingval="")


if __name__ == "__main__":
    run_command(main)
