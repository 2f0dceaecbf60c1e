"""Affine grids against their definition, integers against Python's, the whole network against torch's own kernels."""

import copy
import math

import pytest
import torch
from torch import nn

from lib import models, running, storage
from lib.quantization.affine import (
    Activation,
    AffineWeight,
    activations,
    calibrate,
    correct_biases,
    grid,
    quantize,
    simulate,
)
from lib.vision import torchvision
from lib.weights import layers

RANGES = [(-1.0, 1.0), (-0.3, 2.7), (0.0, 6.0), (-5.0, 0.0), (0.5, 2.0), (-3.0, -1.0), (-1e-6, 3e-7), (0.0, 1e30)]


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the grid ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "symmetric"),  # a symmetric grid of one bit would have one number
    [(1, False), *((bits, symmetric) for bits in (2, 3, 8, 16) for symmetric in (False, True))],
)
@pytest.mark.parametrize(("a", "b"), RANGES)
def test_a_value_in_the_range_is_at_most_half_a_step_away(a, b, bits, symmetric):
    chosen = grid(a, b, bits=bits, symmetric=symmetric)
    r = torch.linspace(min(a, 0), max(b, 0), 1001)
    distance = (r - chosen.dequantize(chosen.quantize(r))).abs().max()
    assert distance <= 0.5001 * chosen.scale + 1e-6 * r.abs().max()
    assert chosen.high - chosen.low == 2**bits - (2 if symmetric else 1)


@pytest.mark.parametrize("bits", [1, 2, 5, 8, 24, 31, 32])
@pytest.mark.parametrize(("a", "b"), RANGES)
def test_zero_is_on_the_grid(a, b, bits):
    for symmetric in (False, True)[: 1 + (bits > 1)]:
        chosen = grid(a, b, bits=bits, symmetric=symmetric)
        assert chosen.low <= chosen.zero <= chosen.high
        assert chosen.dequantize(chosen.quantize(torch.zeros(1))).item() == 0
        assert not symmetric or chosen.zero == 0


@pytest.mark.parametrize(("a", "b"), RANGES)
def test_each_code_comes_back(a, b):
    chosen = grid(a, b)
    codes = torch.arange(-128, 128)
    assert torch.equal(chosen.quantize(chosen.dequantize(codes)), codes)


@pytest.mark.parametrize(("a", "b"), RANGES[:4])
def test_scale_and_zero_are_the_formulas(a, b):
    chosen = grid(a, b)
    assert math.isclose(chosen.scale, (b - a) / 255, rel_tol=1e-6)
    assert abs(chosen.zero - min(127, max(-128, -128 - a / ((b - a) / 255)))) <= 0.5001
    assert math.isclose(grid(a, b, symmetric=True).scale, max(-a, b) / 127, rel_tol=1e-6)


def test_numbers_outside_are_clipped_and_ties_go_to_even():
    chosen = grid(-2, 1.984375, bits=8)  # S = 1 / 64
    assert chosen.quantize(torch.tensor([-9.0, 9.0])).tolist() == [-128, 127]
    ties = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]) / 64
    assert (chosen.quantize(ties) - chosen.zero).tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize("bits", [24, 28, 32])
def test_wide_grids_lose_no_more_than_float32_does(bits):
    r, chosen = rand(1000).clamp(-5, 4), grid(-5.0, 4.0, bits=bits)
    assert ((chosen.dequantize(chosen.quantize(r)) - r).abs() <= chosen.scale / 2 + 1.2e-7 * r.abs()).all()


def test_a_range_of_no_width_has_scale_one():
    for symmetric in (False, True):
        assert grid(0.0, 0.0, symmetric=symmetric).scale == 1
    assert grid(torch.zeros(2), torch.tensor([0.0, 255.0])).scale.tolist() == [1, 1]


def test_grids_of_torch_are_the_same():
    x = rand(10_000)
    for a, b in ((-2.0, 3.0), (-0.1, 5.0)):
        chosen = grid(a, b)
        one = torch.fake_quantize_per_tensor_affine(x, chosen.scale.item(), chosen.zero.item(), -128, 127)
        assert ((chosen.fake(x) - one).abs() > 1e-6).sum() <= 2  # torch multiplies by 1 / S: a tie may fall otherwise


@pytest.mark.parametrize("bits", [0, -1, 33, 2.0, True, "8", None])
def test_bits_outside_1_to_32_are_refused(bits):
    with pytest.raises(ValueError, match=f"bits must be in 1..32, not {bits}"):
        grid(-1.0, 1.0, bits=bits)


def test_wrong_ranges_are_refused():
    for a, b in ((1.0, -1.0), (float("nan"), 1.0), (0.0, float("inf"))):
        with pytest.raises(ValueError, match="two finite, ordered ends are needed"):
            grid(a, b)
    with pytest.raises(ValueError, match=r"2..32, not 1"):
        grid(-1.0, 1.0, bits=1, symmetric=True)


