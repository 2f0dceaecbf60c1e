"""Who sees whom, against the weights of a linear layer."""

import copy

import pytest
import torch
from given import equal
from given_architectures import drawn
from torch import nn

from lib.architectures.shared.flow import flow


def test_flow_is_the_jacobian_of_a_linear_layer_and_leaves_it_alone():
    layer = nn.Sequential(nn.Conv2d(3, 5, 1), nn.ReLU(inplace=True)).train()
    nn.init.constant_(layer[0].bias, 100)  # so that no unit is off
    before = copy.deepcopy(layer)
    found = flow(layer, drawn(2, 3, 2, 1).float())
    torch.testing.assert_close(found, 4 * layer[0].weight.detach().double().abs()[:, :, 0, 0])
    assert equal(layer, before) and layer.training and layer[0].weight.grad is None
    assert flow(nn.Sequential(nn.Flatten(), nn.Linear(12, 7)), drawn(1, 3, 2, 2)).shape == (7, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 4), r"images of \(3, 4\): they must be"),
        (torch.zeros(0, 3, 2, 2), "none of them 0"),
        (torch.full((1, 1, 1, 1), float("nan")), "NaN or infinity"),
    ],
)
def test_images_of_another_shape_or_not_finite_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        flow(nn.ReLU(), images)
