"""tools/mutate.py on a project of one module of two lines."""

import importlib.util
from pathlib import Path

import pytest

from fastreid.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
MODULE = "def larger(a, b): return a if a > b else b\ndef twice(a): return a + a\n"
TESTS = """
from small.pair import larger, twice

def test_pair():
    assert twice(larger(2, 1)) == 4 == twice(larger(1, 2))
"""

spec = importlib.util.spec_from_file_location("mutate", ROOT / "tools" / "mutate.py")
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "project"
    files = {"small/pair.py": MODULE, "tests/small/test_pair.py": TESTS, "logs/large": "", ".venv/x": ""}
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    monkeypatch.setattr(tool, "PROJECT", folder)
    monkeypatch.setattr(tool.tempfile, "tempdir", str(tmp_path))
    return folder


def found(source):
    return [(mutation.before, mutation.after) for mutation in sorted(tool.mutations(source))]


def test_the_survivor_is_named_and_the_working_tree_left_alone(project, capsys):
    pair = project / "small" / "pair.py"
    tool.main([str(pair)])
    out = capsys.readouterr().out
    assert "\nsmall/pair.py:1: return a if a > b else b -> return a if a >= b else b\n" in out
    assert "small/pair.py:2" not in out and "noticed 1 of 2 (50%), 1 survived; 0 not tried" in out
    assert pair.read_text() == MODULE and [path.name for path in project.parent.iterdir()] == ["project"]


def test_a_sample_is_drawn_by_its_seed(project, capsys, monkeypatch):
    monkeypatch.setattr(tool, "time_limit", lambda *args: 1.0)
    tried = []
    monkeypatch.setattr(tool, "survives", lambda path, source, *args: tried.append(source))
    for seed in [*range(9), 0]:
        tool.main([str(project / "small" / "pair.py"), "--sample", "1", "--seed", str(seed)])
    assert len(set(tried)) == 2 and tried[0] == tried[-1]
    assert "noticed 1 of 1 (100%), 0 survived; 0 not tried" in capsys.readouterr().out


def test_interrupted_it_says_how_far_it_came(project, capsys, monkeypatch):
    def interrupted(*args):
        if "raise SystemError" in args[1]:
            return False
        raise KeyboardInterrupt

    monkeypatch.setattr(tool, "survives", interrupted)
    monkeypatch.setattr(tool, "run_tests", lambda *args: (0, ""))
    with pytest.raises(KeyboardInterrupt):
        tool.main([str(project / "small" / "pair.py")])
    assert "noticed 0 of 0, 0 survived; 2 not tried" in capsys.readouterr().out
    assert [path.name for path in project.parent.iterdir()] == ["project"]


def test_tests_that_never_end_are_ended(project):
    test = project / "tests" / "small" / "test_pair.py"
    test.write_text("import time\n\n\ndef test_nothing():\n    time.sleep(600)\n")
    assert tool.run_tests(project, [str(test)], limit=0.5) == (None, "")


@pytest.mark.parametrize(
    "tests, message",
    [
        ("def test_a():\n    assert False\n", "do not pass as small/pair.py is, see above .exit status 1."),
        ("def test_a():\n    pass\n", "tests/small/test_pair.py pass without small/pair.py: name other tests"),
        (None, r"no tests tests/small/\*\*/test_pair\*.py: name those of small/pair.py with --tests"),
    ],
)
def test_tests_that_can_tell_nothing_are_refused(project, tests, message):
    path = project / "tests" / "small" / "test_pair.py"
    path.write_text(tests) if tests else path.unlink()
    with pytest.raises(UserError, match=message):
        tool.main([str(project / "small" / "pair.py")])


@pytest.mark.parametrize(
    "file, options", [("no.py", []), (str(ROOT / "README.md"), []), ("small/pair.py", ["--sample", "0"])]
)
def test_bad_arguments_are_one_clear_error(project, monkeypatch, file, options):
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match="is no Python file of|--sample must be at least 1; found 0"):
        tool.main([file, *options])


def test_every_kind_of_mutation():
    assert found("x = a and b") == [("x = a and b", "x = a or b")]
    assert found("x = not a") == [("x = not a", "x = a")]
    assert found("def f(n: int | None = 3): g()") == [
        ("def f(n: int | None=3):", "def f(n: int | None=2):"),
        ("def f(n: int | None=3):", "def f(n: int | None=4):"),
        ("g()", "pass"),
    ]
    assert found('"""Text."""\na.b = True') == [("a.b = True", "a.b = False"), ("a.b = True", "pass")]
    assert found("@d\ndef f(): return None") == [("@d", "def f():")]
    assert found("x, y = c.MTRAIN, c.MTEST") == []  # not alike enough
    assert found("x, y = c.TRI_MTRAIN, c.TRI_MTEST") == [
        ("x, y = (c.TRI_MTRAIN, c.TRI_MTEST)", "x, y = (c.TRI_MTEST, c.TRI_MTEST)"),
        ("x, y = (c.TRI_MTRAIN, c.TRI_MTEST)", "x, y = (c.TRI_MTRAIN, c.TRI_MTRAIN)"),
    ]
    assert [mutation.line for mutation in tool.mutations("x = [\n    a + b,\n    c < d,\n]")] == [2, 3]
