"""Mean and variance of each image and channel, with and without gradients."""
import pytest
import torch

from fastreid.layers.normalize import moments


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 5, 16, 8), (2, 4, 1, 1), (2, 3, 7, 1)])
def test_without_gradients_the_moments_are_the_same(shape, memory_format):
    x = (100 + torch.randn(shape)).contiguous(memory_format=memory_format)
    before = x.clone()
    expected = moments(x.double())
    for context in (torch.enable_grad(), torch.no_grad(), torch.inference_mode()):
        with context:
            for found, right in zip(moments(x), expected):
                assert found.shape == shape[:2]
                torch.testing.assert_close(found, right.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x, before, rtol=0, atol=0)
