"""The file of a table: configs that are trained with several seeds each, to be compared.

title: Normalization layers
output: logs/Table/ablation            # default: the file's path with configs -> logs, without suffix
seeds: [2020, 2021, 2022]
options: {SOLVER.MAX_ITER: 50}         # for every run
groups: {seen: [folder:a, folder:b], unseen: [ALL_GRID]}     # averages over test sets; default: all
gap: [seen, unseen]                    # a column for the first group less the second
metrics: [Rank-1, mAP]
curves: [base/loss_cls, test/ALL_GRID mAP]      # what each run's metrics.json has over its iterations: curves.png
rows:
  - name: BN
    config: configs/Ablation/BN.yml    # from the project's folder
    options: {MODEL.NORM.TYPE_BACKBONE: BN}
    published: {unseen: {Rank-1: 64.7, mAP: 72.3}, ALL_GRID: {Rank-1: 40.0}}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastreid.config import CfgNode, get_cfg
from fastreid.config.config import leaves, yaml_chain
from fastreid.engine.defaults import output_folder
from fastreid.evaluation.results import FPRS, TABLE_METRICS
from fastreid.utils.errors import UserError

KEYS = ("title", "output", "seeds", "options", "groups", "gap", "metrics", "curves", "rows")
ROW_KEYS = ("name", "config", "options", "published")
DEFAULT_METRICS = ("Rank-1", "mAP")
KNOWN_METRICS = (*TABLE_METRICS, *(f"TAR@FAR={fpr}" for fpr in FPRS))
ALL = "all"
# A run gets these from its place in the table.
GIVEN = ("SEED", "OUTPUT_DIR")
LONGEST_NAME = 100  # also that of a folder
LARGEST_SEED = 2**32 - 1  # NumPy's


@dataclass(frozen=True)
class Row:
    """A config with options, to be trained with each seed.

    Attributes:
        folder: its name as that of a folder.
        words: the options as KEY VALUE ... of a command line.
        cfg: config and options together.
        published: figures in percent by group or test set, then by metric.
    """

    name: str
    folder: str
    config: Path
    words: tuple[str, ...]
    cfg: CfgNode
    published: dict[str, dict[str, float]]

    @property
    def test_sets(self) -> tuple[str, ...]:
        return tuple(self.cfg.DATASETS.TESTS)


@dataclass(frozen=True)
class Experiment:
    """A table's rows and seeds, and what its columns are.

    Attributes:
        groups: test sets by the name of their average; empty: one of all test sets of a row.
        gap: two groups, or nothing.
        curves: names of what a run records.
    """

    path: Path
    title: str
    output: Path
    seeds: tuple[int, ...]
    groups: dict[str, tuple[str, ...]]
    gap: tuple[str, ...]
    metrics: tuple[str, ...]
    curves: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def test_sets(self) -> list[str]:
        """The test sets of all rows."""
        return list(dict.fromkeys(name for row in self.rows for name in row.test_sets))

    def groups_of(self, row: Row) -> dict[str, tuple[str, ...]]:
        """Return the test sets of each average of a row."""
        return self.groups or {ALL: row.test_sets}

    @property
    def group_names(self) -> list[str]:
        return list(self.groups) or [ALL]


def read_experiment(
    path: Path, project: Path, words: Sequence[str] = (), seeds: Sequence[int] | None = None
) -> Experiment:
    """Read a table's file, and merge each row's config and options once.

    Args:
        project: the folder that the rows' configs are meant from.
        words: KEY VALUE ... over the options of all rows.
        seeds: instead of the file's.

    Raises:
        UserError: the file or a config is missing, or something in them is unknown, twice or of the wrong kind.
    """
    tree = yaml_chain(path)[-1][1]
    check_keys(tree, KEYS, ("title", "seeds", "rows"), str(path))
    for key in ("title", "output"):
        if not isinstance(tree.get(key, ""), str):
            raise UserError(f"{path}: {key} must be a text; found {tree[key]!r}")
    found = tree["rows"]
    if not isinstance(found, list) or not found:
        raise UserError(f"{path}: rows must be a list with at least one `- name: ...`; found {found!r}")
    common = options_of(tree, str(path))
    rows = tuple(read_row(path, project, entry, number, common, words) for number, entry in enumerate(found, start=1))
    experiment = Experiment(
        path,
        tree["title"],
        Path(tree["output"]).expanduser() if tree.get("output") else output_folder(path),
        check_seeds(tree["seeds"] if seeds is None else list(seeds), str(path) if seeds is None else "--seeds"),
        {name: names_in(sets, f"{path}: group {name}") for name, sets in mapping(tree, "groups", str(path)).items()},
        names_in(tree["gap"], f"{path}: gap") if "gap" in tree else (),
        names_in(tree.get("metrics", list(DEFAULT_METRICS)), f"{path}: metrics"),
        names_in(tree["curves"], f"{path}: curves") if "curves" in tree else (),
        rows,
    )
    check_names(experiment)
    return experiment


def read_row(path: Path, project: Path, entry: Any, number: int, common: dict[str, Any], words: Sequence[str]) -> Row:
    """Return one row of the file `path`, its config merged with the common options, its own, and `words`."""
    where = f"{path}: row {number}"
    if not isinstance(entry, dict):
        raise UserError(f"{where} must have a name and a config; found {entry!r}")
    check_keys(entry, ROW_KEYS, ("name", "config"), where)
    name, config = entry["name"], entry["config"]
    folder = folder_name(name) if isinstance(name, str) and len(name.splitlines()) == 1 else ""
    if not folder or len(folder) > LONGEST_NAME:
        raise UserError(
            f"{where}: name must be one line with a letter or digit, of at most {LONGEST_NAME} characters; found "
            f"{name!r}"
        )
    if not isinstance(config, str):
        raise UserError(f"{where}: config must be the path of a file, from {project}; found {config!r}")
    where = f"{where} ({name})"
    options = common | options_of(entry, where)
    cfg = get_cfg()
    try:
        cfg.merge_from_file(project / config)
        cfg.merge_tree(options, where="options")
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    cfg.merge_from_list(list(words))
    refuse_given(words[0::2], "command line")
    merged = dict(leaves(cfg))
    changed = {key: str(merged[key]) for key in (*options, *words[0::2])}
    published = mapping(entry, "published", where)
    for key, figures in published.items():
        if not isinstance(figures, dict) or not all(is_number(value) for value in figures.values()):
            raise UserError(f"{where}: published {key} must be figures by metric, {{Rank-1: 64.7}}; found {figures!r}")
    line = tuple(word for option in changed.items() for word in option)
    return Row(name, folder, project / config, line, cfg, published)


def check_names(experiment: Experiment) -> None:
    """Raise UserError for rows that share a name, and for names of groups, test sets and metrics that do not exist."""
    path = experiment.path
    folders: dict[str, str] = {}
    for row in experiment.rows:
        folder = row.folder.lower()  # some file systems do not tell upper from lower case
        if folder in folders:
            raise UserError(
                f"{path}: the rows {folders[folder]!r} and {row.name!r} have one folder, {row.folder}: rename one"
            )
        folders[folder] = row.name
    unknown = [name for name in experiment.metrics if name not in KNOWN_METRICS]
    if unknown or not experiment.metrics:
        raise UserError(f"{path}: metrics must be of {', '.join(KNOWN_METRICS)}; found {', '.join(unknown) or 'none'}")
    gap = experiment.gap
    if gap and (len(gap) != 2 or gap[0] == gap[1] or not set(gap) <= set(experiment.groups)):
        groups = ", ".join(experiment.groups) or "none: give groups, too"
        raise UserError(f"{path}: gap must be two of the groups ({groups}); found {', '.join(gap)}")
    for row in experiment.rows:
        check_row_names(experiment, row)


def check_row_names(experiment: Experiment, row: Row) -> None:
    """Raise UserError when a row lacks a group's test set, or has published figures of what is not in the table."""
    where = f"{experiment.path}: row {row.name}"
    if not row.test_sets:
        raise UserError(f"{where}: DATASETS.TESTS names no data set to test on")
    tested = ", ".join(row.test_sets)
    for group, sets in experiment.groups.items():
        missing = [name for name in sets if name not in row.test_sets]
        if missing:
            raise UserError(f"{where} is not tested on {missing[0]} of group {group}: its DATASETS.TESTS are {tested}")
        if group in row.test_sets and sets != (group,):
            raise UserError(f"{experiment.path}: group {group} has a test set's name: call it otherwise")
    for name, figures in row.published.items():
        if name not in experiment.group_names and name not in row.test_sets:
            groups = ", ".join(experiment.group_names)
            raise UserError(f"{where}: published {name} is neither a group ({groups}) nor a test set ({tested})")
        unknown = [metric for metric in figures if metric not in KNOWN_METRICS]
        if unknown:
            raise UserError(f"{where}: published {name}: {unknown[0]} is none of {', '.join(KNOWN_METRICS)}")


