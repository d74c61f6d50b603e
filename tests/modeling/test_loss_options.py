"""From the options of MODEL.LOSSES to the losses of a batch's outputs."""

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.modeling.heads import HeadOutput
from fastreid.modeling.losses import mmd_loss, std_loss
from fastreid.modeling.losses.build import build_losses
from fastreid.utils.errors import UserError

N = 12
DOMAINS = torch.arange(N) % 2
IDS = torch.arange(N) // 4
COMPARING = {
    "TripletLoss": "TRI",
    "TripletLoss_add": "TRI_ADD",
    "TripletLoss_mtrain": "TRI_MTRAIN",
    "TripletLoss_mtest": "TRI_MTEST",
    "CircleLoss": "CIRCLE",
    "SCT": "SCT",
    "STD": "STD",
    "MMD": "MMD",
}


@pytest.fixture
def outputs():
    return HeadOutput(torch.randn(N, 5), torch.randn(N, 5), torch.randn(N, 3))


def value(outputs, name, *options):
    cfg = get_cfg()
    cfg.merge_from_list(list(options))
    (found,) = build_losses(cfg, [name], "MODEL.LOSSES.NAME")(outputs, IDS, DOMAINS).values()
    return found


@pytest.mark.parametrize("name, section", COMPARING.items())
def test_a_loss_sees_the_feature_that_its_feat_order_names(outputs, name, section):
    after = value(outputs, name, f"MODEL.LOSSES.{section}.FEAT_ORDER", "after")
    swapped = outputs._replace(before=outputs.after, after=outputs.before)
    assert after == value(swapped, name) != value(outputs, name)
    with pytest.raises(UserError, match=f"FEAT_ORDER of {name} in MODEL.LOSSES must be before or after; found 'between'"):
        value(outputs, name, f"MODEL.LOSSES.{section}.FEAT_ORDER", "between")


def test_losses_of_both_features_are_computed_together(outputs):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.LOSSES.SCT.FEAT_ORDER", "after"])
    names = ["SCT", "CrossEntropyLoss", "TripletLoss"]
    found = build_losses(cfg, names, "MODEL.LOSSES.NAME")(outputs, IDS, DOMAINS)
    options = ["MODEL.LOSSES.SCT.FEAT_ORDER", "after"]
    assert list(found) == ["loss_stc", "loss_cls", "loss_triplet"]
    assert list(found.values()) == [value(outputs, name, *options) for name in names]


@pytest.mark.parametrize(
    "name, option, word",
    [
        ("STD", "STD.NORM", "False"),
        ("STD", "STD.TYPE", "all"),
        ("STD", "STD.LOG_SCALE", "False"),
        ("MMD", "MMD.NORM", "False"),
        ("MMD", "MMD.NORM_FLAG", "l1norm"),
        ("MMD", "MMD.KERNEL_MUL", "3.0"),
        ("MMD", "MMD.KERNEL_NUM", "3"),
        ("MMD", "MMD.FIX_SIGMA", "0.5"),
        ("SCT", "SCT.NORM", "False"),
        ("SCT", "SCT.TYPE", "euclidean"),
    ],
)
def test_each_option_changes_its_loss(outputs, name, option, word):
    assert value(outputs, name, f"MODEL.LOSSES.{option}", word) != value(outputs, name)


def test_std_and_mmd_normalize_by_default_as_published(outputs):
    assert value(outputs, "STD") == std_loss(outputs.before, DOMAINS, norm_feat=True, std_type="domain")
    assert value(outputs, "MMD") == mmd_loss(outputs.before, DOMAINS, norm_feat=True, norm_flag="l2norm")


@pytest.mark.parametrize("option, word", [("KERNEL_NUM", "0"), ("KERNEL_MUL", "-1.0")])
def test_kernels_that_are_none_are_an_error(outputs, option, word):
    with pytest.raises(UserError, match="kernel_num must be at least 1 and kernel_mul above 0"):
        value(outputs, "MMD", f"MODEL.LOSSES.MMD.{option}", word)
