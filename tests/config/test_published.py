"""The published program's config files and runs' dumps load as they are, and ours have its values.

tests/golden/published_options.json lists its options: the default of each, and what each of its five files sets.
"""

import json
import logging
from pathlib import Path

import pytest
import torch
import yaml

from fastreid.config import get_cfg
from fastreid.config.config import leaves
from fastreid.config.published import ABSENT, ANY, RENAMED
from fastreid.modeling.backbones import build_backbone
from fastreid.utils.errors import UserError

ROOT = Path(__file__).parents[2]
PUBLISHED = json.loads((ROOT / "tests/golden/published_options.json").read_text(encoding="utf-8"))
DEFAULTS, FILES = PUBLISHED["defaults"], PUBLISHED["files"]
OWN = dict(leaves(get_cfg()))
COMMON = [key for key in DEFAULTS if key in OWN]
FROM_THE_DATA = ("META.DATA.NUM_DOMAINS",)
# Of options that are called otherwise here, published value -> ours.
SAME = {"META.DATA.NAMES": {"DG": ("DG",)}, "MODEL.FREEZE_LAYERS": {("",): ()}, "OUTPUT_DIR": {"logs/": ""}}
# Ours say "what the backbone has" by default.
BY_BACKBONE = {"MODEL.HEADS.IN_FEAT": (1792, 0), "MODEL.BACKBONE.PRETRAIN_PATH": ("pretrained/mobilenetv2_1.4.pth", "")}


@pytest.fixture(autouse=True)
def silent(caplog):
    """Nothing is said while a config is loaded."""
    caplog.set_level(logging.DEBUG, "fastreid")
    yield
    assert not caplog.get_records("call")


def tree_of(options):
    tree = {}
    for key, value in options.items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[leaf] = value
    return tree


def written(folder, options, name="mine.yml", **more):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**tree_of(options), **more}), encoding="utf-8")
    return path


def loaded(path):
    cfg = get_cfg()
    cfg.merge_from_file(path)
    return cfg


def expected(name):
    """What our options are at a published file's values."""
    values = {key: FILES[name].get(key, DEFAULTS[key]) for key in COMMON if key not in FROM_THE_DATA}
    values = {key: tuple(v) if isinstance(OWN[key], tuple) and isinstance(v, list) else v for key, v in values.items()}
    return {key: SAME[key].get(value, value) if key in SAME else value for key, value in values.items()}


def found(cfg):
    values = dict(leaves(cfg))
    return {key: values[key] for key in COMMON if key not in FROM_THE_DATA}


def test_every_published_option_has_a_place_here():
    places = {**OWN, **RENAMED, **ABSENT}
    assert [key for key in DEFAULTS if key not in places] == []
    assert set(RENAMED.values()) <= set(OWN) and not set(OWN) & (set(RENAMED) | set(ABSENT))


def test_our_defaults_are_the_published_ones(tmp_path, monkeypatch):
    cfg = get_cfg()
    values = expected("Base-DG") | {key: tuple(DEFAULTS[key]) for key in ("DATASETS.NAMES", "DATASETS.TESTS")}
    differing = {key: (values[key], own) for key, own in found(cfg).items() if own != values[key]}
    assert differing == BY_BACKBONE
    # Which means the same.
    monkeypatch.chdir(tmp_path)
    with torch.device("meta"):  # shapes only
        with pytest.raises(UserError, match=DEFAULTS["MODEL.BACKBONE.PRETRAIN_PATH"]):
            build_backbone(cfg)
        cfg.merge_from_list(["MODEL.BACKBONE.PRETRAIN", "False"])
        assert build_backbone(cfg).out_channels == DEFAULTS["MODEL.HEADS.IN_FEAT"]


@pytest.mark.parametrize("name", FILES)
def test_our_file_has_every_published_value(name):
    assert found(loaded(ROOT / "configs" / f"{name}.yml")) == expected(name)


@pytest.mark.parametrize("name", FILES)
def test_a_published_file_means_the_same_here_by_its_defaults_too(tmp_path, name):
    values, cfg = expected(name), found(loaded(written(tmp_path, FILES[name])))
    differing = {key: (values[key], own) for key, own in cfg.items() if own != values[key]}
    assert differing == {key: pair for key, pair in BY_BACKBONE.items() if key not in FILES[name]}


@pytest.mark.parametrize("name", [name for name in FILES if name != "Base-DG"])
def test_a_published_file_loads_over_the_published_base(tmp_path, name):
    base = DEFAULTS | FILES["Base-DG"]
    written(tmp_path, base, "Base-DG.yml")
    own = {key: value for key, value in (DEFAULTS | FILES[name]).items() if value != base[key]}
    assert found(loaded(written(tmp_path, own, f"{name}.yml", _BASE_="../Base-DG.yml"))) == expected(name)


@pytest.mark.parametrize("name", FILES)
def test_a_published_run_s_config_loads(tmp_path, name):
    assert found(loaded(written(tmp_path, DEFAULTS | FILES[name], "config.yaml"))) == expected(name)


@pytest.mark.parametrize("option", DEFAULTS)
def test_a_published_default_is_accepted_on_the_command_line(option):
    get_cfg().merge_from_list([option, str(DEFAULTS[option])])


REFUSED = {key: absent for key, absent in ABSENT.items() if absent.values != ANY}


def another(value):
    """A value of the same type."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, (int, float)) else ["backbone_conv"] if isinstance(value, list) else "other"


@pytest.mark.parametrize("option", REFUSED)
def test_what_would_be_lost_is_an_error_that_names_it(tmp_path, option):
    values, why = REFUSED[option]
    value = another(values[0])
    message = f"{option} {value!r} is not supported: it asks for {why}. Leave it out, or set {values[0]!r}"
    with pytest.raises(UserError) as of_words:
        get_cfg().merge_from_list([option, str(value)])
    assert str(of_words.value) == f"command line: {message}"
    path = written(tmp_path, {option: value})
    with pytest.raises(UserError) as of_file:
        loaded(path)
    assert str(of_file.value) == f"{path}: {message}"


@pytest.mark.parametrize("option", [key for key in ABSENT if key not in REFUSED])
def test_an_option_that_no_number_depends_on_may_have_any_value(tmp_path, option):
    value = another(DEFAULTS[option])
    get_cfg().merge_from_list([option, str(value)])
    assert loaded(written(tmp_path, {option: value})) == get_cfg()


def test_one_is_not_true():
    with pytest.raises(UserError, match="META.DATA.DROP_LAST 1 is not supported"):
        get_cfg().merge_from_list(["META.DATA.DROP_LAST", "1"])


@pytest.mark.parametrize(
    "old, value",
    [
        ("META.SOLVER.MANUAL_SEED_NUMBER", 7),
        ("META.SOLVER.NORM_SCHEDULER", "same"),
        ("MODEL.LOSSES.SCT.NORM_FEAT", False),
        ("MODEL.LOSSES.SCT.DIST_TYPE", "euclidean"),
        ("MODEL.LOSSES.STD.NORM_FEAT", False),
        ("MODEL.LOSSES.STD.STD_TYPE", "all"),
        ("MODEL.LOSSES.MMD.NORM_FEAT", False),
    ],
)
def test_a_renamed_option_is_set_by_its_other_name(tmp_path, old, value):
    assert set(RENAMED) >= {old}
    cfg = loaded(written(tmp_path, {old: value}))
    assert dict(leaves(cfg))[RENAMED[old]] == value != OWN[RENAMED[old]]
    with pytest.raises(UserError, match=f"{RENAMED[old]} must be"):
        cfg.merge_from_list([old, "[3]"])
