"""Sums, products, means and tables of integers: right at every width that is accepted."""

import math

import pytest
import torch
from given_quantization import exactly
from torch import nn

from lib.quantization.shared import integer_operations, operations
from lib.quantization.shared.grids import grid
from lib.quantization.shared.integer_arithmetic import multiplier


def drawn(chosen, n, seed=0):
    """Integers of a grid, its ends among them."""
    q = torch.randint(chosen.low, chosen.high + 1, (n,), generator=torch.Generator().manual_seed(seed))
    q[:4] = torch.tensor([chosen.low, chosen.high, chosen.low, chosen.high])
    return q.int()


def fraction(value) -> list[int]:
    return [part.item() for part in multiplier(value)]


def sum_by_hand(a, b, ga, gb, after, alpha, shift):
    """TensorFlow Lite's addition with Python's integers."""
    sa, sb = ga.scale.double(), gb.scale.double() * abs(alpha)
    twice = 2 * max(sa, sb)
    first = exactly((a - ga.zero.item()) << shift, *fraction(sa / twice))
    second = exactly((b - gb.zero.item()) << shift, *fraction(sb / twice))
    total = first + second if alpha > 0 else first - second
    scaled = exactly(total, *fraction(twice / (2**shift * after.scale.double())))
    return min(after.high, max(after.low, after.zero.item() + scaled))


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("alpha", [1, -1, 3, 0.01])
def test_sums_are_those_of_python_integers_at_every_width(bits, alpha):
    ga, gb = grid(-1.0, 3.0, bits=bits), grid(-0.2, 2.9, bits=max(8, bits))
    after = grid(-3.0, 4.5, bits=bits)
    a, b = drawn(ga, 200), drawn(gb, 200, seed=1)
    b[2:4] = b[2:4].flip(0)
    shift = 20 if max(8, bits) <= 11 else 31 - bits  # TensorFlow Lite: 20 of 8 bits, 15 of 16
    module = integer_operations.Sum("sum", operations.Sum(alpha), [ga, gb], after)
    expected = [sum_by_hand(*pair, ga, gb, after, alpha, shift) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert module(a, b).tolist() == expected
    exact = (ga.scale.double() * (a - ga.zero) + alpha * gb.scale.double() * (b - gb.zero)) / after.scale.double()
    assert (torch.tensor(expected) - (exact + after.zero).clamp(after.low, after.high)).abs().max() < 1


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("rounding", ["twice", "once"])
def test_products_are_those_of_the_numbers_at_every_width(bits, rounding):
    ga, gb = grid(-1.0, 3.0, bits=bits), grid(0.0, 0.9, bits=bits)
    a, b = drawn(ga, 200), drawn(gb, 200, seed=1)
    for after in (grid(-1.0, 3.0, bits=bits), grid(-0.01, 0.2, bits=bits), grid(0.0, 2.7, bits=16)):
        module = integer_operations.Product("product", operations.Product(), [ga, gb], after, rounding=rounding)
        exact = ga.scale.double() * (a - ga.zero) * gb.scale.double() * (b - gb.zero) / after.scale.double()
        assert (module(a, b) - (exact + after.zero).clamp(after.low, after.high)).abs().max() < 1


def test_products_of_8_bits_are_those_of_python_integers():
    ga, gb, after = grid(-1.0, 3.0), grid(-0.2, 0.9), grid(-1.1, 2.5)
    a, b = drawn(ga, 300), drawn(gb, 300, seed=1)
    m = fraction(ga.scale.double() * gb.scale.double() / after.scale.double())
    za, zb, z3 = (chosen.zero.item() for chosen in (ga, gb, after))
    expected = [z3 + exactly((x - za) * (y - zb), *m) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    expected = [min(127, max(-128, q)) for q in expected]
    assert integer_operations.Product("product", operations.Product(), [ga, gb], after)(a, b).tolist() == expected


POOLINGS = [
    *(nn.AvgPool2d(2), nn.AvgPool2d(3, 2), nn.AvgPool2d(3, 2, 1, True, False), nn.AvgPool2d(2, divisor_override=3)),
    *(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((2, None)), nn.AdaptiveAvgPool2d(4), operations.Mean((2, 3))),
]


@pytest.mark.parametrize("bits", range(1, 17))
def test_means_are_those_of_the_numbers_at_every_width(bits):
    before, after = grid(-1.0, 3.0, bits=bits), grid(-1.1, 2.5, bits=bits)
    maps = drawn(before, 288).reshape(2, 4, 6, 6)
    real = before.scale.double() * (maps - before.zero)
    for layer in POOLINGS:
        computed = integer_operations.Mean("mean", layer, [before], after)(maps)
        exact = (layer(real) / after.scale.double() + after.zero).clamp(after.low, after.high)
        assert (computed - exact).abs().max() < 1


@pytest.mark.parametrize("bits", [8, 16])
def test_means_of_large_maps_do_not_overflow(bits):
    before = grid(0.0, 1.0, bits=bits)
    maps = torch.full((1, 1, 300, 300), before.high).int()  # of 16 bits the sum is 90,000 times 65,535
    assert integer_operations.Mean("mean", nn.AdaptiveAvgPool2d(1), [before], before)(maps).item() == before.high


def test_means_of_8_bits_are_those_of_python_integers():
    before, after = grid(-1.0, 3.0), grid(-1.1, 2.5)
    maps = drawn(before, 288).reshape(2, 4, 6, 6)
    m = fraction(before.scale.double() / (36 * after.scale.double()))
    totals = (maps.long() - before.zero).sum((2, 3)).flatten().tolist()
    expected = [min(127, max(-128, after.zero.item() + exactly(t, *m))) for t in totals]
    module = integer_operations.Mean("mean", nn.AdaptiveAvgPool2d(1), [before], after)
    assert module(maps).flatten().tolist() == expected


@pytest.mark.parametrize("bits", [1, 4, 8, 16])
@pytest.mark.parametrize("function", [nn.SiLU(), nn.Hardswish(), nn.Sigmoid(), nn.Hardtanh(-0.3, 1.7), nn.Identity()])
def test_a_table_holds_what_the_simulated_network_computes(bits, function):
    before, after = grid(-4.0, 5.0, bits=bits), grid(-0.3, 1.0, bits=bits)
    q = torch.arange(before.low, before.high + 1).int()
    computed = integer_operations.Table("table", function, [before], after)(q)
    assert torch.equal(computed.long(), after.quantize(function(before.dequantize(q))))


def test_a_table_needs_finite_numbers():
    with pytest.raises(ValueError, match="'log' is not finite for all integers of its input's grid"):
        integer_operations.Table("log", Log(), [grid(-1.0, 1.0)], grid(-1.0, 0.0))


class Log(nn.Module):
    def forward(self, x):
        return x.log()


def test_parts_of_a_concatenation_come_to_one_grid():
    grids, after = [grid(-1.0, 1.0), grid(0.0, 5.0), grid(-3.0, 0.1, bits=4)], grid(-3.0, 5.0)
    parts = [drawn(chosen, 40, seed).reshape(4, 10) for seed, chosen in enumerate(grids)]
    module = integer_operations.Concatenation("cat", operations.Concatenation(1), grids, after)
    expected = torch.cat([after.quantize(g.dequantize(q)) for g, q in zip(grids, parts, strict=True)], 1)
    assert torch.equal(module(*parts).long(), expected)


def test_clamps_and_poolings_of_integers():
    chosen, q = grid(-1.0, 7.0), torch.arange(-128, 128).int()
    for clamp in (nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-0.5, math.inf), nn.Hardtanh(0.5, 2.0)):
        computed = integer_operations.Clamp("clamp", clamp, [chosen], chosen)(q)
        assert torch.equal(computed.long(), chosen.quantize(clamp(chosen.dequantize(q))))
    maps = q.reshape(1, 4, 8, 8)
    for pool in (nn.AdaptiveMaxPool2d(3), nn.MaxPool2d(2)):
        assert torch.equal(integer_operations.Pool("pool", pool, [chosen], chosen)(maps), pool(maps.double()).int())
