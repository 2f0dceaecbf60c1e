"""MobileNet: the counts of its tables, its two multipliers, the dense kernel inside it, small images."""

from fractions import Fraction

import pytest
import torch
from given import generator
from given_architectures import check_least_images, check_seed_and_copies
from torch import nn
from torch.nn.functional import conv2d

from lib import measure
from lib.architectures.depthwise_separable import DepthwiseSeparable, cost_ratio, dense_kernel
from lib.architectures.mobilenet import Cost, Resize, layer_cost, mobilenet

SMALL = {"classes": 3, "width": 0.1, "middle": 1}


@pytest.mark.parametrize(
    ("options", "side", "parameters", "multiply_adds"),
    [
        ({}, 224, 4_231_976, 568_740_352),
        ({"width": 0.75}, 224, 2_585_560, 325_400_448),
        ({"width": 0.5}, 224, 1_331_592, 149_497_088),
        ({"width": 0.25}, 224, 470_072, 41_030_272),
        ({}, 192, 4_231_976, 418_121_728),
        ({}, 160, 4_231_976, 290_675_200),
        ({}, 128, 4_231_976, 186_400_768),
        ({"resolution": 0.857}, 224, 4_231_976, 418_121_728),
        ({"resolution": 0.714}, 224, 4_231_976, 290_675_200),
        ({"resolution": 0.571}, 224, 4_231_976, 186_400_768),
        ({"full": True}, 224, 29_294_088, 4_867_293_184),
        ({"middle": 0}, 224, 2_887_976, 307_323_392),
    ],
)
def test_counts_are_those_of_the_paper(options, side, parameters, multiply_adds):
    with torch.device("meta"):
        network = mobilenet(**options)
    assert measure.parameters(network) == parameters
    assert measure.multiply_adds(network, (3, side, side)) == multiply_adds


def test_it_has_28_layers_counting_both_halves():
    with torch.device("meta"):
        network = mobilenet()
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules()) == 28
    assert sum(isinstance(m, nn.ReLU) for m in network.modules()) == 27


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"full": True}, Cost(462_422_016, 2_359_296)),
        ({}, Cost(52_283_392, 266_752)),
        ({"width": 0.75}, Cost(29_578_752, 150_912)),
        ({"width": 0.75, "resolution": 0.714}, Cost(15_091_200, 150_912)),
    ],
)
def test_one_layer_costs_what_table_3_says(options, expected):
    assert layer_cost(512, 512, 14, **options) == expected


@pytest.mark.parametrize(("inputs", "outputs", "side", "kernel"), [(512, 512, 14, 3), (3, 8, 5, 5), (1, 1, 1, 1)])
def test_the_formula_of_a_layer_is_its_count(inputs, outputs, side, kernel):
    dense = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    for layer, full in ((DepthwiseSeparable(inputs, outputs, kernel=kernel), False), (dense, True)):
        counted = Cost(measure.multiply_adds(layer, (inputs, side, side)), measure.parameters(layer))
        assert layer_cost(inputs, outputs, side, kernel=kernel, full=full) == counted
    ratio = Fraction(layer_cost(inputs, outputs, side, kernel=kernel).weights, measure.parameters(dense))
    assert ratio == cost_ratio(outputs, kernel=kernel)


def test_cost_falls_with_the_square_of_both_multipliers():
    whole = layer_cost(4096, 4096, 100).multiply_adds
    assert layer_cost(4096, 4096, 100, width=0.5).multiply_adds / whole == pytest.approx(0.25, rel=5e-3)
    assert Fraction(layer_cost(4096, 4096, 100, resolution=0.5).multiply_adds, whole) == Fraction(1, 4)


