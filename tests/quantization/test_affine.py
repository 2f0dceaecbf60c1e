"""Affine grids against their definition, integers against Python's, the whole network against torch's own kernels."""

import copy
import math
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import models, running, storage
from lib.datasets import Split
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
from lib.quantization.shared import graph, integer_network, torch_kernels
from lib.training import error_pct
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
    found = grid(a, b, bits=bits, symmetric=symmetric)
    r = torch.linspace(min(a, 0), max(b, 0), 1001)
    distance = (r - found.dequantize(found.quantize(r))).abs().max()
    assert distance <= 0.5001 * found.scale + 1e-6 * r.abs().max()
    assert found.high - found.low == 2**bits - (2 if symmetric else 1)


@pytest.mark.parametrize("bits", [1, 2, 5, 8, 24, 31, 32])
@pytest.mark.parametrize(("a", "b"), RANGES)
def test_zero_is_on_the_grid(a, b, bits):
    for symmetric in (False, True)[: 1 + (bits > 1)]:
        found = grid(a, b, bits=bits, symmetric=symmetric)
        assert found.low <= found.zero <= found.high
        assert found.dequantize(found.quantize(torch.zeros(1))).item() == 0
        assert not symmetric or found.zero == 0


@pytest.mark.parametrize(("a", "b"), RANGES)
def test_each_code_comes_back(a, b):
    found = grid(a, b)
    codes = torch.arange(-128, 128)
    assert torch.equal(found.quantize(found.dequantize(codes)), codes)


@pytest.mark.parametrize(("a", "b"), RANGES[:4])
def test_scale_and_zero_are_the_formulas(a, b):
    found = grid(a, b)
    assert math.isclose(found.scale, (b - a) / 255, rel_tol=1e-6)
    assert abs(found.zero - min(127, max(-128, -128 - a / ((b - a) / 255)))) <= 0.5001
    assert math.isclose(grid(a, b, symmetric=True).scale, max(-a, b) / 127, rel_tol=1e-6)


def test_numbers_outside_are_clipped_and_ties_go_to_even():
    found = grid(-2, 1.984375, bits=8)  # S = 1 / 64
    assert found.quantize(torch.tensor([-9.0, 9.0])).tolist() == [-128, 127]
    ties = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]) / 64
    assert (found.quantize(ties) - found.zero).tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize("bits", [24, 28, 32])
def test_wide_grids_lose_no_more_than_float32_does(bits):
    r, found = rand(1000).clamp(-5, 4), grid(-5.0, 4.0, bits=bits)
    assert ((found.dequantize(found.quantize(r)) - r).abs() <= found.scale / 2 + 1.2e-7 * r.abs()).all()


def test_a_range_of_no_width_has_scale_one():
    for symmetric in (False, True):
        assert grid(0.0, 0.0, symmetric=symmetric).scale == 1
    assert grid(torch.zeros(2), torch.tensor([0.0, 255.0])).scale.tolist() == [1, 1]


def test_grids_of_torch_are_the_same():
    x = rand(10_000)
    for a, b in ((-2.0, 3.0), (-0.1, 5.0)):
        found = grid(a, b)
        one = torch.fake_quantize_per_tensor_affine(x, found.scale.item(), found.zero.item(), -128, 127)
        assert ((found.fake(x) - one).abs() > 1e-6).sum() <= 2  # torch multiplies by 1 / S: a tie may fall otherwise


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
    each, one = (form(weight) - weight for form in (AffineWeight(8), AffineWeight(8, axis=None)))
    coarser = weight.abs().amax() / weight.abs().amax(1)
    errors = [lost.square().mean(1) for lost in (each, one)]
    assert (errors[0] < errors[1])[coarser > 1.5].all() and torch.equal(each[coarser == 1], one[coarser == 1])
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


