"""Configuration files, command-line options, and what is said when they are wrong."""

import ast
import logging
from collections import Counter
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from fastreid.config import get_cfg
from fastreid.config.config import PATH_OPTIONS, leaves
from fastreid.utils.errors import UserError

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "configs" / "Sample"


@pytest.fixture
def warnings(caplog, monkeypatch):
    """The package's warnings; its logger may have been cut off from the root logger by a command."""
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    caplog.set_level(logging.WARNING, "fastreid")
    return caplog


def merged(path):
    cfg = get_cfg()
    cfg.merge_from_file(path)
    return cfg


def written(folder, name="mine.yml", **content):
    path = folder / name
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def error_of_file(path):
    with pytest.raises(UserError) as caught:
        merged(path)
    return one_line(caught)


def error_of_options(*words):
    with pytest.raises(UserError) as caught:
        get_cfg().merge_from_list(list(words))
    return one_line(caught)


def one_line(caught):
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_shipped_config_sets_known_options_only():
    known = set(dict(leaves(get_cfg())))
    for path in (ROOT / "configs").rglob("*.yml"):
        if path.parent.name == "Table":  # lists of configs, not configs
            continue
        own = yaml.safe_load(path.read_text(encoding="utf-8"))
        own.pop("_BASE_", None)
        assert set(dict(leaves(own))) <= known, path


@lru_cache
def reads(source):
    """Return the options that a module's code reads, as "SOLVER.SWA.ITER", and the names in capitals it has at all.

    What `node = cfg.SOLVER.SWA` and `a, b = cfg.A, cfg.B` name is followed; what a function is given is not.
    """
    tree, sections = ast.parse(source), {}

    def name(node):
        return node.id if isinstance(node, ast.Name) else getattr(node, "attr", None)

    def resolve(node):
        if isinstance(node, ast.Attribute) and node.attr.isupper():
            return {f"{section}{node.attr}." for section in resolve(node.value)}
        return sections.get(name(node), {""})

    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            for left, right in zip(target.elts, value.elts) if both else [(target, value)]:
                if isinstance(right, ast.Attribute) and right.attr.isupper():
                    sections[name(left)] = sections.get(name(left), set()) | resolve(right)
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)]
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}  # node[option] reads, too
    return {path.rstrip(".") for node in loads for path in resolve(node)}, words | {node.attr for node in loads}


def unread(options, sources):
    """Return the options that no module reads: by their path, or by a name that no other option has."""
    paths, words = (set().union(*found) for found in zip(*map(reads, sources)))
    names = Counter(option.rpartition(".")[2] for option in options)
    unique = {option for option in options if names[option.rpartition(".")[2]] == 1}
    return [o for o in options if o not in paths and not (o in unique and o.rpartition(".")[2] in words)]


def test_something_reads_every_option():
    """Those of the losses have a test of their own, which sees each of them change a value."""
    options = [key for key, _ in leaves(get_cfg()) if not key.startswith("MODEL.LOSSES.")]
    files = [path for path in (ROOT / "fastreid").rglob("*.py") if path.parent.name != "config"]
    sources = [path.read_text(encoding="utf-8") for path in files]
    assert unread(options, sources) == []
    # A word in a text, or an option of the same name elsewhere, reads nothing.
    assert unread([*options, "TEST.MARGIN", "SOLVER.NOWHERE"], [*sources, '"""Of NOWHERE."""']) == [
        "TEST.MARGIN",
        "SOLVER.NOWHERE",
    ]


def test_the_defaults_are_not_changed_by_a_run():
    get_cfg().merge_from_list(["SOLVER.STEPS", "[1]", "MODEL.LOSSES.TRI.MARGIN", "0.5"])
    cfg = get_cfg()
    cfg.SOLVER.STEPS.append(7)
    assert get_cfg().SOLVER.STEPS == [40, 70]
    assert get_cfg().MODEL.LOSSES.TRI.MARGIN == 0.3


