"""Integer arithmetic against Python's integers, layer by layer and for whole networks."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import models
from lib.pruning import magnitude
from lib.quantization.affine import activations, calibrate, grid, simulate
from lib.quantization.shared import graph, integer_network


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exactly(x: int, m0: int, exponent: int) -> int:
    """TensorFlow Lite's two roundings with Python's integers."""
    product = (x << max(exponent, 0)) * m0
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = math.trunc(Fraction(product + nudge, 2**31))
    n = max(-exponent, 0)
    half = Fraction(high, 2**n)
    return math.floor(half + Fraction(1, 2)) if half >= 0 else -math.floor(-half + Fraction(1, 2))


def test_rescaling_is_that_of_python_integers_and_nearly_the_real_product():
    generator = torch.Generator().manual_seed(0)
    q = torch.cat([torch.randint(-(2**30), 2**30, (150,), generator=generator), torch.arange(-50, 51) * 2**9])
    for factor in (0.5, 0.25, 0.003, 0.9999999999, 1e-9, 0.7071, 1.0, 3.7, 2.0**-31):
        m0, exponent = integer_network.multiplier(torch.tensor(factor, dtype=torch.float64))
        assert 2**30 <= m0 < 2**31 and math.isclose(m0.item() / 2**31 * 2.0 ** exponent.item(), factor, rel_tol=1e-9)
        inside = q[(q.abs() << exponent.clamp(min=0)) < 2**31]
        computed = integer_network.rescale(inside, m0, exponent)
        assert computed.tolist() == [exactly(x, m0.item(), exponent.item()) for x in inside.tolist()]
        assert (computed - (factor * inside.double()).round()).abs().max() <= 1


def test_rounding_once_is_half_up():
    q = torch.arange(-300, 301) * 71
    for factor in (0.5, 0.25, 0.01, 0.7071, 1.0, 2.5):
        m0, exponent = integer_network.multiplier(torch.tensor(factor, dtype=torch.float64))
        computed = integer_network.rescale(q, m0, exponent, rounding="once")
        exact = [Fraction(x * m0.item(), 2**31) * Fraction(2) ** exponent.item() for x in q.tolist()]
        assert computed.tolist() == [math.floor(x + Fraction(1, 2)) for x in exact]


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
    computed = integer_network.accumulate(q1.int(), -11, q2.int(), zeros.int(), functional.linear)
    assert torch.equal(computed.long(), (q1 + 11) @ (q2 - zeros[:, None]).T)
    image, kernel = q1.reshape(1, 7, 3, 4), torch.randint(-127, 128, (5, 7, 2, 2), generator=generator)
    computed = integer_network.accumulate(image.int(), -11, kernel.int(), zeros.int(), functional.conv2d)
    assert torch.equal(computed.long(), functional.conv2d(image + 11, kernel - zeros.reshape(-1, 1, 1, 1)))


def test_the_integer_product_is_the_product_of_the_real_numbers():
    a, b = rand(9, 30), rand(4, 30, seed=1)
    ga, gb = grid(a.min(), a.max()), grid(b.amin(1, keepdim=True), b.amax(1, keepdim=True))
    qa, qb = ga.quantize(a), gb.quantize(b)
    total = integer_network.accumulate(qa.int(), ga.zero.item(), qb.int(), gb.zero.flatten().int(), functional.linear)
    real = (ga.scale.double() * (qa - ga.zero)) @ (gb.scale.double() * (qb - gb.zero)).T
    torch.testing.assert_close(total * ga.scale.double() * gb.scale.double().T, real, rtol=1e-9, atol=1e-9)


def by_hand(simulated, x):
    """A convolution, ReLU and a linear layer with Python's integers, one value at a time."""
    first, second, third = (activation.grid() for activation in activations(simulated))
    q = first.quantize(x)[0].tolist()
    out = []
    for layer, before, after in ((simulated.conv, first, second), (simulated.fc, second, third)):
        form, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original
        weights = form.grid(weight)
        scale, codes = weights.scale.flatten().expand(len(weight)), weights.quantize(weight).tolist()
        zeros = weights.zero.flatten().expand(len(weight)).tolist()
        z1, z3, computed = before.zero.item(), after.zero.item(), []
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
            computed.append(rows if isinstance(layer, nn.Linear) else [max(z3, v) for v in rows])
        if isinstance(layer, nn.Linear):
            out = [v for row in computed for v in row]
        else:
            side = len(q[0][0])
            q = [[plane[i : i + side] for i in range(0, len(plane), side)] for plane in computed]
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
        computed = last.quantize(network(images[i : i + 1]))[0].tolist()
        assert computed == by_hand(simulated, images[i : i + 1])


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
        computed = integer_network.Mean(layer, ga, after)(maps)
        assert (computed - after.quantize(layer(ga.dequantize(maps)))).abs().max() <= 1
    m = [v.item() for v in integer_network.multiplier(ga.scale.double() / (36 * after.scale.double()))]
    totals = (maps.long() - ga.zero).sum((2, 3)).flatten().tolist()
    expected = [min(127, max(-128, after.zero.item() + exactly(t, *m))) for t in totals]
    assert integer_network.Mean(nn.AdaptiveAvgPool2d(1), ga, after)(maps).flatten().tolist() == expected


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("build", [models.lenet_300_100, models.resnet8])
def test_with_rounded_biases_and_one_rounding_both_networks_agree(build, bits):
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


def test_weights_that_are_not_on_a_grid_are_refused():
    simulated = calibrate(simulate(models.lenet_300_100()), torch.rand(2, 1, 28, 28))
    magnitude.prune(simulated, density=0.5)  # takes the place of the grid
    with pytest.raises(ValueError, match="weight of layer 'fc1' is not on a grid: accepted is what simulate returns"):
        integer_network.convert(simulated)
