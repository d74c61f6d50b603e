"""From the options of MODEL.LOSSES to the losses of a batch's outputs."""

import pytest
import torch

from fastreid.config import get_cfg
from fastreid.config.config import leaves
from fastreid.modeling.heads import HeadOutput
from fastreid.modeling.losses import mmd_loss, std_loss
from fastreid.modeling.losses.build import LOSS_REGISTRY, build_losses
from fastreid.modeling.meta_arch.metalearning import RestitutedOutput
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
    with pytest.raises(
        UserError, match=f"FEAT_ORDER of {name} in MODEL.LOSSES must be before or after; found 'between'"
    ):
        value(outputs, name, f"MODEL.LOSSES.{section}.FEAT_ORDER", "between")


def test_losses_of_both_features_are_computed_together(outputs):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.LOSSES.SCT.FEAT_ORDER", "after"])
    names = ["SCT", "CrossEntropyLoss", "TripletLoss"]
    found = build_losses(cfg, names, "MODEL.LOSSES.NAME")(outputs, IDS, DOMAINS)
    options = ["MODEL.LOSSES.SCT.FEAT_ORDER", "after"]
    assert list(found) == ["loss_stc", "loss_cls", "loss_triplet"]
    assert list(found.values()) == [value(outputs, name, *options) for name in names]


# What an option needs to do anything, by its end.
NEEDS = {"CE.ALPHA": ("CE.EPSILON", -1.0), "LOSS_TYPE": ("MARGIN", 0.0)}
OTHER_WORD = {"before": "after", "euclidean": "cosine", "logistic": "hinge", "cosine_sim": "euclidean", "domain": "all"}
OTHER_WORD |= {"l2norm": "l1norm"}


def other_value(value):
    """Return another value of an option that may be had."""
    if isinstance(value, str):
        return OTHER_WORD[value]
    if isinstance(value, list):
        return value[-1:] + value[:-1]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else 1.75 * value + 0.25


def all_losses(**options):
    """Return the value of every loss there is, of one batch in float64, by its section of MODEL.LOSSES."""
    cfg = get_cfg()
    cfg.MODEL.STYLE.NAME = "SNR"
    for name, changed in options.items():
        cfg.set_leaf(f"MODEL.LOSSES.{name}", changed, where="test")
    generator = torch.Generator().manual_seed(2)

    def features(columns):
        return torch.randn(N, columns, generator=generator, dtype=torch.float64)

    restituted = tuple(tuple(features(5) for _ in range(3)) for _ in cfg.MODEL.LOSSES.SNR.WEIGHTS)
    outputs = RestitutedOutput(features(5), features(5), features(3), restituted)
    sections = {"CrossEntropyLoss": "CE", **COMPARING, "DualCausalityLoss": "SNR"}
    found = build_losses(cfg, list(sections), "MODEL.LOSSES.NAME")(outputs, IDS, DOMAINS)
    return dict(zip(sections.values(), found.values(), strict=True))


@pytest.mark.parametrize("option", [name for name, _ in leaves(get_cfg().MODEL.LOSSES) if name != "NAME"])
def test_each_option_changes_the_loss_of_its_section_and_no_other(option):
    section, _, name = option.partition(".")
    needed = next((need for end, need in NEEDS.items() if option.endswith(end)), None)
    base = {f"{section}.{needed[0].rpartition('.')[2]}": needed[1]} if needed else {}
    default = dict(leaves(get_cfg().MODEL.LOSSES))[option]
    plain, changed = all_losses(**base), all_losses(**base, **{option: other_value(default)})
    assert [key for key in plain if changed[key] != plain[key]] == [section]
    if name == "SCALE":
        torch.testing.assert_close(changed[section], other_value(default) * plain[section])


def test_std_and_mmd_normalize_by_default_as_published(outputs):
    assert value(outputs, "STD") == std_loss(outputs.before, DOMAINS, norm_feat=True, std_type="domain")
    assert value(outputs, "MMD") == mmd_loss(outputs.before, DOMAINS, norm_feat=True, norm_flag="l2norm")


@pytest.mark.parametrize("option, word", [("KERNEL_NUM", "0"), ("KERNEL_MUL", "-1.0")])
def test_kernels_that_are_none_are_an_error(outputs, option, word):
    with pytest.raises(UserError, match="kernel_num must be at least 1 and kernel_mul above 0"):
        value(outputs, "MMD", f"MODEL.LOSSES.MMD.{option}", word)


@pytest.mark.parametrize(
    "names, found", [([], "none"), (["Triplet"], "'Triplet'"), (["CrossEntropyLoss", "Triplet", "Circle"], "'Triplet'")]
)
def test_losses_that_there_are_not_are_an_error(names, found):
    with pytest.raises(UserError, match=f"META.LOSS.MTEST_NAME must name losses out of .*SCT.*; found {found}$"):
        build_losses(get_cfg(), names, "META.LOSS.MTEST_NAME")


def test_losses_that_compare_people_are_those_of_features_and_identities():
    names = [name for name in LOSS_REGISTRY if name != "DualCausalityLoss"]  # which needs a style
    compare = {name for name in names if LOSS_REGISTRY.get(name)(get_cfg()).compares_people()}
    assert compare == {"CircleLoss", *(f"TripletLoss{part}" for part in ("", "_add", "_mtrain", "_mtest"))}
