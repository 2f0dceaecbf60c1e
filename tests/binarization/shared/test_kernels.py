"""Counting bits against whole-number arithmetic: every shape, every threshold, with numba and without."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from lib.binarization.shared import kernels
from lib.binarization.shared.kernels import LayerShape, Place

INF, NAN = float("inf"), float("nan")
LENGTHS = st.one_of(st.integers(0, 140), st.sampled_from([63, 64, 65, 127, 128, 192, 256, 257, 1000]))
COUNTS = st.one_of(st.integers(0, 40), st.sampled_from([127, 128, 129, 131, 260]))
FILTERS = st.one_of(st.integers(0, 40), st.sampled_from([15, 16, 17, 32, 64]))
SEEDS = st.integers(0, 2**31)
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module", params=["compiled", "without numba"], autouse=True)
def path(request):
    """Each test runs on the compiled kernels, and on what stands in for them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "without numba":
            patch.setattr(kernels, "numba", None)
        kernels.available.cache_clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            assert kernels.available() == (request.param == "compiled")
        yield request.param
    kernels.available.cache_clear()


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.where(torch.rand(shape, generator=generator) < 0.5, -1.0, 1.0)


def words_by_hand(reached):
    """Bit k of word w is place 64 w + k; what fills the last word is 0."""
    rows, columns = reached.shape
    padded = np.zeros((rows, -(-columns // 64) * 64), dtype=bool)
    padded[:, :columns] = reached
    weights = np.uint64(1) << np.arange(64, dtype=np.uint64)
    return (padded.reshape(rows, padded.shape[1] // 64, 64) * weights).sum(2, dtype=np.uint64)


def raises(message, call):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


# -- packing -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(rows=COUNTS, length=LENGTHS, seed=SEEDS)
def test_signs_are_packed_bit_by_bit_and_come_back(rows, length, seed):
    signs = draw(rows, length, seed=seed)
    bits = kernels.pack(signs)
    assert bits.length == length and bits.words.dtype == np.uint64
    assert np.array_equal(bits.words, words_by_hand(signs.numpy() > 0))
    assert torch.equal(kernels.unpack(bits), signs)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=25)
@given(rows=st.integers(0, 9), columns=LENGTHS, turned=st.booleans(), seed=SEEDS)
def test_a_bit_says_whether_its_column_reaches_the_threshold(dtype, rows, columns, turned, seed):
    random = np.random.default_rng(seed)
    ends = np.array([-INF, INF, 0.0, -0.0, 1e-45, -1e-45, 3.4e38, 1.0])
    thresholds = np.where(random.random(columns) < 0.4, random.choice(ends, columns), random.normal(size=columns))
    thresholds = torch.from_numpy(thresholds).to(dtype).float()
    values = torch.from_numpy(random.normal(size=(rows, columns))).to(dtype)
    equal = torch.from_numpy(random.random((rows, columns)) < 0.3)
    values = torch.where(equal, thresholds.to(dtype), values)
    extreme = torch.from_numpy(random.choice(ends, (rows, columns))).to(dtype)
    values = torch.where(torch.from_numpy(random.random((rows, columns)) < 0.2), extreme, values)
    below = torch.from_numpy(random.random(columns) < 0.5) if turned else None
    x, t = values.double(), thresholds.double()
    expected = x >= t if below is None else torch.where(below, x <= t, x >= t)
    before = values.clone()
    found = kernels.pack(values, thresholds, below)
    assert np.array_equal(found.words, words_by_hand(expected.numpy())) and torch.equal(values, before)


def test_both_zeros_are_one_number_and_reach_each_other():
    zeros = torch.tensor([0.0, -0.0])
    for below in (None, torch.tensor([True, True])):
        for thresholds in (zeros, zeros.flip(0)):
            assert kernels.pack(zeros[None], thresholds, below).words.tolist() == [[3]]


def test_infinite_values_reach_infinite_thresholds_from_their_side():
    values, thresholds = torch.tensor([[-INF, INF] * 2]), torch.tensor([-INF, -INF, INF, INF])
    assert kernels.unpack(kernels.pack(values, thresholds)).tolist() == [[1, 1, -1, 1]]
    below = torch.ones(4, dtype=torch.bool)
    assert kernels.unpack(kernels.pack(values, thresholds, below)).tolist() == [[1, -1, 1, 1]]


def test_a_double_is_not_rounded_across_its_threshold():
    near = torch.tensor([[1 - 1e-12, 1.0, 1 + 1e-12, -1e-60, 1e-60]], dtype=torch.float64)
    thresholds = torch.tensor([1.0, 1, 1, 0, 0])
    assert kernels.unpack(kernels.pack(near, thresholds)).tolist() == [[-1, 1, 1, -1, 1]]
    below = torch.ones(5, dtype=torch.bool)
    assert kernels.unpack(kernels.pack(near, thresholds, below)).tolist() == [[1, 1, -1, 1, -1]]


def test_rows_of_any_layout_are_packed_as_their_copy_is():
    values, thresholds = torch.randn(70, 140, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 200)
    for view in (values.T, values[::2, 1::3], values[:1].expand(5, -1), values[:, :0], values.requires_grad_()):
        columns = view.shape[1]
        found = kernels.pack(view, thresholds[:columns])
        assert np.array_equal(found.words, kernels.pack(view.detach().clone(), thresholds[:columns].clone()).words)
    same = kernels.pack(values, torch.zeros(1).expand(140), torch.ones(1, dtype=torch.bool).expand(140))
    assert np.array_equal(same.words, words_by_hand(values.detach().numpy() <= 0))


# -- products ----------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(rows=COUNTS, filters=FILTERS, length=LENGTHS, seed=SEEDS)
def test_products_are_those_of_whole_numbers(rows, filters, length, seed):
    a, b = draw(rows, length, seed=seed), draw(filters, length, seed=seed + 1)
    expected = a.long() @ b.long().T
    bits, arranged = kernels.pack(a), kernels.arrange(b)
    for right in (arranged, kernels.pack(b)):
        found = kernels.product(bits, right)
        assert found.dtype == torch.int32 and torch.equal(found.long(), expected)
        found = kernels.product(bits, right, dtype=torch.float32)
        assert found.dtype == torch.float32 and torch.equal(found.long(), expected)
    assert torch.equal(kernels.linear(a, arranged), expected.float())


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 16, 64), (3, 15, 63), (129, 17, 65), (128, 16, 4096), (5, 33, 1025)])
def test_the_largest_products_are_the_length(shape):
    rows, filters, length = shape
    ones, filters_of_ones = torch.ones(rows, length), kernels.arrange(torch.ones(filters, length))
    assert (kernels.product(kernels.pack(ones), filters_of_ones) == length).all()
    assert (kernels.product(kernels.pack(-ones), filters_of_ones) == -length).all()


def test_a_product_beyond_the_whole_numbers_of_float32_is_exact_in_int32():
    length = 2**24 + 1
    words = np.full((1, -(-length // 64)), 2**64 - 1, dtype=np.uint64)
    words[0, -1] = 1
    bits = kernels.Bits(words, length)
    assert kernels.product(bits, bits).tolist() == [[length]]


@pytest.mark.parametrize("shape", [(5,), (0, 5), (1, 5), (2, 3, 5), (2, 0, 5), (0,), (3, 0)])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_a_linear_layer_keeps_what_comes_before_the_last_dimension(shape, count):
    x, weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)), draw(count, shape[-1])
    thresholds = torch.linspace(-0.5, 0.5, shape[-1])
    found = kernels.linear(x, kernels.arrange(weight), thresholds)
    assert found.shape == (*shape[:-1], count) and found.dtype == torch.float32
    assert torch.equal(found, torch.where(x >= thresholds, 1.0, -1.0) @ weight.T)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32])
