"""MixStyle, EFDMix and DSU: numbers worked out by hand, gradients, what is drawn, and that a test changes nothing."""

import copy

import pytest
import torch
from torch.autograd import gradcheck

from fastreid.layers import DSU, EFDMix, MixStyle, image_domains, style_layers
from fastreid.layers.style import draw_mixing

# Two images of one channel: means 2 and 4, deviations 1 and 4.
MAPS = torch.tensor([[1.0, 3.0], [8.0, 0.0]], dtype=torch.float64).view(2, 1, 1, 2)
SWAP, QUARTER = torch.tensor([1, 0]), torch.full((2, 1), 0.25, dtype=torch.float64)
LAYERS = {
    "MixStyle": lambda: MixStyle(prob=1.0),
    "MixStyle_domain": lambda: MixStyle(prob=1.0, partner="domain"),
    "EFDMix": lambda: EFDMix(prob=1.0),
    "DSU": lambda: DSU(prob=1.0),
}


def close(found, rows):
    torch.testing.assert_close(found.flatten(1), torch.tensor(rows, dtype=torch.float64), rtol=0, atol=2e-5)


def run(name, x, seed=0, domains=None):
    layer = LAYERS[name]().train()
    torch.manual_seed(seed)
    with image_domains(layer, domains if domains is not None else torch.arange(len(x)) % 2):
        return layer(x)


def test_mixstyle_by_hand():
    # A quarter of the own style: mean 3.5 and deviation 3.25 for the first image, 2.5 and 1.75 for the second.
    close(MixStyle().mix(MAPS, SWAP, QUARTER), [[0.25, 6.75], [4.25, 0.75]])


def test_efdmix_by_hand():
    # By rank: 1 meets 0 and 3 meets 8; three quarters of the way.
    close(EFDMix().mix(MAPS, SWAP, QUARTER), [[0.25, 6.75], [4.25, 0.75]])
    third = torch.cat([MAPS, MAPS[:, :, :, :1] ** 2], 3)  # 1 3 1 and 8 0 64: no mean and deviation describe that
    found = EFDMix().mix(third, SWAP, QUARTER)[:, :, :, 1:]
    close(found, [[0.75 * 64 + 0.25 * 3, 0.75 * 8 + 0.25], [0.75, 0.25 * 64 + 0.75 * 3]])


def test_dsu_by_hand():
    # The means' deviation over the batch is 1, the deviations' is 1.5.
    moves = [torch.tensor(values, dtype=torch.float64).view(2, 1) for values in ([1.0, -2.0], [2.0, 0.0])]
    close(DSU().move(MAPS, *moves), [[-1.0, 7.0], [6.0, -2.0]])


@pytest.mark.parametrize("name", ["MixStyle", "EFDMix", "DSU"])
def test_formulas_in_float64(name):
    """Channel by channel, image by image, as the papers have them."""
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64) * 3 + 1
    partners, own = torch.tensor([2, 2, 0]), torch.rand(3, 1, dtype=torch.float64)
    for_mean, for_std = torch.randn(2, 3, 4, dtype=torch.float64)
    moves = (for_mean, for_std) if name == "DSU" else (partners, own)
    layer = LAYERS[name]()
    found = layer.move(x, *moves) if name == "DSU" else layer.mix(x, *moves)
    mean, std = x.mean((2, 3)), (x.var((2, 3), correction=0) + 1e-6).sqrt()
    of_mean, of_std = ((s.var(0, correction=0) + 1e-6).sqrt() for s in (mean, std))
    for n in range(3):
        for c in range(4):
            unit, share, p = (x[n, c] - mean[n, c]) / std[n, c], own[n], partners[n]
            if name == "MixStyle":
                new_mean, new_std = (share * s[n, c] + (1 - share) * s[p, c] for s in (mean, std))
                expected = unit * new_std + new_mean
            elif name == "DSU":
                expected = unit * (std[n, c] + for_std[n, c] * of_std[c]) + mean[n, c] + for_mean[n, c] * of_mean[c]
            else:
                rank = x[n, c].flatten().argsort().argsort().view(5, 6)
                expected = share * x[n, c] + (1 - share) * x[p, c].flatten().sort().values[rank]
            torch.testing.assert_close(found[n, c], expected, rtol=1e-9, atol=1e-9)


