#!/usr/bin/env python3
"""From the publishers' archives, unpacked below the data root, to data sets that are prepared and verified.

    python tools/prepare_datasets.py                           # all that is there
    python tools/prepare_datasets.py cuhk03 cuhk_sysu          # these; names in DATASETS, as DG_GRID, do as well
    python tools/prepare_datasets.py --check --json report.json

Shows what was made, one line for each damage with what to do about it, and a summary table. The verdict `ok` means that
the set is readable and as large as published, `warning` that it can be used but something is worth a note, as other
counts than the published ones, `unusable` and `missing` what they say. An interrupted run goes on where it stopped.

Exit status: 0, every set that was asked for can be used; 1, one cannot, or is missing (without names: none is there, or
one that is there cannot be used; of cuhk03 and msmt17, either kind of boxes or version will do); 2, wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a checkout that is not installed

from fastreid.data.datasets import datasets_root
from fastreid.data.prepare import SETS, all_usable, chosen_sets, known_names, prepare_sets, problem_sheet, summary_table
from fastreid.utils.errors import UserError, run_command
from fastreid.utils.files import home_path, write_json
from fastreid.utils.logger import setup_logger
from fastreid.utils.machine import num_cores

EXIT_NOT_USABLE = 1


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Command line; argparse itself ends the program with status 2 for an option it does not know."""
    description, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(known_names())} (default: all)")
    parser.add_argument(
        "--root", type=home_path, default=datasets_root(), help="data root (default: $FASTREID_DATASETS, or datasets)"
    )
    parser.add_argument("--check", action="store_true", help="verify only, write nothing into the data root")
    parser.add_argument("--json", type=home_path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument(
        "--workers", type=int, default=num_cores(), metavar="N", help="processes (default: one per core)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit status. Raises UserError for wrong arguments."""
    args = parse_args(argv)
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: expected 1 or more")
    setup_logger()
    asked = [chosen_sets(word) for word in args.names] or [list(SETS)]
    names = list(dict.fromkeys(name for sets in asked for name in sets))
    reports = {report.name: report for report in prepare_sets(names, args.root, args.check, args.workers)}
    usable = all(all_usable([reports[name] for name in sets]) for sets in asked)
    if args.json:
        write_json(
            args.json,
            {
                "root": str(args.root),
                "checked_only": args.check,
                "usable": usable,
                "sets": {name: report.as_json() for name, report in reports.items()},
            },
        )
    sheet = problem_sheet(reports.values())
    print(f"{sheet}\n\n" * bool(sheet) + summary_table(reports.values()))
    return 0 if usable else EXIT_NOT_USABLE


if __name__ == "__main__":
    run_command(lambda: sys.exit(main()))
