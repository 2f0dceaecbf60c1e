"""Fixed-point formats: grid and rails, both roundings against exact fractions, exact sums, the swallowed update."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from lib.precision.shared.formats import Format, rounded

FORMATS = [Format(8, 8), Format(6, 10), Format(4, 12), Format(2, 14), Format(1, 0), Format(-3, 11), Format(20, -4)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on_grid(values: torch.Tensor, format: Format) -> bool:
    whole = values.double() / format.step
    return bool((whole == whole.round()).all() and (values >= format.lowest).all() and (values <= format.highest).all())


def exact(value: float, format: Format) -> Fraction:
    """Rounded to nearest, ties up, in fractions."""
    step = Fraction(2) ** -format.fraction_bits
    nearest = math.floor(Fraction(value) / step + Fraction(1, 2)) * step
    return min(max(nearest, Fraction(format.lowest)), Fraction(format.highest))


def test_the_three_formats_of_the_paper_have_sixteen_bits():
    for integer, fraction in ((8, 8), (6, 10), (2, 14)):
        format = Format(integer, fraction, 16)
        assert (format.step, format.lowest) == (2.0**-fraction, -(2.0 ** (integer - 1)))
        assert (format.highest - format.lowest) / format.step + 1 == 2**16


@pytest.mark.parametrize("bits", [(0, 0), (16, 17), (33, 0), (-5, 5), (-90, 97), (70, -65)])
def test_words_outside_1_to_32_bits_are_refused(bits):
    with pytest.raises(ValueError, match="accepted are words of 1 to 32 bits"):
        Format(*bits)


def test_bits_that_do_not_add_up_to_the_word_are_refused():
    with pytest.raises(ValueError, match="8 integer and 10 fractional bits are 18, not 16"):
        Format(8, 10, 16)


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_is_the_nearest_number_of_the_grid(format, dtype):
    values = torch.randn(500, generator=seeded(), dtype=dtype) * -format.lowest / 2
    ties = (torch.arange(-9, 10, dtype=dtype) + 0.5) * format.step
    near = torch.tensor([0.49999997, -1e-30, 1e-30, -0.50000006, -0.49999997], dtype=dtype) * format.step
    for value in torch.cat([values, ties, near]):
        result = rounded(value, format).item()
        assert Fraction(result) == exact(value.item(), format), value
        assert not (result == 0 and math.copysign(1, result) < 0), "a negative zero is no fixed-point number"


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_no_rounding_moves_a_number_by_a_step_and_the_grid_stays(format, rounding):
    values = torch.empty(5000).uniform_(format.lowest, format.highest, generator=seeded())
    result = rounded(values, format, rounding=rounding, generator=seeded())
    assert on_grid(result, format)
    limit = format.step * (0.5 if rounding == "nearest" else 1)
    distance = (result.double() - values.double()).abs()
    assert (distance <= limit).all() if rounding == "nearest" else (distance < limit).all()
    assert torch.equal(rounded(result, format, rounding=rounding, generator=seeded(1)), result)


def test_the_rails_are_not_symmetric_and_infinity_stops_there():
    values = torch.tensor([-9.0, -8.0, 8.0, 7.999, math.inf, -math.inf])
    for rounding in ("nearest", "stochastic"):
        result = rounded(values, Format(4, 4), rounding=rounding, generator=seeded())
        assert result.tolist() == [-8, -8, 7.9375, 7.9375, 7.9375, -8]


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("place", [-3, 0, 5])
def test_stochastic_rounding_is_unbiased_with_the_variance_of_a_coin(fraction, place):
    n, step = 10**6, 2.0**-8
    x = float(np.float32((place + fraction) * step))
    share = x / step - math.floor(x / step)
    result = rounded(torch.full((n,), x), Format(8, 8), rounding="stochastic", generator=seeded(7)).double()
    assert abs(result.mean().item() - x) <= 4 * step * math.sqrt(share * (1 - share) / n)
    assert result.var().item() == pytest.approx(step**2 * share * (1 - share), rel=0.02)
    assert set(result.unique().tolist()) == {math.floor(x / step) * step, (math.floor(x / step) + 1) * step}


def test_neighbors_are_rounded_independently():
    result = rounded(torch.full((10**6,), 0.5), Format(8, 0), rounding="stochastic", generator=seeded(3)).double()
    for lag in (1, 2, 3, 64):
        correlation = np.corrcoef(result[:-lag], result[lag:])[0, 1]
        assert abs(correlation) < 4e-3


def test_stochastic_rounding_repeats_with_its_generator_alone():
    values = torch.rand(1000)
    first, again, other = (rounded(values, Format(8, 4), rounding="stochastic", generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("word", [25, 32])
def test_a_format_finer_than_floats_stops_before_the_rail(word):
    format = Format(2, word - 2)
    assert rounded(torch.tensor([5.0]), format).item() == 2 - 2.0**-23
    assert rounded(torch.tensor([5.0], dtype=torch.float64), format).item() == format.highest


@pytest.mark.parametrize("shape", [(0,), (), (1,), (0, 3, 2), (1, 1, 1)])
def test_any_shape_keeps_its_shape(shape):
    assert rounded(torch.zeros(shape), Format(8, 8)).shape == shape


def test_what_is_no_float_or_no_number_is_refused():
    with pytest.raises(ValueError, match="hold NaN"):
        rounded(torch.tensor([1.0, math.nan]), Format(8, 8))
    for dtype in (torch.float16, torch.int64):
        with pytest.raises(ValueError, match=f"{dtype}: accepted are float32 and float64"):
            rounded(torch.zeros(2, dtype=dtype), Format(8, 8))
    with pytest.raises(ValueError, match="nearest, stochastic, not 'up'"):
        rounded(torch.zeros(2), Format(8, 8), rounding="up")
    with pytest.raises(ValueError, match="without a generator"):
        rounded(torch.zeros(2), Format(8, 8), rounding="stochastic")


def test_brevitas_rounds_the_same():
    quant = pytest.importorskip("brevitas.core.quant")
    values = torch.randn(1000, generator=seeded()) * 60
    rounding = quant.IntQuant(narrow_range=False, signed=True, input_view_impl=nn.Identity())
    result = rounding(torch.tensor(2.0**-8), torch.tensor(0.0), torch.tensor(16.0), values)
    ties = (values * 2**8).frac().abs() == 0.5  # theirs go to even
    assert torch.equal(result[~ties], rounded(values, Format(8, 8))[~ties])


def test_a_dot_product_in_float64_is_the_integer_one_rounded_once():
    format, generator = Format(6, 10), seeded()
    a, b = (rounded(torch.randn(1000, 300, generator=generator).double(), format) for _ in range(2))
    result = rounded((a[:, None] @ b[:, :, None]).flatten(), format)
    for left, right, value in zip(a, b, result, strict=True):
        total = sum(int(x) * int(y) for x, y in zip(left * 2**10, right * 2**10, strict=True))
        whole = (total + 2**9) >> 10  # from 20 fractional bits to 10, ties up
        assert value.item() == min(max(whole, -(2**15)), 2**15 - 1) / 2**10


def test_nearest_swallows_small_updates_and_stochastic_rounding_does_not():
    format, n, generator = Format(8, 8), 10**4, seeded()
    update = torch.tensor([0.4 * format.step])
    nearest = stochastic = torch.ones(1)
    for _ in range(n):
        nearest = rounded(nearest - rounded(update, format), format)
        change = rounded(update, format, rounding="stochastic", generator=generator)
        stochastic = rounded(stochastic - change, format)
    assert nearest.item() == 1
    moved = (1 - stochastic.item()) / format.step
    assert abs(moved - 0.4 * n) <= 4 * math.sqrt(n * 0.24)


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.uint8])
def test_bits_of_numpy_are_whole_numbers_too(kind):
    format = Format(kind(2), kind(6))
    assert format == Format(2, 6) and format.step == 2**-6 and format.lowest == -2
    assert torch.equal(rounded(torch.tensor([0.3, 9.0]), format), rounded(torch.tensor([0.3, 9.0]), Format(2, 6)))


def test_bits_that_are_no_whole_numbers_are_refused():
    for bits in ((2.5, 5.5), (2.0, 6), (2, "6"), (None, 6)):
        with pytest.raises(ValueError, match=r"(integer|fraction)_bits must be a whole number, not"):
            Format(*bits)