def test_styles_are_constants_for_mixstyles_gradient_but_not_for_dsus():
    x = MAPS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(MixStyle().mix(x, SWAP, QUARTER).sum(), x)
    close(gradient, [[3.25, 3.25], [1.75 / 4, 1.75 / 4]])
    (gradient,) = torch.autograd.grad(EFDMix().mix(x, SWAP, QUARTER)[0].sum(), x)
    close(gradient, [[1.0, 1.0], [0.75, 0.75]])
    moves = torch.randn(2, 3, 2, dtype=torch.float64)
    maps = torch.randn(3, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda values: DSU().move(values, *moves), maps)


@pytest.mark.parametrize("name", LAYERS)
def test_training_changes_maps_by_the_generator_and_a_test_nothing(name):
    x = torch.rand(6, 3, 4, 5)
    first, again, other = (run(name, x, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other) and not torch.allclose(first, x)
    layer, state = LAYERS[name]().eval(), torch.get_rng_state()
    assert layer(x) is x and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", [MixStyle, EFDMix, DSU])
@pytest.mark.parametrize("prob", [0.0, 0.3, 1.0])
def test_prob_is_the_share_of_forward_passes(kind, prob):
    layer, x = kind(prob=prob).train(), torch.rand(4, 2, 3, 3)
    share = sum(layer(x) is not x for _ in range(300)) / 300
    assert share == pytest.approx(prob, abs=0.08)
    if prob in (0, 1):
        assert share == prob


def test_partners():
    domains = torch.tensor([0, 0, 0, 1, 2, 2])
    seen = set()
    for _ in range(50):
        partners, own = draw_mixing(torch.rand(6, 1, 1, 1), domains, alpha=0.1)
        assert not (domains[partners] == domains).any() and own.shape == (6, 1) and ((own >= 0) & (own <= 1)).all()
        seen.add(partners[3].item())
        assert sorted(draw_mixing(torch.rand(6, 1, 1, 1), None, alpha=0.1)[0].tolist()) == list(range(6))
    assert seen == {0, 1, 2, 4, 5}
    alone, _ = draw_mixing(torch.rand(3, 1, 1, 1), torch.zeros(3), alpha=0.1)
    assert alone.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="needs the images' domains"):
        MixStyle(1.0, partner="domain").train()(torch.rand(2, 1, 2, 2))


@pytest.mark.parametrize("alpha, extreme", [(0.1, True), (100.0, False)])
def test_alpha_says_how_much_of_one_style_is_left(alpha, extreme):
    shares = draw_mixing(torch.rand(500, 1, 1, 1), None, alpha)[1]
    assert ((shares - 0.5).abs().mean() > 0.4) == extreme


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LAYERS)
def test_half_precision_maps_whose_squares_would_overflow(name, dtype):
    x = (torch.randn(4, 3, 8, 6) * 20 + 300).contiguous(memory_format=torch.channels_last).to(dtype)
    found, expected = run(name, x), run(name, x.float())
    assert found.dtype == dtype and found.isfinite().all()
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=2)


@pytest.mark.parametrize("name", LAYERS)
def test_a_process_without_images_has_nothing_to_change(name):
    assert run(name, torch.rand(0, 3, 4, 4), domains=torch.zeros(0)).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("name", LAYERS)
def test_a_compiled_model_draws_the_same_numbers(name):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), LAYERS[name]()).double().train()
    compiled = copy.deepcopy(model)
    compiled.compile(backend="aot_eager")
    x, results = torch.rand(4, 3, 8, 6, dtype=torch.float64), []
    for each in (model, compiled):
        torch.manual_seed(3)
        with image_domains(each, torch.arange(4) % 2):
            out = each(x)
        results.append([out.detach(), torch.autograd.grad(out.square().sum(), list(each.parameters()))])
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)


def test_domains_are_known_within_the_context_only():
    model = torch.nn.Sequential(MixStyle(), torch.nn.ReLU(), DSU())
    with image_domains(model, torch.zeros(2)) as layers:
        assert layers == style_layers(model) and len(layers) == 2 and layers[1].domains is not None
    assert all(layer.domains is None for layer in layers)
