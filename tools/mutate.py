#!/usr/bin/env python3
"""Break one file of the project in many small ways, one at a time, and name those that its tests do not notice.

    python tools/mutate.py fastreid/evaluation/roc.py                           # by tests/evaluation/test_roc*.py
    python tools/mutate.py fastreid/engine/recovery.py --tests tests/engine/test_rollback.py --sample 20

Each mutation is made in a copy of the project, in a temporary folder, where the tests then run. What no test notices is
a test that is missing, or a mutation that changes nothing that counts: only a reader can tell.

Libraries for this want more than a file and its tests: mutmut 3 writes into the working tree, leaves what is outside
functions alone and forks from a process that has loaded PyTorch; cosmic-ray mutates in place, by three commands and a
data base.
"""

import argparse
import ast
import difflib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path
from shutil import copytree
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

from tqdm import tqdm  # noqa: E402

from fastreid.utils.errors import UserError, run_command  # noqa: E402

# What tests do not need, and what may be large; hidden files and folders besides.
NOT_COPIED = {"build", "datasets", "found", "logs", "pretrained", "ranked_lists", "search", "shared"}
# At most so many times as long as the tests of the unmutated file, and so many seconds more: a loop may never end.
SLOWER, SECONDS_MORE = 4, 10

OTHER_OPERATOR = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
REMOVED = (ast.AugAssign, ast.Break, ast.Continue, ast.Delete, ast.Raise)


class Mutation(NamedTuple):
    """A broken file: the line, its code before and after, and the whole source."""

    line: int
    before: str
    after: str
    source: str


def mutations(source: str) -> Iterator[Mutation]:
    """Yield every mutation of a module's source: what `replacements` makes of each node, decorators left out."""
    tree = ast.parse(source)
    annotations = {
        id(inner) for node in ast.walk(tree) for field in ("annotation", "returns") if getattr(node, field, None)
        for inner in ast.walk(getattr(node, field))
    }  # fmt: skip
    options = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.isupper()}
    before = ast.unparse(tree)
    for parent in [node for node in ast.walk(tree) if id(node) not in annotations]:
        for field, value in list(ast.iter_fields(parent)):
            nodes = value if isinstance(value, list) else [value]
            for i, node in enumerate(nodes):
                changes = [nodes[:i] + [new] + nodes[i + 1 :] for new in replacements(node, options)]
                if field == "decorator_list":
                    changes.append(nodes[:i] + nodes[i + 1 :])
                for changed in changes:
                    setattr(parent, field, changed if isinstance(value, list) else changed[0])
                    line, after = getattr(node, "lineno", getattr(parent, "lineno", 0)), ast.unparse(tree)
                    setattr(parent, field, value)
                    if after != before:
                        pairs = zip(before.splitlines(), after.splitlines())
                        yield Mutation(line, *excerpts(*next(pair for pair in pairs if pair[0] != pair[1])), after)


def excerpts(before: str, after: str, around: int = 40) -> tuple[str, str]:
    """Return what is around the place where two lines differ."""
    start = len(os.path.commonprefix([before, after]))
    same = min(len(os.path.commonprefix([before[::-1], after[::-1]])), len(before) - start, len(after) - start)
    first, left = max(start - around, 0), max(same - around, 0)
    return before[first : len(before) - left].strip(), after[first : len(after) - left].strip()


def replacements(node: object, options: set[str]) -> Iterator[ast.AST]:
    """Yield what to put in the place of a node; `options` are the file's attributes in capitals."""
    if type(node) in OTHER_OPERATOR:
        yield OTHER_OPERATOR[type(node)]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield from (ast.Constant(node.value + 1), ast.Constant(node.value - 1))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, REMOVED) or isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        yield ast.Pass()
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Attribute, ast.Subscript)):
        yield ast.Pass()
    elif isinstance(node, ast.Attribute) and node.attr in options:
        for other in difflib.get_close_matches(node.attr, sorted(options - {node.attr}), 1):
            yield ast.Attribute(node.value, other, node.ctx)


