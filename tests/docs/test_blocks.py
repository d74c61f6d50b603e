"""The shell and Python blocks of all documents run, in their order, in a temporary copy of the project.

The copy has small synthetic data and a training of two iterations in the place of the demo's; what is left out, and how
output is compared, is in tests/README.md.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.command_server import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    path
    for pattern in ("README.md", "*/README.md", "configs/*/README.md", "tools/*/README.md")
    for path in sorted(ROOT.glob(pattern))
    if not path.relative_to(ROOT).parts[0].startswith(".")
]
LANGUAGES = ("sh", "bash", "python")
# What makes the demo's training and data short; of the data, VIPeR is as large as the demo's, so that counts are too.
SHORT = {
    "SOLVER": {"MAX_ITER": 1, "IMS_PER_BATCH": 16, "STEPS": [1], "WRITE_PERIOD": 1, "CHECKPOINT_PERIOD": 1},
    "META": {"SOLVER": {"INIT": {"FIRST_INNER_LOOP": 1}}},
    "INPUT": {"SIZE_TRAIN": [32, 16], "SIZE_TEST": [32, 16]},
    "DATALOADER": {"NUM_WORKERS": 0},
    "TEST": {"EVAL_PERIOD": 1},
    "ANALYSIS": {"IMAGES": 30, "IMAGES_PER_DOMAIN": 20, "PAIRS": 500},
}
FEWER = {"--ids 40 --images 16": "--ids 8 --images 8"}


class Block(NamedTuple):
    """A block of code: its document and line, language, code, the reason not to run it, and what it prints if shown."""

    name: str
    language: str
    code: str
    reason: str
    output: list[str]
    reason_not_to_compare: str


def fences(lines: list[str]):
    """Yield (line number from 1, language, lines of the block, marker before it, number of its last line)."""
    start = None
    for number, line in enumerate(lines, 1):
        fence = re.fullmatch(r" *```(\w*)", line.rstrip())
        if fence and start is None:
            start, language = number, fence[1]
        elif fence:
            before = lines[start - 2].strip() if start > 1 else ""
            yield start, language, lines[start : number - 1], before, number
            start = None


def reason(kind: str, before: str) -> str:
    match = re.fullmatch(rf"<!-- {kind}: (.+) -->", before)
    return match[1] if match else ""


def blocks() -> list[Block]:
    """Every block of a language that could run, in the order of the documents."""
    found = []
    for path in DOCUMENTS:
        lines = path.read_text(encoding="utf-8").splitlines()
        all_of_it = list(fences(lines))
        for index, (start, language, code, before, end) in enumerate(all_of_it):
            if language not in LANGUAGES:
                continue
            output, compare = [], ""
            if index + 1 < len(all_of_it):
                next_start, next_language, shown, marker, _ = all_of_it[index + 1]
                between = [line for line in lines[end : next_start - 1] if line.strip() and line.strip() != marker]
                if not next_language and not between:
                    output, compare = shown, reason("not compared", marker)
            indent = min((len(line) - len(line.lstrip()) for line in code if line.strip()), default=0)
            text = "\n".join(line[indent:] for line in code) + "\n"
            name = f"{path.relative_to(ROOT)}:{start}"
            found.append(Block(name, language, text, reason("not run", before), output, compare))
    return found


BLOCKS = blocks()
RUN = [block for block in BLOCKS if not block.reason]


@pytest.fixture(scope="module")
def project(tmp_path_factory, python):
    """The copy, and a way to run a block in it: (language, code) -> what it prints, in its order."""
    folder = tmp_path_factory.mktemp("documents") / "MetaBIN"
    for name in ("configs", "demo", "fastreid", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.png"))
    for name in ("datasets", "logs", "pretrained"):
        (folder / name).mkdir()
    for name in ("symbolic_link_dataset.sh", "symbolic_link_others.sh", "run_evaluate.sh"):
        shutil.copy(ROOT / name, folder)
    demo = folder / "configs" / "Demo" / "synthetic.yml"
    demo.write_text(yaml.safe_dump(merged(yaml.safe_load(demo.read_text()), SHORT)))
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "TQDM_DISABLE": "1",
        "WITHOUT_PICTURES": "1",
    }
    environment.pop("FASTREID_DATASETS", None)

    def run(language: str, code: str) -> str:
        script = folder / ("block.py" if language == "python" else "block.sh")
        script.write_text(code)
        command = [python, str(script)] if language == "python" else ["bash", "-eu", str(script)]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}"
        return done.stdout

    run("sh", make_demo())
    return run


def merged(config: dict, changes: dict) -> dict:
    both = {
        key: merged(config[key], value) for key, value in changes.items() if isinstance(value, dict) and key in config
    }
    return config | changes | both


def make_demo() -> str:
    """What `make demo` does, with fewer images."""
    draw = "python3 tools/make_synthetic_datasets.py --root datasets/synthetic --size 64x32 --workers 1"
    return (
        f"{draw} --scale tiny --sets cuhk02 cuhk03 market1501 dukemtmc cuhk_sysu grid prid ilids\n"
        f"{draw} --scale demo --sets viper\n"
        "FASTREID_DATASETS=datasets/synthetic python3 tools/train_net.py --config-file configs/Demo/synthetic.yml\n"
    )


def pattern(line: str) -> str:
    """A regular expression for a line of output: times and numbers with a decimal point may be others."""
    line = re.sub(r"^\[\d\d/\d\d \d\d:\d\d:\d\d\] ", "", line).rstrip()
    parts = re.split(r"\d[\d,]*\.\d+(?:e[+-]?\d+)?", line)
    number = r"\d[\d,]*\.\d+(?:e[+-]?\d+)?"
    return number.join(re.sub(r"(\\ )+", r"\\s+", re.escape(part)) for part in parts)


@pytest.mark.parametrize("block", RUN, ids=[block.name for block in RUN])
def test_block_runs_and_prints_what_is_shown(project, block):
    code = block.code
    for many, few in FEWER.items():
        code = code.replace(many, few)
    printed = project(block.language, code).splitlines()
    if block.reason_not_to_compare:
        return
    printed = iter(re.sub(r"^\[\d\d/\d\d \d\d:\d\d:\d\d\] ", "", line).rstrip() for line in printed)
    for line in block.output:
        if line.strip() not in ("", "..."):
            assert any(re.fullmatch(pattern(line), seen) for seen in printed), (
                f"not printed, or not in this order: {line}"
            )


def test_every_block_is_marked_or_run():
    assert all(block.reason or block in RUN for block in BLOCKS) and len(RUN) >= 15


@pytest.mark.parametrize(
    "shown, printed, fits",
    [
        ("features of 120 images in 0.5 s, 228.7 images/s", "features of 120 images in 1.25 s, 9.0 images/s", True),
        ("features of 120 images in 0.5 s", "features of 121 images in 0.5 s", False),
        ("[11/27 21:29:16] saved a.npz", "saved a.npz", True),
        ("largest difference 0.0e+00", "largest difference 4.6e-05", True),
        ("saved a.npz", "saved b.npz", False),
    ],
)
def test_what_is_compared(shown, printed, fits):
    assert bool(re.fullmatch(pattern(shown), printed)) == fits