def test_a_product_can_be_written_to_memory_that_is_given(dtype):
    a, b = draw(9, 70, seed=1), draw(17, 70, seed=2)
    out = torch.full((9, 17), 7, dtype=dtype)
    found = kernels.product(kernels.pack(a), kernels.arrange(b), dtype=dtype, out=out)
    assert found is out and torch.equal(out, (a @ b.T).to(dtype))
    for wrong in (torch.empty(9, 16, dtype=dtype), torch.empty(9, 17).double(), torch.empty(17, 9, dtype=dtype).T):
        message = r"^out has the shape .*: it must be contiguous, on the CPU, \(9, 17\) of torch\..*$"
        raises(
            message, lambda wrong=wrong: kernels.product(kernels.pack(a), kernels.arrange(b), dtype=dtype, out=wrong)
        )


# -- convolution -------------------------------------------------------------------------------------------------------


def whole_convolution(signs, weight, stride, border, dilation):
    """In whole numbers, which torch adds without its fast kernels for floats."""
    return functional.conv2d(functional.pad(signs.long(), border), weight.long(), None, stride, 0, dilation).float()


LAYOUTS = {
    "plain": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other column": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "turned": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "part of the channels": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "one value for all": lambda x: x[:1, :, :1, :1].expand(x.shape) if x.numel() else x,
}


