"""The file of a table: what it gives, and one clear message for each mistake in it."""

from pathlib import Path

import pytest

from fastreid.report.comparison import config_differences
from fastreid.utils.errors import UserError
from tools.table.experiment import folder_name, read_experiment

ROOT = Path(__file__).parents[3]


def test_rows_are_configs_with_the_table_s_their_own_and_the_command_s_options(tables, project):
    path = tables.write_table(project, options={"SOLVER.MAX_ITER": 7, "SOLVER": {"BASE_LR": 9}})
    table = read_experiment(path, project, ["SOLVER.MAX_ITER", "8", "DATASETS.TESTS", "('folder:x',)"])
    first, second = table.rows
    assert (first.cfg.SOLVER.MAX_ITER, first.cfg.SOLVER.BASE_LR, second.cfg.SOLVER.BASE_LR) == (8, 9.0, 2.5)
    assert first.test_sets == ("folder:x",) and second.folder == "Meta-BIN"
    # What the training command is given is what the config was merged with.
    again = first.cfg.clone()
    again.merge_from_file(project / "configs" / "tiny.yml")
    again.merge_from_list(list(first.words))
    assert again == first.cfg


def test_defaults(tables, project):
    table = read_experiment(tables.write_table(project), project)
    assert table.output == project / "logs" / "Table" / "two" and table.metrics == ("Rank-1", "mAP")
    assert table.group_names == ["all"] and table.groups_of(table.rows[0]) == {"all": tables.SETS} and table.gap == ()


def test_output_and_seeds_can_be_chosen(tables, project):
    table = read_experiment(tables.write_table(project, output="logs/other"), project, seeds=[7])
    assert table.output == Path("logs/other") and table.seeds == (7,)


ROW = {"name": "x", "config": "configs/tiny.yml"}
GROUPS = {"seen": ["folder:a"], "unseen": ["folder:b", "folder:c"]}
MISTAKES = {
    "unknown key": ({"seed": [1]}, "unknown key seed; the keys are title, output"),
    "no rows": ({"rows": []}, "rows must be a list"),
    "no list of seeds": ({"seeds": 5}, "seeds must be a list of whole numbers"),
    "a seed that is none": ({"seeds": [1, True]}, "seeds must be a list of whole numbers"),
    "a seed below 0": ({"seeds": [-1]}, "seeds must be a list of whole numbers"),
    "a seed twice": ({"seeds": [3, 4, 3]}, "seed 3 is written twice"),
    "a row of text": ({"rows": ["BN"]}, "row 1 must have a name and a config; found 'BN'"),
    "no config": ({"rows": [{"name": "x"}]}, "row 1: config is missing"),
    "unknown key of a row": ({"rows": [ROW | {"weights": 1}]}, "row 1: unknown key weights"),
    "no name": ({"rows": [ROW | {"name": "--"}]}, "of at most 100 characters; found '--'"),
    "a name of two lines": ({"rows": [ROW | {"name": "a\nb"}]}, "name must be one line with a letter or digit"),
    "a name that is too long": ({"rows": [ROW | {"name": 101 * "a"}]}, "of at most 100 characters"),
    "one name": ({"rows": [ROW | {"name": "A"}, ROW | {"name": "A"}]}, "'A' and 'A' have one folder, A: rename one"),
    "missing config": ({"rows": [ROW | {"config": "configs/tinny.yml"}]}, "tinny.yml; did you mean"),
    "one folder": ({"rows": [ROW | {"name": "a b"}, ROW | {"name": "A-b"}]}, "'a b' and 'A-b' have one folder, A-b"),
    "unknown option": ({"options": {"SOLVER.MAXITER": 1}}, "options: unknown key SOLVER.MAXITER; the nearest"),
    "wrong value": ({"rows": [ROW | {"options": {"SOLVER.MAX_ITER": "x"}}]}, "SOLVER.MAX_ITER must be int"),
    "SEED": ({"options": {"SEED": 1}}, "SEED is set for each run"),
    "OUTPUT_DIR": ({"rows": [ROW | {"options": {"OUTPUT_DIR": "x"}}]}, "OUTPUT_DIR is set for each run"),
    "no options": ({"options": [1]}, "options must be NAME: VALUE lines"),
    "unknown metric": ({"metrics": ["Rank-1", "Rank-2"]}, "metrics must be of Rank-1"),
    "a group of nothing": ({"groups": {"seen": []}}, "group seen must be a list of names"),
    "a set that is not tested": ({"groups": {"seen": ["GRID"]}}, "row BN is not tested on GRID of group seen"),
    "a group named as a set": ({"groups": {"folder:a": ["folder:b"]}}, "group folder:a has a test set's name"),
    "a gap without groups": ({"gap": ["seen", "unseen"]}, "gap must be two of the groups (none: give groups"),
    "a gap of one": ({"groups": GROUPS, "gap": ["seen"]}, "gap must be two of the groups (seen, unseen); found seen"),
    "no figures": ({"rows": [ROW | {"published": {"all": 4}}]}, "published all must be figures by metric"),
    "figures of nothing": ({"rows": [ROW | {"published": {"GRID": {"mAP": 4}}}]}, "published GRID is neither a group"),
    "a figure's metric": ({"rows": [ROW | {"published": {"all": {"map": 4}}}]}, "published all: map is none of"),
    "not tested": ({"options": {"DATASETS.TESTS": []}}, "DATASETS.TESTS names no data set"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message(tables, project, mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        read_experiment(tables.write_table(project, **changes), project)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "Table").glob("*.yml")), ids=lambda path: path.stem)
def test_every_table_can_be_read(path):
    assert read_experiment(path, ROOT).output == ROOT / "logs" / "Table" / path.stem


def test_rows_on_real_sets_differ_by_their_method_alone():
    rows = read_experiment(ROOT / "configs" / "Table" / "real.yml", ROOT).rows
    method = {"MODEL.NORM.TYPE_BACKBONE", "MODEL.NORM.LOAD_IN_AFFINE", "META.DATA.NAMES", "META.SOLVER.LR_FACTOR.GATE"}
    assert set(config_differences(rows[0].cfg, [row.cfg for row in rows[1:]])) == method
    rates = [
        (bool(cfg.META.DATA.NAMES), round(cfg.SOLVER.BASE_LR * cfg.META.SOLVER.LR_FACTOR.GATE, 6))
        for cfg in (row.cfg for row in rows[2:])
    ]
    assert rates == [(False, 0.1), (True, 0.1), (True, 6.83)]


def test_mistakes_on_the_command_line(tables, project):
    path = tables.write_table(project)
    for words, message in ((["SEED", "3"], "command line: SEED is set"), (["NO", "3"], "command line: unknown key NO")):
        with pytest.raises(UserError, match=message):
            read_experiment(path, project, words)
    with pytest.raises(UserError, match="--seeds: seed 2 is written twice"):
        read_experiment(path, project, seeds=[2, 2])


@pytest.mark.parametrize(
    ("name", "folder"), [("BN", "BN"), ("w/o L_tr (2)", "w-o-L_tr-2"), ("../x", "x"), ("度", "度")]
)
def test_names_of_folders(name, folder):
    assert folder_name(name) == folder