def test_a_file_overrides_its_base_and_keeps_the_rest_of_a_section(tmp_path):
    (tmp_path / "sub").mkdir()
    written(tmp_path, "grandparent.yml", SOLVER={"MAX_ITER": 5, "BASE_LR": 0.5, "STEPS": [1]}, SEED=1)
    written(tmp_path, "parent.yml", _BASE_="grandparent.yml", SOLVER={"MAX_ITER": 6, "STEPS": [2, 3]})
    cfg = merged(written(tmp_path / "sub", _BASE_="../parent.yml", SOLVER={"MAX_ITER": 7}))
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.BASE_LR, cfg.SEED) == (7, [2, 3], 0.5, 1)
    assert cfg.SOLVER.GAMMA == get_cfg().SOLVER.GAMMA


def test_a_base_may_be_an_absolute_path(tmp_path):
    cfg = merged(written(tmp_path, _BASE_=str(SAMPLES / "M-resnet.yml"), SEED=3))
    assert (cfg.SEED, cfg.SOLVER.IMS_PER_BATCH) == (3, 96)


@pytest.mark.parametrize("chain", [["a.yml"], ["a.yml", "b.yml"], ["a.yml", "b.yml", "c.yml"]])
def test_a_base_that_leads_back_to_the_file_is_an_error(tmp_path, chain):
    for name, base in zip(chain, chain[1:] + chain[:1]):
        written(tmp_path, name, _BASE_=base, SEED=1)
    assert "leads back to the file itself" in error_of_file(tmp_path / "a.yml")


def test_a_missing_file_is_named_with_a_like_one_beside_it(tmp_path):
    assert error_of_file(tmp_path / "none.yml") == f"no config file {tmp_path / 'none.yml'}"
    assert error_of_file(tmp_path / "no" / "folder.yml") == f"no config file {tmp_path / 'no' / 'folder.yml'}"
    message = error_of_file(SAMPLES / "DG-mobilnet.yml")
    assert message.endswith(f"did you mean {SAMPLES / 'DG-mobilenet.yml'}?")


def test_a_missing_base_is_named(tmp_path):
    assert str(tmp_path / "gone.yml") in error_of_file(written(tmp_path, _BASE_="gone.yml"))


@pytest.mark.parametrize("content", [b"a: [", b"\tSEED: 1", b"\x00", b"\xff\xfe\xfa", b"a: b: c"])
def test_a_file_that_is_not_yaml_is_an_error(tmp_path, content):
    path = tmp_path / "mine.yml"
    path.write_bytes(content)
    assert error_of_file(path).startswith(f"{path} is not a YAML file: ")


@pytest.mark.parametrize("content, kind", [("- SEED", "list"), ("SEED 1", "str"), ("7", "int")])
def test_a_file_without_keys_is_an_error(tmp_path, content, kind):
    path = tmp_path / "mine.yml"
    path.write_text(content, encoding="utf-8")
    assert error_of_file(path) == f"{path}: expected KEY: VALUE lines, found {kind}"


