"""Chains of layers: their order, and what is refused by name, in one line."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lib.precision.shared import chains
from lib.vision import torchvision


def test_layers_come_in_order_without_those_that_do_nothing():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(1, 2, 3), relu, nn.Sequential(nn.Dropout(), nn.AvgPool2d(2), relu), nn.Identity())
    assert [type(layer).__name__ for layer in chains.chain(model)] == ["Conv2d", "ReLU", "AvgPool2d", "ReLU"]
    assert [said for said, _ in chains.named(model)][-1] == "layer '2.2', ReLU(),"


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Backwards(nn.Sequential):
    def forward(self, x):
        return self[0](self[1](x))


@pytest.mark.parametrize(
    "layer",
    [
        *(nn.Softmax(1), nn.AvgPool2d(3), nn.Conv2d(1, 1, 3, padding="same"), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Flatten(1, 2), nn.Flatten(0), nn.MaxPool2d(2, return_indices=True), nn.AvgPool2d(2, padding=1)),
        *(Doubled(2, 2), Backwards(nn.Tanh(), nn.ReLU()), nn.BatchNorm2d(2)),
    ],
)
def test_other_layers_are_refused_by_name(layer):
    with pytest.raises(
        ValueError, match=rf"^layer '1.0', {type(layer).__name__}.*, cannot be computed in integers here"
    ):
        list(chains.chain(nn.Sequential(nn.Tanh(), nn.Sequential(layer))))


def test_the_message_is_one_line_however_large_the_network():
    for model in (torchvision.models.resnet18(), torchvision.models.squeezenet1_1()):
        with pytest.raises(ValueError, match=f"^{type(model).__name__} cannot be computed in integers") as refused:
            list(chains.chain(model))
        assert len(str(refused.value)) < 250 and "\n" not in str(refused.value)


def test_a_compressed_layer_is_the_layer():
    layer = nn.Linear(2, 2)
    parametrize.register_parametrization(layer, "weight", nn.Identity())
    ((said, same),) = chains.named(nn.Sequential(layer))
    assert same is layer and said == "layer '0', ParametrizedLinear,"


def test_geometry_is_how_a_convolution_moves():
    layer = nn.Conv2d(4, 6, 3, stride=(1, 2), padding=(0, 1), dilation=2, groups=2)
    moves = chains.geometry(layer)
    x = torch.randn(1, 4, 9, 9)
    assert torch.equal(nn.functional.conv2d(x, layer.weight, layer.bias, **moves), layer(x))
    with pytest.raises(ValueError, match="padding must be numbers, not 'same'"):
        chains.geometry(nn.Conv2d(1, 1, 3, padding="same"))
