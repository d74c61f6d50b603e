"""Configuration tree: yacs with `_BASE_` files, strict keys and one-line errors."""

from __future__ import annotations

import ast
import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode as _YacsNode

from fastreid.config.published import ABSENT, MEANING, RENAMED, accept_absent
from fastreid.utils.errors import UserError

BASE_KEY = "_BASE_"
PATH_OPTIONS = ("OUTPUT_DIR", "MODEL.WEIGHTS", "MODEL.BACKBONE.PRETRAIN_PATH", "DATALOADER.CACHE")


class CfgNode(_YacsNode):
    """A yacs node that reads `_BASE_` chains and answers a wrong key with the nearest valid one.

    Keys must exist in the defaults, or be options of the published program (`fastreid/config/published.py`). Values
    must have the default's type (an int is taken for a float, a list for a tuple, one string for a tuple of strings).
    """

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Merge a YAML file over this tree, its `_BASE_` first: one that a person wrote, or a run's `config.yaml`.

        Raises:
            UserError: no such file, not YAML, an unknown key, a value of the wrong type, or a published option's value
                that asks for what this program does not have.
        """
        for path, tree in yaml_chain(Path(cfg_filename)):
            self.merge_tree(tree, where=str(path))

    def merge_tree(self, tree: dict, where: str) -> None:
        """Merge the options of a tree whose keys may be dotted; errors say that they stand in `where`."""
        valid = dict(leaves(self))
        for key, value in leaves(tree):
            self.set_option(key, value, valid, where)

    def merge_from_list(self, cfg_list: list[str]) -> None:
        """Merge `[KEY, VALUE, ...]` as given on a command line; values are Python literals or plain strings.

        Raises:
            UserError: an odd number of words, or as `merge_from_file`.
        """
        if len(cfg_list) % 2:
            raise UserError(
                f"options are pairs of KEY VALUE, found {len(cfg_list)} words: {' '.join(map(str, cfg_list))}"
            )
        valid = dict(leaves(self))
        for key, value in zip(cfg_list[0::2], cfg_list[1::2]):
            self.set_option(key, value, valid, where="command line")

    def set_option(self, key: str, value: Any, valid: dict[str, Any], where: str) -> None:
        """Set one option, out of the options `valid`, under this name or an older one, or accept a published one."""
        key = RENAMED.get(key, key)
        if key in valid:
            self.set_leaf(key, MEANING.get((key, str(value)), value), where)
        elif key in ABSENT:
            accept_absent(key, parse_literal(value), where)
        else:
            raise UserError(f"{where}: {unknown_key_message(key, valid)}")

    def set_leaf(self, dotted_key: str, value: Any, where: str) -> None:
        """Set one option by its full name after converting `value` to the type of the present one."""
        *parents, leaf = dotted_key.split(".")
        node = self
        for name in parents:
            node = node[name]
        literal = parse_literal(value)
        if isinstance(node[leaf], str) and isinstance(value, str) and isinstance(literal, (int, float, complex)):
            literal = value  # a text that looks like a number is kept as written
        if dotted_key in PATH_OPTIONS and isinstance(literal, str):
            literal = expand_home(literal, dotted_key)
        try:
            node[leaf] = convert(literal, node[leaf])
        except TypeError:
            wanted = f"{type(node[leaf]).__name__}, like {node[leaf]!r}"
            raise UserError(
                f"{where}: {dotted_key} must be {wanted}; found {literal!r} ({type(literal).__name__})"
            ) from None


# That of libyaml takes a tenth of the time; where PyYAML was built without it, its own serves.
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ConfigLoader(SafeLoader):
    """A YAML loader without two traps: a key written twice loses its first value silently, and `off` means False."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice} is written twice in one section", node.start_mark
            )
        return super().construct_mapping(node, deep)


ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:[Tt]rue|TRUE|[Ff]alse|FALSE)$"), list("tTfF")
)


def yaml_chain(path: Path, seen: tuple[Path, ...] = ()) -> list[tuple[Path, dict]]:
    """Return (path, options) of a YAML file and of those that its `_BASE_` leads to, the lowest first.

    Raises:
        UserError: a file is missing or not YAML, or `_BASE_` is no path or leads in a circle.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"no config file {path}{hint}")
    if path.resolve() in seen:
        raise UserError(f"{path}: {BASE_KEY} leads back to the file itself")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), ConfigLoader) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected KEY: VALUE lines, found {type(tree).__name__}")
    if BASE_KEY not in tree:
        return [(path, tree)]
    base = tree[BASE_KEY]
    if not isinstance(base, str):
        raise UserError(f"{path}: {BASE_KEY} must be the path of one file; found {base!r}")
    # An absolute path stays as it is; a relative one is meant from the file's folder.
    below = yaml_chain(path.parent / Path(base).expanduser(), (*seen, path.resolve()))
    return [*below, (path, tree)]


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every option below `tree`; an empty section has none."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from leaves(value, f"{name}.")
        elif name != BASE_KEY:
            yield name, value


def read_dump(text: str) -> dict[str, Any]:
    """Return the options of a config as `dump` wrote it, by their dotted names; none of an empty text."""
    return dict(leaves(yaml.load(text, SafeLoader) or {}))


def parse_literal(value: Any) -> Any:
    """Return the Python literal that a string spells, such as `(1, 2)` or `1e-3`; else the string itself."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that its documentation names
        return value


def convert(value: Any, like: Any) -> Any:
    """Return `value` as the type of `like`, elements too; TypeError when that would change its meaning."""
    if isinstance(like, tuple):
        value = [value] if isinstance(value, str) else value
        if isinstance(value, (list, tuple)):
            value = [element for element in value if element != ""]  # '', or [''] as in published dumps, names nothing
    if isinstance(like, (list, tuple)) and isinstance(value, (list, tuple)):
        return type(like)(convert_element(element, like) for element in value)
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(like, str) and value is None:
        return ""
    if isinstance(like, str) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if type(value) is type(like):
        return value
    raise TypeError


def convert_element(value: Any, like: list | tuple) -> Any:
    """Return an element as the type of those of `like`; an empty default is one of names."""
    example = like[0] if like else ""
    if isinstance(example, str) and not isinstance(value, str):
        raise TypeError
    return convert(value, example)


def expand_home(path: str, option: str) -> str:
    """Return a path with ~ and ~name as the home folders that they stand for.

    Raises:
        UserError: there is no such home; a folder called ~name would be made in its place.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UserError(f"{option}: {path} begins with the home folder of nobody known here: write the path in full")
    return expanded


def unknown_key_message(key: str, valid: dict) -> str:
    """Say that `key` does not exist and which valid key is nearest to it, in the same section if possible."""
    upper = key.upper()
    section, _, leaf = upper.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in valid if name.rpartition(".")[0] == section}
    near = (
        difflib.get_close_matches(upper, valid, n=1, cutoff=0.8)
        or [siblings[name] for name in difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.5)]
        or difflib.get_close_matches(upper, valid, n=1, cutoff=0.4)
    )
    hint = f"; the nearest valid key is {near[0]}" if near else "; fastreid/config/defaults.py lists the valid keys"
    return f"unknown key {key}{hint}"
