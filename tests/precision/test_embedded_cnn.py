"""Integer networks: against exact float64, against their float twin, and in a file."""

import copy
import math

import given
import numpy as np
import pytest
import torch
from torch import nn

from lib import measure, models, storage
from lib.datasets import Split
from lib.precision import embedded_cnn, fixed_point
from lib.precision.shared import chains, integers
from lib.precision.shared.formats import Format
from lib.vision import torchvision


def codes(shape, *, bits=16, seed=0):
    return np.random.default_rng(seed).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(np.int16)


def images(n=3, channels=1, side=28, seed=0):
    return given.split(n, channels, side, side, seed=seed, labels="zero")


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
    "options", [{}, {"padding": 2}, {"stride": 2}, {"groups": 2, "bias": False}, {"padding": (0, 1), "stride": 1}]
)
def test_fused_floats_are_convolution_and_mean(options, side):
    torch.manual_seed(0)
    scale = nn.Conv2d(6, 6, 1, groups=6, bias="bias" not in options)
    model = nn.Sequential(nn.Conv2d(2, 6, 5, **options), nn.AvgPool2d(2), scale, nn.Tanh())
    small, x = embedded_cnn.fuse(model), images(2, 2, side).images
    assert [type(layer) for layer in small] == [nn.Conv2d, nn.Tanh]
    torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-5)
    assert model[0].kernel_size == (5, 5)


def test_fusing_needs_36_multiply_adds_where_100_were():
    model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.AvgPool2d(2))
    before, after = (measure.multiply_adds(network, (1, 28, 28)) for network in (model, embedded_cnn.fuse(model)))
    assert before == 4 * 24 * 24 * 25 and after == 4 * 12 * 12 * 36


def test_what_cannot_be_fused_stays():
    model = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(1, 2, 3, dilation=2), nn.AvgPool2d(2), nn.Conv2d(2, 2, 1))
    small = embedded_cnn.fuse(model)
    assert len(small) == 4
    assert torch.equal(small(images().images), model(images().images))


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
                x = nn.functional.conv2d(x, step.kernel.double(), step.bias.double(), **step.geometry)
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
    network, x = embedded_cnn.convert(model, images(4), bits=bits), images(3, seed=1).images
    assert torch.equal(network(x), exactly(network, x))


@pytest.mark.parametrize("build", [models.lenet5, models.lenet_300_100])
def test_the_baselines_in_integers_are_exact_and_near_their_float_twins(build):
    model, split = build(0), images(4)
    network = embedded_cnn.convert(model, split)
    x = images(2, seed=1).images
    assert torch.equal(network(x), exactly(network, x))
    with torch.no_grad():
        assert (network(x) - model(x)).abs().max() < 0.01 * model(x).abs().max()


def test_parts_of_torchvision_in_integers():
    model = torchvision.models.alexnet().features
    network, x = embedded_cnn.convert(model, images(2, 3, 64)), images(1, 3, 64, seed=1).images
    with torch.no_grad():
        exact = model(x)
    assert torch.equal(network(x), exactly(network, x))
    assert (network(x) - exact).abs().max() < 0.05 * exact.abs().max()  # many inputs: bits are given up
    with pytest.raises(ValueError, match="BatchNorm2d"):
        embedded_cnn.convert(torchvision.models.vgg11_bn().features, images(1, 3, 64))


def test_no_sum_overflows_whatever_comes_in():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
    nn.init.constant_(model[1].weight, 0.999)
    network = embedded_cnn.convert(model, images(2))
    step = network.steps[1]
    bound = np.abs(step.kernel.numpy().astype(np.int64)).sum((1, 2, 3)) * 2**15 + np.abs(step.bias.numpy())
    assert (bound < 2**31).all()
    assert step.formats[1] < 15  # bits were given up for it
    worst = torch.full((1, 1, 28, 28), -1e9)
    assert torch.equal(network(worst), exactly(network, worst))


