"""Configuration tree: yacs with `_BASE_` files, strict keys and one-line errors."""

from __future__ import annotations

import ast
import difflib
import logging
from pathlib import Path
from typing import Any, Iterator

import yaml
from yacs.config import CfgNode as _YacsNode

from fastreid.utils.errors import UserError

logger = logging.getLogger(__name__)

BASE_KEY = "_BASE_"


class CfgNode(_YacsNode):
    """A yacs node that reads `_BASE_` chains and answers a wrong key with the nearest valid one.

    Keys must exist in the defaults and values must have the default's type (an int is taken for a float, a list for a
    tuple, one string for a tuple of strings).
    """

    def merge_from_file(self, cfg_filename: str | Path) -> None:
        """Merge a YAML file over this tree, its `_BASE_` first.

        A `config.yaml` dumped by a run (ours, an older one, or the published program's) may hold options that do not
        exist here, or exist with another type: they are ignored with a warning that lists them. In any other file they
        are errors.

        Raises:
            UserError: no such file, not YAML, an unknown key, or a value of the wrong type.
        """
        path = Path(cfg_filename)
        values = dict(leaves(load_yaml_with_base(path)))
        valid = dict(leaves(self))
        from_dump = is_dump(path, set(values), set(valid))
        ignored = []
        for key, value in values.items():
            try:
                if key not in valid:
                    raise UserError(f"{path}: {unknown_key_message(key, valid)}")
                self.set_leaf(key, value, where=str(path))
            except UserError:
                if not from_dump:
                    raise
                ignored.append(key)
        if ignored:
            logger.warning(f"{path}: ignored {len(ignored)} option(s) that this version does not have: {', '.join(ignored)}")

    def merge_from_list(self, cfg_list: list[str]) -> None:
        """Merge `[KEY, VALUE, ...]` as given on a command line; values are Python literals or plain strings.

        Raises:
            UserError: an odd number of words, an unknown key, or a value of the wrong type.
        """
        if len(cfg_list) % 2:
            raise UserError(f"options are pairs of KEY VALUE, found {len(cfg_list)} words: {' '.join(map(str, cfg_list))}")
        valid = dict(leaves(self))
        for key, value in zip(cfg_list[0::2], cfg_list[1::2]):
            if key not in valid:
                raise UserError(f"command line: {unknown_key_message(key, valid)}")
            self.set_leaf(key, parse_literal(value), where="command line")

    def set_leaf(self, dotted_key: str, value: Any, where: str) -> None:
        """Set one option by its full name after converting `value` to the type of the present one."""
        *parents, leaf = dotted_key.split(".")
        node = self
        for name in parents:
            node = node[name]
        try:
            node[leaf] = convert(value, node[leaf])
        except TypeError:
            wanted = f"{type(node[leaf]).__name__}, like {node[leaf]!r}"
            raise UserError(f"{where}: {dotted_key} must be {wanted}; found {value!r} ({type(value).__name__})") from None


def load_yaml_with_base(path: Path, seen: tuple[Path, ...] = ()) -> dict:
    """Return the nested dictionary of a YAML file merged over those that its `_BASE_` names (relative to the file)."""
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UserError(f"no config file {path}{hint}")
    if path.resolve() in seen:
        raise UserError(f"{path}: {BASE_KEY} leads back to the file itself")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected KEY: VALUE lines, found {type(tree).__name__}")
    base = tree.pop(BASE_KEY, None)
    if base is None:
        return tree
    base_path = Path(base).expanduser()
    if not base_path.is_absolute():
        base_path = path.parent / base_path
    return merge_trees(load_yaml_with_base(base_path, (*seen, path.resolve())), tree)


def merge_trees(below: dict, above: dict) -> dict:
    """Return `below` with the entries of `above` laid over it, dictionaries entry by entry."""
    merged = dict(below)
    for key, value in above.items():
        both_trees = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge_trees(merged[key], value) if both_trees else value
    return merged


def leaves(tree: dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every option below `tree`."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from leaves(value, f"{name}.")
        else:
            yield name, parse_literal(value) if not isinstance(tree, CfgNode) else value


def parse_literal(value: Any) -> Any:
    """Return the Python literal that a string spells, such as `(1, 2)` or `1e-3`; the string itself if it spells none."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return value


def convert(value: Any, like: Any) -> Any:
    """Return `value` as the type of `like`; TypeError when that would change its meaning."""
    if isinstance(like, tuple):
        if isinstance(value, str):
            return (value,) if value else ()
        if isinstance(value, (list, tuple)):
            return tuple(value)
    if isinstance(like, list) and isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(like, str) and value is None:
        return ""
    if isinstance(like, str) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if type(value) is type(like):
        return value
    raise TypeError


def unknown_key_message(key: str, valid: dict) -> str:
    """Say that `key` does not exist and which valid key is nearest to it, in the same section if possible."""
    section, _, leaf = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in valid if name.rpartition(".")[0] == section}
    near = [siblings[n] for n in difflib.get_close_matches(leaf, siblings, n=1, cutoff=0.5)]
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.8) or near or difflib.get_close_matches(key, valid, n=1, cutoff=0.4)
    hint = f"; the nearest valid key is {near[0]}" if near else "; fastreid/config/defaults.py lists the valid keys"
    return f"unknown key {key}{hint}"


def is_dump(path: Path, given: set[str], valid: set[str]) -> bool:
    """Tell whether a file is a run's whole configuration rather than one that a person wrote.

    Runs write theirs as `config.yaml`; one that was renamed is known by setting most of the options that exist.
    """
    return path.name == "config.yaml" or len(given & valid) > len(valid) / 2
