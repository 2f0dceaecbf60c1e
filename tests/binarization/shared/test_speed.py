"""What is timed against each other computes the same. No test here asks how fast."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import measure
from lib.binarization import xnor_net
from lib.binarization.shared import speed
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
    found = speed.peaks(turns=10, megabytes=1)
    assert all(math.isfinite(value) and value > 0 for value in vars(found).values())

    def two_milliseconds(calls, *, runs):
        for call in calls.values():
            call()
        return {name: measure.Latency(2.0, 2.0, 2.0) for name in calls}

    monkeypatch.setattr(measure, "latency_ms", two_milliseconds)
    found = speed.peaks(turns=1000, megabytes=2)
    assert found.bits == pytest.approx(1000 * 12 * 8 * 64 * 2 / 2e-3 / 1e9)
    assert found.floats == pytest.approx(1000 * 12 * 16 * 2 / 2e-3 / 1e9)
    assert found.memory == pytest.approx(2 * 2**20 / 2e-3 / 1e9)


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
