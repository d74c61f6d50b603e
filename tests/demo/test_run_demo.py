"""demo/run_demo.sh: what it runs, and what it ends with."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# In the place of Python: notes what it is called with, and leaves the files that training and testing leave.
FAKE = """#!/bin/sh
echo "$*" >> "{calls}"
case "$*" in
*--eval-only*) rank=4.08% map=14.77% ;;
*train_net*) rank=51.25% map=64.50% ;;
*report.py*) echo a page; exit 0 ;;
*) exit 0 ;;
esac
while [ "$1" != OUTPUT_DIR ]; do shift; done
mkdir -p "$2"
echo "| ALL_GRID_average  | 1.00% | 2.00% | 3.00% | 5.00% | 5.00% |" > "$2/results.txt"
echo "| ** all_average ** | $rank | 60.00% | 70.00% | $map | 30.00% |" >> "$2/results.txt"
"""


def test_the_demo_ends_with_the_numbers_that_matter_and_where_the_pictures_are(tmp_path):
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(FAKE.format(calls=calls))
    python.chmod(0o755)
    logs = tmp_path / "my logs"
    environment = os.environ | {"PYTHON": str(python), "DEMO_LOGS": str(logs), "DEMO_DATA": str(tmp_path / "data")}
    done = subprocess.run(["sh", ROOT / "demo" / "run_demo.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    end = done.stdout.splitlines()[-6:]
    assert end[0].startswith("On four data sets that were not seen")
    assert end[1].split(maxsplit=1) == ["untrained", "Rank-1 4.1 %, mAP 14.8 %"]
    assert end[2].split(maxsplit=1) == ["trained", "Rank-1 51.2 %, mAP 64.5 %"]
    assert end[3].endswith(f"{logs}/result.png") and end[4].endswith(f"{logs}/report.html")
    called = calls.read_text()
    config = ROOT / "configs" / "Demo" / "synthetic.yml"
    assert config.is_file() and called.count(f"configs/Demo/{config.name}") == 2 and "report.py" in called


def test_a_step_that_fails_ends_the_demo(tmp_path):
    environment = os.environ | {"PYTHON": "false", "DEMO_LOGS": str(tmp_path), "DEMO_DATA": str(tmp_path)}
    done = subprocess.run(["sh", ROOT / "demo" / "run_demo.sh"], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and "trained" not in done.stdout.replace("untrained", "")
