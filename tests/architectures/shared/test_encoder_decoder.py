"""The transposed pool against the pool's gradient and torch's, matching places, and the stages that are needed."""

import given
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib.architectures.shared.encoder_decoder import EncoderDecoder, unpool


def images(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=given.generator()).to(dtype)


@pytest.mark.parametrize("kernel", [2, 3])
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (1, 2, 9, 7)])
def test_unpooling_is_the_transpose_of_the_pool(kernel, shape):
    x = images(*shape, dtype=torch.float64).requires_grad_()
    pooled, places = functional.max_pool2d(x, kernel, 2, ceil_mode=True, return_indices=True)
    y = images(*pooled.shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad(pooled, x, y)  # the pool's gradient is its transpose
    assert torch.equal(unpool(y, places, x.shape), expected)


@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (1, 2, 9, 7)])
def test_without_overlap_it_is_torchs_and_keeps_the_maxima(shape):
    x = images(*shape)
    pooled, places = functional.max_pool2d(x, 2, return_indices=True)
    back = unpool(pooled, places, x.shape)
    assert torch.equal(back, functional.max_unpool2d(pooled, places, 2, output_size=x.shape[2:]))
    kept = back != 0
    assert torch.equal(back[kept], x[kept]) and kept.sum() == pooled.numel()
    positive = unpool(pooled.abs(), places, x.shape)
    assert torch.equal(functional.max_pool2d(positive, 2), pooled.abs())


def test_its_gradient_is_right_where_pools_overlap_and_torchs_is_not():
    x = images(1, 1, 9, 9, dtype=torch.float64)
    pooled, places = functional.max_pool2d(x, 3, 2, return_indices=True)
    assert places.unique().numel() < places.numel()
    pooled.requires_grad_()
    assert torch.autograd.gradcheck(lambda y: unpool(y, places, x.shape), pooled)
    torchs = lambda y: functional.max_unpool2d(y, places, 3, 2, output_size=(9, 9))  # noqa: E731
    assert not torch.autograd.gradcheck(torchs, pooled, raise_exception=False)


def test_places_are_those_of_the_matching_stage():
    same = [nn.Identity() for _ in range(3)]
    network = EncoderDecoder(same, nn.Identity(), same, channels=2, least=8, kernel=2)
    x = images(3, 2, 17, 12)
    found = network(x)
    expected = torch.zeros_like(x)
    for r in range(0, 16, 8):  # of each 8 x 8 pixels the largest one stays, where it was; the last row is in none
        window = x[:, :, r : r + 8, :8]
        place = window.flatten(2).argmax(2)
        for n in range(3):
            for c in range(2):
                row, column = divmod(place[n, c].item(), window.shape[3])
                expected[n, c, r + row, column] = window[n, c, row, column]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("decoder", "kernel"), [(1, 4), (2, 2)])
def test_other_pools_and_other_numbers_of_stages_are_refused(decoder, kernel):
    one = [nn.Identity()]
    with pytest.raises(ValueError, match="kernel must be 2 or 3, and the decoder must have as many stages"):
        EncoderDecoder(one, nn.Identity(), decoder * one, channels=1, least=2, kernel=kernel)


def test_its_text_tells_two_kernels_apart():
    one = [nn.Identity()]
    networks = [EncoderDecoder(one, nn.Identity(), one, channels=1, least=2, kernel=kernel) for kernel in (2, 3)]
    assert str(networks[0]) != str(networks[1])


def test_images_that_are_too_small_are_refused():
    one = [nn.Identity()]
    network = EncoderDecoder(one, nn.Identity(), one, channels=1, least=2, kernel=2)
    with pytest.raises(ValueError, match=r"takes \(n, 1, height, width\) with 2 pixels or more"):
        network(torch.zeros(1, 1, 1, 4))
