"""A config and a batch for single steps of a whole network on small images."""

import torch

from fastreid.config import get_cfg
from fastreid.engine import train_loop

SIZE, IMAGES, DOMAINS = (32, 16), 12, 3
PARTS = [0, 1], [2]  # domains of meta-train and meta-test


def make_cfg(backbone, *options):
    cfg = get_cfg()
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", backbone, "MODEL.BACKBONE.PRETRAIN", False]
        + ["MODEL.NORM.TYPE_BACKBONE", "BIN_gate2", "MODEL.HEADS.IN_FEAT", 0, "MODEL.HEADS.NUM_CLASSES", 6]
        + ["META.DATA.NAMES", "DG", "META.DATA.NUM_DOMAINS", DOMAINS, "META.SOLVER.MTRAIN.NUM_DOMAIN", 2]
        + ["SOLVER.ITERS_PER_EPOCH", 20, *options]
    )
    return cfg


def make_batch():
    targets = torch.arange(6).repeat_interleave(2)
    batch = {"images": torch.rand(IMAGES, 3, *SIZE) * 255, "img_paths": ["image"] * IMAGES}
    return batch | {"targets": targets, "camids": targets, "domains": targets % DOMAINS}


def parts_of(batch):
    """Return the two parts of a batch by their domains; chosen by values, hence on the CPU and of real tensors."""
    return {tuple(part): train_loop.select_domains(batch, part) for part in PARTS}
