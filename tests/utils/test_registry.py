"""Choosing code by its name in a config."""

import pytest

from fastreid.utils.errors import UserError
from fastreid.utils.registry import Registry


@pytest.fixture
def registry():
    registry = Registry("backbone", "MODEL.BACKBONE.NAME")

    @registry.register()
    def build_resnet_backbone(cfg):
        return "resnet", cfg

    @registry.register("build_mobilenet_v2_backbone")
    class Mobile:
        pass

    return registry


def test_entries_are_found_by_their_own_or_a_given_name(registry):
    assert registry.get("build_resnet_backbone")(3) == ("resnet", 3)
    assert registry.get("build_mobilenet_v2_backbone").__name__ == "Mobile"
    assert list(registry) == ["build_resnet_backbone", "build_mobilenet_v2_backbone"]
    assert "build_resnet_backbone" in registry and "Mobile" not in registry


def test_registering_returns_what_was_registered(registry):
    def other():
        return 1

    assert registry.register()(other) is other


def test_an_unknown_name_is_an_error_that_names_the_option_and_the_nearest(registry):
    with pytest.raises(UserError) as caught:
        registry.get("build_resnet_backbon")
    assert str(caught.value) == (
        "MODEL.BACKBONE.NAME: no backbone is called 'build_resnet_backbon'; the nearest is build_resnet_backbone "
        "(known: build_resnet_backbone, build_mobilenet_v2_backbone)"
    )


def test_an_empty_registry_has_no_nearest_name():
    with pytest.raises(UserError, match="no head is called ''"):
        Registry("head", "MODEL.HEADS.NAME").get("")


def test_a_name_is_registered_once(registry):
    with pytest.raises(KeyError, match="the backbone build_resnet_backbone is registered already"):
        registry.register("build_resnet_backbone")(print)
    assert registry.get("build_resnet_backbone") is not print


def test_two_registries_do_not_share_entries(registry):
    assert list(Registry("backbone", "MODEL.BACKBONE.NAME")) == []
