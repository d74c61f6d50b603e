#!/usr/bin/env python3
"""Write one self-contained page about one run or several: tables, curves, gates, configs, worst and best queries.

Of several runs, each query has its list by each of them, and their differences on the same queries have intervals.

    python tools/report.py logs/Sample/DG-mobilenet
    python tools/report.py logs/first logs/second --output compared.html --queries 10 --opts MODEL.DEVICE cpu
"""

import argparse
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from fastreid.report.comparison import base_config  # noqa: E402
from fastreid.report.page import render  # noqa: E402
from fastreid.report.queries import ListOptions, Thumbnails, add_heat, query_sets, run_lists  # noqa: E402
from fastreid.report.query_cards import QueryLists  # noqa: E402
from fastreid.report.runs import Run, read_run, run_names  # noqa: E402
from fastreid.utils import run_files  # noqa: E402
from fastreid.utils.errors import UserError, run_command  # noqa: E402
from fastreid.utils.files import home_path, write_text  # noqa: E402
from fastreid.utils.logger import setup_logger  # noqa: E402

MOST_RUNS = 8
PAGES = (".html", ".htm")
BASE = PROJECT / "configs" / "Base-DG.yml"


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write a self-contained HTML page about one run or several.")
    parser.add_argument("folders", nargs="+", type=home_path, metavar="LOGDIR", help="output folders of runs")
    parser.add_argument("--output", type=home_path, metavar="FILE", help="default: report.html in the first folder")
    parser.add_argument(
        "--base",
        type=home_path,
        default=BASE,
        metavar="FILE",
        help=f"config to compare with (default: {BASE.relative_to(PROJECT)})",
    )
    parser.add_argument(
        "--queries",
        type=int,
        default=3,
        metavar="N",
        help="worst and best queries of each data set and run (default: 3 and 3)",
    )
    parser.add_argument(
        "--top-k", type=int, default=10, metavar="K", help="gallery images of each ranked list (default: 10)"
    )
    parser.add_argument(
        "--no-images", action="store_true", help="no ranked lists: needs neither checkpoints nor data sets"
    )
    parser.add_argument("--heat", action="store_true", help="show below each image where the model looks")
    parser.add_argument(
        "--max-mb",
        type=float,
        default=20.0,
        metavar="MB",
        help="most that the thumbnails may take together (default: 20)",
    )
    parser.add_argument(
        "--opts",
        nargs="+",
        default=[],
        metavar="KEY VALUE",
        help="options over the runs' configs, such as MODEL.DEVICE cpu",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    setup_logger()
    if args.heat and args.no_images:
        raise UserError("--heat is drawn over images, which --no-images leaves out: leave out one of the two")
    if args.max_mb <= 0:
        raise UserError(f"--max-mb {args.max_mb:g} must be above 0; --no-images leaves all pictures out")
    options = ListOptions(args.queries, args.top_k, args.opts)
    folders = list(dict.fromkeys(args.folders))
    if len(folders) > MOST_RUNS:
        raise UserError(
            f"{len(folders)} runs: a page shows {MOST_RUNS} at most, as many as there are colours to tell apart; "
            "tools/find_results.py puts any number into one table"
        )
    if args.output and args.output.exists() and args.output.suffix.lower() not in PAGES:
        raise UserError(f"--output {args.output} is there and is no page: choose a name that ends in {PAGES[0]}")
    runs = [read_run(folder, name) for folder, name in zip(folders, run_names(folders))]
    if not any(run.usable for run in runs):
        raise UserError("; ".join(f"{run.folder}: {', '.join(run.problems)}" for run in runs))
    lists = None if args.no_images else read_lists(runs, options, args.max_mb, args.heat)
    output = args.output or next(run.folder for run in runs if run.usable) / run_files.PAGE
    write_text(output, render(runs, base_config(args.base), args.base.stem, lists))
    print(f"wrote {output}, {output.stat().st_size / 1e6:.1f} MB")


def read_lists(runs: list[Run], options: ListOptions, max_mb: float, heat: bool) -> QueryLists:
    """Return the ranked lists of all runs that have a checkpoint and data; with `heat`, where their models look."""
    found = [run_lists(run, options) for run in runs]
    sets = query_sets(found, options.count)
    if heat:
        add_heat(sets, found, runs, options.overrides)
    return QueryLists(sets, found, Thumbnails(int(max_mb * 1e6)))


if __name__ == "__main__":
    run_command(main)