def test_an_empty_file_changes_nothing(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("# nothing yet\n", encoding="utf-8")
    assert merged(path) == get_cfg()


SLIPS = {
    "SOLVER.BASE_LRR": "SOLVER.BASE_LR",
    "SOLVER.MAXITER": "SOLVER.MAX_ITER",
    "MODEL.BACKBONE.DEPHT": "MODEL.BACKBONE.DEPTH",
    "MODEL.DEPTH": "MODEL.BACKBONE.DEPTH",
    "SOLVERS.MAX_ITER": "SOLVER.MAX_ITER",
    "META.SOLVER.LR_FACTOR.GATES": "META.SOLVER.LR_FACTOR.GATE",
    "OUTPUT_DIRR": "OUTPUT_DIR",
    "solver.MAX_ITER": "SOLVER.MAX_ITER",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_an_unknown_option_on_the_command_line_names_the_nearest(slip):
    assert (
        error_of_options("SEED", "1", slip, "1")
        == f"command line: unknown key {slip}; the nearest valid key is {SLIPS[slip]}"
    )


@pytest.mark.parametrize("slip", SLIPS)
def test_an_unknown_option_in_a_file_names_the_nearest(tmp_path, slip):
    path = tmp_path / "mine.yml"
    path.write_text(f"SEED: 1\n{slip}: 1\n", encoding="utf-8")
    assert error_of_file(path) == f"{path}: unknown key {slip}; the nearest valid key is {SLIPS[slip]}"


def test_an_unknown_option_like_no_other_says_where_the_valid_ones_are():
    assert error_of_options("zzz", "1").endswith("fastreid/config/defaults.py lists the valid keys")


def test_an_option_in_lower_case_names_the_one_in_upper_case():
    assert "the nearest valid key is SOLVER.MAX_ITER" in error_of_options("SOLVER.max_iter", "1")


@pytest.mark.parametrize("base", ["configs/Base-DG.yml", "configs/Sample/DG-mobilenet.yml"])
@pytest.mark.parametrize(
    "key, value, message",
    [
        ("BASE_LRR", 0.1, "unknown key SOLVER.BASE_LRR; the nearest valid key is SOLVER.BASE_LR"),
        ("MAX_ITER", 1.5, "SOLVER.MAX_ITER must be int"),
    ],
)
def test_a_slip_on_top_of_a_published_config_is_an_error(tmp_path, base, key, value, message):
    assert message in error_of_file(written(tmp_path, _BASE_=str(ROOT / base), SOLVER={key: value}))


def test_an_unknown_option_in_a_base_names_the_base(tmp_path):
    base = written(tmp_path, "base.yml", SOLVER={"BASE_LRR": 0.1})
    assert str(base) in error_of_file(written(tmp_path, "top.yml", _BASE_="base.yml"))


@pytest.mark.parametrize("value", [5, ["a.yml", "b.yml"]])
def test_a_base_that_is_no_path_is_an_error(tmp_path, value):
    assert "_BASE_" in error_of_file(written(tmp_path, _BASE_=value))


def test_a_run_s_dump_gives_the_same_config_again(tmp_path, warnings):
    cfg = merged(SAMPLES / "M-resnet.yml")
    cfg.merge_from_list(
        ["OUTPUT_DIR", "logs/Sample/M-resnet", "DATASETS.NAMES", "('folder:a', 'folder:b')", "META.DATA.NAMES", ""]
    )
    (tmp_path / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    assert merged(tmp_path / "config.yaml") == cfg
    assert not warnings.records


@pytest.mark.parametrize("name", ["config.yaml", "renamed.yaml"])
def test_a_dump_s_unknown_option_or_value_of_another_type_is_an_error_too(tmp_path, name):
    tree = yaml.safe_load(merged(SAMPLES / "D-resnet.yml").dump())
    assert "unknown key SOLVER.EMA.ITER" in error_of_file(
        written(tmp_path, name, **{**tree, "SOLVER": {"EMA": {"ITER": 10}}})
    )
    tree["SOLVER"]["MAX_ITER"] = [1]
    assert "SOLVER.MAX_ITER must be int" in error_of_file(written(tmp_path, name, **tree))


@pytest.mark.parametrize(
    "key, word, value",
    [
        ("SOLVER.BASE_LR", "1", 1.0),
        ("SOLVER.BASE_LR", "1e-3", 0.001),
        ("SOLVER.STEPS", "(2, 3)", [2, 3]),
        ("SOLVER.AMP", "True", True),
        ("META.DATA.NAMES", "", ()),
        ("META.DATA.NAMES", "''", ()),
        ("META.DATA.NAMES", "folder:a", ("folder:a",)),
        ("MODEL.FREEZE_LAYERS", "['']", ()),
        ("DATASETS.NAMES", "['folder:a', 'folder:b']", ("folder:a", "folder:b")),
        ("MODEL.DEVICE", "cuda:0", "cuda:0"),
        ("OUTPUT_DIR", "2020", "2020"),
        ("OUTPUT_DIR", "logs/it's", "logs/it's"),
        ("MODEL.WEIGHTS", "None", ""),
    ],
)
def test_words_become_values_of_the_option_s_type(key, word, value):
    cfg = get_cfg()
    cfg.merge_from_list([key, word])
    found = dict(leaves(cfg))[key]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("word", ["2020_01", "1e3", "0x10", "1.50"])
def test_a_text_that_looks_like_a_number_is_kept_as_written(word):
    cfg = get_cfg()
    cfg.merge_from_list(["OUTPUT_DIR", word])
    assert cfg.OUTPUT_DIR == word


@pytest.mark.parametrize(
    "key, value, wanted, found",
    [
        ("SOLVER.MAX_ITER", 1.5, "int, like 100", "1.5 (float)"),
        ("SOLVER.MAX_ITER", True, "int, like 100", "True (bool)"),
        ("SOLVER.BASE_LR", "fast", "float, like 0.01", "'fast' (str)"),
        ("SOLVER.AMP", 1, "bool, like True", "1 (int)"),
        ("SOLVER.STEPS", 40, "list, like [40, 70]", "40 (int)"),
        ("DATASETS.NAMES", 5, "tuple, like", "5 (int)"),
        ("MODEL.DEVICE", [0], "str, like 'cuda'", "[0] (list)"),
    ],
)
def test_a_value_of_another_type_is_an_error(tmp_path, key, value, wanted, found):
    message = error_of_options(key, str(value))
    assert message.startswith(f"command line: {key} must be {wanted}") and message.endswith(f"found {found}")
    path = tmp_path / "mine.yml"
    path.write_text(f"{key}: {value}\n", encoding="utf-8")
    message = error_of_file(path)
    assert message.startswith(f"{path}: {key} must be {wanted}") and message.endswith(f"found {found}")


@pytest.mark.parametrize(
    "key, word", [("DATASETS.NAMES", "(1, 2)"), ("SOLVER.STEPS", "['a']"), ("INPUT.SIZE_TRAIN", "['256', 128]")]
)
def test_an_element_of_another_type_is_an_error(key, word):
    assert key in error_of_options(key, word)


def test_a_text_in_the_form_of_an_impossible_literal_is_kept_as_written():
    cfg = get_cfg()
    cfg.merge_from_list(["OUTPUT_DIR", "{[1]: 2}"])
    assert cfg.OUTPUT_DIR == "{[1]: 2}"


def test_options_that_are_no_pairs_are_an_error():
    assert error_of_options("MODEL.DEVICE=cpu") == "options are pairs of KEY VALUE, found 1 words: MODEL.DEVICE=cpu"


def test_a_section_cannot_be_given_a_value():
    assert error_of_options("MODEL.BACKBONE", "resnet").startswith("command line: unknown key MODEL.BACKBONE")


def test_a_section_written_twice_is_an_error(tmp_path):
    path = tmp_path / "twice.yml"
    path.write_text("SOLVER:\n  MAX_ITER: 1\nSOLVER:\n  BASE_LR: 0.1\n", encoding="utf-8")
    assert "SOLVER is written twice" in error_of_file(path)


def test_off_is_a_word_and_true_and_false_are_not(tmp_path):
    path = tmp_path / "words.yml"
    path.write_text("DATALOADER: {CACHE: off}\nSOLVER: {AMP: true}\nINPUT: {DO_FLIP: False}\n", encoding="utf-8")
    cfg = merged(path)
    assert (cfg.DATALOADER.CACHE, cfg.SOLVER.AMP, cfg.INPUT.DO_FLIP) == ("off", True, False)


@pytest.mark.parametrize("option", PATH_OPTIONS)
def test_a_path_option_may_begin_with_the_home_folder(option, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = written(tmp_path, **nested(option, "~/in a file"))
    assert dict(leaves(merged(path)))[option] == f"{tmp_path}/in a file"
    cfg = get_cfg()
    cfg.merge_from_list([option, "~/x"])
    assert dict(leaves(cfg))[option] == f"{tmp_path}/x"
    cfg.merge_from_list([option, "a~b"])
    assert dict(leaves(cfg))[option] == "a~b"
    with pytest.raises(UserError, match=f"{option}: ~nobody_here/x begins with the home folder of nobody"):
        cfg.merge_from_list([option, "~nobody_here/x"])


def nested(key, value):
    """{"A": {"B": value}} of A.B."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value