def check_keys(tree: dict, known: Sequence[str], needed: Sequence[str], where: str) -> None:
    """Raise UserError for a key that is unknown, or missing."""
    unknown = [str(key) for key in tree if key not in known]
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]}; the keys are {', '.join(known)}")
    missing = [key for key in needed if key not in tree]
    if missing:
        raise UserError(f"{where}: {missing[0]} is missing")


def check_seeds(seeds: Any, where: str) -> tuple[int, ...]:
    """Return seeds that are different numbers from 0.

    Raises:
        UserError: they are not.
    """
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and 0 <= s <= LARGEST_SEED for s in seeds):
        raise UserError(f"{where}: seeds must be a list of whole numbers from 0 to {LARGEST_SEED}; found {seeds!r}")
    twice = [seed for seed in seeds if seeds.count(seed) > 1]
    if twice:
        raise UserError(f"{where}: seed {twice[0]} is written twice")
    return tuple(seeds)


def options_of(tree: dict, where: str) -> dict[str, Any]:
    """Return `options` by dotted name; sections may also be written as sections."""
    options = dict(leaves(mapping(tree, "options", where)))
    refuse_given(list(options), where)
    return options


def refuse_given(keys: Sequence[str], where: str) -> None:
    """Raise UserError for options that a run gets from its place in the table."""
    for key in keys:
        if key in GIVEN:
            raise UserError(f"{where}: {key} is set for each run: give `seeds` and `output` to the table instead")


def mapping(tree: dict, key: str, where: str) -> dict[str, Any]:
    """Return the section `key`, empty where there is none."""
    value = tree.get(key, {})
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where}: {key} must be NAME: VALUE lines; found {value!r}")
    return value


def names_in(value: Any, where: str) -> tuple[str, ...]:
    """Return a list of different names."""
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where} must be a list of names; found {value!r}")
    if len(set(value)) < len(value):
        raise UserError(f"{where} has a name twice: {', '.join(value)}")
    return tuple(value)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def folder_name(name: str) -> str:
    """Return a row's name as that of a folder: what is not a letter, a digit or one of _.+=- becomes a dash."""
    return re.sub(r"[^\w.+=-]+", "-", name).strip("-.")
