"""Run folders as training leaves them, small enough to be made for a test."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from fastreid.config import get_cfg
from fastreid.modeling import build_model
from fastreid.utils.checkpoint import Checkpointer

TABLE_METRICS = "Rank-1 Rank-5 Rank-10 mAP mINP TPR@FPR=0.0001 TPR@FPR=0.001 TPR@FPR=0.01".split()
SETS = ("folder:here", "folder:there")
OPTIONS = {
    "MODEL.DEVICE": "cpu",
    "MODEL.BACKBONE.NAME": "build_mobilenet_v2_backbone",
    "MODEL.BACKBONE.DEPTH": 5,
    "MODEL.BACKBONE.PRETRAIN": False,
    "MODEL.NORM.TYPE_BACKBONE": "BIN_gate2",
    "MODEL.HEADS.IN_FEAT": 1280,
    "MODEL.HEADS.NUM_CLASSES": 1,
    "INPUT.SIZE_TEST": [32, 16],
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TESTS": SETS,
}


def metrics_of(rank1: float) -> dict[str, float]:
    """Return a row of results whose values tell from which Rank-1 they were made."""
    return {name: round(rank1 + 5 * position, 2) for position, name in enumerate(TABLE_METRICS)}


def rows_of(rank1: float, sets=SETS) -> dict[str, dict[str, float]]:
    rows = {}
    for name in sets:
        rows |= {f"{name}_average": metrics_of(rank1), f"{name}_std": dict.fromkeys(TABLE_METRICS, 1.5)}
    return {**rows, "** all_average **": metrics_of(rank1)}


def table_of(rank1: float, sets=SETS) -> str:
    """Return the pipe table of a log."""
    lines = ["| Datasets | " + " | ".join(TABLE_METRICS) + " |", "|:---" * (len(TABLE_METRICS) + 1) + "|"]
    for name, row in rows_of(rank1, sets).items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |")
    return "\n".join(lines)


def log_of(rank1s, period=100, total=None, config="configs/x.yml") -> str:
    """Return the log of a run that was evaluated every `period` iterations, the last time after it ended."""
    total = total or period * len(rank1s)
    head = "[2026-01-02 03:04:05,678] fastreid.engine"
    lines = [f"{head}.defaults INFO: config {config}, output folder logs/x, seed 1"]
    lines.append(f"{head}.train_loop INFO: training from iteration 0 to {total}")
    for number, rank1 in enumerate(rank1s, start=1):
        done = period * number
        lines.append(f"{head}.writers INFO: eta 0:01:00  epoch 1.0  iter {done - 1}/{total}  base: cls 1.0  0.4 s/iter")
        table = f"{head}.defaults INFO: results, in percent:\n{table_of(rank1)}"
        progress = f"{head}.writers INFO: eta 0:01:00  epoch 1.0  iter {done}/{total}  base: cls 1.0  0.4 s/iter"
        lines += [progress, table] if done == total else [table, progress]
    return "\n".join(lines) + "\n"


def write_numbers(folder: Path, rank1s=(20.0, 40.0, 30.0), **options) -> Path:
    """Write log.txt, metrics.json, results.json and config.yaml of a run into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").write_text(log_of(rank1s))
    records = []
    for number, rank1 in enumerate(rank1s, start=1):
        record = {
            "iteration": 100 * number - 1,
            "base/loss_cls": 3.0 / number,
            "lr": 0.1**number,
            "gate/layer1.bn": 0.9,
        }
        for name in (*SETS, "all_average"):
            record |= {f"test/{name} Rank-1": rank1, f"test/{name} mAP": metrics_of(rank1)["mAP"]}
        records.append(json.dumps(record))
    (folder / "metrics.json").write_text("\n".join(records) + "\n")
    content = {"iteration": 100 * len(rank1s), "results": rows_of(rank1s[-1]), "splits": {}}
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(make_config(**options).dump())
    return folder


def make_config(**options):
    """Return a config of the tiny model; `SOLVER__BASE_LR=0.1` sets SOLVER.BASE_LR."""
    cfg = get_cfg()
    for key, value in (OPTIONS | {key.replace("__", "."): value for key, value in options.items()}).items():
        cfg.set_leaf(key, value, where="test")
    return cfg


def write_checkpoint(folder: Path) -> None:
    """Save a model of random weights as the run's last checkpoint."""
    Checkpointer(build_model(make_config()), folder).save("model_final", 299)


def draw_data_set(root: Path, name: str, people=6, seed=0, prefix="") -> None:
    """Draw a `folder:` data set of one query and one gallery image of each person, each person of one colour."""
    rng = np.random.default_rng(seed)
    for person in range(people):
        colour = rng.integers(0, 256, 3)
        for part, camera in (("query", 1), ("gallery", 2)):
            folder = root / name / part
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(colour + rng.integers(-60, 60, (64, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{person:04d}_c{camera}{prefix}.png")
