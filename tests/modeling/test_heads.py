"""The head: what it returns in training and in testing, and its options."""

import pytest
import torch
import torch.nn.functional as F

from fastreid.config import get_cfg
from fastreid.layers.classifiers import CLASSIFIERS
from fastreid.layers.pooling import POOL_LAYERS
from fastreid.modeling.heads import REID_HEADS_REGISTRY, build_heads
from fastreid.utils.errors import UserError

C, K, N = 6, 4, 8


def make_head(*options):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.HEADS.IN_FEAT", C, "MODEL.HEADS.NUM_CLASSES", K, *options])
    head = build_heads(cfg)
    with torch.no_grad():
        head.classifier_norm.weight.normal_()
        head.classifier_norm.running_mean.normal_()
        head.classifier_norm.running_var.uniform_(0.5, 2)
    return head


def feature_map():
    return torch.rand(N, C, 4, 2)


def labels():
    return torch.arange(N) % K


def test_test_feature_is_the_normalized_one():
    head, x = make_head().eval(), feature_map()
    norm = head.classifier_norm
    expected = (x.mean((2, 3)) - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight
    torch.testing.assert_close(head(x), expected)


def test_training_gives_the_feature_before_and_after_normalization_and_the_logits_of_the_latter():
    head, x = make_head(), feature_map()
    before, after, logits = head(x, labels())
    pooled = x.mean((2, 3))
    neck = F.batch_norm(pooled, None, None, head.classifier_norm.weight, training=True)
    torch.testing.assert_close(before, pooled)
    torch.testing.assert_close(after, neck)
    torch.testing.assert_close(logits, neck @ head.classifier_fc.weight.T)


@pytest.mark.parametrize("norm", [True, False])
def test_bottleneck_reduces_the_channels_of_everything_after_it(norm):
    head = make_head(
        "META.BOTTLENECK.DO_IT", "True", "META.BOTTLENECK.REDUCTION_DIM", 3, "META.BOTTLENECK.NORM", str(norm)
    )
    x = feature_map()
    before, after, logits = head(x, labels())
    reduced = F.linear(x.mean((2, 3)), head.bottleneck[0].weight, head.bottleneck[0].bias)
    reduced = F.batch_norm(reduced, None, None, training=True) if norm else reduced
    torch.testing.assert_close(before, F.leaky_relu(reduced, 0.1))
    assert (head.bottleneck[0].bias is None) == norm
    assert (
        after.shape == before.shape == (N, 3) and logits.shape == (N, K) and head.classifier_fc.weight.shape == (K, 3)
    )
    assert head.eval()(x).shape == (N, 3)


def test_the_neck_has_no_trained_bias():
    head = make_head()
    head(feature_map(), labels()).logits.square().sum().backward()
    norm = head.classifier_norm
    assert norm.bias.grad is None and not norm.bias.requires_grad and not norm.bias.any()
    assert {n for n, p in head.named_parameters() if p.requires_grad} == {
        "classifier_norm.weight",
        "classifier_fc.weight",
    }


def test_tensors_have_the_published_names():
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert set(make_head().state_dict()) == {f"classifier_norm.{leaf}" for leaf in norm} | {"classifier_fc.weight"}


@pytest.mark.parametrize("cls_layer", CLASSIFIERS)
@pytest.mark.parametrize("pool_layer", POOL_LAYERS)
def test_every_pooling_and_classification_layer_trains_and_tests(pool_layer, cls_layer):
    head = make_head("MODEL.HEADS.POOL_LAYER", pool_layer, "MODEL.HEADS.CLS_LAYER", cls_layer)
    x = feature_map()[:, :, :1, :1] if pool_layer == "identity" else feature_map()
    x.requires_grad_()
    features, after, logits = head(x, labels())
    assert features.shape == after.shape == (N, C) and logits.shape == (N, K)
    (F.cross_entropy(logits, labels()) + features.square().sum()).backward()
    assert x.grad.isfinite().all() and x.grad.any()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.requires_grad)
    assert head.eval()(x).shape == (N, C)


def test_identity_pooling_refuses_a_map_larger_than_1x1():
    head = make_head("MODEL.HEADS.POOL_LAYER", "identity").eval()
    with pytest.raises(UserError, match="POOL_LAYER identity"):
        head(feature_map())


@pytest.mark.parametrize("option, value, error", [("POOL_LAYER", "avg", UserError), ("CLS_LAYER", "fc", UserError)])
def test_unknown_values_name_the_option(option, value, error):
    with pytest.raises(error, match=f"MODEL.HEADS.{option} must be .*found '{value}'"):
        make_head(f"MODEL.HEADS.{option}", value)


def test_a_bottleneck_without_channels_is_an_error():
    with pytest.raises(UserError, match="META.BOTTLENECK.REDUCTION_DIM must be at least 1 channel; found 0"):
        make_head("META.BOTTLENECK.DO_IT", "True", "META.BOTTLENECK.REDUCTION_DIM", 0)


def test_head_is_registered():
    assert "MetalearningHead" in REID_HEADS_REGISTRY
