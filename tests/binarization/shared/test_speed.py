"""What is timed against each other computes the same. No test here asks how fast."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import measure
from lib.binarization import xnor_net
from lib.binarization.shared import speed
from lib.quantization import affine
from lib.quantization.shared import torch_kernels
from lib.weights import compressed_form


def signs(values):
    return torch.where(values >= 0, 1.0, -1.0)


def scaled_signs(weight):
    """Signs of the weight (filters, ...) and alpha (filters,), the mean size of each filter's."""
    return signs(weight), weight.abs().flatten(1).mean(1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 64), (130, 33, 65), (4, 16, 300)])
def test_bits_are_the_products_of_the_signs_of_what_floats_multiply(shape):
    rows, columns, inner = shape
    calls = speed.matrices(*shape)
    a, b = speed.random_normal(rows, inner), speed.random_normal(columns, inner)
    expected = signs(a).long() @ signs(b).long().T
    assert list(calls) == ["float", "packed", "bits"]
    assert torch.equal(calls["packed"]().long(), expected) and torch.equal(calls["bits"]().long(), expected)
    torch.testing.assert_close(calls["float"](), a @ b.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 64, 16), (3, 70, 5)])
def test_a_linear_layer_on_bits_is_that_of_signs_times_alpha(monkeypatch, shape):
    layers, kept = [], speed.bit_layer
    monkeypatch.setattr(speed, "bit_layer", lambda layer, **options: layers.append(layer) or kept(layer, **options))
    with torch.no_grad():
        calls = speed.linear(*shape)
        x, (b, alpha) = speed.random_normal(*shape[:2]), scaled_signs(layers[0].weight)
        assert list(calls) == ["float", "bits"]
        assert torch.equal(calls["float"](), layers[0](x))
        assert torch.equal(calls["bits"](), (signs(x) @ b.T) * alpha)


