"""Every loss against the values and gradients of the published program."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastreid.modeling import losses

with np.load(Path(__file__).parents[1] / "golden" / "losses.npz") as archive:
    VECTORS = dict(archive)
CASES = sorted(key.removesuffix("/value") for key in VECTORS if key.endswith("/value"))


def option(field: str) -> str:
    """Return what follows the equals sign, e.g. 0.3 of margin=0.3."""
    return field.split("=")[1]


def flags(field: str) -> list[int]:
    return [int(flag) for flag in option(field)]


def compute(case: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the value and the gradient of the loss that `case` names."""
    name, *fields = case.split("/")
    ids, domains = torch.from_numpy(VECTORS["ids"]), torch.from_numpy(VECTORS["domains"])
    features = torch.from_numpy(VECTORS["logits" if name == "cross_entropy" else "embedding"]).to(dtype)
    features.requires_grad_()
    if name == "cross_entropy":
        value = losses.cross_entropy_loss(features, ids, float(option(fields[0])))
    elif name == "circle":
        value = losses.circle_loss(features, ids, margin=0.25, gamma=128)
    elif name == "triplet":
        norm, hard, margin, pos, neg, dist_type, loss_type = fields
        value = losses.triplet_loss(
            features,
            ids,
            domains,
            margin=float(option(margin)),
            norm_feat=option(norm) == "1",
            hard_mining=option(hard) == "1",
            dist_type=dist_type,
            loss_type=loss_type,
            new_pos=flags(pos),
            new_neg=flags(neg),
        )
    else:
        norm_feat = option(fields[0]) == "1"
        if name == "scatter":
            value = losses.scatter_loss(features, domains, norm_feat=norm_feat, dist_type=fields[1])
        elif name == "std":
            assert fields[2] == "log"
            value = losses.std_loss(features, domains, norm_feat=norm_feat, std_type=fields[1])
        else:
            assert name == "mmd"
            value = losses.mmd_loss(features, domains, norm_feat=norm_feat, norm_flag=fields[1])
    (grad,) = torch.autograd.grad(value, features)
    return value.detach(), grad


def test_every_vector_is_used():
    used = {f"{case}/{part}" for case in CASES for part in ("value", "grad")}
    assert len(CASES) == 118
    assert used | {"embedding", "logits", "ids", "domains"} == set(VECTORS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_match_the_published_program(case, dtype):
    value, grad = compute(case, dtype)
    assert value.dtype == grad.dtype == dtype
    expected_value, expected_grad = VECTORS[f"{case}/value"], VECTORS[f"{case}/grad"]
    # The published float32 distances of images to themselves are rounding noise of up to 4e-3; averages weighted over
    # the positives feel it.
    noisy = "/hard=0/" in case and "/euclidean/" in case
    assert abs(value.item() - expected_value) <= (5e-6 if noisy else 2e-6 * max(1, abs(expected_value)))
    assert np.abs(grad.numpy() - expected_grad).max() <= (5e-5 if noisy else 1e-5) * np.abs(expected_grad).max()
