"""Loops that numba compiles, against numpy and torch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from lib.binarization.shared import compiled

PLACES = [
    ((3, 3), (1, 1), (0, 0), (1, 1)),
    ((3, 2), (2, 1), (1, 2), (1, 1)),
    ((2, 2), (1, 3), (0, 1), (2, 1)),
    ((1, 1), (1, 1), (0, 0), (1, 1)),
]


def padded(values):
    """(..., channels) as words."""
    words = np.zeros((*values.shape[:-1], -(-values.shape[-1] // 64) * 64), bool)
    words[..., : values.shape[-1]] = values
    return np.packbits(words, axis=-1, bitorder="little").view(np.uint64)


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("channels", [1, 20, 63, 64, 65, 128, 130])
def test_rows_gathered_from_any_place_on_are_those_of_unfold(channels, place):
    size, stride, (left, top), dilation = place
    values = torch.rand(3, channels, 7, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    inside = functional.pad(values.float(), (left, left, top, top))
    columns = functional.unfold(inside, size, dilation, 0, stride)  # (n, channels · area, places), channels outermost
    rows = columns.unflatten(1, (channels, -1)).permute(0, 3, 2, 1).flatten(2).flatten(0, 1) > 0
    height = (7 + 2 * top - dilation[0] * (size[0] - 1) - 1) // stride[0] + 1
    expected = padded(rows.numpy())
    image = padded(values.permute(0, 2, 3, 1).numpy())
    for first, count in ((0, len(expected)), (5, 4), (len(expected) - 1, 1)):
        found = np.full((count, expected.shape[1]), 7, np.uint64)
        compiled.gather(image, channels, place, (height, columns.shape[2] // height), first, found)
        assert np.array_equal(found, expected[first : first + count])


def test_what_the_border_adds_is_added_to_each_image():
    sums, places = np.ones((2, 5, 3), np.float32), np.array([1, 4])
    compiled.add_border(sums, places, np.arange(6, dtype=np.float32).reshape(2, 3))
    expected = np.ones((2, 5, 3), np.float32)
    expected[:, [1, 4]] += np.arange(6).reshape(2, 3)
    assert np.array_equal(sums, expected)