def test_folded_batch_norm_answers_the_same():
    torch.manual_seed(0)
    for model, side in ((torchvision.models.mobilenet_v2(), 32), (models.resnet8(), 16)):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(-2, 2)
                module.bias.data.normal_()
        x = rand(2, 3, side, side)
        folded = graph.traced(model)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        with torch.no_grad():
            expected = model.eval()(x)
            torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_grids_stand_behind_input_layers_and_sums_with_their_relu():
    network = simulate(models.resnet8(), bits=4, edge_bits=8)
    bits = {name: m.bits for name, m in network.named_modules() if isinstance(m, Activation)}
    assert bits["input_1_grid"] == bits["fc_grid"] == 8 and set(list(bits.values())[1:-1]) == {4}
    assert len(bits) == 1 + 9 + 3 + 1 + 1  # input; convolutions; sums; pooling; the last layer


class Odd(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.layer, self.norm, self.call = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), call

    def forward(self, x):
        return self.call(self, x)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, x: torch.sigmoid(m.layer(x)), "sigmoid.* has no integer form here"),
        (lambda m, x: m.layer(x) if x.sum() > 0 else x, "cannot be traced"),
        (lambda m, x: m.norm(functional.relu(m.layer(x))), "batch norm 'norm' cannot be folded"),
        (lambda m, x: m.norm(m.layer(x)) + m.layer(x), "batch norm 'norm' cannot be folded"),
        (lambda m, x: m.layer(x) + 1, "add.* has no integer form"),
        (lambda m, x: (m.layer(x), x), "output has no integer form"),
    ],
)
def test_networks_without_an_integer_form_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        simulate(Odd(call))


# --- integer arithmetic ------------------------------------------------------------------------------------------


def exactly(x: int, m0: int, exponent: int) -> int:
    """TensorFlow Lite's two roundings with Python's integers."""
    product = (x << max(exponent, 0)) * m0
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = math.trunc(Fraction(product + nudge, 2**31))
    n = max(-exponent, 0)
    half = Fraction(high, 2**n)
    return math.floor(half + Fraction(1, 2)) if half >= 0 else -math.floor(-half + Fraction(1, 2))


def test_rescaling_is_that_of_python_integers_and_one_step_from_the_real_product():
    generator = torch.Generator().manual_seed(0)
    q = torch.cat([torch.randint(-(2**30), 2**30, (150,), generator=generator), torch.arange(-50, 51) * 2**9])
    for factor in (0.5, 0.25, 0.003, 0.9999999999, 1e-9, 0.7071, 1.0, 3.7, 2.0**-31):
        m0, exponent = integer_network.multiplier(torch.tensor(factor, dtype=torch.float64))
        assert 2**30 <= m0 < 2**31 and math.isclose(m0.item() / 2**31 * 2.0 ** exponent.item(), factor, rel_tol=1e-9)
        inside = q[(q.abs() << exponent.clamp(min=0)) < 2**31]
        found = integer_network.rescale(inside, m0, exponent)
        assert found.tolist() == [exactly(x, m0.item(), exponent.item()) for x in inside.tolist()]
        assert (found - (factor * inside.double()).round()).abs().max() <= 1


def test_rounding_once_is_half_up():
    q = torch.arange(-300, 301) * 71
    for factor in (0.5, 0.25, 0.01, 0.7071, 1.0, 2.5):
        m0, exponent = integer_network.multiplier(torch.tensor(factor, dtype=torch.float64))
        found = integer_network.rescale(q, m0, exponent, rounding="once")
        exact = [Fraction(x * m0.item(), 2**31) * Fraction(2) ** exponent.item() for x in q.tolist()]
        assert found.tolist() == [math.floor(x + Fraction(1, 2)) for x in exact]


def test_a_factor_below_two_to_the_minus_31_gives_zero():
    assert (
        integer_network.rescale(torch.tensor([2**31 - 1]), *integer_network.multiplier(torch.tensor(1e-12))).item() == 0
    )


