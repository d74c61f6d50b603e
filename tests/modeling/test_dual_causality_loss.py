"""SNR's loss: by hand, over all triplets, and what it refuses."""

import math

import pytest
import torch
import torch.nn.functional as F

from fastreid.config import get_cfg
from fastreid.modeling.losses import dual_causality_loss
from fastreid.modeling.losses.build import build_losses
from fastreid.utils.errors import UserError


def softplus(value):
    return math.log1p(math.exp(value))


def test_by_hand():
    """Two images of one person and one of another; their vectors are equal, opposite or at right angles."""
    right, up, left = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
    kinds = [[right, right, right], [right, right, left], [right, up, up]]
    restituted = tuple(torch.tensor(rows, dtype=torch.float64) for rows in kinds)
    targets = torch.tensor([0, 0, 1])
    # Pair 0-1, one person: n 0, r 0, i 1/2. Pairs of two: 0-2: n 0, r 1, i 1/2; 1-2: n 0, r 1, i 0.
    positive = softplus(0) + softplus(-0.5)
    negative = (2 * softplus(-1) + softplus(0.5) + softplus(0)) / 2
    found = dual_causality_loss([restituted], targets, [0.3])
    assert found.item() == pytest.approx(0.3 * (positive + negative), rel=1e-9)
    found = dual_causality_loss([restituted] * 2, targets, [0.3, 0.7])
    assert found.item() == pytest.approx(positive + negative, rel=1e-9)


def test_the_mean_over_pairs_is_the_papers_over_triplets():
    targets = torch.arange(4).repeat_interleave(3)
    kinds = tuple(torch.randn(12, 5, dtype=torch.float64) for _ in range(3))

    def distance(features, a, b):
        return 0.5 - F.cosine_similarity(features[a], features[b], dim=0) / 2

    terms = []
    for a in range(12):
        for p in range(12):
            for n in range(12):
                if p != a and targets[p] == targets[a] != targets[n]:
                    near, far = ([distance(features, a, b) for features in kinds] for b in (p, n))
                    terms.append(
                        F.softplus(near[1] - near[0])
                        + F.softplus(far[0] - far[1])  # clarification
                        + F.softplus(near[0] - near[2])
                        + F.softplus(far[2] - far[0])  # destruction
                    )
    torch.testing.assert_close(dual_causality_loss([kinds], targets, [1.0]), torch.stack(terms).mean())


def test_gradients_are_finite_without_pairs_with_equal_features_and_in_half_precision():
    for targets in (torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([0])):
        kinds = tuple(torch.ones(len(targets), 4, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
        with torch.autocast("cpu", torch.bfloat16):
            loss = dual_causality_loss([kinds], targets, [1.0])
        assert loss.dtype == torch.float32 and loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, kinds))


def build(*options):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.LOSSES.NAME", "DualCausalityLoss", *options])
    return build_losses(cfg, cfg.MODEL.LOSSES.NAME, "MODEL.LOSSES.NAME")


def test_options():
    kinds = tuple(torch.randn(4, 3) for _ in range(3))
    outputs = type("Outputs", (), {"logits": None, "restituted": (kinds, kinds)})
    stages = ["MODEL.STYLE.NAME", "SNR", "MODEL.STYLE.STAGES", "('layer1', 'layer2')"]
    weights = [*stages, "MODEL.LOSSES.SNR.WEIGHTS", "[1.0, 2.0]"]
    targets = torch.tensor([0, 0, 1, 1])
    scaled = [build(*weights, "MODEL.LOSSES.SNR.SCALE", scale) for scale in ("1.0", "2.0")]
    once, twice = (losses(outputs, targets, targets)["loss_snr"] for losses in scaled)
    torch.testing.assert_close(once, dual_causality_loss([kinds], targets, [3.0]))
    torch.testing.assert_close(twice, 2 * once)
    with pytest.raises(UserError, match=r"is about SNR's layers: set MODEL.STYLE.NAME SNR \(found ''\)"):
        build()
    with pytest.raises(UserError, match="WEIGHTS must be 2 numbers, one for each SNR layer; found 4"):
        build(*stages)
