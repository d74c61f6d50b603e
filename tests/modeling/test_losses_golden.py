"""Every loss against the values and gradients of the published program."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fastreid.modeling import losses


def load(name: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the vectors of a file, and the names of its cases."""
    with np.load(Path(__file__).parents[1] / "golden" / name) as archive:
        vectors = dict(archive)
    return vectors, sorted(key.removesuffix("/value") for key in vectors if key.endswith("/value"))


VECTORS, CASES = load("losses.npz")
CAMERA_VECTORS, CAMERA_CASES = load("triplet_cameras.npz")  # identities that are in two domains each


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


def test_every_vector_of_cameras_as_domains_is_used():
    used = {f"{case}/{part}" for case in CAMERA_CASES for part in ("value", "grad")}
    assert len(CAMERA_CASES) == 80
    assert used | {"embedding", "ids", "domains"} == set(CAMERA_VECTORS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CAMERA_CASES)
def test_triplets_match_the_published_program_where_an_identity_is_in_several_domains(case, dtype):
    _, sets, margin, hard, norm, dist_type = case.split("/")
    positives, negatives = sets.split("_")
    features = torch.from_numpy(CAMERA_VECTORS["embedding"]).to(dtype).requires_grad_()
    value = losses.triplet_loss(
        features,
        torch.from_numpy(CAMERA_VECTORS["ids"]),
        torch.from_numpy(CAMERA_VECTORS["domains"]),
        margin=float(margin.removeprefix("margin")),
        norm_feat=norm == "norm1",
        hard_mining=hard == "hard1",
        dist_type=dist_type,
        loss_type="logistic",
        new_pos=list(map(int, positives.removeprefix("pos"))),
        new_neg=list(map(int, negatives.removeprefix("neg"))),
    )
    (grad,) = torch.autograd.grad(value, features)
    expected_value, expected_grad = CAMERA_VECTORS[f"{case}/value"], CAMERA_VECTORS[f"{case}/grad"]
    noisy = hard == "hard0" and dist_type == "euclidean"  # as above
    assert abs(value.item() - expected_value) <= (2e-5 if noisy else 1e-5) * max(1, abs(expected_value))
    assert np.abs(grad.numpy() - expected_grad).max() <= (2e-4 if noisy else 1e-5) * np.abs(expected_grad).max()
