"""Classification layers against their papers' formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from fastreid.layers import build_classifier
from fastreid.layers.classifiers import CLASSIFIERS
from fastreid.utils.errors import UserError

D, K, SCALE, MARGIN = 5, 7, 64.0, 0.35
MARGIN_LAYERS = sorted(set(CLASSIFIERS) - {"linear"})
TARGETS = torch.tensor([0, 3, 6, 3])


def make(name, margin=MARGIN):
    layer = build_classifier(name, D, K, SCALE, margin).double()
    features = torch.randn(4, D, dtype=torch.float64, requires_grad=True)
    cosine = F.cosine_similarity(features[:, None], layer.weight[None], dim=2)
    return layer, features, cosine, F.one_hot(TARGETS, K).bool()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_weight_starts_small_and_is_all_there_is(name):
    layer = build_classifier(name, 400, 300, SCALE, MARGIN)
    assert [(n, tuple(p.shape)) for n, p in layer.named_parameters()] == [("weight", (300, 400))]
    assert layer.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert abs(layer.weight.mean().item()) < 2e-5


def test_linear_is_a_product_that_ignores_targets():
    layer, features, *_ = make("linear")
    torch.testing.assert_close(layer(features), features @ layer.weight.T)
    torch.testing.assert_close(layer(features, TARGETS), layer(features))


@pytest.mark.parametrize("name", MARGIN_LAYERS)
def test_without_targets_logits_are_scaled_cosines(name):
    layer, features, cosine, _ = make(name)
    torch.testing.assert_close(layer(features), SCALE * cosine)


def test_arc_softmax_adds_the_margin_to_the_target_angle():
    layer, features, cosine, is_target = make("arcSoftmax")
    expected = torch.where(is_target, (cosine.acos() + MARGIN).cos(), cosine)
    torch.testing.assert_close(layer(features, TARGETS), SCALE * expected)


def test_arc_softmax_falls_on_past_pi():
    layer = build_classifier("arcSoftmax", 2, 1, 1.0, 0.5)
    layer.weight.data = torch.tensor([[1.0, 0.0]])
    angles = torch.linspace(0.05, math.pi - 0.01, 50)
    logits = layer(torch.stack([angles.cos(), angles.sin()], 1), torch.zeros(50, dtype=torch.long)).squeeze(1)
    assert (logits.diff() < 0).all() and logits.min() < -1


def test_am_softmax_takes_the_margin_off_the_target_cosine():
    layer, features, cosine, is_target = make("amSoftmax")
    torch.testing.assert_close(layer(features, TARGETS), SCALE * (cosine - MARGIN * is_target))


def test_circle_softmax_weighs_each_logit_by_its_distance_from_the_optimum():
    layer, features, cosine, is_target = make("circleSoftmax")
    positive = (1 + MARGIN - cosine).clamp(min=0) * (cosine - (1 - MARGIN))
    negative = (cosine + MARGIN).clamp(min=0) * (cosine - MARGIN)
    logits = layer(features, TARGETS)
    torch.testing.assert_close(logits, SCALE * torch.where(is_target, positive, negative))
    # The weights are constants for the gradient (equation 6 of the paper).
    constant = torch.where(is_target, (1 + MARGIN - cosine).clamp(min=0), (cosine + MARGIN).clamp(min=0)).detach()
    found = torch.autograd.grad(logits.sum(), features)[0]
    expected = torch.autograd.grad((SCALE * constant * cosine).sum(), features)[0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", MARGIN_LAYERS)
def test_a_margin_makes_the_target_harder(name):
    layer, features, *_ = make(name)
    plain, hard = (F.cross_entropy(layer(features, targets), TARGETS) for targets in (None, TARGETS))
    assert hard > plain


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_are_finite_where_a_feature_lies_on_its_class(name, sign):
    layer = build_classifier(name, D, K, SCALE, MARGIN)
    layer.weight.data = torch.eye(K, D) + 0.0
    layer.weight.data[D:] = 1.0
    features = (sign * torch.eye(4, D)).requires_grad_()
    F.cross_entropy(layer(features, torch.arange(4)), torch.arange(4)).backward()
    assert features.grad.isfinite().all() and layer.weight.grad.isfinite().all()


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="CLS_LAYER must be one of linear, .*; found 'Linear'"):
        build_classifier("Linear", D, K, SCALE, MARGIN)
