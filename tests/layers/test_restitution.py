"""SNR's layer."""

import copy

import torch

from fastreid.layers import StyleRestitution, image_domains, take_restituted


def make(channels=4):
    layer = StyleRestitution(channels).double().train()
    torch.nn.init.normal_(layer.IN.weight), torch.nn.init.normal_(layer.IN.bias)
    return layer


def test_the_output_is_the_formulas():
    x = torch.randn(3, 4, 6, 5, dtype=torch.float64) * 2 + 1
    layer = make()
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True, correction=0)
    normalized = (x - mean) / (var + 1e-5).sqrt() * layer.IN.weight.view(-1, 1, 1) + layer.IN.bias.view(-1, 1, 1)
    style = x - normalized
    first, second = layer.attention.fc[0].weight, layer.attention.fc[2].weight
    share = torch.sigmoid(torch.relu(style.mean((2, 3)) @ first.T) @ second.T)[..., None, None]
    torch.testing.assert_close(layer(x), normalized + share * style)
    (kinds,) = take_restituted([layer])
    for found, expected in zip(kinds, (normalized, normalized + share * style, normalized + (1 - share) * style)):
        torch.testing.assert_close(found, expected.mean((2, 3)))
    torch.testing.assert_close(layer.eval()(x), normalized + share * style)


def test_it_holds_what_the_loss_needs_until_that_is_taken_and_nothing_in_a_test():
    layer, x = make(), torch.rand(2, 4, 3, 3, dtype=torch.float64)
    layer(x)
    assert len(take_restituted([layer])) == 1 and take_restituted([layer]) == ()
    layer.eval()(x)
    assert take_restituted([layer]) == ()


def test_half_precision_and_empty_batches():
    layer = StyleRestitution(4).train()
    x = torch.randn(3, 4, 8, 6) * 20 + 300
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x.bfloat16())
    assert found.dtype == torch.bfloat16 and found.isfinite().all()
    torch.testing.assert_close(found.float(), layer(x), rtol=0.05, atol=2)
    assert layer(x[:0]).shape == (0, 4, 8, 6)


def test_compiled_it_holds_the_same():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), make()).double().train()
    compiled = copy.deepcopy(model)
    compiled.compile(backend="aot_eager")
    x, results = torch.rand(3, 3, 8, 6, dtype=torch.float64), []
    for each in (model, compiled):
        with image_domains(each, None) as layers:
            out = each(x)
        (kinds,) = take_restituted(layers)
        total = out.square().sum() + sum(kind.square().sum() for kind in kinds)
        results.append([out.detach(), torch.autograd.grad(total, list(each.parameters()))])
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-8)