@pytest.mark.parametrize("bits", [8, 16])
def test_the_file_of_an_integer_network_comes_back(bits, tmp_path):
    network = embedded_cnn.convert(embedded_cnn.fuse(embedded_cnn.face_finder(0)), images(), bits=bits)
    other = embedded_cnn.convert(embedded_cnn.fuse(embedded_cnn.face_finder(1)), images(seed=5), bits=bits)
    weights = sum(p.numel() for p in embedded_cnn.fuse(embedded_cnn.face_finder(0)).parameters() if p.dim() > 1)
    size = storage.save(network, tmp_path / "network.slim")
    assert weights * bits / 8 < size < weights * bits / 8 + 350
    storage.load(tmp_path / "network.slim", other)
    assert torch.equal(other(images(seed=2).images), network(images(seed=2).images))
    assert {value.dtype for value in network.state_dict().values()} <= {torch.int8, torch.int16, torch.int32}


def test_a_network_of_other_bits_does_not_take_the_state(tmp_path):
    network, other = (embedded_cnn.convert(embedded_cnn.face_finder(0), images(), bits=bits) for bits in (8, 6))
    with pytest.raises(RuntimeError, match="input_of_8_bits"):
        other.load_state_dict(network.state_dict())
    storage.save(network, tmp_path / "network.slim")
    with pytest.raises(ValueError, match="another architecture"):
        storage.load(tmp_path / "network.slim", other)
    again = embedded_cnn.convert(embedded_cnn.face_finder(1), images(seed=3), bits=np.int64(8))
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(images().images), network(images().images))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_and_what_is_frozen(dtype):
    model = embedded_cnn.face_finder(0).to(dtype).requires_grad_(False)
    small = embedded_cnn.fuse(model)
    assert {p.dtype for p in small.parameters()} == {dtype} and not any(p.requires_grad for p in small.parameters())
    x = images(2).images.to(dtype)
    network = embedded_cnn.convert(small, Split(x, torch.zeros(2)))
    assert (network(x) - small(x).float()).abs().max() < 0.02 * small(x).float().abs().max()
    assert torch.equal(copy.deepcopy(network).to(dtype)(x), network(x))


def test_the_network_slides_over_a_larger_image():
    model = embedded_cnn.face_finder(0)
    assert measure.parameters(model) == 1172
    large = torch.rand(1, 1, 36, 32, generator=torch.Generator().manual_seed(0))
    maps = model(large).reshape(10, 3, 2)
    torch.testing.assert_close(maps[:, 1, 1], model(large[:, :, 4:32, 4:32])[0], rtol=0, atol=1e-5)
    network = embedded_cnn.convert(embedded_cnn.fuse(model), images())
    assert torch.equal(network(large).reshape(10, 3, 2)[:, 2, 0], network(large[:, :, 8:36, 0:28])[0])


def test_memory_is_that_of_the_tensors_that_are_held():
    model, split = (
        nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)),
        images(1, 1, 4),
    )
    assert embedded_cnn.memory_bytes(model, split.images) == (4 * (18 + 24 + 3), 4 * (16 + 8))
    network = embedded_cnn.convert(model, split)
    held = 2 * (18 + 24) + 4 * (2 + 3) + 2 * 2 * 4 + 2  # kernels, biases, two times four formats, the input's
    assert embedded_cnn.memory_bytes(network, split.images) == (held, 2 * (16 + 8))
    doubled = fixed_point.quantize(copy.deepcopy(model), Format(4, 12))
    assert embedded_cnn.memory_bytes(doubled, split.images)[0] == 4 * (2 * (18 + 24) + 3)


