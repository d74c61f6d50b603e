"""Tables of runs that train nothing: a project whose tools/train_net.py is fake_train_net.py, and finished runs."""

import json
import shutil
from pathlib import Path

import yaml

HERE = Path(__file__).parent
SETS = ("folder:a", "folder:b", "folder:c")
ITERATIONS = 4


def write_project(folder: Path) -> Path:
    """Write a project with a config and the tool that `trains`; return its folder."""
    (folder / "tools").mkdir(parents=True)
    (folder / "configs" / "Table").mkdir(parents=True)
    shutil.copy(HERE / "fake_train_net.py", folder / "tools" / "train_net.py")
    options = {"DATASETS": {"TESTS": list(SETS)}, "SOLVER": {"MAX_ITER": ITERATIONS, "BASE_LR": 1.0}}
    (folder / "configs" / "tiny.yml").write_text(yaml.safe_dump(options))
    return folder


def tree_of(**changes) -> dict:
    """Return the content of a table with two rows and two seeds."""
    rows = [
        {"name": "BN", "config": "configs/tiny.yml"},
        {"name": "Meta BIN", "config": "configs/tiny.yml", "options": {"SOLVER.BASE_LR": 2.5}},
    ]
    return {"title": "Two rows", "seeds": [1, 4], "rows": rows} | changes


def write_table(project: Path, **changes) -> Path:
    """Write configs/Table/two.yml of a project."""
    path = project / "configs" / "Table" / "two.yml"
    path.write_text(yaml.safe_dump(tree_of(**changes)))
    return path


def finish(run, rank1s, seconds=1.5, machine="a test") -> None:
    """Let a run be finished, with a Rank-1 for each test set; mAP is twice as high."""
    run.folder.mkdir(parents=True)
    cfg = run.row.cfg.clone()
    cfg.SEED, cfg.OUTPUT_DIR = run.seed, "elsewhere"
    (run.folder / "config.yaml").write_text(cfg.dump())
    (run.folder / "last_checkpoint").write_text("model_final.pth")
    (run.folder / "model_final.pth").touch()
    records = [{"iteration": 1, "time": seconds}, {"iteration": ITERATIONS - 1, "time": seconds}]
    records[1]["test/all_average Rank-1"] = sum(rank1s) / len(rank1s)
    (run.folder / "metrics.json").write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = {f"{name}_average": {"Rank-1": value, "mAP": 2 * value} for name, value in zip(run.row.test_sets, rank1s)}
    rows["** all_average **"] = {"Rank-1": sum(rank1s) / len(rank1s), "mAP": 2 * sum(rank1s) / len(rank1s)}
    about = {"iteration": ITERATIONS, "max_iter": ITERATIONS, "machine": machine}
    (run.folder / "results.json").write_text(json.dumps({**about, "results": rows}))
