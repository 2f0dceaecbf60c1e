"""A first layer that reads pixels plane by plane: sums equal to products of whole numbers, exactly."""

import copy

import given
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import models, storage
from lib.binarization import bnn
from lib.binarization.abc_net import AbcWeight
from lib.binarization.binaryconnect import BinaryConnectWeight
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared import inference
from lib.binarization.shared.bit_planes import PlaneLayer
from lib.weights import compress, compressed_form, replace

LAYERS = {
    "linear": (lambda: nn.Linear(131, 7, bias=False), (3, 131)),
    "convolution": (lambda: nn.Conv2d(3, 5, 3, bias=False), (2, 3, 8, 7)),
    "border, stride": (lambda: nn.Conv2d(3, 5, (3, 5), stride=2, padding=(1, 2), bias=False), (2, 3, 9, 8)),
    "groups, dilation": (lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=2, bias=False), (2, 4, 6, 6)),
    "border of copies": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="replicate", bias=False), (2, 2, 5, 5)),
}


def whole(layer, pixels, signs):
    """The layer's sums in whole numbers."""
    if isinstance(layer, nn.Linear):
        return pixels @ signs.T
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    border = layer._reversed_padding_repeated_twice
    padded = functional.pad(pixels.double(), border, mode).long()
    return functional.conv2d(padded, signs, None, layer.stride, 0, layer.dilation, layer.groups)


@pytest.mark.parametrize("bits", [1, 8, 16])
@pytest.mark.parametrize("place", LAYERS)
def test_sums_over_planes_are_the_products_of_whole_numbers(place, bits):
    build, shape = LAYERS[place]
    layer = compress(given.seeded(build), lambda *_: BinaryConnectWeight())
    pixels = torch.randint(0, 2**bits, shape, generator=given.generator())
    pixels.flatten()[:2] = torch.tensor([0, 2**bits - 1])
    signs = torch.where(compressed_form(layer)[1][0] >= 0, 1, -1)
    found = PlaneLayer(layer, bits=bits, step=1.0)(pixels.double())
    assert found.dtype == torch.float64 and torch.equal(found.long(), whole(layer, pixels, signs))
    assert torch.equal(found, found.round())


@pytest.mark.parametrize("place", LAYERS)
def test_scales_biases_and_steps_are_those_of_the_float_layer(place):
    build, shape = LAYERS[place]
    layer = given.seeded(build)
    layer.bias = nn.Parameter(torch.randn(len(layer.weight), generator=given.generator()))
    layer = compress(layer, lambda *_: BinaryWeight())
    pixels = torch.randint(0, 256, shape, generator=given.generator()) / 255
    torch.testing.assert_close(PlaneLayer(layer)(pixels), layer(pixels), rtol=1e-5, atol=1e-5)


def test_a_whole_network_of_bits_gives_the_very_same_answers():
    model = bnn.binarize(given.seeded(lambda: models.mlp(inputs=64, hidden=(40, 40), classes=4))).train()
    images = torch.randint(0, 256, (30, 1, 8, 8), generator=given.generator()).float()
    model(images)
    bits = inference.convert(model.eval())
    bits = replace(bits, "fc1", PlaneLayer(bits.fc1, step=1.0, name="fc1"))
    assert torch.equal(bits(images), model(images)) and model(images).argmax(1).unique().numel() > 1


def test_its_state_is_in_buffers(tmp_path):
    def build(seed):
        return PlaneLayer(compress(given.seeded(lambda: nn.Conv2d(2, 4, 3), seed), lambda *_: BinaryWeight()))

    first, second, third = build(0), build(1), build(2)
    x = torch.randint(0, 256, (2, 2, 6, 6), generator=given.generator()) / 255
    second.load_state_dict(first.state_dict())
    storage.save(first, tmp_path / "layer.slim")
    storage.load(tmp_path / "layer.slim", third)
    assert all(torch.equal(same(x), first(x)) for same in (second, third, copy.deepcopy(first)))


def test_what_is_no_image_of_whole_pixels_is_refused():
    layer = compress(nn.Linear(4, 2), lambda *_: BinaryWeight())
    reads = PlaneLayer(layer, step=1.0)
    for values, message in (
        ([0.0, 1.0, 2.5, 3.0], "pixels must be whole multiples of 1: at least one is not"),
        ([0.0, 1.0, 2.0, 256.0], "pixels range from 0 to 256: accepted are 0 to 255 times the step"),
        ([0.0, 1.0, -2.0, 3.0], "pixels range from -2 to 3: accepted are 0 to 255"),
    ):
        with pytest.raises(ValueError, match=message):
            reads(torch.tensor([values]))
    assert reads(torch.zeros(0, 4)).shape == (0, 2)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (lambda: nn.Linear(4, 2), {}, "layer 'fc' is not binary: a filter has weights of more than one size"),
        (lambda: compress(nn.Linear(4, 2), lambda *_: AbcWeight(2)), {}, "weight of layer 'fc' is a sum of 2 matrices"),
        (lambda: nn.Linear(4, 2), {"bits": 0}, "bits must be a whole number from 1 to 16 and step above 0, not 0 and"),
        (lambda: nn.Linear(4, 2), {"bits": 17}, "from 1 to 16 and step above 0, not 17"),
        (lambda: nn.Linear(4, 2), {"step": 0.0}, "and step above 0, not 8 and 0.0"),
        (lambda: nn.Conv1d(4, 2, 1), {}, "a Conv1d cannot read signs: accepted are Linear and Conv2d"),
    ],
)
def test_other_layers_and_settings_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        PlaneLayer(build(), name="fc", **options)
