"""How the losses behave where the vectors of the published program do not reach."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fastreid.modeling.losses import circle_loss, cross_entropy_loss, mmd_loss, scatter_loss, std_loss, triplet_loss
from fastreid.utils.errors import UserError

IDS = torch.arange(12) // 2
DOMAINS = torch.arange(12) // 4
TRIPLET = {
    "margin": 0.3,
    "norm_feat": False,
    "hard_mining": True,
    "dist_type": "euclidean",
    "loss_type": "logistic",
    "new_pos": [1, 0, 0],
    "new_neg": [0, 1, 1],
}
SHUFFLE = {"margin": 0.0, "new_pos": [0, 0, 1], "new_neg": [0, 1, 0]}


def triplet(embedding, ids=IDS, domains=DOMAINS, **changes):
    return triplet_loss(embedding, ids, domains, **{**TRIPLET, **changes})


# Every form of every metric loss, as f(embedding, ids, domains).
METRIC_LOSSES = {
    f"triplet-{mining}-{dist}-{form}": lambda e, i, d, m=mining, t=dist, c=changes: triplet(
        e, i, d, hard_mining=m == "hard", dist_type=t, **c
    )
    for mining in ("hard", "weighted")
    for dist in ("euclidean", "cosine")
    for form, changes in {
        "margin": {},
        "logistic": {"margin": 0.0},
        "hinge": {"margin": 0.0, "loss_type": "hinge", "norm_feat": True},
        "shuffle": SHUFFLE,
    }.items()
}
for kind in ("cosine_sim", "cosine", "euclidean"):
    METRIC_LOSSES[f"scatter-{kind}"] = lambda e, i, d, k=kind: scatter_loss(e, d, norm_feat=False, dist_type=k)
for kind in ("all", "all_channel", "domain", "domain_channel"):
    METRIC_LOSSES[f"std-{kind}"] = lambda e, i, d, k=kind: std_loss(e, d, norm_feat=False, std_type=k)
METRIC_LOSSES["std-linear"] = lambda e, i, d: std_loss(e, d, norm_feat=True, std_type="domain", log_scale=False)
for kind in ("l1norm", "l2norm"):
    METRIC_LOSSES[f"mmd-{kind}"] = lambda e, i, d, k=kind: mmd_loss(e, d, norm_feat=False, norm_flag=k)
    METRIC_LOSSES[f"mmd-fixed-{kind}"] = lambda e, i, d, k=kind: mmd_loss(
        e, d, norm_feat=False, norm_flag=k, fix_sigma=3.0
    )
METRIC_LOSSES["circle"] = lambda e, i, d: circle_loss(e, i, margin=0.25, gamma=8)
WITHOUT_SYNCHRONIZATION = {
    name: loss for name, loss in METRIC_LOSSES.items() if name.startswith(("triplet", "scatter"))
} | {
    "cross_entropy": lambda e, i, d: cross_entropy_loss(e, i, 0.1),
    "cross_entropy-adaptive": lambda e, i, d: cross_entropy_loss(e, i, -1.0),
}


def embedding(n=12, dim=6, dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(5)
    features = torch.randn(n, dim, generator=generator, dtype=torch.float64) * scale
    return features.to(dtype).requires_grad_()


def value_and_grad(loss, features, *labels):
    value = loss(features, *labels)
    (grad,) = torch.autograd.grad(value, features)
    return value.detach(), grad


BATCHES = {
    "one image": (embedding(1), torch.tensor([3]), torch.tensor([1])),
    "one identity": (embedding(), torch.zeros_like(IDS), torch.zeros_like(DOMAINS)),
    "one domain": (embedding(), IDS, torch.zeros_like(DOMAINS)),
    "each image its own identity": (embedding(), torch.arange(12), DOMAINS),
    "a domain of one image": (embedding(), IDS, torch.tensor([7] + [2] * 11)),
    "each image its own domain": (embedding(), torch.arange(12), torch.arange(12)),
    "one identity seen in two domains": (embedding(), torch.zeros_like(IDS), torch.arange(12) % 2),
    "pairs of equal features": (embedding(6).repeat(2, 1), IDS, DOMAINS),
    "all features equal": (embedding(1).repeat(12, 1), IDS, DOMAINS),
    "all features 0": (torch.zeros(12, 6, dtype=torch.float64), IDS, DOMAINS),
    "large features": (embedding(scale=1e4), IDS, DOMAINS),
}


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_degenerate_batches_give_finite_value_and_gradient(name, batch):
    features, ids, domains = BATCHES[batch]
    value, grad = value_and_grad(METRIC_LOSSES[name], features.detach().float().requires_grad_(), ids, domains)
    assert value.isfinite()
    assert grad.isfinite().all()


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("margin", [0.3, 0.0])
def test_triplet_is_0_without_any_negative(margin, hard):
    value, grad = value_and_grad(
        lambda e: triplet(e, torch.zeros_like(IDS), hard_mining=hard, margin=margin), embedding()
    )
    assert value == 0
    assert grad.count_nonzero() == 0


def test_anchor_without_negative_neither_adds_nor_dilutes():
    features = embedding()
    # Only the first domain has a second identity; the anchors of the others have no negative in their domain.
    ids = torch.tensor([0, 0, 1, 1] + [2] * 4 + [3] * 4)
    mixed, mixed_grad = value_and_grad(lambda e: triplet(e, ids, new_neg=[0, 1, 0]), features)
    alone, alone_grad = value_and_grad(lambda e: triplet(e[:4], ids[:4], DOMAINS[:4], new_neg=[0, 1, 0]), features)
    assert mixed > 0
    torch.testing.assert_close(mixed, alone)
    torch.testing.assert_close(mixed_grad, alone_grad)


def test_anchor_without_other_positive_still_pushes_its_nearest_negative():
    features = torch.tensor([[0.0, 0.0], [0.0, 0.2], [3.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value, grad = value_and_grad(lambda e: triplet(e, torch.arange(3), torch.zeros(3).long()), features)
    assert value.item() == pytest.approx((0.1 + 0.1 + 0.0) / 3, abs=1e-5)
    assert grad[0, 1] > 0 > grad[1, 1]


def test_same_identity_in_another_domain_is_no_negative():
    # As happens when cameras serve as domains.
    features = torch.tensor([[0.0], [0.1], [5.0], [5.1]], dtype=torch.float64)
    ids, cameras = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    assert triplet(features, ids, cameras) == 0


def test_anchor_is_no_negative_of_its_own():
    features = torch.tensor([[0.0], [2.0]])
    # Farthest positive: the anchor, at 0; nearest negative: the other image, at 2.
    assert triplet(features, torch.zeros(2).long(), torch.zeros(2).long(), new_pos=[0, 0, 0], new_neg=[1, 0, 0]) == 0


@pytest.mark.parametrize("norm_feat", [True, False])
@pytest.mark.parametrize("new_pos, new_neg", [([1, 0, 0], [0, 1, 1]), ([0, 0, 1], [0, 1, 0]), ([1, 1, 0], [0, 0, 1])])
def test_hard_mining_agrees_with_a_plain_search(new_pos, new_neg, norm_feat):
    features = embedding()
    rows = F.normalize(features, dim=1) if norm_feat else features
    terms = []
    for a in range(12):

        def distances(flags, a=a):
            groups = [
                [j for j in range(12) if IDS[j] == IDS[a]],
                [j for j in range(12) if DOMAINS[j] == DOMAINS[a] and IDS[j] != IDS[a]],
                [j for j in range(12) if DOMAINS[j] != DOMAINS[a]],
            ]
            return [(rows[a] - rows[j]).norm() for group, flag in zip(groups, flags) if flag for j in group]

        terms.append((max(distances(new_pos)) - min(distances(new_neg)) + 0.3).clamp(min=0))
    actual = triplet(features, new_pos=new_pos, new_neg=new_neg, norm_feat=norm_feat)
    torch.testing.assert_close(actual, torch.stack(terms).mean())


@pytest.mark.parametrize("dtype, large", [(torch.float32, 100.0), (torch.float64, 800.0)])
def test_overflow_of_one_anchor_turns_the_batch_into_ranking_loss_at_0_3(dtype, large):
    def features(far):
        return torch.tensor([[0.0, 0.0], [0.0, far], [1.0, 0.0], [1.0, 1.0]], dtype=dtype, requires_grad=True)

    ids, domains = torch.tensor([0, 0, 1, 1]), torch.zeros(4).long()
    limit = math.log(torch.finfo(dtype).max)
    for far, ranking in ((limit - 1, False), (large, True)):
        value, grad = value_and_grad(lambda e: triplet(e, ids, domains, margin=0.0), features(far))
        as_ranking, ranking_grad = value_and_grad(lambda e: triplet(e, ids, domains, margin=0.3), features(far))
        assert torch.isclose(value, as_ranking, rtol=1e-6) == ranking
        assert value.isfinite() and grad.isfinite().all()
        assert torch.allclose(grad, ranking_grad) == ranking


@pytest.mark.parametrize("hard", [True, False])
def test_anchors_without_negative_do_not_trigger_the_ranking_loss(hard):
    features = torch.tensor([[0.0], [500.0], [1.0], [1.0]])
    ids, domains = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 0, 1, 1])
    value = triplet(features, ids, domains, margin=0.0, hard_mining=hard, new_neg=[0, 1, 0])
    assert value.item() == pytest.approx(math.log(2), abs=1e-5)


def test_features_far_from_the_origin_keep_their_distances():
    near = embedding(dtype=torch.float32).detach()
    torch.testing.assert_close(triplet(near + 1000), triplet(near), rtol=1e-3, atol=0)


def test_rounding_between_equal_features_does_not_blow_up_the_gradient():
    # Rounding makes equal float32 rows seem a tiny distance apart, where the square root is steep.
    rows = embedding(6, dtype=torch.float32).detach() * 10 + 100
    twice = rows.repeat(2, 1).requires_grad_()
    exact = twice.detach().double().requires_grad_()
    ids, domains = torch.arange(6).repeat(2), torch.zeros(12).long()
    _, grad = value_and_grad(lambda e: triplet(e, ids, domains, margin=30.0), twice)
    _, exact_grad = value_and_grad(lambda e: triplet(e, ids, domains, margin=30.0), exact)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=0, atol=1e-3)


# The others hold their bandwidth (MMD) or weights (circle) constant in the gradient, as the vectors demand.
DIFFERENTIABLE = [name for name in METRIC_LOSSES if name not in ("mmd-l1norm", "mmd-l2norm", "circle")]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradient_matches_finite_differences(name):
    assert torch.autograd.gradcheck(lambda e: METRIC_LOSSES[name](e, IDS, DOMAINS), embedding())


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_cross_entropy_gradient_matches_finite_differences(eps):
    assert torch.autograd.gradcheck(lambda x: cross_entropy_loss(x, IDS, eps), embedding())


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_second_order_gradient_matches_finite_differences(name):
    # The inner update may be differentiated through.
    assert torch.autograd.gradgradcheck(lambda e: METRIC_LOSSES[name](e, IDS, DOMAINS), embedding(dim=3), atol=1e-4)


class HostSynchronizations(TorchDispatchMode):
    """Collects the operations whose result, or its shape, the host must wait for."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        by_mask = func._schema.name in ("aten::index", "aten::index_put", "aten::index_put_") and any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in args[1]
        )
        if by_mask or any(name in func._schema.name for name in self.NAMES):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", WITHOUT_SYNCHRONIZATION)