@settings(max_examples=80)
@given(
    count=st.integers(0, 3),
    channels=st.sampled_from([1, 2, 20, 63, 64, 65, 130]),
    image=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    filters=st.sampled_from([1, 3, 16, 18, 33]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    border=st.one_of(st.just((0, 0, 0, 0)), st.tuples(*[st.integers(0, 3)] * 4)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    layout=st.sampled_from(list(LAYOUTS)),
    turned=st.booleans(),
    seed=SEEDS,
)
def test_a_convolution_is_that_of_torch_on_signs(
    count, channels, image, filters, size, stride, border, dilation, layout, turned, seed
):
    left, right, top, bottom = border
    for axis, more in ((0, top + bottom), (1, left + right)):  # the filter must fit
        if dilation[axis] * (size[axis] - 1) + 1 > image[axis] + more:
            size, dilation = (1, 1), (1, 1)
    generator = torch.Generator().manual_seed(seed)
    x = LAYOUTS[layout](torch.randn(count, channels, *image, generator=generator))
    thresholds = torch.randn(channels, generator=generator) / 2
    below = torch.rand(channels, generator=generator) < 0.5 if turned else None
    t = thresholds.reshape(-1, 1, 1)
    reached = x >= t if below is None else torch.where(below.reshape(-1, 1, 1), x <= t, x >= t)
    weight = draw(filters, channels, *size, seed=seed)
    place = {"stride": stride, "border": border, "dilation": dilation}
    expected = whole_convolution(torch.where(reached, 1, -1), weight, **place)
    arranged = kernels.arrange(weight)
    found = kernels.convolution(x, arranged, thresholds, below, **place)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
    bounds = kernels.bounds(thresholds, torch.zeros(channels, dtype=torch.bool) if below is None else below)
    found = kernels.convolution_of_floats(x, arranged, *bounds, place=Place(**place))
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize("channels", [1, 20, 63, 64, 65, 130])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 5), (5, 2)])
def test_signs_need_no_thresholds_whatever_the_channels(channels, size):
    signs, weight = draw(2, channels, 6, 7, seed=1), draw(17, channels, *size, seed=2)
    for border in ((0, 0, 0, 0), (1, 1, 1, 1), (0, 3, 2, 0)):
        place = {"stride": (1, 2), "border": border, "dilation": (1, 1)}
        expected = whole_convolution(signs, weight, **place)
        assert torch.equal(kernels.convolution(signs, kernels.arrange(weight), **place), expected)


# Here torch's convolutions of floats are wrong on some processors: one channel and, along the width, a stride and one
# output column.
NARROW = [((2, 3), (1, 3), (1, 2)), ((5, 3), (3, 2), (1, 2)), ((6, 2), (3, 2), (1, 3)), ((8, 6), (4, 5), (2, 3))]


