"""Whether the configs are the protocols that the table of configs/README.md puts beside figures of later papers."""

from pathlib import Path

import pytest

from fastreid.config import get_cfg

CONFIGS = Path(__file__).parents[2] / "configs" / "Protocol"
SMALL_TARGETS = {"ALL_GRID", "ALL_VIPER_only_10", "ALL_PRID", "ALL_iLIDS"}
WHOLE = {"Market1501": "DG_Market1501", "MSMT17": "DG_MSMT17", "CUHK03": "DG_CUHK03_detected"}  # of a set's parts


def sources_and_targets(name: str) -> tuple[set, set]:
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / f"{name}.yml"))
    assert len(cfg.META.DATA.NAMES) == 1 and cfg.META.DATA.NAMES[0] == "DG"  # meta steps see all sources, too
    return set(cfg.DATASETS.NAMES), set(cfg.DATASETS.TESTS)


def test_protocol_1_is_four_whole_sources_without_duke_and_the_four_small_targets():
    sources, targets = sources_and_targets("DG-multi-source-no-duke")
    assert sources == {"DG_Market1501", "DG_CUHK02", "DG_CUHK03_detected", "DG_CUHK_SYSU"} and targets == SMALL_TARGETS


@pytest.mark.parametrize("target", WHOLE)
@pytest.mark.parametrize("whole", [False, True], ids=["protocol 2", "protocol 3"])
def test_protocols_2_and_3_leave_one_out_with_training_parts_or_with_all_images(target, whole):
    sources, targets = sources_and_targets(f"LOO-{target}" + "-full" * whole)
    others = {WHOLE[name] if whole else name for name in WHOLE if name != target}
    assert sources == others | {"DG_CUHK_SYSU"} and targets == {target}


@pytest.mark.parametrize("source, target", [("Market1501", "MSMT17"), ("MSMT17", "Market1501")])
def test_single_sources_have_a_domain_for_each_camera(source, target):
    assert sources_and_targets(f"{source}-to-{target}") == ({source}, {target})
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / f"{source}-to-{target}.yml"))
    assert cfg.DATALOADER.CAMERA_TO_DOMAIN