def test_host_never_waits_for_the_device(name):
    features = embedding()
    with HostSynchronizations() as synchronizations:
        WITHOUT_SYNCHRONIZATION[name](features, IDS, DOMAINS).backward()
    assert synchronizations.found == []


def test_waiting_would_be_noticed():
    for wait in (lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.any()), lambda x: x.unique()):
        with HostSynchronizations() as synchronizations:
            wait(embedding().detach())
        assert synchronizations.found


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("name", [*METRIC_LOSSES, "cross_entropy"])
def test_half_precision_features_are_computed_in_float32_under_autocast(name, half):
    loss = {**METRIC_LOSSES, **WITHOUT_SYNCHRONIZATION}[name]
    features = embedding(dtype=half, scale=3.0)
    expected, expected_grad = value_and_grad(loss, features.detach().float().requires_grad_(), IDS, DOMAINS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(features, IDS, DOMAINS)
    (grad,) = torch.autograd.grad(value, features)
    assert value.dtype == torch.float32
    assert grad.dtype == half
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    torch.testing.assert_close(grad, expected_grad.to(half), rtol=0, atol=0)


def test_float32_features_keep_their_precision_under_autocast():
    features = embedding(dtype=torch.float32, scale=5.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = triplet(features)
    torch.testing.assert_close(value, triplet(features), rtol=0, atol=0)


def test_cross_entropy_agrees_with_torch():
    logits, classes = embedding(12, 9), torch.arange(12) % 9
    torch.testing.assert_close(cross_entropy_loss(logits, classes, 0.0), F.cross_entropy(logits, classes))
    # torch spreads its smoothing over all K classes, we over the K - 1 others.
    theirs = F.cross_entropy(logits, classes, label_smoothing=0.1 * 9 / 8)
    torch.testing.assert_close(cross_entropy_loss(logits, classes, 0.1), theirs)


def test_cross_entropy_leaves_samples_without_loss_out_of_the_mean():
    logits = torch.tensor([[1000.0, 0.0], [0.0, 0.0]], requires_grad=True)
    value, grad = value_and_grad(lambda x: cross_entropy_loss(x, torch.tensor([0, 0]), 0.0), logits)
    assert value.item() == pytest.approx(math.log(2))
    assert grad.isfinite().all()
    assert cross_entropy_loss(logits[:1], torch.tensor([0]), 0.0) == 0


def test_alpha_scales_the_adaptive_smoothing():
    logits = embedding(12, 9)
    plain = cross_entropy_loss(logits, IDS, 0.0)
    torch.testing.assert_close(cross_entropy_loss(logits, IDS, -1.0, alpha=0.0), plain)
    assert not torch.isclose(cross_entropy_loss(logits, IDS, -1.0, alpha=0.5), cross_entropy_loss(logits, IDS, -1.0))


def test_scatter_and_std_weigh_domains_equally_whatever_their_size():
    features = embedding().detach()
    domains = torch.tensor([4] * 9 + [2] * 3)
    for loss in (
        lambda e, d: scatter_loss(e, d, norm_feat=True, dist_type="cosine_sim"),
        lambda e, d: std_loss(e, d, norm_feat=False, std_type="domain"),
    ):
        parts = loss(features[:9], domains[:9]), loss(features[9:], domains[9:])
        torch.testing.assert_close(loss(features, domains), sum(parts) / 2)


def test_std_without_logarithm_is_minus_the_standard_deviation():
    features = embedding().detach()
    linear = std_loss(features, DOMAINS, norm_feat=False, std_type="all", log_scale=False)
    torch.testing.assert_close(linear, -features.std())
    torch.testing.assert_close(std_loss(features, DOMAINS, norm_feat=False, std_type="all"), -features.std().log())


def test_std_per_channel_skips_domains_of_one_image():
    features = embedding().detach()
    domains = torch.tensor([0] + [1] * 11)
    alone = std_loss(features[1:], domains[1:], norm_feat=False, std_type="domain_channel")
    torch.testing.assert_close(std_loss(features, domains, norm_feat=False, std_type="domain_channel"), alone)


def test_mmd_is_small_between_equal_domains_and_0_with_one():
    features = embedding().detach()
    halves = torch.arange(12) // 6
    options = {"norm_feat": False, "norm_flag": "l2norm"}
    equal = mmd_loss(torch.cat([features[:6], features[:6]]), halves, **options)
    shifted = mmd_loss(torch.cat([features[:6], features[:6] + 5]), halves, **options)
    assert abs(equal) < 1e-12
    assert shifted > 1
    assert mmd_loss(features, torch.zeros(12).long(), **options) == 0


@pytest.mark.parametrize("change", [{"kernel_mul": 3.0}, {"kernel_num": 3}, {"fix_sigma": 2.0}])
def test_mmd_kernel_options_change_the_result(change):
    features, options = embedding(), {"norm_feat": False, "norm_flag": "l2norm"}
    default = mmd_loss(features, DOMAINS, **options)
    assert not torch.isclose(mmd_loss(features, DOMAINS, **options, **change), default, rtol=1e-3)


def test_mmd_with_fixed_bandwidth_is_the_sum_of_kernels():
    x, y = embedding(7).detach()[:4], embedding(7).detach()[4:]

    def kernel_mean(a, b):
        squared = (a[:, None] - b[None]).square().sum(2)
        return sum(torch.exp(-squared / bandwidth).mean() for bandwidth in (1.0, 2.0, 4.0))

    expected = kernel_mean(x, x) + kernel_mean(y, y) - 2 * kernel_mean(x, y)
    actual = mmd_loss(
        torch.cat([x, y]),
        torch.tensor([0] * 4 + [1] * 3),
        norm_feat=False,
        norm_flag="l2norm",
        kernel_num=3,
        fix_sigma=2.0,
    )
    torch.testing.assert_close(actual, expected)


def test_circle_options_change_the_result():
    features = embedding()
    default = circle_loss(features, IDS, margin=0.25, gamma=128)
    assert not torch.isclose(circle_loss(features, IDS, margin=0.35, gamma=128), default, rtol=1e-3)
    assert not torch.isclose(circle_loss(features, IDS, margin=0.25, gamma=64), default, rtol=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda e: triplet(e, dist_type="euclidian"),
        lambda e: triplet(e, loss_type="euclidian"),
        lambda e: scatter_loss(e, DOMAINS, norm_feat=True, dist_type="euclidian"),
        lambda e: std_loss(e, DOMAINS, norm_feat=True, std_type="euclidian"),
        lambda e: mmd_loss(e, DOMAINS, norm_feat=True, norm_flag="euclidian"),
    ],
)
def test_unknown_option_value_is_named_with_the_valid_ones(call):
    with pytest.raises(UserError, match="must be one of .*found 'euclidian'"):
        call(embedding())


def test_pair_flags_of_the_wrong_length_are_refused():
    with pytest.raises(UserError, match=r"new_neg must be three flags.*found \[0, 1\]"):
        triplet(embedding(), new_neg=[0, 1])


@pytest.mark.parametrize("spread", [1e-3, 3e-2])
def test_a_triplet_loss_above_that_of_equal_features_draws_all_features_together(spread):
    # What configs/Table/README.md reads out of a short run's log.
    domains, targets = torch.arange(24) // 12, torch.arange(24) // 4
    random = torch.Generator().manual_seed(0)
    features = 5 + spread * torch.randn(24, 16, generator=random, dtype=torch.float64)
    features.requires_grad_()
    same = {"norm_feat": False, "hard_mining": True, "dist_type": "euclidean", "loss_type": "logistic"}
    same |= {"new_pos": [1, 0, 0], "new_neg": [0, 1, 1]}

    def loss_and_push(margin: float) -> tuple[float, float]:
        """The loss, and its slope as deviations from a fixed point grow in proportion; above 0: pulls together."""
        loss = triplet_loss(features, targets, domains, margin=margin, **same)
        (gradient,) = torch.autograd.grad(loss, features)
        return loss.item(), (gradient * (features - features.mean(0))).sum().item()

    loss, push = loss_and_push(0.3)
    assert loss > 0.3 and push == pytest.approx(loss - 0.3, rel=1e-6)  # no anchor keeps the margin
    loss, push = loss_and_push(0.0)
    assert push >= loss - math.log(2) > 0
