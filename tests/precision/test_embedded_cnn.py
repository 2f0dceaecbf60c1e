"""Integer networks: against plain Python integers, against exact float64, against their float twin, and in a file."""

import copy
import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from lib import measure, models, storage
from lib.datasets import Split
from lib.precision import embedded_cnn, fixed_point
from lib.precision.shared import integers
from lib.vision import torchvision


def codes(shape, *, bits=16, seed=0):
    return np.random.default_rng(seed).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.int16)


def images(n=3, channels=1, side=28, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(n, channels, side, side, generator=generator), torch.zeros(n, dtype=torch.long))


def settled(value, shift, bits):
    """What is kept of a sum, in Python's integers, which have no end."""
    if shift > 0:
        value = (value + 2 ** (shift - 1)) // 2**shift
    else:
        value *= 2**-shift
    return min(max(value, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)


def by_hand(x, kernel, bias, *, stride, padding, dilation, groups, shift, bits):
    """The convolution in Python's integers, one product after the other."""
    n, _, height, width = x.shape
    outputs, inputs, kh, kw = kernel.shape
    rows = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = np.zeros((n, outputs, rows, columns), np.int64)
    for i, o, y, x_ in product(*map(range, out.shape)):
        total = int(bias[o])
        for c, ky, kx in product(range(inputs), range(kh), range(kw)):
            row = y * stride[0] + ky * dilation[0] - padding[0]
            column = x_ * stride[1] + kx * dilation[1] - padding[1]
            if 0 <= row < height and 0 <= column < width:
                total += int(kernel[o, c, ky, kx]) * int(x[i, o // (outputs // groups) * inputs + c, row, column])
        assert -(2**31) <= total < 2**31
        out[i, o, y, x_] = settled(total, shift, bits)
    return out


@pytest.mark.parametrize("shift", [-3, 0, 1, 9])
@pytest.mark.parametrize(
    ("shape", "kernel", "how"),
    [
        ((2, 1, 6, 7), (3, 1, 3, 3), {}),
        ((1, 4, 5, 5), (2, 4, 2, 3), {"padding": (1, 2)}),
        ((1, 4, 8, 9), (8, 1, 3, 3), {"groups": 4, "stride": (2, 2)}),
        ((1, 4, 9, 8), (6, 2, 2, 2), {"groups": 2, "stride": (3, 1), "dilation": (2, 3)}),
        ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ],
)
def test_the_convolution_is_that_of_python_integers(shape, kernel, how, shift):
    x, k = codes(shape), codes(kernel, bits=11, seed=1)
    bias = np.array([(-1) ** i * 1000 * i for i in range(kernel[0])], np.int32)
    full = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1} | how
    for bits in (8, 16):
        found = integers.convolve(x, k, bias, shift=shift, bits=bits, **how)
        assert found.dtype == np.int16
        np.testing.assert_array_equal(found, by_hand(x, k, bias, shift=shift, bits=bits, **full))
    if shift == 0:
        sums = integers.convolve(x, k, bias, **how)
        assert sums.dtype == np.int32
        np.testing.assert_array_equal(sums, by_hand(x, k, bias, shift=0, bits=32, **full))


def test_maps_larger_than_a_block_are_exact():
    x, k = codes((1, 2, 70, 90)), codes((3, 2, 5, 5), bits=9, seed=1)
    exact = nn.functional.conv2d(torch.from_numpy(x).double(), torch.from_numpy(k).double())  # below 2^53
    np.testing.assert_array_equal(integers.convolve(x, k, np.zeros(3, np.int32)), exact.long().numpy())


def test_shapes_that_do_not_fit_are_refused():
    k, bias = codes((2, 3, 3, 3)), np.zeros(2, np.int32)
    with pytest.raises(ValueError, match="4 maps meet a kernel of 2 x 3 in 1 groups with 2 biases: 3 maps are needed"):
        integers.convolve(codes((1, 4, 5, 5)), k, bias)
    with pytest.raises(ValueError, match="maps of 2 x 5 are too small for a kernel of 3 x 3"):
        integers.convolve(codes((1, 3, 2, 5)), k, bias)


@pytest.mark.parametrize(("stride", "side"), [(1, 9), (2, 12), (1, 10)])
def test_fused_sums_are_the_sums_of_four_before_the_shift(stride, side):
    x, k = codes((2, 3, side, side)), codes((4, 3, 3, 3), bits=8, seed=1)
    apart = integers.convolve(x, k, np.zeros(4, np.int32), stride=(stride, stride)).astype(np.int64)
    rows, columns = (n // 2 * 2 for n in apart.shape[2:])
    apart = apart[:, :, :rows, :columns].reshape(2, 4, rows // 2, 2, columns // 2, 2).sum((3, 5))
    wide = embedded_cnn.fused_kernel(torch.from_numpy(k), step=stride).numpy()
    assert wide.shape == (4, 3, 3 + stride, 3 + stride) and wide.dtype == np.int16
    fused = integers.convolve(x, wide, np.zeros(4, np.int32), stride=(2 * stride,) * 2)
    np.testing.assert_array_equal(fused, apart)


@pytest.mark.parametrize("side", [28, 29, 31])
@pytest.mark.parametrize(
    "how", [{}, {"padding": 2}, {"stride": 2}, {"groups": 2, "bias": False}, {"padding": (0, 1), "stride": 1}]
)
def test_fused_floats_are_convolution_and_mean(how, side):
    torch.manual_seed(0)
    scale = nn.Conv2d(6, 6, 1, groups=6, bias="bias" not in how)
    model = nn.Sequential(nn.Conv2d(2, 6, 5, **how), nn.AvgPool2d(2), scale, nn.Tanh())
    small, x = embedded_cnn.fuse(model), images(2, 2, side).images
    assert [type(layer) for layer in small] == [nn.Conv2d, nn.Tanh]
    torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-5)
    assert model[0].kernel_size == (5, 5)


def test_fusing_needs_36_multiply_adds_where_100_were():
    model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.AvgPool2d(2))
    before, after = (measure.multiply_adds(each, (1, 28, 28)) for each in (model, embedded_cnn.fuse(model)))
    assert before == 4 * 24 * 24 * 25 and after == 4 * 12 * 12 * 36


def test_what_cannot_be_fused_stays():
    model = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 2, 3, dilation=2), nn.AvgPool2d(2), nn.Conv2d(2, 2, 1))
    small = embedded_cnn.fuse(model)
    assert len(small) == 4
    assert torch.equal(small(images().images), model(images().images))


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
@pytest.mark.parametrize("entries", [4, 7, 10])
def test_the_table_of_tanh_keeps_its_bound(bits, entries):
    every = np.arange(-(2**15), 2**15).astype(np.int16)
    table, highest = integers.tanh_table(bits, entries), 2 ** (bits - 1) - 1
    assert len(table) == 2**entries + 1
    found = integers.tanh(every, table, 0, highest)
    exact = np.tanh(every / 2.0**integers.TANH_FRACTION)
    error = np.abs(found / 2.0 ** (bits - 1) - exact)
    inside = np.abs(exact) <= 1 - 2.0**-bits  # beyond, the result is the largest code
    h = 2.0 ** (3 - entries)
    bound = 2.0**-bits * (1 + 4 / 2**integers.GUARD) + h * h / 8 * 4 / (3 * math.sqrt(3))
    assert error[inside].max() <= bound <= integers.tanh_error(bits, entries)
    assert error.max() <= integers.tanh_error(bits, entries)
    np.testing.assert_array_equal(found[1:], -found[1:][::-1])  # odd
    assert (np.diff(found.astype(int)) >= 0).all()