@pytest.mark.parametrize("filters", [1, 8, 18, 34])
@pytest.mark.parametrize(("image", "size", "stride"), NARROW)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_one_channel_and_one_column_are_right_on_any_processor(count, image, size, stride, filters):
    signs, weight = draw(count, 1, *image, seed=1), draw(filters, 1, *size, seed=2)
    for border in ((0, 0, 0, 0), (0, 0, 1, 1), (1, 0, 0, 1)):
        place = {"stride": stride, "border": border, "dilation": (1, 1)}
        expected = whole_convolution(signs, weight, **place)
        for x in (signs, signs.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)):
            arranged = kernels.arrange(weight)
            assert torch.equal(kernels.convolution(x, arranged, **place), expected)
            assert torch.equal(
                kernels.convolution_of_floats(x, arranged, torch.zeros(1), place=Place(**place)), expected
            )


@pytest.mark.parametrize(("image", "size", "stride"), NARROW)
def test_a_real_layer_reads_the_sums_of_one_filter_right(image, size, stride):
    sums = kernels.convolution(draw(3, 20, *image, seed=1), kernels.arrange(draw(1, 20, 1, 1, seed=2)))
    weight = draw(34, 1, *size, seed=3)
    found = functional.conv2d(sums, weight, None, stride)
    assert torch.equal(found.long(), functional.conv2d(sums.long(), weight.long(), None, stride))


def test_a_border_larger_than_the_image_adds_zeros():
    signs, weight = draw(2, 5, 1, 2, seed=1), draw(4, 5, 3, 3, seed=2)
    for border in ((7, 0, 0, 9), (8, 8, 8, 8), (0, 4, 5, 0)):
        place = {"stride": (1, 1), "border": border, "dilation": (1, 1)}
        expected = whole_convolution(signs, weight, **place)
        assert torch.equal(kernels.convolution(signs, kernels.arrange(weight), **place), expected)


def test_what_a_border_adds_is_kept_for_each_size_and_place():
    weight = draw(6, 20, 3, 3, seed=3)
    arranged = kernels.arrange(weight)
    sizes = [(5, 5), (7, 4), (5, 5), (4, 7)]
    places = [((1, 1), (1, 1, 1, 1), (1, 1)), ((2, 1), (1, 1, 1, 1), (1, 1)), ((1, 1), (2, 0, 1, 2), (2, 1))]
    for stride, border, dilation in places * 2:
        for seed, size in enumerate(sizes):
            signs, place = draw(2, 20, *size, seed=seed), {"stride": stride, "border": border, "dilation": dilation}
            expected = whole_convolution(signs, weight, **place)
            assert torch.equal(kernels.convolution(signs, arranged, **place), expected)


