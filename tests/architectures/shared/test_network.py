"""What a network of this section says about images and sizes that it does not take."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from lib.architectures.shared.network import Network, check_images, scaled


def network(*, channels=3, least=4):
    layers = OrderedDict(conv=nn.Conv2d(3, 4, 3, 2, padding=1), pool=nn.MaxPool2d(2))
    return Network(layers, channels=channels, least=least)


def test_layers_run_in_their_order_under_their_names():
    model, images = network(), torch.rand(2, 3, 6, 8)
    assert [name for name, _ in model.named_children()] == ["conv", "pool"]
    assert torch.equal(model(images), model.pool(model.conv(images)))
    assert (model.channels, model.least) == (3, 4)


def test_the_least_size_is_taken_and_one_pixel_less_refused():
    model = network()
    assert model(torch.zeros(1, 3, 4, 4)).shape == (1, 4, 1, 1)
    for shape in ((1, 3, 3, 9), (1, 3, 9, 3), (1, 3, 0, 4)):
        with pytest.raises(ValueError, match=r"this network takes \(n, 3, height, width\) with 4 pixels or more"):
            model(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8), (2, 3, 8), (1, 3, 8, 8, 8), ()])
def test_images_of_other_channels_and_dimensions_are_refused(shape):
    with pytest.raises(ValueError, match=r"takes \(n, 3, height, width\) with 1 pixel or more"):
        check_images(torch.zeros(shape), channels=3)


def test_no_images_are_taken_as_layers_take_them():
    assert network()(torch.zeros(0, 3, 8, 8)).shape == (0, 4, 2, 2)


def test_copies_refuse_the_same_images():
    copied = copy.deepcopy(network().double())
    assert copied(torch.zeros(1, 3, 8, 8, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(ValueError, match="with 4 pixels or more"):
        copied(torch.zeros(1, 3, 3, 8, dtype=torch.float64))
    copied.load_state_dict(network().state_dict())
    assert (copied.channels, copied.least) == (3, 4)


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "3", None])
@pytest.mark.parametrize("name", ["channels", "least"])
def test_sizes_of_a_network_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number of 1 or more, not {value!r}"):
        network(**{name: value})


def test_scaled_channels_are_the_nearest_multiple_above_none():
    for channels in (1, 5, 16, 24, 1000):
        assert scaled(channels, 1.0) == scaled(channels, 1) == channels
        for width in (0.1, 0.35, 0.75, 1.4):
            for multiple in (1, 4, 8):
                result = scaled(channels, width, multiple=multiple)
                assert result % multiple == 0 and result >= multiple
                assert abs(result - channels * width) <= multiple / 2 or result == multiple > channels * width


def test_half_a_multiple_is_rounded_up():
    assert [scaled(n, 0.5) for n in (1, 2, 3, 5)] == [1, 1, 2, 3]
    assert scaled(12, 1.0, multiple=8) == 16


@pytest.mark.parametrize("width", [0, -0.5, float("nan"), float("inf"), True, "1", None])
def test_a_width_that_is_no_factor_is_refused(width):
    with pytest.raises(ValueError, match=f"width must be a finite number above 0, not {width!r}"):
        scaled(8, width)


@pytest.mark.parametrize("options", [{"channels": 0}, {"multiple": 0}, {"multiple": 1.5}])
def test_channels_and_multiples_to_scale_are_checked(options):
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name} must be a whole number of 1 or more, not {value!r}"):
        scaled(**{"channels": 8, "width": 0.5, "multiple": 1} | options)


def test_a_slice_is_a_plain_sequence_of_the_same_layers():
    layers = OrderedDict(conv=nn.Conv2d(3, 4, 3), relu=nn.ReLU(), pool=nn.MaxPool2d(2))
    network = Network(layers, channels=3, least=4)
    part = network[:-1]
    assert list(dict(part.named_children())) == ["conv", "relu"] and part.conv is network[0]
    assert type(part) is nn.Sequential