def mirror_tests(file: Path) -> list[str]:
    """Return the test files of a file by name, fastreid/engine/a.py -> tests/engine/test_a*.py; else all of its folder.

    Raises:
        UserError: there are none.
    """
    folders = file.parts[1:-1] if file.parts[0] == "fastreid" else file.parts[:-1]
    patterns = [str(Path("tests", *folders[:1], "**", name)) for name in (f"test_{file.stem}*.py", "test_*.py")]
    for pattern in patterns:
        if found := sorted(str(path.relative_to(PROJECT)) for path in PROJECT.glob(pattern)):
            return found
    raise UserError(f"no tests {patterns[0]}: name those of {file} with --tests")


def copy_project(copy: Path) -> None:
    """Copy what tests need; data sets, models and what commands wrote stay behind."""

    def passed_over(folder: str, names: list[str]) -> list[str]:
        top = Path(folder) == PROJECT
        return [name for name in names if name == "__pycache__" or top and (name[0] == "." or name in NOT_COPIED)]

    copytree(PROJECT, copy, symlinks=True, ignore=passed_over)


def run_tests(copy: Path, tests: list[str], limit: float | None = None) -> tuple[int | None, str]:
    """Return pytest's exit status and the end of what it said, for tests in a copy; None past `limit` seconds."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(copy)}
    with tempfile.TemporaryFile("w+") as output:
        # A session of its own: whatever the tests start is ended with them.
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        process = subprocess.Popen(command, cwd=copy, env=environment, start_new_session=True, **streams)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        return status, output.read()[-2000:]


def time_limit(copy: Path, file: Path, tests: list[str]) -> float:
    """Return the seconds that tests may take.

    Raises:
        UserError: they fail without any mutation, or pass without the file.
    """
    start = time.perf_counter()
    status, output = run_tests(copy, tests)
    seconds = time.perf_counter() - start
    if status != 0:
        print(output, file=sys.stderr)
        raise UserError(f"the tests do not pass as {file} is, see above (exit status {status}): mend them first")
    if survives(copy / file, "raise SystemError\n", copy, tests, None):
        raise UserError(f"{' '.join(tests)} pass without {file}: name other tests with --tests")
    return SLOWER * seconds + SECONDS_MORE


def survives(path: Path, source: str, copy: Path, tests: list[str], limit: float | None) -> bool:
    """Tell whether the tests pass with `source` in a file of the copy."""
    path.write_text(source, encoding="utf-8")
    Path(cache_from_source(str(path))).unlink(missing_ok=True)  # its key, size and second of writing, may be the same
    return run_tests(copy, tests, limit)[0] == 0


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Break a file in small ways; name those that its tests do not notice.")
    parser.add_argument("file", type=Path, help="a Python file of the project")
    parser.add_argument("--tests", nargs="+", metavar="TEST", help="for pytest (default: the tests named as the file)")
    parser.add_argument("--sample", type=int, metavar="N", help="draw N of the mutations (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of that drawing (default: 0)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_arguments(arguments)
    path = args.file.resolve()
    if not (path.is_file() and path.suffix == ".py" and path.is_relative_to(PROJECT)):
        raise UserError(f"{args.file} is no Python file of {PROJECT}")
    file = path.relative_to(PROJECT)
    tests = args.tests or mirror_tests(file)
    found = sorted(mutations(path.read_text(encoding="utf-8")))
    if args.sample is not None:
        if args.sample < 1:
            raise UserError(f"--sample must be at least 1; found {args.sample}")
        found = sorted(random.Random(args.seed).sample(found, min(args.sample, len(found))))
    survived, done = 0, 0
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        copy = Path(folder) / "project"
        copy_project(copy)
        limit = time_limit(copy, file, tests)
        print(f"{len(found)} mutations of {file}, by {' '.join(tests)}, at most {limit:.0f} s each")
        try:
            for mutation in tqdm(found, file.name, unit=" mutations"):
                if survives(copy / file, mutation.source, copy, tests, limit):
                    survived += 1
                    tqdm.write(f"{file}:{mutation.line}: {mutation.before} -> {mutation.after}")
                done += 1
        finally:  # interrupted, too
            share = f" ({1 - survived / done:.0%})" if done else ""
            print(f"noticed {done - survived} of {done}{share}, {survived} survived; {len(found) - done} not tried")


if __name__ == "__main__":
    run_command(main)
