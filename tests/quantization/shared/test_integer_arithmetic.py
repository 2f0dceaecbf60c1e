"""Integer arithmetic against Python's integers."""

import math
from fractions import Fraction

import pytest
import torch
from given_quantization import exactly
from torch.nn import functional

from lib.quantization.shared.grids import grid
from lib.quantization.shared.integer_arithmetic import accumulate, multiplier, narrowed, rescale


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rescaling_is_that_of_python_integers_and_nearly_the_real_product():
    generator = torch.Generator().manual_seed(0)
    q = torch.cat([torch.randint(-(2**30), 2**30, (150,), generator=generator), torch.arange(-50, 51) * 2**9])
    for factor in (0.5, 0.25, 0.003, 0.9999999999, 1e-9, 0.7071, 1.0, 3.7, 2.0**-31):
        m0, exponent = multiplier(torch.tensor(factor, dtype=torch.float64))
        assert 2**30 <= m0 < 2**31 and math.isclose(m0.item() / 2**31 * 2.0 ** exponent.item(), factor, rel_tol=1e-9)
        inside = q[(q.abs() << exponent.clamp(min=0)) < 2**31]
        computed = rescale(inside, m0, exponent)
        assert computed.tolist() == [exactly(x, m0.item(), exponent.item()) for x in inside.tolist()]
        assert (computed - (factor * inside.double()).round()).abs().max() <= 1


def test_rounding_once_is_half_up():
    q = torch.arange(-300, 301) * 71
    for factor in (0.5, 0.25, 0.01, 0.7071, 1.0, 2.5):
        m0, exponent = multiplier(torch.tensor(factor, dtype=torch.float64))
        computed = rescale(q, m0, exponent, rounding="once")
        exact = [Fraction(x * m0.item(), 2**31) * Fraction(2) ** exponent.item() for x in q.tolist()]
        assert computed.tolist() == [math.floor(x + Fraction(1, 2)) for x in exact]


def test_a_factor_below_two_to_the_minus_31_gives_zero():
    assert rescale(torch.tensor([2**31 - 1]), *multiplier(torch.tensor(1e-12))).item() == 0


@pytest.mark.parametrize("z2", [0, 3])
def test_four_sums_are_the_sum_of_products(z2):
    generator = torch.Generator().manual_seed(0)
    q1 = torch.randint(-128, 128, (7, 12), generator=generator)
    q2 = torch.randint(-127, 128, (5, 12), generator=generator)
    zeros = torch.full((5,), z2) * torch.arange(5)
    computed = accumulate(q1.int(), -11, q2.int(), zeros.int(), functional.linear)
    assert torch.equal(computed.long(), (q1 + 11) @ (q2 - zeros[:, None]).T)
    image, kernel = q1.reshape(1, 7, 3, 4), torch.randint(-127, 128, (5, 7, 2, 2), generator=generator)
    computed = accumulate(image.int(), -11, kernel.int(), zeros.int(), functional.conv2d)
    assert torch.equal(computed.long(), functional.conv2d(image + 11, kernel - zeros.reshape(-1, 1, 1, 1)))


def test_the_integer_product_is_the_product_of_the_real_numbers():
    a, b = rand(9, 30), rand(4, 30, seed=1)
    ga, gb = grid(a.min(), a.max()), grid(b.amin(1, keepdim=True), b.amax(1, keepdim=True))
    qa, qb = ga.quantize(a), gb.quantize(b)
    total = accumulate(qa.int(), ga.zero.item(), qb.int(), gb.zero.flatten().int(), functional.linear)
    real = (ga.scale.double() * (qa - ga.zero)) @ (gb.scale.double() * (qb - gb.zero)).T
    torch.testing.assert_close(total * ga.scale.double() * gb.scale.double().T, real, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rounding", ["twice", "once"])
def test_a_factor_that_is_too_large_takes_all_but_zero_out_of_every_grid(rounding):
    for factor in (2.0**30, 1e12, 1e30):
        q = rescale(
            torch.tensor([-(2**31), -1, 0, 1, 2**31 - 1]),
            *multiplier(torch.tensor(factor, dtype=torch.float64)),
            rounding=rounding,
        )
        assert q[2] == 0 and (q[:2] < -(2**17)).all() and (q[3:] > 2**17).all()


def test_integers_that_do_not_fit_become_smaller_and_say_by_how_much():
    for most in (2**31 - 1, 2**31, 2**32 - 1, 2**40):
        total = torch.tensor([most, -most, 1, 0, most // 3])
        small, factor = narrowed(total, most)
        assert small.abs().max() <= 2**31 and (factor == 1) == (most < 2**31)
        assert (small * factor - total).abs().max() <= factor // 2