@pytest.mark.parametrize("z2", [0, 3])
def test_four_sums_are_the_sum_of_products(z2):
    generator = torch.Generator().manual_seed(0)
    q1 = torch.randint(-128, 128, (7, 12), generator=generator)
    q2 = torch.randint(-127, 128, (5, 12), generator=generator)
    zeros = torch.full((5,), z2) * torch.arange(5)
    found = integer_network.accumulate(q1.int(), -11, q2.int(), zeros.int(), functional.linear)
    assert torch.equal(found.long(), (q1 + 11) @ (q2 - zeros[:, None]).T)
    image, kernel = q1.reshape(1, 7, 3, 4), torch.randint(-127, 128, (5, 7, 2, 2), generator=generator)
    found = integer_network.accumulate(image.int(), -11, kernel.int(), zeros.int(), functional.conv2d)
    assert torch.equal(found.long(), functional.conv2d(image + 11, kernel - zeros.reshape(-1, 1, 1, 1)))


def test_the_integer_product_is_the_product_of_the_real_numbers():
    a, b = rand(9, 30), rand(4, 30, seed=1)
    ga, gb = grid(a.min(), a.max()), grid(b.amin(1, keepdim=True), b.amax(1, keepdim=True))
    qa, qb = ga.quantize(a), gb.quantize(b)
    total = integer_network.accumulate(qa.int(), ga.zero.item(), qb.int(), gb.zero.flatten().int(), functional.linear)
    real = (ga.scale.double() * (qa - ga.zero)) @ (gb.scale.double() * (qb - gb.zero)).T
    torch.testing.assert_close(total * ga.scale.double() * gb.scale.double().T, real, rtol=1e-9, atol=1e-9)


def by_hand(simulated, x):
    """A convolution, ReLU and a linear layer with Python's integers, one value at a time."""
    first, second, third = (each.grid() for each in activations(simulated))
    q = first.quantize(x)[0].tolist()
    out = []
    for layer, before, after in ((simulated.conv, first, second), (simulated.fc, second, third)):
        form, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original
        weights = form.grid(weight)
        scale, codes = weights.scale.flatten().expand(len(weight)), weights.quantize(weight).tolist()
        zeros = weights.zero.flatten().expand(len(weight)).tolist()
        z1, z3, found = before.zero.item(), after.zero.item(), []
        for channel, kernel in enumerate(codes):
            step = before.scale.double() * scale[channel].double()
            bias = 0 if layer.bias is None else round((layer.bias[channel].double() / step).item())
            m = [v.item() for v in integer_network.multiplier(step / after.scale.double())]
            if isinstance(layer, nn.Linear):
                flat = [v for plane in q for row in plane for v in row]
                totals = [bias + sum((a - z1) * (b - zeros[channel]) for a, b in zip(flat, kernel, strict=True))]
            else:
                totals = []
                for y in range(len(q[0])):
                    for x0 in range(len(q[0][0])):
                        total = bias
                        for c, plane in enumerate(kernel):
                            for dy, row in enumerate(plane):
                                for dx, b in enumerate(row):
                                    i, j = y + dy - 1, x0 + dx - 1  # outside is zero, and so is a - z1
                                    if 0 <= i < len(q[0]) and 0 <= j < len(q[0][0]):
                                        total += (q[c][i][j] - z1) * (b - zeros[channel])
                        totals.append(total)
            rows = [min(after.high, max(after.low, z3 + exactly(t, *m))) for t in totals]
            found.append(rows if isinstance(layer, nn.Linear) else [max(z3, v) for v in rows])
        if isinstance(layer, nn.Linear):
            out = [v for row in found for v in row]
        else:
            side = len(q[0][0])
            q = [[plane[i : i + side] for i in range(0, len(plane), side)] for plane in found]
    return out


@pytest.mark.parametrize("bits", [8, 3])
@pytest.mark.parametrize(("per_channel", "symmetric"), [(True, True), (False, True), (True, False), (False, False)])
def test_a_network_is_that_of_python_integers(per_channel, symmetric, bits):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(2, 3, 3, padding=1))
    model.add_module("relu", nn.ReLU())
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(3 * 16, 4))
    images = rand(20, 2, 4, 4)
    simulated = simulate(model, bits=bits, per_channel=per_channel, symmetric=symmetric)
    network = integer_network.convert(calibrate(simulated, images))
    last = activations(simulated)[-1].grid()
    for i in range(3):
        found = last.quantize(network(images[i : i + 1]))[0].tolist()
        assert found == by_hand(simulated, images[i : i + 1])


