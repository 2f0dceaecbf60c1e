"""What a group says of its layers: the maps they read and write, and where their channels lie."""

import pytest
import torch
from torch import nn

from lib.structure.group import Group, channel_axis, depthwise

MODEL = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(12, 2))
GROUP = Group(3, ("0",), {}, {"2": torch.tensor([[8, 9, 10, 11], [0, 1, 2, 3], [4, 5, 6, 7]])})


def test_a_flattened_map_is_put_together_again():
    values = torch.arange(24).reshape(2, 12)
    maps = GROUP.maps(MODEL, "2", values)
    assert maps.shape == (2, 3, 4) and maps[1, 0].tolist() == [20, 21, 22, 23] and maps[0, 1].tolist() == [0, 1, 2, 3]


def test_written_maps_are_those_of_the_convolution():
    values = torch.rand(2, 3, 2, 2)
    assert torch.equal(GROUP.maps(MODEL, "0", values, written=True), values.flatten(2))


@pytest.mark.parametrize(
    ("name", "written", "says"), [("0", False, "does not read"), ("2", True, "does not write"), ("9", False, "2 do")]
)
def test_layers_outside_the_group_are_named(name, written, says):
    with pytest.raises(ValueError, match=says):
        GROUP.maps(MODEL, name, torch.zeros(2, 12), written=written)


def test_values_without_places_are_no_maps():
    with pytest.raises(ValueError, match="no batch of maps of convolution '0'"):
        GROUP.maps(MODEL, "0", torch.zeros(2, 3), written=True)


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (nn.Linear(4, 3), (4,), 0),
        (nn.Linear(4, 3), (2, 4), 1),
        (nn.Conv1d(4, 3, 1), (2, 4, 5), 1),
        (nn.Conv2d(4, 3, 1), (4, 5, 5), 0),
        (nn.Conv3d(4, 3, 1), (2, 4, 5, 5, 5), 1),
    ],
)
def test_the_axis_of_channels(layer, shape, axis):
    assert channel_axis(layer, torch.zeros(shape)) == axis and shape[axis] == 4


@pytest.mark.parametrize(("groups", "expected"), [(1, False), (2, False), (4, True)])
def test_only_one_filter_for_each_channel_is_depthwise(groups, expected):
    assert depthwise(nn.Conv2d(4, 4, 3, groups=groups)) is expected
    assert not depthwise(nn.Linear(4, 4)) and not depthwise(nn.Conv2d(1, 1, 3))