# --- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("shape", [(4, 6), (3, 1, 5), (6, 2, 3, 3), (1, 1)])
def test_a_file_says_the_weight_bit_for_bit(shape, axis, symmetric):
    weight = rand(*shape) * torch.logspace(-2, 2, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    for bits in (2, 8, 16):
        form = AffineWeight(bits, axis=axis, symmetric=symmetric)
        stored = form.right_inverse(weight)
        encoding = form.encode(stored)
        assert encoding.symbols["code"].min() >= 0 and encoding.symbols["code"].max() < 2**bits
        assert torch.equal(AffineWeight.decode(encoding, weight.shape), form(stored))
        assert len(encoding.tables["scale"]) == (1 if axis is None else shape[axis])


def test_a_scale_for_each_channel_loses_no_more_in_any_channel():
    weight = rand(20, 50) * torch.logspace(-2, 1, 20)[:, None]
    own, one = (form(weight) - weight for form in (AffineWeight(8), AffineWeight(8, axis=None)))
    coarser = weight.abs().amax() / weight.abs().amax(1)
    errors = [lost.square().mean(1) for lost in (own, one)]
    assert (errors[0] < errors[1])[coarser > 1.5].all() and torch.equal(own[coarser == 1], one[coarser == 1])
    assert (errors[0] < 0.01 * errors[1]).any()


def test_weights_follow_their_formula_in_numpy():
    layer = quantize(nn.Conv2d(3, 5, 3), bits=4)
    weight = layer.parametrizations.weight.original.detach().numpy()
    step = abs(weight).max(axis=(1, 2, 3), keepdims=True) / 7
    expected = (weight / step).round().clip(-7, 7) * step
    assert abs(layer.weight.detach().numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("per_channel", [True, False])
def test_models_that_nobody_here_wrote_and_odd_layers(tmp_path, per_channel):
    torch.manual_seed(0)
    odd = nn.Sequential(
        nn.Conv2d(1, 1, 1), nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.ConvTranspose2d(4, 6, 2), nn.Embedding(5, 3)
    )
    for build in (lambda: torchvision.models.mobilenet_v2(num_classes=10), lambda: copy.deepcopy(odd)):
        model = quantize(build(), per_channel=per_channel)
        storage.save(model, tmp_path / "q.slim")
        again = storage.load(tmp_path / "q.slim", build())
        for (_, one), (_, other) in zip(layers(model), layers(again), strict=True):
            assert torch.equal(one.weight, other.weight)


def test_a_transposed_convolution_has_a_scale_for_each_output():
    assert quantize(nn.ConvTranspose2d(4, 6, 2)).parametrizations.weight[0].axis == 1


def test_files_of_codes_of_one_length_are_about_four_times_smaller():
    model = quantize(models.lenet_300_100())
    assert 3.8 < 4 * 266_610 / len(storage.dumps(model, coder="fixed")) < 4


def test_constant_zero_and_empty_weights():
    layer = nn.Linear(3, 2)
    for value in (0.0, 0.25, -1.5):
        nn.init.constant_(layer.weight, value)
        assert quantize(copy.deepcopy(layer)).weight.unique().item() == pytest.approx(value, rel=1e-6)
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    model.append(nn.Linear(2, 1))[2].weight = nn.Parameter(torch.zeros(0, 2))
    assert quantize(model)[2].weight.numel() == 0


@pytest.mark.parametrize("bits", [0, 1, 17])
def test_bits_that_no_file_holds_are_refused(bits):
    model = models.lenet_300_100()
    with pytest.raises(ValueError, match=rf"2..16, not {bits}"):
        quantize(model, bits=bits)
    assert "parametrizations" not in str(list(model.state_dict()))


# --- calibration -------------------------------------------------------------------------------------------------


def test_ranges_are_extremes_percentiles_and_moving_averages():
    images = rand(4, 1, 5, 5)
    images[0, 0, 0, 0] = 50.0
    network = simulate(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten()))
    first = activations(network)[0]
    calibrate(network, images, batch_size=2)
    assert (first.lower, first.upper) == (images.min(), 50.0)
    calibrate(network, images, percentile=98.0)
    ordered = images.flatten().sort().values
    assert (first.lower, first.upper) == (ordered[2], ordered[-3])  # 2 % of 100 values on either side
    calibrate(network, images, decay=0.9, batch_size=2)
    assert first.upper == pytest.approx(0.9 * 50 + 0.1 * images[2:].max().item(), rel=1e-5)
    assert first.quantizing and not first.observing


def test_wrong_calibration_is_refused_and_leaves_the_ranges():
    network = calibrate(simulate(models.lenet_300_100()), rand(3, 1, 28, 28))
    before = copy.deepcopy(network.state_dict())
    for images, more, says in (
        (torch.zeros(0, 1, 28, 28), {}, "at least one is needed"),
        (torch.full((1, 1, 28, 28), torch.nan), {}, "NaN"),
        (torch.zeros(1, 1, 5, 5), {}, "does not take images"),
        (torch.zeros(1, 1, 28, 28), {"percentile": 30.0}, r"percentile must be in \(50, 100\]"),
        (torch.zeros(1, 1, 28, 28), {"decay": 1.0}, r"decay in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=says):
            calibrate(network, images, **more)
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match="no activation on a grid"):
        calibrate(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="no image has gone through"):
        Activation().grid()


def test_corrected_biases_bring_each_mean_back():
    torch.manual_seed(0)
    model, images = models.lenet5(), torch.rand(10, 1, 28, 28)
    network = calibrate(simulate(model, bits=3), images)
    correct_biases(network, model, images)
    with (
        running.captured(network, ["conv1", "conv2", "fc1"]) as rounded,
        running.captured(model, ["conv1", "conv2", "fc1"]) as exact,
    ):
        network(images), model(images)
    for name in exact.outputs:
        means = [flow.outputs[name].transpose(0, 1).flatten(1).mean(1) for flow in (exact, rounded)]
        torch.testing.assert_close(*means, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no images to correct"):
        correct_biases(network, model, images[:0])


# --- the network as a graph --------------------------------------------------------------------------------------


# --- integer arithmetic ------------------------------------------------------------------------------------------


# --- whole networks, and torch's kernels as a second implementation --------------------------------------------------