def sum_by_hand(a, b, ga, gb, after):
    """TensorFlow Lite's addition with Python's integers."""
    twice = 2 * max(ga.scale.double(), gb.scale.double())
    m = [[v.item() for v in integer_network.multiplier(g.scale.double() / twice)] for g in (ga, gb)]
    out = [v.item() for v in integer_network.multiplier(twice / (2**20 * after.scale.double()))]
    total = exactly((a - ga.zero.item()) << 20, *m[0]) + exactly((b - gb.zero.item()) << 20, *m[1])
    return min(after.high, max(after.low, after.zero.item() + exactly(total, *out)))


def test_sums_and_means_are_those_of_python_integers():
    ga, gb, after = grid(-1.0, 3.0), grid(-0.2, 0.1), grid(-1.1, 2.5)
    a, b = torch.randint(-128, 128, (2, 300), generator=torch.Generator().manual_seed(0)).int()
    expected = [sum_by_hand(*pair, ga, gb, after) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert integer_network.Sum(ga, gb, after)(a, b).tolist() == expected
    real = after.quantize(ga.dequantize(a) + gb.dequantize(b))
    assert (torch.tensor(expected) - real).abs().max() <= 1
    maps = a[:288].reshape(2, 4, 6, 6)
    for layer in (nn.AvgPool2d(2), nn.AvgPool2d(3, 2), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((2, None))):
        found = integer_network.Mean(layer, ga, after)(maps)
        assert (found - after.quantize(layer(ga.dequantize(maps)))).abs().max() <= 1
    m = [v.item() for v in integer_network.multiplier(ga.scale.double() / (36 * after.scale.double()))]
    totals = (maps.long() - ga.zero).sum((2, 3)).flatten().tolist()
    expected = [min(127, max(-128, after.zero.item() + exactly(t, *m))) for t in totals]
    assert integer_network.Mean(nn.AdaptiveAvgPool2d(1), ga, after)(maps).flatten().tolist() == expected


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("build", [models.lenet_300_100, models.resnet8])
def test_with_rounded_biases_and_one_rounding_the_simulated_network_is_the_integer_network(build, bits):
    images = torch.rand(6, 1, 28, 28) if build is models.lenet_300_100 else torch.rand(6, 3, 16, 16)
    simulated = calibrate(simulate(build(), bits=bits), images)
    integer_network.round_biases(simulated)
    step = activations(simulated)[-1].grid().scale
    with torch.no_grad():
        steps = ((simulated(images) - integer_network.convert(simulated, rounding="once")(images)) / step).round().abs()
    assert steps.max() == 0 if build is models.lenet_300_100 else steps.max() <= 2  # sums of residuals can tie


def test_windows_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="windows of one size"):
        integer_network.Mean(nn.AdaptiveAvgPool2d(4), grid(0.0, 1.0), grid(0.0, 1.0))(torch.zeros(1, 1, 6, 6).int())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False),
        nn.Conv2d(4, 3, 3, padding=2, dilation=2, padding_mode="reflect"),
        nn.Conv2d(4, 3, 1, padding_mode="circular", padding=1),
    ],
)
def test_convolutions_of_all_kinds_follow_the_simulated_ones(layer):
    torch.manual_seed(0)
    model = nn.Sequential(layer, nn.ReLU6(), nn.Conv2d(layer.out_channels, 1, 1), nn.MaxPool2d(2), nn.ReLU())
    images = rand(8, 4, 9, 9) + 0.5
    simulated = calibrate(simulate(model), images)
    step = activations(simulated)[-1].grid().scale
    with torch.no_grad():
        assert (simulated(images) - integer_network.convert(simulated)(images)).abs().max() <= 1.01 * step


