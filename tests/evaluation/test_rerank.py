"""k-reciprocal re-ranking against the reference vectors and against the paper's loops."""

import logging

import numpy as np
import pytest
import torch

from fastreid.evaluation import compute_distance, re_ranking
from fastreid.evaluation.rerank import rerank_memory
from fastreid.utils.errors import UserError


def plain_re_ranking(features, queries, k1, k2, lambda_value, metric):
    """The paper's algorithm image by image, on dense matrices."""
    distances = compute_distance(features, features, metric).double().numpy() ** 2
    distances /= distances.max(axis=1, keepdims=True)
    order = np.argsort(distances, axis=1, kind="stable")

    def reciprocal(image, k):
        forward = order[image, : k + 1]
        return {j for j in forward if image in order[j, : k + 1]}

    encoding = np.zeros_like(distances)
    for image in range(len(features)):
        members = reciprocal(image, k1)
        joined = set(members)
        for member in members:
            candidate = reciprocal(member, int(np.around(k1 / 2)))
            if len(candidate & members) > 2 / 3 * len(candidate):
                joined |= candidate
        joined = sorted(joined)
        weight = np.exp(-distances[image, joined])
        encoding[image, joined] = weight / weight.sum()
    encoding = np.stack([encoding[order[image, :k2]].mean(axis=0) for image in range(len(features))])
    overlap = np.stack([np.minimum(encoding[query], encoding[queries:]).sum(axis=1) for query in range(queries)])
    jaccard = 1 - overlap / (2 - overlap)
    return lambda_value * distances[:queries, queries:] + (1 - lambda_value) * jaccard


def clustered_features(images, clusters, seed):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(clusters, 8, generator=generator)
    which = torch.randint(clusters, (images,), generator=generator)
    return centres[which] + 0.6 * torch.randn(images, 8, generator=generator)


def test_reference_vectors(golden):
    q_feat, g_feat = (torch.from_numpy(golden.values[name]) for name in ("q_feat", "g_feat"))
    found = re_ranking(q_feat, g_feat, k1=20, k2=6, lambda_value=0.3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, golden.values["rerank_k1=20_k2=6_lambda=0.3"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k1, k2, lambda_value", [(1, 1, 0.0), (4, 3, 0.5), (7, 1, 0.3), (10, 6, 0.3), (40, 50, 1.0)])
def test_the_papers_loops_give_the_same(metric, k1, k2, lambda_value):
    features = clustered_features(70, 9, seed=k1)
    found = re_ranking(features[:20], features[20:], k1, k2, lambda_value, metric)
    expected = plain_re_ranking(features, 20, k1, k2, lambda_value, metric)
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_block_size_does_not_change_the_result():
    features = clustered_features(60, 6, seed=1)
    whole = re_ranking(features[:20], features[20:])
    np.testing.assert_allclose(re_ranking(features[:20], features[20:], block_size=7), whole, atol=1e-6)


def test_identical_images_give_finite_distances():
    features = torch.ones(40, 4)
    assert np.isfinite(re_ranking(features[:10], features[10:])).all()


def test_memory_is_told_before_the_work_starts(caplog):
    features = clustered_features(60, 6, seed=1)
    with caplog.at_level(logging.INFO):
        re_ranking(features[:20], features[20:])
    assert caplog.messages == ["Re-ranking 20 queries against 40 gallery images needs up to 0 MB."]


def test_memory_grows_with_the_result_and_not_with_the_square_of_the_gallery():
    assert rerank_memory(3368, 15913) < 4 * (3368 + 15913) ** 2


def test_impossible_values_are_an_error():
    features = torch.ones(4, 2)
    with pytest.raises(UserError, match="lambda 1.5"):
        re_ranking(features, features, lambda_value=1.5)
    with pytest.raises(UserError, match="same D"):
        re_ranking(features, torch.ones(4, 3))