def test_a_block_without_its_middle_is_a_dense_convolution():
    block = mobilenet(**SMALL).block3.double().eval()
    block.conv.between = nn.Identity()
    images = torch.randn(2, block.conv.inputs, 6, 6, generator=generator(), dtype=torch.float64)
    weight = dense_kernel(block.conv.depthwise.weight, block.conv.pointwise.weight)
    expected = torch.relu(block.bn(conv2d(images, weight, padding=1)))
    torch.testing.assert_close(block(images), expected, rtol=0, atol=1e-12)


def test_a_resolution_below_1_is_the_same_network_on_smaller_images():
    network, resized = mobilenet(**SMALL).eval(), mobilenet(**SMALL, resolution=0.5).eval()
    images = torch.rand(1, 3, 40, 48, generator=generator())
    means = images.unflatten(2, (20, 2)).unflatten(4, (24, 2)).mean((3, 5))
    torch.testing.assert_close(resized(images), network(means))
    assert next(name for name, _ in resized.named_children()) == "resize" and not hasattr(network, "resize")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_resized_images_keep_their_type_and_their_mean(dtype):
    images = torch.rand(1, 2, 28, 28, generator=generator()).to(dtype)
    small = Resize(0.25)(images.transpose(2, 3))
    assert small.dtype == dtype and small.shape == (1, 2, 7, 7)
    torch.testing.assert_close(small.double().mean(), images.double().mean(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("side", [28, 32])
def test_strides_of_1_leave_16_places_of_small_images(side):
    network = mobilenet(channels=1, strides=(1, 1, 2, 2, 2), **SMALL)
    images = maps = torch.rand(2, 1, side, side, generator=generator())
    for layer in network:
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            break
        maps = layer(maps)
    assert maps.shape[2:] == (4, 4)
    network(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("options", [{}, {"resolution": 0.3}, {"strides": (1, 1, 1, 2, 2)}, {"strides": (1,) * 5}])
def test_it_takes_its_least_images_and_no_smaller_ones(options):
    check_least_images(mobilenet(channels=1, **SMALL, **options), (1, 3))


def test_it_depends_on_its_seed_alone_and_can_be_copied():
    images = torch.rand(1, 3, 32, 32, generator=generator(), dtype=torch.float64)
    check_seed_and_copies(lambda seed: mobilenet(seed, **SMALL), images)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mobilenet(width=0), "width must be a finite number above 0, not 0"),
        (lambda: mobilenet(width=-0.5), "width must be a finite number above 0, not -0.5"),
        (lambda: mobilenet(width=float("nan")), "width must be a finite number above 0, not nan"),
        (lambda: mobilenet(resolution=0), "resolution must be a number above 0 and at most 1, not 0"),
        (lambda: mobilenet(resolution=1.5), "at most 1, not 1.5"),
        (lambda: mobilenet(resolution=float("nan")), "at most 1, not nan"),
        (lambda: Resize(-1), "resolution must be"),
        (lambda: mobilenet(middle=-1), "middle must be a whole number of 0 or more, not -1"),
        (lambda: mobilenet(middle=1.0), "middle must be a whole number of 0 or more, not 1.0"),
        (lambda: mobilenet(classes=1), "classes must be a whole number of 2 or more, not 1"),
        (lambda: mobilenet(channels=0), "channels must be a whole number of 1 or more, not 0"),
        (lambda: mobilenet(strides=(1, 2, 3, 2, 2)), "strides must be 5 numbers, each 1 or 2"),
        (lambda: layer_cost(512, 512, 0), "side must be a whole number of 1 or more, not 0"),
        (lambda: layer_cost(512, 512, 14, resolution=2), "resolution must be"),
        (lambda: layer_cost(512, 512, 14, width=float("inf")), "width must be"),
        (lambda: mobilenet(**SMALL)(torch.zeros(1, 1, 32, 32)), "this network takes .n, 3, height, width."),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_its_text_tells_two_resolutions_apart():
    assert str(mobilenet(**SMALL | {"resolution": 0.5})) != str(mobilenet(**SMALL | {"resolution": 0.75}))
