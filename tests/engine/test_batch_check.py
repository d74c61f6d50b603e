"""Batches that could teach nothing are refused with the smallest that can."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from fastreid.config import get_cfg
from fastreid.data.build import TrainLoaders
from fastreid.engine import batch_check
from fastreid.engine.batch_check import check_batches
from fastreid.utils.errors import UserError

DOMAINS = 3


def loader(identities, images, domains=DOMAINS):
    """What a training loader of so many identities in each domain shows of its data."""
    pids = np.repeat(np.arange(domains * identities), images)
    found = dict(paths=pids.astype(str), targets=pids, camids=pids, domains=pids // identities)
    return SimpleNamespace(dataset=SimpleNamespace(**found))


def check(*options, identities=6, images=4, domains=DOMAINS, meta=False):
    cfg = get_cfg()
    cfg.merge_from_list(["META.DATA.NUM_DOMAINS", domains, "META.SOLVER.MTRAIN.NUM_DOMAIN", domains - 1, *options])
    data = loader(identities, images, domains)
    check_batches(cfg, TrainLoaders(data, data if meta else None, identities * domains, domains, 5))


def base(size, instances, *losses):
    names = ["MODEL.LOSSES.NAME", losses] if losses else []
    return ["SOLVER.IMS_PER_BATCH", size, "DATALOADER.NUM_INSTANCE", instances, *names]


def meta(size, instances, *options):
    return ["META.DATA.MTRAIN_MINI_BATCH", size, "META.DATA.MTRAIN_NUM_INSTANCE", instances, *base(16, 4), *options]


@pytest.mark.parametrize(
    "options, message",
    [
        (
            base(1, 1),
            "batch normalization needs at least 2 images. The smallest batch that can has 2 images, with 1 of",
        ),
        (base(1, 1, "CrossEntropyLoss"), "The smallest batch that can has 2 images"),
        (
            base(4, 4),
            "1 identities with 4 .* teach TripletLoss of MODEL.LOSSES.NAME nothing.* smallest .* has 8 images, with 4",
        ),
        (base(2, 2, "CircleLoss"), "teach CircleLoss .* has 4 images, with 2"),
        (base(2, 2, "CrossEntropyLoss", "MMD"), "teach MMD .* has 4 images"),
        (base(1 * DOMAINS, 1, "SCT") + ["DATALOADER.NAIVE_WAY", "False"], "teach SCT .* has 6 images, with 1"),
        (base(8, 4, "TripletLoss") + ["MODEL.LOSSES.TRI.NEW_NEG", "[0, 0, 0]"], "No batch of these data can"),
    ],
)
def test_a_base_batch_that_cannot_teach_is_refused(options, message):
    with pytest.raises(UserError, match=f"SOLVER.IMS_PER_BATCH {options[1]}: .*{message}"):
        check(*options)


def test_a_domain_loss_without_a_second_domain_is_refused():
    with pytest.raises(
        UserError, match="teach MMD .*No batch of these data can: leave those losses out of MODEL.LOSSES.NAME"
    ):
        check(*base(8, 2, "CrossEntropyLoss", "MMD"), domains=1)


@pytest.mark.parametrize(
    "options, message",
    [
        (meta(6, 2), "3 identities with 2 .* teach TripletLoss_add of META.LOSS.MTRAIN_NAME nothing.* has 12 images"),
        (
            meta(6, 2, "META.LOSS.MTRAIN_NAME", ("SCT",)),
            "teach TripletLoss_mtest of META.LOSS.MTEST_NAME .* has 12 images",
        ),
        (meta(3, 1), "too few images of the domains .* META.LOSS.MTEST_NAME.* has 6 images, with 1"),
        (meta(2, 1, "META.DATA.NAIVE_WAY", "True"), "too few images of the domains that a meta step draws"),
    ],
)
def test_a_meta_batch_that_cannot_teach_is_refused(options, message):
    with pytest.raises(UserError, match=f"META.DATA.MTRAIN_MINI_BATCH {options[1]}: .*({message})"):
        check(*options, meta=True)


@pytest.mark.parametrize(
    "options",
    [
        base(8, 4),
        base(2, 1),
        base(4, 4, "CrossEntropyLoss"),
        base(12, 2, "CrossEntropyLoss", "TripletLoss", "TripletLoss_add", "CircleLoss", "SCT", "STD", "MMD"),
        base(8, 4) + ["MODEL.LOSSES.TRI.NORM_FEAT", "True", "MODEL.LOSSES.TRI.DIST_TYPE", "cosine"],
        base(8, 4) + ["MODEL.LOSSES.TRI.MARGIN", 0.0, "MODEL.LOSSES.TRI.LOSS_TYPE", "hinge"],
        base(8, 4) + ["MODEL.LOSSES.TRI.HARD_MINING", "False"],
        base(4, 4) + ["MODEL.LOSSES.TRI.SCALE", 0.0],  # switched off
    ],
)
def test_batches_that_teach_are_let_pass(options):
    check(*options)


def test_the_published_batches_are_let_pass():
    check("META.DATA.MTRAIN_MINI_BATCH", 80, meta=True, domains=5, identities=30)


def test_the_share_of_each_process_counts_unless_statistics_are_shared(monkeypatch):
    monkeypatch.setattr(batch_check, "num_processes", lambda: 2)
    with pytest.raises(UserError, match="batch normalization needs at least 2 images in each process.* has 4 images"):
        check(*base(2, 1, "CrossEntropyLoss"))
    check(*base(2, 1, "CrossEntropyLoss"), "MODEL.NORM.SYNC", True)


@pytest.mark.parametrize(
    "images, options, level, message",
    [
        (
            1,
            base(8, 4),
            "WARNING",
            "18 of 18 identities have a single image, which stands 4 times in a batch: for them TripletLoss",
        ),
        (4, base(8, 1), "WARNING", "DATALOADER.NUM_INSTANCE 1: no batch has two images of an identity"),
        (1, base(8, 4, "CrossEntropyLoss"), "", ""),
        (4, base(8, 4), "", ""),
    ],
)
def test_identities_with_one_image_are_told_of(caplog, monkeypatch, images, options, level, message):
    monkeypatch.setattr(logging.getLogger("fastreid"), "propagate", True)
    check(*options, images=images)
    assert [record.levelname for record in caplog.records] == ([level] if level else [])
    assert message in caplog.text
