"""From the publishers' archives to verified folders: what `tools/prepare_datasets.py` does."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from fastreid.data.prepare.base import Preparation
from fastreid.data.prepare.bounding_boxes import PrepareDukeMTMC, PrepareMarket1501
from fastreid.data.prepare.cuhk02 import PrepareCUHK02
from fastreid.data.prepare.cuhk03 import PrepareCUHK03, PrepareCUHK03Labeled
from fastreid.data.prepare.cuhk_sysu import PrepareCUHKSYSU
from fastreid.data.prepare.msmt17 import PrepareMSMT17V1, PrepareMSMT17V2
from fastreid.data.prepare.report import Problem, Report, all_usable, problem_sheet, summary_table
from fastreid.data.prepare.targets import PrepareGRID, PrepareILIDS, PreparePRID, PrepareVIPeR
from fastreid.utils.errors import UserError

__all__ = [
    "SETS",
    "Preparation",
    "Problem",
    "Report",
    "all_usable",
    "chosen_sets",
    "known_names",
    "prepare_sets",
    "problem_sheet",
    "summary_table",
]

SETS: dict[str, type[Preparation]] = {
    kind.name: kind
    for kind in (
        PrepareMarket1501,
        PrepareDukeMTMC,
        PrepareCUHK02,
        PrepareCUHK03,
        PrepareCUHK03Labeled,
        PrepareCUHKSYSU,
        PrepareGRID,
        PreparePRID,
        PrepareILIDS,
        PrepareVIPeR,
        PrepareMSMT17V1,
        PrepareMSMT17V2,
    )
}
FAMILIES = {"cuhk03": ["cuhk03_detected", "cuhk03_labeled"], "msmt17": ["msmt17_v1", "msmt17_v2"]}
# What names in DATASETS mean that are not a set's own name with DG_ or ALL_ before it.
OTHER_NAMES = {
    "cuhk03_classic": ["cuhk03_detected"],
    "cuhk03_classic_labeled": ["cuhk03_labeled"],
    "viper_only_10": ["viper"],
    "viper_10": ["viper"],
    "viper_only_5": ["viper"],
}


def known_names() -> list[str]:
    """The names of the sets on the command line."""
    return [*SETS, *FAMILIES]


def chosen_sets(word: str) -> list[str]:
    """The sets that a name means: that of a set or family, or one from DATASETS, such as DG_GRID; in any case.

    Raises:
        UserError: the name is not known; the message has the nearest ones.
    """
    name = word.lower().removeprefix("dg_").removeprefix("all_")
    if name in SETS:
        return [name]
    known = FAMILIES | OTHER_NAMES
    if name in known:
        return known[name]
    nearest = difflib.get_close_matches(name, known_names(), n=3, cutoff=0.5) or known_names()
    raise UserError(f"there is no data set {word!r}: did you mean one of {', '.join(nearest)}?")


def prepare_sets(names: Sequence[str], root: Path, check_only: bool, workers: int) -> list[Report]:
    """Prepare and verify sets one after the other; with check_only nothing is written.

    Raises:
        UserError: the root is missing.
    """
    if not root.is_dir():
        raise UserError(
            f"the data root {root} is missing: make it and unpack the data sets there, or name another one with --root"
        )
    return [SETS[name](root, check_only, workers).run() for name in names]
