"""What a binary layer is: the sign and its gradient, and sums that are whole numbers."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib.binarization.binaryconnect import BinaryConnectWeight
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared.signs import Binarized, Sign, SignActivation, filter_size, rescaled
from lib.weights import compress, compressed_form

# -- the sign ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_sign_of_both_zeros_is_plus_one(dtype):
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([0.0, -0.0, tiny, -tiny, 1e-3, -1e-3, 7.0, -7.0, torch.inf, -torch.inf], dtype=dtype)
    found = Sign.apply(x)
    assert found.dtype == dtype and found.tolist() == [1, 1, 1, -1, 1, -1, 1, -1, 1, -1]
    many = torch.randn(1001, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(Sign.apply(many), torch.where(many >= 0, 1.0, -1.0).to(dtype))


def test_the_smallest_floats_have_a_sign_too():
    assert Sign.apply(torch.tensor([1e-45, -1e-45])).tolist() == [1, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_passes_up_to_one_and_not_one_float_further(dtype):
    one, far = torch.tensor(1.0, dtype=dtype), torch.tensor(9.0, dtype=dtype)
    above = torch.nextafter(one, far)
    x = torch.stack([-above, -one, -one / 2, 0 * one, one / 3, one, above, far]).requires_grad_()
    gradient = torch.arange(1.0, 9.0, dtype=dtype) / 7
    Sign.apply(x).backward(gradient)
    assert torch.equal(x.grad, gradient * torch.tensor([0, 1, 1, 1, 1, 1, 0, 0], dtype=dtype))


def test_with_infinite_reach_every_gradient_passes_drawn_signs_too():
    x = torch.tensor([-30.0, -0.5, 0.5, 30.0], requires_grad=True)
    found = Sign.apply(x, torch.inf, torch.tensor([1.0, -1.0, 0.0, -2.0]))
    found.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert found.tolist() == [1, -1, 1, -1] and x.grad.tolist() == [1, 2, 3, 4]
    x.grad = None
    Sign.apply(x, 1.0, torch.ones(4)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


def test_the_sign_leaves_what_it_is_given_as_it_is():
    x, shown = torch.tensor([-3.0, 0.0, 2.0]), torch.tensor([1.0, -1.0, 5.0])
    Sign.apply(x)
    Sign.apply(x, 1.0, shown)
    assert x.tolist() == [-3, 0, 2] and shown.tolist() == [1, -1, 5]


# -- a layer that reads signs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Conv1d(2, 2, 1), nn.Embedding(2, 2), nn.ReLU(), nn.ConvTranspose2d(2, 2, 1)])
def test_other_layers_cannot_read_signs(layer):
    with pytest.raises(
        ValueError, match=rf"a {type(layer).__name__} cannot read signs: accepted are Linear and Conv2d"
    ):
        Binarized(layer, SignActivation())


LAYERS = {
    "linear": (nn.Linear(37, 11), (5, 37)),
    "linear without bias": (nn.Linear(37, 11, bias=False), (1, 37)),
    "linear on rows of rows": (nn.Linear(6, 4), (2, 3, 6)),
    "one input": (nn.Linear(1, 3), (4, 1)),
    "convolution": (nn.Conv2d(5, 7, 3), (2, 5, 8, 9)),
    "border": (nn.Conv2d(4, 6, 3, padding=1), (3, 4, 7, 7)),
    "stride": (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (3, 4, 9, 8)),
    "same": (nn.Conv2d(3, 4, (3, 5), padding="same"), (2, 3, 6, 7)),
    "dilation": (nn.Conv2d(3, 4, 3, dilation=2, padding=2), (2, 3, 9, 9)),
    "groups": (nn.Conv2d(6, 8, 3, groups=2, padding=1), (2, 6, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, stride=2, padding=1, bias=False), (2, 6, 7, 7)),
    "one channel, one sample": (nn.Conv2d(1, 3, 5, padding=2), (1, 1, 6, 6)),
    "one image without its batch": (nn.Conv2d(3, 8, 3), (3, 10, 10)),
    "no sample": (nn.Conv2d(3, 2, 3), (0, 3, 5, 5)),
}


@pytest.mark.parametrize("form", [BinaryWeight, BinaryConnectWeight], ids=["bwn", "bnn"])
@pytest.mark.parametrize("kind", LAYERS)
def test_sums_are_whole_numbers_whatever_the_order_of_adding(kind, form):
    layer, shape = copy.deepcopy(LAYERS[kind][0]), LAYERS[kind][1]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    x = torch.randn(shape, generator=generator)
    x.flatten()[:3] = 0  # a zero reads as +1, a zero of the border as 0
    compress(layer, lambda *_: form())
    sums = whole(layer, torch.where(x >= 0, 1, -1), torch.where(compressed_form(layer)[1][0] >= 0, 1, -1))
    alpha = layer.weight.flatten(1)[:, 0].abs()
    column = (-1, 1, 1) if layer.weight.dim() == 4 else (-1,)
    expected = sums.float() * alpha.reshape(column)
    if layer.bias is not None:
        expected = expected + layer.bias.reshape(column)
    found = Binarized(layer, SignActivation())(x)
    assert found.shape == expected.shape and torch.equal(found, expected)


@pytest.mark.parametrize("filters", [1, 8, 34])
@pytest.mark.parametrize(("image", "size", "stride"), [((2, 3), (1, 3), (1, 2)), ((5, 3), (3, 2), (1, 3))])
def test_a_layer_of_one_channel_is_right_in_either_memory_layout(image, size, stride, filters):
    """torch's convolutions in channels last are wrong here on some processors."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(1, filters, size, stride=stride, bias=False)
    layer.weight.data = torch.randn(layer.weight.shape, generator=generator).sign()
    x = torch.randn(3, 1, *image, generator=generator).sign()
    expected = whole(layer, x.long(), layer.weight.detach().long()).float()
    for memory in (torch.contiguous_format, torch.channels_last):
        found = Binarized(layer.to(memory_format=memory), SignActivation())(x.to(memory_format=memory))
        assert torch.equal(found, expected)