def test_tanh_reads_codes_of_other_fractions():
    table = integers.tanh_table(16)
    every = np.arange(-(2**15), 2**15, 7).astype(np.int16)
    for fraction in (17, 14, 11, 6, -4):
        shift = fraction - integers.TANH_FRACTION
        found = integers.tanh(every, table, shift, 2**15 - 1) / 2.0**15
        rounding = 2.0**-13 if shift > 0 else 0
        assert np.abs(found - np.tanh(every / 2.0**fraction)).max() <= rounding + integers.tanh_error(16, 10)


def test_pooling_is_that_of_integers():
    x = codes((2, 3, 5, 7))
    exact = x[:, :, :4, :6].astype(np.int64).reshape(2, 3, 2, 2, 3, 2).sum((3, 5))
    np.testing.assert_array_equal(integers.mean_pool(x), (exact + 2) // 4)
    for size, stride, padding in ((2, 2, 0), (3, 2, 0), (3, 2, 1)):
        found = integers.max_pool(x, size=size, stride=stride, padding=padding)
        expected = nn.functional.max_pool2d(torch.from_numpy(x).double(), size, stride, padding)
        np.testing.assert_array_equal(found, expected.long().numpy())


@pytest.mark.parametrize(
    ("peak", "bits", "expected"), [(1, 16, 14), (0.99, 8, 7), (0.9999, 8, 6), (7.9, 16, 12), (0, 8, 30)]
)
def test_a_fraction_leaves_room_for_the_peak(peak, bits, expected):
    assert integers.fraction(peak, bits) == expected


def exactly(network, x):
    """What an integer network computes, by exact float64 convolutions and the same rules: a second implementation."""
    fraction, bits = int(network.input), network.bits
    x = torch.floor(x.double() * 2.0**fraction + 0.5).clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    table = torch.from_numpy(integers.tanh_table(bits)).double()
    for step in network.steps:
        if isinstance(step, embedded_cnn.IntegerSum):
            before, kernel, after, width = step.formats.tolist()
            if step.linear:
                x = nn.functional.linear(x, step.kernel[:, :, 0, 0].double(), step.bias.double())
            else:
                x = nn.functional.conv2d(x, step.kernel.double(), step.bias.double(), **step.how)
            assert x.abs().max() < 2**31
            shift, fraction = before + kernel - after, after
            x = torch.floor(x / 2.0**shift + (0.5 if shift > 0 else 0)).clamp(-(2 ** (width - 1)), 2 ** (width - 1) - 1)
        elif isinstance(step, nn.Tanh):
            shift = fraction - 12
            size = torch.floor(x / 2.0**shift + (0.5 if shift > 0 else 0)).clamp(-32767, 32767)
            low = torch.floor(size.abs() / 32)
            straight = table[low.long()] + torch.floor(
                (table[low.long() + 1] - table[low.long()]) * (size.abs() - 32 * low) / 32
            )
            x = torch.floor((straight + 128) / 256).clamp(max=2 ** (bits - 1) - 1) * size.sign()
            fraction = bits - 1
        elif isinstance(step, nn.AvgPool2d):
            x = torch.floor((4 * step(x) + 2) / 4)
        else:
            x = step(x)
    return x.float() * 2.0**-fraction


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("fused", [False, True])
def test_the_face_finder_in_integers_is_exact(bits, fused):
    model = embedded_cnn.face_finder(0)
    model = embedded_cnn.fuse(model) if fused else model
    network, x = embedded_cnn.integer(model, images(4), bits=bits), images(3, seed=1).images
    assert torch.equal(network(x), exactly(network, x))


@pytest.mark.parametrize("build", [models.lenet5, models.lenet_300_100])
def test_the_baselines_in_integers_are_exact_and_near_their_float_twins(build):
    model, data = build(0), images(4)
    network = embedded_cnn.integer(model, data)
    x = images(2, seed=1).images
    assert torch.equal(network(x), exactly(network, x))
    with torch.no_grad():
        assert (network(x) - model(x)).abs().max() < 0.01 * model(x).abs().max()


def test_parts_of_torchvision_in_integers():
    model = torchvision.models.alexnet().features
    network, x = embedded_cnn.integer(model, images(2, 3, 64)), images(1, 3, 64, seed=1).images
    with torch.no_grad():
        exact = model(x)
    assert torch.equal(network(x), exactly(network, x))
    assert (network(x) - exact).abs().max() < 0.05 * exact.abs().max()  # many inputs: bits are given up
    with pytest.raises(ValueError, match="BatchNorm2d"):
        embedded_cnn.integer(torchvision.models.vgg11_bn().features, images(1, 3, 64))


def test_no_sum_overflows_whatever_comes_in():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
    nn.init.constant_(model[1].weight, 0.999)
    network = embedded_cnn.integer(model, images(2))
    step = network.steps[1]
    bound = np.abs(step.kernel.numpy().astype(np.int64)).sum((1, 2, 3)) * 2**15 + np.abs(step.bias.numpy())
    assert (bound < 2**31).all()
    assert step.formats[1] < 15  # bits were given up for it
    worst = torch.full((1, 1, 28, 28), -1e9)
    assert torch.equal(network(worst), exactly(network, worst))


@pytest.mark.parametrize("bits", [8, 16])
def test_the_file_of_an_integer_network_comes_back(bits, tmp_path):
    network = embedded_cnn.integer(embedded_cnn.fuse(embedded_cnn.face_finder(0)), images(), bits=bits)
    other = embedded_cnn.integer(embedded_cnn.fuse(embedded_cnn.face_finder(1)), images(seed=5), bits=bits)
    weights = sum(p.numel() for p in embedded_cnn.fuse(embedded_cnn.face_finder(0)).parameters() if p.dim() > 1)
    size = storage.save(network, tmp_path / "network.slim")
    assert weights * bits / 8 < size < weights * bits / 8 + 350
    storage.load(tmp_path / "network.slim", other)
    assert torch.equal(other(images(seed=2).images), network(images(seed=2).images))
    assert {value.dtype for value in network.state_dict().values()} <= {torch.int8, torch.int16, torch.int32}


def test_the_network_slides_over_a_larger_image():
    model = embedded_cnn.face_finder(0)
    assert measure.parameters(model) == 1172
    large = torch.rand(1, 1, 36, 32, generator=torch.Generator().manual_seed(0))
    maps = model(large).reshape(10, 3, 2)
    torch.testing.assert_close(maps[:, 1, 1], model(large[:, :, 4:32, 4:32])[0], rtol=0, atol=1e-5)
    network = embedded_cnn.integer(embedded_cnn.fuse(model), images())
    assert torch.equal(network(large).reshape(10, 3, 2)[:, 2, 0], network(large[:, :, 8:36, 0:28])[0])


def test_memory_is_that_of_the_tensors_that_are_held():
    model, data = (
        nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)),
        images(1, 1, 4),
    )
    assert embedded_cnn.memory_bytes(model, data.images) == (4 * (18 + 24 + 3), 4 * (16 + 8))
    network = embedded_cnn.integer(model, data)
    held = 2 * (18 + 24) + 4 * (2 + 3) + 2 * 2 * 4 + 2  # kernels, biases, two times four formats, the input's
    assert embedded_cnn.memory_bytes(network, data.images) == (held, 2 * (16 + 8))
    doubled = fixed_point.quantize(copy.deepcopy(model), fixed_point.Format(4, 12))
    assert embedded_cnn.memory_bytes(doubled, data.images)[0] == 4 * (2 * (18 + 24) + 3)


