"""One of several processes that evaluate together; started by test_extraction.py with rank, number and folder."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from fastreid.config import get_cfg
from fastreid.data.build import load_test_set
from fastreid.evaluation import checked_sets, reid_evaluation
from fastreid.evaluation.extraction import extract_features
from fastreid.evaluation.feature_cache import FeatureCache
from fastreid.utils.errors import UserError


class TinyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 24))
        self.forwarded = 0

    def forward(self, batch):
        self.forwarded += len(batch["images"])
        return nn.functional.avg_pool2d(batch["images"], 4).flatten(1) * self.scale


def message_of(function) -> str:
    try:
        function()
    except UserError as error:
        return str(error)
    return ""


def main(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting_point", rank=rank, world_size=world)
    cfg, model = get_cfg(), TinyModel()
    cfg.merge_from_file(folder / "config.yaml")
    items = load_test_set("folder:people").items

    features, forwarded = {}, []
    for count in (16, 15, 3, 1):
        model.forwarded = 0
        features[str(count)] = extract_features(cfg, model, items[:count])
        forwarded.append(model.forwarded)
    if rank == 0:
        np.savez(folder / "features.npz", **features)
    else:
        assert all(value is None for value in features.values())

    table = reid_evaluation.evaluate(cfg, model).table()
    errors = []
    dist.barrier()
    # The second process's share holds an image that cannot be read.
    content = Path(items.paths[-1]).read_bytes()
    dist.barrier()
    Path(items.paths[-1]).write_bytes(b"no image")
    dist.barrier()
    errors.append(message_of(lambda: reid_evaluation.evaluate(cfg, model)))
    dist.barrier()
    Path(items.paths[-1]).write_bytes(content)
    dist.barrier()
    # The first process finds nothing to evaluate.
    read, checked_sets.load_test_set = checked_sets.load_test_set, without_matches
    errors.append(message_of(lambda: reid_evaluation.evaluate(cfg, model)))
    checked_sets.load_test_set = read
    errors.append(message_of(lambda: reid_evaluation.evaluate(cfg, model, FeatureCache(folder / "none", reuse=True))))

    report = {"forwarded": forwarded, "table": table, "errors": errors}
    (folder / f"process_{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


def without_matches(name):
    test_set = load_test_set(name)
    test_set.items.pids[:] = np.arange(len(test_set.items))
    return test_set


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