def whole(layer, signs, weight):
    """The layer's sums of signs in whole numbers, (n, filters, ...) int64."""
    if isinstance(layer, nn.Linear):
        return signs @ weight.T
    batch = signs if signs.dim() == 4 else signs[None]
    padded = functional.pad(batch, layer._reversed_padding_repeated_twice)
    sums = functional.conv2d(padded, weight, None, layer.stride, 0, layer.dilation, layer.groups)
    return sums if signs.dim() == 4 else sums[0]


def test_the_size_of_a_filter_is_its_largest_weight_or_one():
    weight = torch.tensor([[[0.5, -2.0]], [[0.0, 0.0]], [[1e-40, -1e-41]]], requires_grad=True)
    size = filter_size(weight)
    assert size.flatten().tolist() == [2, 1, torch.tensor(1e-40).item()] and size.shape == (3, 1, 1)
    assert not size.requires_grad


def test_a_filter_of_zeros_gives_its_bias():
    layer = nn.Conv2d(3, 2, 3)
    layer.weight.data[0] = 0
    found = Binarized(compress(layer, lambda *_: BinaryWeight()), SignActivation())(torch.randn(2, 3, 6, 6))
    assert torch.equal(found[:, 0], layer.bias[0].expand(2, 4, 4)) and found[:, 1].unique().numel() > 1


def test_sums_are_rescaled_along_their_filters():
    size, bias = torch.tensor([2.0, 3.0]), torch.tensor([0.5, -1.0])
    rows = torch.tensor([[1.0, -1.0], [4.0, 5.0]])
    expected = torch.tensor([[2.5, -4.0], [8.5, 14.0]])
    assert torch.equal(rescaled(rows.clone(), size, None, bias, -1), expected)
    assert torch.equal(rescaled(rows[:, None].clone(), size, None, bias, -1), expected[:, None])
    images = rows[:, :, None, None].expand(2, 2, 2, 2)
    assert torch.equal(rescaled(images.clone(), size, None, bias, 1), expected[:, :, None, None].expand(2, 2, 2, 2))
    assert torch.equal(rescaled(images[0].clone(), size, None, bias, 1), expected[0, :, None, None].expand(2, 2, 2))
    scale = torch.tensor([[10.0], [100.0]])
    assert torch.equal(rescaled(rows.clone(), size, scale, None, -1), rows * size * scale)


@pytest.mark.parametrize("kind", ["linear", "stride", "groups"])
def test_the_gradient_is_that_of_the_product_without_the_size(kind):
    layer, shape = copy.deepcopy(LAYERS[kind][0]).double(), LAYERS[kind][1]
    compress(layer, lambda *_: BinaryWeight())
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    latent = compressed_form(layer)[1][0]
    gradients = []
    for output in (Binarized(layer, SignActivation())(x), layer(Sign.apply(x))):
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
        gradients.append(torch.autograd.grad((output * weights).sum(), latent)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
