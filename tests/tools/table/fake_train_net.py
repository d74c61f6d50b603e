"""In the place of tools/train_net.py: `trains` without a model, for tests of what runs it. Tests copy it.

SOLVER.MAX_ITER iterations of a few hundredths of a second; Rank-1 is 10 times SOLVER.BASE_LR plus the seed, on the
first test set, and 1 more on each other one. MODEL.WEIGHTS says what goes wrong: `missing` or `crash`.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

from fastreid.config import get_cfg

SECONDS = 0.03

parser = argparse.ArgumentParser()
parser.add_argument("--config-file")
parser.add_argument("--resume", action="store_true")
parser.add_argument("opts", nargs="*")
args = parser.parse_args()
cfg = get_cfg()
cfg.merge_from_file(args.config_file)
cfg.merge_from_list(args.opts)
folder, last = Path(cfg.OUTPUT_DIR), Path(cfg.OUTPUT_DIR) / "last_checkpoint"
(folder / "config.yaml").write_text(cfg.dump())
with (folder / "starts.txt").open("a") as file:
    file.write(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")
if cfg.MODEL.WEIGHTS == "missing":
    sys.exit("error: no checkpoint missing: check the path")
if cfg.MODEL.WEIGHTS == "crash":
    raise ValueError("the network is down")

stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
start = 0
if args.resume and last.is_file():
    name = last.read_text()
    start = cfg.SOLVER.MAX_ITER if name == "model_final.pth" else int(name[6:-4]) + 1
for iteration in range(start, cfg.SOLVER.MAX_ITER):
    time.sleep(SECONDS)
    with (folder / "metrics.json").open("a") as file:
        file.write(json.dumps({"iteration": iteration, "time": 0.5}) + "\n")
    if stopped:
        (folder / f"model_{iteration:07d}.pth").touch()
        last.write_text(f"model_{iteration:07d}.pth")
        print(f"stopped by SIGTERM: goes on from model_{iteration:07d}.pth")
        sys.exit(143)
(folder / "model_final.pth").touch()
last.write_text("model_final.pth")
rows = {}
for number, name in enumerate(cfg.DATASETS.TESTS):
    rank1 = 10 * cfg.SOLVER.BASE_LR + cfg.SEED + number
    rows[f"{name}_average"] = {"Rank-1": rank1, "mAP": 2 * rank1}
every = {metric: sum(row[metric] for row in rows.values()) / len(rows) for metric in ("Rank-1", "mAP")}
about = {"iteration": cfg.SOLVER.MAX_ITER, "max_iter": cfg.SOLVER.MAX_ITER, "machine": "a test"}
with (folder / "metrics.json").open("a") as file:
    tested = {f"test/all_average {metric}": value for metric, value in every.items()}
    file.write(json.dumps({"iteration": cfg.SOLVER.MAX_ITER - 1, **tested}) + "\n")
(folder / "results.json").write_text(json.dumps({**about, "results": {**rows, "** all_average **": every}}))
