"""Layers that write bits against whole-number arithmetic: every shape, every threshold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lib.binarization.shared import bit_images, kernels
from lib.binarization.shared.bit_images import Window
from lib.binarization.shared.kernels import Place

CHANNELS = st.sampled_from([1, 2, 20, 63, 64, 65, 130])
FILTERS = st.sampled_from([1, 3, 15, 16, 18, 33, 64, 65, 130])
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
SEEDS = st.integers(0, 2**31)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def draw(*shape, seed=0):
    return torch.where(torch.rand(shape, generator=generator(seed)) < 0.5, -1, 1)


def packed(signs):
    """(n, channels, height, width) of ±1 as bits, by numpy."""
    reached = (signs > 0).permute(0, 2, 3, 1).numpy()
    words = -(-reached.shape[3] // 64)
    padded = np.zeros((*reached.shape[:3], 64 * words), bool)
    padded[..., : reached.shape[3]] = reached
    return np.packbits(padded, axis=-1, bitorder="little").view(np.uint64)


def images(signs):
    return bit_images.BitImages(packed(signs), signs.shape[1])


def whole_sums(signs, weight, place):
    """In whole numbers, which torch adds without its fast kernels for floats."""
    return functional.conv2d(functional.pad(signs, place.border), weight, None, place.stride, 0, place.dilation)


def compared(sums, least, below):
    return torch.where(below, sums <= least, sums >= least)


def thresholds(filters, places, length, seed):
    """Some reached by ties, some always and some never, in both directions."""
    least = torch.randint(-length, length + 1, (places, filters), generator=generator(seed))
    least[:, ::3] = torch.randint(-2, 3, least[:, ::3].shape, generator=generator(seed + 1))
    least[:, 3::7], least[:, 4::7] = -length - 1, length + 1
    return least, torch.rand(least.shape, generator=generator(seed + 2)) < 0.5


@settings(max_examples=80)
@given(
    count=st.integers(0, 3),
    channels=CHANNELS,
    image=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    filters=FILTERS,
    size=PAIRS,
    stride=PAIRS,
    border=st.one_of(st.just((0, 0, 0, 0)), st.tuples(*[st.integers(0, 3)] * 4)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    of_places=st.booleans(),
    seed=SEEDS,
)
def test_bits_of_a_layer_are_those_of_whole_sums(
    count, channels, image, filters, size, stride, border, dilation, of_places, seed
):
    left, right, top, bottom = border
    for axis, more in ((0, top + bottom), (1, left + right)):  # the filter must fit
        if dilation[axis] * (size[axis] - 1) + 1 > image[axis] + more:
            size, dilation = (1, 1), (1, 1)
    signs, weight, place = draw(count, channels, *image, seed=seed), draw(filters, channels, *size, seed=seed + 1), None
    place = Place(stride, border, dilation)
    height, width = place.outputs(image, size)
    least, below = thresholds(filters, height * width if of_places else 1, channels * size[0] * size[1], seed)
    inverted = torch.rand(least.shape, generator=generator(seed + 3)) < 0.5
    to = np.arange(height * width) if of_places else None
    arranged = kernels.arrange(weight.float())
    found = bit_images.bits(
        images(signs), arranged, place, bit_images.cuts(arranged, image, place, least, below, inverted, to)
    )
    shape = (1, height, width, filters) if of_places else (1, 1, 1, filters)
    t, turned, opposite = (value.reshape(shape).permute(0, 3, 1, 2) for value in (least, below, inverted))
    expected = compared(whole_sums(signs, weight, place), t, turned) ^ opposite
    assert found.channels == filters and np.array_equal(found.words, packed(expected.int()))


@pytest.mark.parametrize("inputs", [1, 63, 64, 65, 800])
@pytest.mark.parametrize("rows", [1, 4, 129, 131])
def test_bits_of_a_linear_layer_are_those_of_whole_sums(inputs, rows):
    signs, weight = draw(rows, inputs, 1, 1, seed=1), draw(50, inputs, 1, 1, seed=2)
    least, below = thresholds(50, 1, inputs, 3)
    arranged = kernels.arrange(weight.float())
    cuts = bit_images.cuts(arranged, (1, 1), Place(), least, below)
    out = np.zeros((rows, 1, 1, 1), np.uint64)
    found = bit_images.bits(images(signs), arranged, Place(), cuts, out)
    expected = compared(signs[:, :, 0, 0] @ weight[:, :, 0, 0].T, least, below)
    assert found.words is out and np.array_equal(out, packed(expected.int()[:, :, None, None]))


@settings(max_examples=60)
@given(
    channels=CHANNELS,
    image=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    size=PAIRS,
    stride=PAIRS,
    padded=st.booleans(),
    dilation=st.sampled_from([(1, 1), (1, 2), (2, 1)]),
    ceil=st.booleans(),
    seed=SEEDS,
)
def test_pooled_bits_are_those_of_the_largest_value(channels, image, size, stride, padded, dilation, ceil, seed):
    border = (size[0] // 2, size[1] // 2) if padded else (0, 0)
    size = tuple(min(s, (i + 2 * b - 1) // d + 1) for s, i, b, d in zip(size, image, border, dilation, strict=True))
    border = tuple(min(b, s // 2) for b, s in zip(border, size, strict=True))
    window = Window(size, stride, border, dilation, ceil)
    values = torch.randint(-3, 4, (2, channels, *image), generator=generator(seed)).float()
    least, below = torch.randint(-1, 2, (1, channels, 1, 1), generator=generator(seed + 1)), None
    below = torch.rand(least.shape, generator=generator(seed + 2)) < 0.5
    expected = compared(functional.max_pool2d(values, size, stride, border, dilation, ceil), least, below)
    written = images((compared(values, least, below) ^ below).int())
    found = bit_images.pool(written, window, packed(below.int()).reshape(1, -1))
    assert np.array_equal(found.words, packed(expected.int()))


def test_bits_can_change_place_by_place_after_pooling():
    signs = draw(3, 70, 4, 6, seed=1)
    last = draw(1, 70, 2, 3, seed=2)
    pooled = functional.max_pool2d(signs.float(), 2).int() * -last
    found = bit_images.pool(images(signs), Window((2, 2), (2, 2)), packed(last).reshape(6, -1))
    assert np.array_equal(found.words, packed(pooled))


LAYOUTS = {
    "plain": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other column": lambda x: x.repeat_interleave(2, 3)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 20, 64, 65, 130])
def test_packed_floats_are_compared_with_their_thresholds(layout, channels):
    values = torch.randn(2, channels, 5, 7, generator=generator(0))
    t, below = torch.randn(channels, generator=generator(1)), torch.rand(channels, generator=generator(2)) < 0.5
    values[0, :, 0, 0] = t
    t[::4], t[1::4] = -torch.inf, torch.inf
    expected = packed(compared(values, t.reshape(-1, 1, 1), below.reshape(-1, 1, 1)).int())
    out = np.full_like(expected, 7)
    found = bit_images.pack(LAYOUTS[layout](values), t, below, out)
    assert found.words is out and np.array_equal(out, expected) and found.channels == channels
    rows = bit_images.pack(values[:, :, 1, 1], t, below)
    assert np.array_equal(rows.words[:, 0, 0], expected[:, 1, 1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_value_that_is_no_number_is_refused(layout):
    values = torch.zeros(2, 3, 4, 5)
    values[1, 2, 3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"^a value to pack is not a number \(NaN\): it has no sign$"):
        bit_images.pack(LAYOUTS[layout](values), torch.zeros(3), torch.zeros(3, dtype=torch.bool))


def test_an_image_smaller_than_the_filter_is_refused():
    arranged = kernels.arrange(draw(2, 3, 3, 3).float())
    with pytest.raises(ValueError, match=r"^an image of 2 x 5 with border \(0, 0, 0, 0\) is smaller than the filter"):
        bit_images.cuts(arranged, (2, 5), Place(), torch.zeros(1, 2).long(), torch.zeros(1, 2).bool())