def test_one_dimension_one_sample_and_functions_instead_of_modules():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(1, 3, 3), nn.Linear(18, 2)

        def forward(self, x):
            x = functional.relu(self.a(x))
            return self.b((x + x.relu()).view(x.size(0), -1))

    simulated = calibrate(simulate(Net()), rand(1, 1, 8))
    step = activations(simulated)[-1].grid().scale
    assert (simulated(rand(1, 1, 8)) - integer_network.convert(simulated)(rand(1, 1, 8))).abs().max() <= 1.01 * step


def test_a_bias_too_large_for_its_channel_takes_a_coarser_scale():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with torch.no_grad():
        model[0].weight[0] *= 1e-12  # as batch norm leaves a channel that is dead
        model[0].bias[:] = 0.5
    images = torch.rand(9, 4)
    simulated = calibrate(simulate(model), images)
    step = activations(simulated)[-1].grid().scale
    assert (simulated(images) - integer_network.convert(simulated)(images)).abs().max() <= 1.01 * step


def test_sums_that_may_leave_int32_and_networks_without_grids_are_refused():
    simulated = calibrate(simulate(nn.Linear(4, 2), bits=16, edge_bits=16), torch.rand(2, 4))
    with pytest.raises(ValueError, match="int32 ends at 2147483647, take fewer bits"):
        integer_network.convert(simulated)
    for model in (nn.Linear(2, 2), graph.traced(nn.Linear(2, 2))):
        with pytest.raises(ValueError, match="has no grids"):
            integer_network.convert(model)
    with pytest.raises(ValueError, match="no image has gone through"):
        integer_network.convert(simulate(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="rounding must be one of twice, once, not 'up'"):
        integer_network.convert(simulate(nn.Linear(2, 2)), rounding="up")


# --- whole networks, and torch's kernels as a second implementation --------------------------------------------------


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5"])
def test_integer_and_simulated_networks_agree_and_so_do_the_kernels(name):
    model, images = getattr(models, name)(), torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    simulated = calibrate(simulate(model), images)
    step = activations(simulated)[-1].grid().scale
    networks = [integer_network.convert(simulated)]
    if torch_kernels.kernels_available():
        networks.append(torch_kernels.convert_to_kernels(simulated))
    with torch.no_grad():
        expected = simulated(images)
        for network in networks:
            steps = ((network(images) - expected) / step).abs()
            assert steps.max() < 1.01 and (steps > 0.5).float().mean() < 0.3
    split = Split(images, expected.argmax(1))
    assert error_pct(networks[0], split) <= 5  # of an untrained network, whose answers lie close together


def test_the_processor_is_named_and_missing_kernels_are_said(monkeypatch):
    assert all(torch_kernels.processor().values())
    monkeypatch.setattr(torch_kernels, "exact_engine", lambda preferred: None)
    assert torch_kernels.processor()["kernels for 8 bits"] == "none that is exact: int32 without kernels"
    assert not torch_kernels.kernels_available()
    with pytest.raises(ValueError, match="no quantized kernels that add exactly on this processor: use convert"):
        torch_kernels.convert_to_kernels(calibrate(simulate(nn.Linear(2, 2)), torch.rand(1, 2)))


@pytest.mark.parametrize("wrong", [["x86"], ["x86", "fbgemm"], ["x86", "fbgemm", "onednn"]])
def test_engines_that_cut_sums_off_are_not_used(monkeypatch, wrong):
    exact = [name for name in ("fbgemm", "onednn", "qnnpack") if name not in wrong and torch_kernels.adds_exactly(name)]
    right, before = torch_kernels.adds_exactly, torch.backends.quantized.engine
    monkeypatch.setattr(torch_kernels, "adds_exactly", lambda name: name not in wrong and right(name))
    torch_kernels.exact_engine.cache_clear()
    assert torch_kernels.exact_engine("x86") == next(iter(exact), None)
    torch_kernels.exact_engine.cache_clear()
    assert torch.backends.quantized.engine == before


KINDS = {
    "linear": (nn.Linear(60, 5), (60,)),
    "convolution": (nn.Conv2d(16, 12, 3, padding=1), (16, 5, 5)),
    "few channels": (nn.Conv2d(3, 8, 3), (3, 6, 6)),
    "one pixel": (nn.Conv2d(64, 8, 1), (64, 3, 3)),
    "depthwise": (nn.Conv2d(16, 16, 3, groups=16), (16, 5, 5)),
    "two groups": (nn.Conv2d(16, 8, 3, groups=2), (16, 5, 5)),
}


@pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no exact kernels here")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("signs", ["ones", "random", "mostly ones"])
def test_the_largest_values_are_added_exactly_by_the_kernels(kind, signs):
    """uint8 near 255 and int8 of 127 or -127: two products do not fit into 16 bits."""
    layer, shape = copy.deepcopy(KINDS[kind][0]), KINDS[kind][1]
    generator = torch.Generator().manual_seed(0)
    threshold = {"ones": -1.0, "random": 0.5, "mostly ones": 0.1}[signs]
    drawn = torch.rand(layer.weight.shape, generator=generator)
    layer.weight.data = torch.where(drawn < threshold, -0.1, 0.1)
    x = 0.8 + 0.2 * torch.rand(6, *shape, generator=generator)
    simulated = calibrate(simulate(layer), x)
    step = activations(simulated)[-1].grid().scale
    with torch.no_grad():
        expected = simulated(x)
        for convert in (integer_network.convert, torch_kernels.convert_to_kernels):
            assert ((convert(simulated)(x) - expected) / step).abs().max() < 1.01


@pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no quantized kernels here")
def test_a_layer_of_torch_ao_is_the_same():
    from torch.ao.nn import quantized

    layer = nn.Linear(20, 6)
    x = torch.rand(50, 20)
    simulated = calibrate(simulate(layer), x)
    first, last = (each.grid() for each in activations(simulated))
    form, weight = simulated.get_submodule("0").parametrizations.weight[0], layer.weight.detach()
    scale = form.grid(weight).scale.flatten().double()
    with torch_kernels._quiet():
        packed = torch.quantize_per_channel(weight, scale, torch.zeros(6).long(), 0, torch.qint8)
    with torch_kernels._engine(torch_kernels.exact_engine(torch.backends.quantized.engine)):  # others may cut sums off
        peer = quantized.Linear(20, 6)
        peer.set_weight_bias(packed, layer.bias.detach())
    peer.scale, peer.zero_point = last.scale.item(), last.zero.item() + 128
    q = torch.quantize_per_tensor(x, first.scale.item(), first.zero.item() + 128, torch.quint8)
    ours = last.quantize(integer_network.convert(simulated)(x))
    assert (peer(q).int_repr().long() - 128 - ours).abs().max() <= 1


@pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no quantized kernels here")
def test_residual_and_depthwise_networks_of_torchvision_follow_the_simulated_one():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 32, 32)
    for name in ("mobilenet_v2", "resnet18"):
        simulated = calibrate(simulate(getattr(torchvision.models, name)(num_classes=10)), x)
        step = activations(simulated)[-1].grid().scale
        with torch.no_grad():
            expected = simulated(x)
            for convert in (integer_network.convert, torch_kernels.convert_to_kernels):
                assert (convert(simulated)(x) - expected).abs().max() < 20 * step  # of 255, through dozens of layers


@pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no quantized kernels here")
def test_what_the_kernels_do_not_compute_is_refused():
    x = torch.rand(1, 2, 8, 8)
    for layer, more, says in (
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), {}, "border of zeros"),
        (nn.Conv2d(2, 2, 3), {"symmetric": False}, "symmetric weights"),
        (nn.Conv2d(2, 2, 3), {"edge_bits": 4}, "activations of 8 bits, not of 4"),
    ):
        with pytest.raises(ValueError, match=says):
            torch_kernels.convert_to_kernels(calibrate(simulate(layer, **more), x))