@pytest.mark.parametrize("border", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_no_image_gives_no_sums(border):
    found = kernels.convolution(torch.zeros(0, 5, 6, 7), kernels.arrange(draw(3, 5, 3, 3)), border=border)
    assert found.shape == (0, 3, 4 + 2 * border[0], 5 + 2 * border[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_of_every_type_of_float_are_read(dtype):
    x = torch.randn(2, 20, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    weight = draw(5, 20, 3, 3)
    expected = whole_convolution(torch.where(x >= 0.25, 1, -1), weight, (1, 1), (1, 1, 1, 1), (1, 1))
    thresholds = torch.full((20,), 0.25)
    assert torch.equal(kernels.convolution(x, kernels.arrange(weight), thresholds, border=(1, 1, 1, 1)), expected)
    assert torch.equal(
        kernels.linear(x[:, :, 0, 0], kernels.arrange(weight[:, :, 0, 0]), thresholds),
        (torch.where(x[:, :, 0, 0] >= 0.25, 1.0, -1.0) @ weight[:, :, 0, 0].T),
    )


@pytest.mark.parametrize("groups", [2, 6])
def test_torch_multiplies_the_signs_of_all_groups_at_once(groups):
    signs, weight = draw(2, 6, 5, 7, seed=1), draw(12, 6 // groups, 3, 3, seed=2)
    found = kernels.convolution_of_floats(
        signs, kernels.arrange(weight), torch.zeros(6), place=Place(border=(1, 1, 1, 1)), groups=groups
    )
    assert torch.equal(found, functional.conv2d(signs.long(), weight.long(), None, 1, 1, 1, groups).float())


@pytest.mark.parametrize("axis", [1, -1])
def test_values_at_their_bounds_are_signs_on_the_right_side(axis):
    t = torch.tensor([0.0, 1.5, -1e-45, 3e38, -INF, INF])
    near = torch.stack([torch.nextafter(t[:4], torch.tensor(-INF)), t[:4], torch.nextafter(t[:4], torch.tensor(INF))])
    x = torch.cat([near, torch.tensor([[-1e30, 7.0], [0.0, -7.0], [1e30, 0.5]])], 1)
    for below in (torch.zeros(6).bool(), torch.tensor([True, False, True, True, False, False]), torch.ones(6).bool()):
        below[4:] = False  # constant thresholds are never reached from above
        expected = torch.where(torch.where(below, x <= t, x >= t), 1.0, -1.0)
        shaped = x[:, :, None].repeat(1, 1, 2) if axis == 1 else x[:, None].repeat(1, 2, 1)
        found = kernels.as_signs(shaped, *kernels.bounds(t, below), axis=axis)
        assert torch.equal(found.select(2 if axis == 1 else 1, 1), expected)


def test_signs_of_no_number_are_refused_but_those_of_infinity_are_not():
    x = torch.tensor([[INF, -INF, 0.0]])
    assert kernels.as_signs(x, torch.zeros(3)).tolist() == [[1, -1, 1]]
    x[0, 2] = NAN
    raises(r"^a value to pack is not a number \(NaN\): it has no sign$", lambda: kernels.as_signs(x, torch.zeros(3)))


# -- which is faster ---------------------------------------------------------------------------------------------------


COSTS = np.array([9e3, 0.3, 2.0, 1.5, 1.2, 0.1]), np.array([2e4, 0.5, 0.2, 4.0, 0.3])


@pytest.fixture
def by_costs(monkeypatch):
    """Layers that take just what some costs say; the list of what was timed."""
    timed = []

    def both(shape):
        timed.append(shape)
        return tuple(float(costs @ counts) for costs, counts in zip(COSTS, shape.counts(), strict=True))

    def forget():
        kernels._measured.cache_clear()
        kernels._bits_win.cache_clear()

    monkeypatch.setattr(kernels, "_both", both)
    forget()
    yield timed
    forget()


def test_the_model_of_the_time_finds_the_costs_it_is_given(by_costs):
    found = kernels.crossover()
    assert kernels.crossover() is found and by_costs == kernels.FITTED
    for shape in (
        LayerShape((7, 300), (50, 300)),
        LayerShape((2, 40, 9, 8), (33, 40, 3, 3), Place(border=(1, 1, 1, 1))),
        LayerShape((1, 1, 9, 8), (3, 1, 5, 5)),
    ):
        bits, floats = shape.counts()
        assert found.ratio(shape) == pytest.approx((COSTS[1] @ floats) / (COSTS[0] @ bits), rel=1e-3)


def test_what_is_not_clear_is_timed_once(by_costs):
    model = kernels.crossover()
    shapes = [LayerShape((n, 8 * n), (2 * n, 8 * n)) for n in (1, 100, 400)]
    shapes += [LayerShape((1, n, 8, 8), (n, 1, 3, 3), Place(border=(1, 1, 1, 1)), groups=n) for n in (1, 2, 4, 64)]
    ratios = [model.ratio(shape) for shape in shapes]
    by_costs.clear()
    assert [kernels.bits_win(shape) for shape in 2 * shapes] == 2 * [ratio > 1 for ratio in ratios]
    unclear = [s for s, ratio in zip(shapes, ratios, strict=True) if 0.4 < ratio < 2.5]
    assert by_costs == unclear and 0 < len(unclear) < len(shapes) and min(ratios) < 1 < max(ratios)


def test_counts_of_a_layer_are_those_by_hand():
    bits, floats = LayerShape((2, 70, 9, 8), (20, 70, 3, 3), Place((2, 2), (0, 1, 0, 1))).counts()
    assert bits.tolist() == [1, 2 * 72 * 70, 2 * 72 * 2, 32 * 9 * 2, 32 * 10 * 2, 32 * 20]
    assert floats.tolist() == [1, 2 * 72 * 70, 20 * 630, 32 * 9 * 5 * 2, 32 * 20]
    bits, floats = LayerShape((3, 24, 5, 5), (12, 8, 1, 1), groups=3).counts()
    assert bits.tolist() == [3, 3 * 75 * 8, 3 * 75, 3 * 75, 3 * 75, 3 * 75 * 4]
    assert floats.tolist() == [1, 75 * 24, 12 * 8, 3 * 75 * 8 * 4 / 256, 75 * 12]


@pytest.mark.parametrize("groups", [1, 2])
def test_both_ways_of_a_layer_take_time(groups):
    for shape in (
        LayerShape((2, 9), (4, 9)),
        LayerShape((2, 4, 5, 6), (6, 4 // groups, 3, 3), Place((1, 2), (1, 1, 0, 0)), groups),
    ):
        assert all(0 < time < 1e9 for time in kernels._both(shape))


def test_a_large_layer_is_faster_on_bits_than_with_floats(path):
    if path == "compiled":
        large = LayerShape((64, 4096), (4096, 4096))
        assert kernels.crossover().ratio(large) > 2 and kernels.bits_win(large)
        assert kernels.bits_win(LayerShape((4, 256, 14, 14), (256, 256, 3, 3), Place(border=(1, 1, 1, 1))))


# -- without numba -----------------------------------------------------------------------------------------------------


def test_what_is_missing_is_said_once(path):
    kernels.available.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            kernels.product(kernels.pack(draw(2, 5)), kernels.arrange(draw(3, 5)))
    said = [(each.category, "pip install numba" in str(each.message)) for each in said]
    assert said == ([] if path == "compiled" else [(RuntimeWarning, True)])


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [0.0, -0.0, 0.5, 1.0000001, -2.0, INF])
def test_other_values_than_signs_need_thresholds(odd):
    signs = draw(3, 70)
    signs[1, 66] = odd
    message = rf"^{odd:g} is not a sign: binarize the values first, or give thresholds$"
    raises(message, lambda: kernels.pack(signs))
    raises(message, lambda: kernels.arrange(signs))
    raises(message, lambda: kernels.convolution(signs.reshape(1, 3, 7, 10), kernels.arrange(draw(2, 3, 2, 2))))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", [(0, 0), (2, 63), (1, 64), (2, 69)])
def test_what_is_not_a_number_has_no_sign(dtype, place):
    values = torch.randn(3, 70, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[place] = NAN
    message = r"^a value to pack is not a number \(NaN\): it has no sign$"
    for below in (None, torch.arange(70) % 2 == 0):
        raises(message, lambda below=below: kernels.pack(values, torch.zeros(70), below))
    raises(message, lambda: kernels.linear(values, kernels.arrange(draw(2, 70)), torch.full((70,), -INF)))
    image, filters = values.reshape(1, 3, 7, 10), kernels.arrange(draw(2, 3, 2, 2))
    raises(message, lambda: kernels.convolution(image, filters, torch.zeros(3)))
    raises(" is not a sign: binarize", lambda: kernels.pack(values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.ones(2, 3, dtype=torch.int64), "^values must be rows of floats, not a 2-d tensor of torch.int64$"),
        (torch.ones(2, 3, dtype=torch.bool), "^values must be rows of floats, not a 2-d tensor of torch.bool$"),
        (torch.ones(3), "^values must be rows of floats, not a 1-d tensor of torch.float32$"),
        (torch.ones(2, 3, 4), "^values must be rows of floats, not a 3-d tensor of torch.float32$"),
    ],
)
def test_only_rows_of_floats_are_packed(values, message):
    raises(message, lambda: kernels.pack(values))
    raises(message, lambda: kernels.pack(values, torch.zeros(values.shape[-1])))


@pytest.mark.parametrize("given", [torch.zeros(4), torch.zeros(6), torch.zeros(1, 5), torch.zeros(()), torch.zeros(1)])
def test_there_is_one_threshold_for_each_column(given):
    values, message = torch.zeros(2, 5), f"^{{}} has the shape {tuple(given.shape)} and the type".replace("(", r"\(")
    message = message.replace(")", r"\)")
    raises(message.format("thresholds"), lambda: kernels.pack(values, given))
    raises(message.format("below"), lambda: kernels.pack(values, torch.zeros(5), given.bool()))


def test_thresholds_are_float32_and_below_is_bool():
    for dtype in (torch.float64, torch.float16, torch.int64):
        thresholds = torch.zeros(5, dtype=dtype)
        raises(
            f"^thresholds .*{dtype}: it must be one torch.float32 for each of 5 columns$",
            lambda thresholds=thresholds: kernels.pack(torch.zeros(2, 5), thresholds),
        )
    message = "^below .*: it must be one torch.bool for"
    raises(message, lambda: kernels.pack(torch.zeros(2, 5), torch.zeros(5), torch.zeros(5)))


def test_only_packed_operands_of_one_length_are_multiplied():
    a, b = draw(2, 70), draw(3, 70)
    bits, filters = kernels.pack(a), kernels.arrange(b)
    raises("^a must be packed bits, not a tensor of torch.float32: pack it first$", lambda: kernels.product(a, b))
    raises("^a must be packed bits, not a ndarray", lambda: kernels.product(bits.words, filters))
    raises("^a must be packed bits, not a Filters", lambda: kernels.product(filters, filters))
    raises("^filters must be arranged or packed, not a tensor of torch.float32", lambda: kernels.product(bits, b))
    short = "^rows of 70 signs meet filters of 69: they must be equally long$"
    raises(short, lambda: kernels.product(bits, kernels.arrange(b[:, :69])))
    raises(short, lambda: kernels.product(bits, kernels.pack(b[:, :69])))
    raises(short, lambda: kernels.linear(a, kernels.arrange(b[:, :69])))
    for dtype in (torch.int64, torch.float64, torch.float16, None):
        message = f"^dtype must be torch.int32 or torch.float32, not {dtype}$"
        raises(message, lambda dtype=dtype: kernels.product(bits, filters, dtype=dtype))


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (1, 2, 3, 2, 2)])
def test_weights_of_other_dimensions_are_not_arranged(shape):
    message = f"^the weight has {len(shape)} dimensions: accepted are 2 .linear. and 4 .2-d convolution.$"
    raises(message, lambda: kernels.arrange(draw(*shape)))


def test_images_must_fit_the_filters():
    filters = kernels.arrange(draw(4, 5, 3, 3))
    for shape in ((2, 4, 6, 6), (2, 6, 6, 6), (5, 6, 6), (2, 5, 6)):
        message = "^images of shape .* both need four dimensions, and the same number of channels$"
        raises(message, lambda shape=shape: kernels.convolution(draw(*shape), filters))
    raises("^images of shape", lambda: kernels.convolution(draw(2, 5, 6, 6), kernels.arrange(draw(4, 5))))
    for size, options in (
        ((2, 6), {}),
        ((6, 2), {}),
        ((4, 6), {"dilation": (2, 1)}),
        ((1, 1), {"border": (2, 2, 1, 0)}),
    ):
        message = rf"^an image of {size[0]} x {size[1]} with border .* is smaller than the filter \(3, 3\)$"
        raises(message, lambda size=size, options=options: kernels.convolution(draw(1, 5, *size), filters, **options))
    raises("^thresholds has the shape", lambda: kernels.convolution(draw(1, 5, 6, 6), filters, torch.zeros(6)))


@pytest.mark.parametrize("path", ["compiled"], indirect=True)  # another process: once is enough
def test_a_processor_without_wide_vectors_gives_the_same_products(tmp_path):
    code = """
import torch
from lib.binarization.shared import kernels
draw = torch.Generator().manual_seed(0)
a, b = torch.randn(9, 130, generator=draw).sign(), torch.randn(21, 130, generator=draw).sign()
assert torch.equal(kernels.product(kernels.pack(a), kernels.pack(b)), (a @ b.T).int())
x, w = torch.randn(2, 70, 5, 6, generator=draw), torch.randn(17, 70, 3, 3, generator=draw).sign()
found = kernels.convolution(x, kernels.arrange(w), torch.zeros(70), border=(1, 1, 1, 1))
assert torch.equal(found.long(), torch.nn.functional.conv2d(x.sign().long(), w.long(), padding=1))
"""
    plain = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | plain, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