@pytest.mark.parametrize(("channels", "side", "batch", "size"), [(5, 6, 1, 3), (65, 4, 2, 3), (20, 5, 1, 1)])
def test_a_convolution_on_bits_is_that_of_signs_times_alpha_and_k(monkeypatch, channels, side, batch, size):
    layers, kept = [], speed.bit_layer
    monkeypatch.setattr(speed, "bit_layer", lambda layer, **options: layers.append(layer) or kept(layer, **options))
    with torch.no_grad():
        calls = speed.convolution(channels, side, batch=batch, size=size)
        layer, again = layers
        x = speed.random_normal(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
        b, alpha = scaled_signs(layer.weight)
        expected = functional.conv2d(signs(x).double(), b.double(), None, 1, size // 2) * alpha.reshape(-1, 1, 1)
        expected, real = expected.float(), functional.conv2d(x.double(), layer.weight.double(), None, 1, size // 2)
        assert list(calls) == ["float", "bits", "bits and K"] and layer is again
        torch.testing.assert_close(calls["float"](), real.float(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(calls["bits"](), expected, rtol=1e-6, atol=1e-6)
        k = xnor_net.InputScale(layer)(x)
        torch.testing.assert_close(calls["bits and K"](), expected * k, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 64), (130, 33, 65)])
def test_a_product_of_short_numbers_is_that_of_whole_and_rounded_ones(shape):
    rows, columns, inner = shape
    a, b = speed.random_normal(rows, inner), speed.random_normal(columns, inner)
    calls = speed.low_products(*shape)
    assert list(calls) == ["bfloat16", "int8"]
    whole_a, whole_b = (
        torch.tensor([[max(-63, min(63, round(20 * v))) for v in row] for row in m.tolist()]) for m in (a, b)
    )
    assert torch.equal(calls["int8"]().long(), whole_a @ whole_b.T)
    rounded_a, rounded_b = a.bfloat16().double(), b.bfloat16().double()
    found, most = calls["bfloat16"](), rounded_a.abs() @ rounded_b.abs().T  # eight bits: rounded by 1/256 at most
    assert found.dtype == torch.bfloat16
    assert ((found.double() - rounded_a @ rounded_b.T).abs() <= most / 256).all()


def test_integers_are_rounded_and_two_largest_products_fit_16_bits():
    assert speed.integers_of(torch.tensor([0.0, 0.06, -0.11, 3.15, 9.0, -9.0])).tolist() == [0, 1, -2, 63, 63, -63]
    assert 2 * 255 * speed.MOST < 2**15


@pytest.mark.parametrize("make", [partial(speed.linear, 3, 70, 5), partial(speed.convolution, 6, 5, batch=2)])
def test_a_layer_of_short_numbers_is_the_float_layer_but_for_rounding(make):
    seen = []

    def to_int8(network, images):
        seen.append((network, images))
        simulated = affine.calibrate(affine.simulate(network), images)
        return torch_kernels.convert_to_kernels(simulated) if torch_kernels.kernels_available() else simulated

    with torch.no_grad():
        calls, few = make(to_int8=to_int8), make()
        (network, images) = seen[0]
        expected = calls["float"]()
        assert list(calls) == [*few, "bfloat16", "int8"]
        assert torch.equal(network(images), expected)
        for name, bits in (("bfloat16", 7), ("int8", 6)):  # a sum of many rounded products is off by less than one
            gap = (calls[name]().float() - expected).abs().max()
            assert 0 < gap < expected.abs().max() / 2**bits * 2


def test_a_network_of_short_numbers_leaves_the_network_as_it_is():
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    before, x = {name: value.clone() for name, value in network.state_dict().items()}, torch.randn(2, 4)
    calls = speed.low_networks(network, x, lambda given, images: lambda again: (given, images, again))
    with torch.no_grad():
        assert calls["bfloat16"]().dtype == torch.bfloat16
        assert calls["int8"]() == (network, x, x)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("layer", [nn.Linear(9, 4, bias=False), nn.Conv2d(3, 4, (3, 1), padding=(1, 0), bias=False)])
def test_a_layer_on_bits_leaves_the_layer_as_it_is(layer):
    before, memory = layer.weight.detach().clone(), layer.weight
    found = speed.bit_layer(layer)
    assert layer.weight is memory and torch.equal(memory, before) and compressed_form(layer) is None
    x = torch.randn(2, *((9,) if isinstance(layer, nn.Linear) else (3, 5, 5)))
    with torch.no_grad():
        expected = found(x)
        layer.weight.mul_(-1)
        assert torch.equal(found(x), expected)


def test_one_operation_after_the_other_gives_the_convolution_of_torch():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(6, 5, 7, generator=generator), torch.randn(4, 3, 3, 7, generator=generator)
    out = np.full((4, 3, 4), np.nan, dtype=np.float32)
    speed.scalar_convolution(x.numpy(), weight.numpy(), out)
    expected = functional.conv2d(x.permute(2, 0, 1)[None].double(), weight.permute(0, 3, 1, 2).double())[0].permute(
        1, 2, 0
    )
    torch.testing.assert_close(torch.from_numpy(out).double(), expected, rtol=1e-4, atol=1e-4)


def test_peaks_are_work_by_time(monkeypatch):
    found = vars(speed.peaks(turns=10, megabytes=1, side=16))
    assert set(found.pop("by_product")) <= {"bfloat16", "int8"}
    assert all(math.isfinite(value) and value > 0 for value in found.values())

    def two_milliseconds(calls, *, runs):
        for call in calls.values():
            call()
        return {name: measure.Latency(2.0, 2.0, 2.0) for name in calls}

    monkeypatch.setattr(measure, "latency_ms", two_milliseconds)
    for there in (True, False):  # instructions for dot products
        monkeypatch.setattr(speed, "_dot_loop", lambda _, there=there: (lambda turns, seed: 0.0) if there else None)
        found = speed.peaks(turns=1000, megabytes=2, side=16)
        assert found.bits == pytest.approx(1000 * 12 * 8 * 64 * 2 / 2e-3 / 1e9)
        assert found.floats == pytest.approx(1000 * 12 * 16 * 2 / 2e-3 / 1e9)
        assert found.memory == pytest.approx(2 * 2**20 / 2e-3 / 1e9)
        assert found.by_product == (() if there else ("bfloat16", "int8"))
        assert found.bfloat16 == pytest.approx((1000 * 12 * 32 if there else 16**3) * 2 / 2e-3 / 1e9)
        assert found.int8 == pytest.approx((1000 * 12 * 64 if there else 16**3) * 2 / 2e-3 / 1e9)


def test_a_product_that_is_faster_than_the_loop_is_the_peak(monkeypatch):
    def by_name(calls, *, runs):
        return {name: measure.Latency(*[1e-6 if name == "int8 product" else 2.0] * 3) for name in calls}

    monkeypatch.setattr(measure, "latency_ms", by_name)
    monkeypatch.setattr(speed, "_dot_loop", lambda _: lambda turns, seed: 0.0)
    found = speed.peaks(turns=1000, megabytes=1, side=16)
    assert found.by_product == ("int8",) and found.int8 == pytest.approx(2 * 16**3 / 1e-9 / 1e9)


def test_short_calls_are_repeated_and_the_time_of_one_is_told(monkeypatch):
    asked, counts = [], {"short": 0, "long": 0}
    medians = iter([{"short": 0.5, "long": 30.0}, {"short": 2.4, "long": 33.0}])

    def latency_ms(calls, *, runs):
        asked.append(runs)
        for call in calls.values():
            call()
        return {name: measure.Latency(each, each, each) for name, each in next(medians).items()}

    def call(name):
        counts[name] += 1

    monkeypatch.setattr(measure, "latency_ms", latency_ms)
    calls = {"short": lambda: call("short"), "long": lambda: call("long")}
    assert speed.timed(calls, runs=33, least_ms=2.0) == {"short": pytest.approx(0.6), "long": 33.0}
    assert asked == [33, 33] and counts == {"short": 1 + 4, "long": 1 + 1}
