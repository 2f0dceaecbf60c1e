"""Parts of layers together are the layer."""

import pytest
import torch
from given import generator, seeded
from torch import nn

from lib.morphism.shared.parts import by_channel, dense

X = torch.randn(2, 5, 6, 6, generator=generator(), dtype=torch.float64)


def test_parts_that_read_parts_of_the_inputs_sum_to_the_layer():
    layer = seeded(lambda: nn.Conv2d(5, 4, 3, padding="same")).double()
    parts = dense("0", layer, 3, inputs=True)
    assert [part.in_channels for part in parts] == [2, 2, 1]
    outputs = [part(x) for part, x in zip(parts, X.tensor_split(3, 1), strict=True)]
    torch.testing.assert_close(sum(outputs), layer(X))


def test_parts_that_compute_parts_of_the_outputs_join_to_the_layer():
    for layer, x, axis in ((nn.Conv2d(5, 5, 3, stride=2), X, 1), (nn.Linear(6, 5, bias=False), X, -1)):
        layer.double()
        parts = dense("0", layer, 2, inputs=False)
        torch.testing.assert_close(torch.cat([part(x) for part in parts], axis), layer(x))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(5, 10, 3, groups=5),
        nn.BatchNorm2d(5),
        nn.BatchNorm2d(5, affine=False),
        nn.MaxPool2d(3, 1, 1),
        nn.Hardtanh(),
        nn.Identity(),
    ],
)
def test_parts_of_what_works_by_channel_join_to_the_layer(layer):
    layer.double()
    parts = by_channel("0", layer, 5, channels=5)
    outputs = [part(x) for part, x in zip(parts, X.tensor_split(5, 1), strict=True)]
    torch.testing.assert_close(torch.cat(outputs, 1), layer(X))


def test_uneven_parts_know_their_sizes():
    assert [part.num_features for part in by_channel("0", nn.BatchNorm2d(5), 3, channels=5)] == [2, 2, 1]


def test_parts_that_cannot_be_are_refused():
    for layer in (nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2)):
        with pytest.raises(ValueError, match="only convolutions without groups and linear layers"):
            dense("0", layer, 2, inputs=True)
    with pytest.raises(ValueError, match="only grouped convolutions"):
        by_channel("0", nn.Softmax(1), 2, channels=5)
    with pytest.raises(ValueError, match="has 3 channels to share, fewer than 4 branches"):
        dense("0", nn.Linear(3, 4), 4, inputs=True)
    with pytest.raises(ValueError, match="5 groups of layer '0' cannot be shared equally among 2"):
        by_channel("0", nn.Conv2d(5, 5, 1, groups=5), 2, channels=5)
