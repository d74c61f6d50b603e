"""Average query expansion."""

import numpy as np
import pytest
import torch

from fastreid.evaluation import average_query_expansion
from fastreid.utils.errors import UserError


def test_reference_vectors(golden):
    q_feat, g_feat = (torch.from_numpy(golden.values[name]) for name in ("q_feat", "g_feat"))
    found = average_query_expansion(q_feat, g_feat, times=1, k=5, alpha=3.0)
    for features, name in zip(found, ("aqe_q", "aqe_g")):
        np.testing.assert_allclose(features.numpy(), golden.values[name], atol=1e-6, rtol=0)


def test_one_neighbour_is_the_feature_itself():
    q_feat, g_feat = torch.randn(3, 8), torch.randn(5, 8)
    expanded = average_query_expansion(q_feat, g_feat, k=1)
    torch.testing.assert_close(expanded, (q_feat, g_feat), rtol=1e-5, atol=1e-5)


def test_twice_is_the_expansion_of_the_expansion():
    q_feat, g_feat = torch.randn(3, 8), torch.randn(5, 8)
    twice = average_query_expansion(*average_query_expansion(q_feat, g_feat))
    torch.testing.assert_close(average_query_expansion(q_feat, g_feat, times=2, block_size=2), twice)


def test_opposite_features_stay_finite_with_a_fractional_alpha():
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    expanded, _ = average_query_expansion(features, features, k=4, alpha=0.5)
    torch.testing.assert_close(expanded, features / 2)


@pytest.mark.parametrize("wrong", [{"times": -1}, {"k": 0}, {"alpha": -1.0}])
def test_impossible_values_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        average_query_expansion(torch.ones(2, 2), torch.ones(2, 2), **wrong)


def test_features_of_different_lengths_are_an_error():
    with pytest.raises(UserError, match="same D"):
        average_query_expansion(torch.ones(2, 2), torch.ones(2, 3))