def test_odd_models_and_images():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3, groups=3, bias=False), nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(3, 1, 26)
    )
    data = images(1, 3)
    before = copy.deepcopy(data.images)
    network = embedded_cnn.integer(model.eval(), data)
    assert torch.equal(data.images, before)
    assert torch.equal(network(data.images), exactly(network, data.images))
    dark = Split(torch.zeros(2, 3, 28, 28), torch.zeros(2, dtype=torch.long))  # a constant: no range at all
    with torch.no_grad():
        torch.testing.assert_close(
            embedded_cnn.integer(model, dark)(dark.images), model(dark.images), rtol=0.01, atol=0
        )
    nn.init.zeros_(model[0].weight)
    assert torch.isfinite(embedded_cnn.integer(model, data)(data.images)).all()
    assert embedded_cnn.integer(nn.Conv2d(1, 1, 1), images(1))(images(1).images).shape == (1, 1, 28, 28)
    pool = nn.Sequential(nn.AvgPool2d(2), nn.Tanh(), nn.Conv2d(1, 2, 1), nn.AvgPool2d(2))
    network = embedded_cnn.integer(pool, images(2))
    assert torch.equal(network(images(2).images), exactly(network, images(2).images))


def test_bad_input_is_refused():
    model = embedded_cnn.face_finder(0)
    for bits in (1, 17):
        with pytest.raises(ValueError, match=f"2..16, not {bits}"):
            embedded_cnn.integer(model, images(), bits=bits)
    with pytest.raises(ValueError, match="at least one image"):
        embedded_cnn.integer(model, images(0))
    with pytest.raises(ValueError, match="no layer with a weight"):
        embedded_cnn.integer(nn.Sequential(nn.Tanh()), images())
    for layer in (nn.Softmax(1), nn.AvgPool2d(3), nn.Conv2d(1, 1, 3, padding="same"), nn.MaxPool2d(2, ceil_mode=True)):
        with pytest.raises(ValueError, match="cannot be computed in integers here"):
            embedded_cnn.integer(nn.Sequential(nn.Conv2d(1, 1, 3), layer), images())
    with pytest.raises(ValueError, match="meets numbers of shape"):
        embedded_cnn.integer(nn.Sequential(nn.Linear(28, 2)), images())
    with pytest.raises(ValueError, match="does not take images"):
        embedded_cnn.integer(model, images(2, 3))
    with pytest.raises(ValueError, match="1 maps are needed"):
        embedded_cnn.integer(model, images())(images(2, 3).images)
    model.c2.weight.data[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        embedded_cnn.integer(model, images())