def test_odd_models_and_images():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3, groups=3, bias=False), nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(3, 1, 26)
    )
    split = images(1, 3)
    before = copy.deepcopy(split.images)
    network = embedded_cnn.convert(model.eval(), split)
    assert torch.equal(split.images, before)
    assert torch.equal(network(split.images), exactly(network, split.images))
    dark = Split(torch.zeros(2, 3, 28, 28), torch.zeros(2, dtype=torch.long))  # a constant: no range at all
    with torch.no_grad():
        torch.testing.assert_close(
            embedded_cnn.convert(model, dark)(dark.images), model(dark.images), rtol=0.01, atol=0
        )
    nn.init.zeros_(model[0].weight)
    assert torch.isfinite(embedded_cnn.convert(model, split)(split.images)).all()
    assert embedded_cnn.convert(nn.Conv2d(1, 1, 1), images(1))(images(1).images).shape == (1, 1, 28, 28)
    pool = nn.Sequential(nn.AvgPool2d(2), nn.Tanh(), nn.Conv2d(1, 2, 1), nn.AvgPool2d(2))
    network = embedded_cnn.convert(pool, images(2))
    assert torch.equal(network(images(2).images), exactly(network, images(2).images))


def test_bad_input_is_refused():
    model = embedded_cnn.face_finder(0)
    for bits in (1, 17):
        with pytest.raises(ValueError, match=f"2..16, not {bits}"):
            embedded_cnn.convert(model, images(), bits=bits)
    with pytest.raises(ValueError, match="at least one sample is needed to see the ranges"):
        embedded_cnn.convert(model, images(0))
    with pytest.raises(ValueError, match="no layer with a weight"):
        embedded_cnn.convert(nn.Sequential(nn.Tanh()), images())
    for bits in (8.0, True, np.float64(8)):
        with pytest.raises(ValueError, match=f"bits must be in 2..16, not {bits}: a whole number is needed"):
            embedded_cnn.convert(model, images(), bits=bits)
    with pytest.raises(ValueError, match=r"^layer '1', Softmax\(dim=1\) cannot be computed in integers here"):
        embedded_cnn.convert(nn.Sequential(nn.Conv2d(1, 1, 3), nn.Softmax(1)), images())
    with pytest.raises(ValueError, match=r"^the images reach 1e\+30, too large for 16 bits: scale them down"):
        embedded_cnn.convert(model, Split(torch.full((1, 1, 28, 28), 1e30), torch.zeros(1)))
    with pytest.raises(ValueError, match="the images hold NaN"):
        embedded_cnn.convert(model, images())(torch.full((1, 1, 28, 28), math.nan))
    with pytest.raises(ValueError, match=r"^layer '0', Linear\(.*\) gets numbers of shape \(3, 1, 28, 28\)"):
        embedded_cnn.convert(nn.Sequential(nn.Linear(28, 2)), images())
    with pytest.raises(ValueError, match="does not take images"):
        embedded_cnn.convert(model, images(2, 3))
    with pytest.raises(ValueError, match="1 maps are needed"):
        embedded_cnn.convert(model, images())(images(2, 3).images)
    model.c2.weight.data[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"^the outputs of layer 'c2', Conv2d.* hold NaN or infinity"):
        embedded_cnn.convert(model, images())


def test_what_cannot_be_computed_in_integers_is_named_in_one_short_sentence():
    with pytest.raises(ValueError) as error:
        embedded_cnn.convert(torchvision.models.squeezenet1_1(), images(channels=3))
    assert str(error.value).startswith("SqueezeNet cannot be computed in integers here") and len(str(error.value)) < 250
    layer = nn.Linear(2, 2)
    twice = nn.Sequential(layer, nn.Sequential(nn.ReLU(), layer, nn.SiLU()))
    with pytest.raises(ValueError, match=r"^layer '1\.2', SiLU\(\) cannot be computed in integers here"):
        list(chains.chain(twice))
    assert [type(part).__name__ for part in chains.chain(twice[1][:2])] == ["ReLU", "Linear"]
    assert list(chains.chain(nn.Sequential(layer, layer))) == [layer, layer]
