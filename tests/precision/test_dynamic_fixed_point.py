"""Dynamic fixed point: the symmetric grid, the controller of its ranges, two widths, and training."""

import copy
import math

import given
import numpy as np
import pytest
import torch
from torch import nn

from lib import models, storage
from lib.datasets import Split
from lib.precision import fixed_point
from lib.precision.dynamic_fixed_point import LIMITS, DynamicFixedPoint, HalfFloat, Range, find_ranges, rounded
from lib.precision.shared.arithmetic import Arithmetic, computing
from lib.precision.shared.gradient_descent import train
from lib.vision import torchvision


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 40, inputs: int = 784) -> Split:
    return given.split(n, 1, 1, inputs, labels="in turn")


def settled(values: torch.Tensor, arithmetic: DynamicFixedPoint, steps: int = 200) -> list[int]:
    """The range of a place that sees the same values at each step, after each step."""
    arithmetic.learning, ranges = True, []
    for _ in range(steps):
        arithmetic.rounded(values, "place")
        arithmetic.end_of_step()
        ranges.append(arithmetic.ranges["place"].integer_bits)
    return ranges


# -- The grid ------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "integer_bits"), [(9, 5), (9, -10), (1, 0), (15, 3), (6, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_grid_is_the_formula_odd_and_a_fixed_point_of_itself(bits, integer_bits, dtype):
    values = torch.randn(5000, generator=seeded(), dtype=dtype) * 2.0**integer_bits
    result = rounded(values, bits=bits, integer_bits=integer_bits)
    top = 2**bits - 1
    expected = (values * 2.0 ** (bits - integer_bits)).round().clamp(-top, top) * 2.0 ** (integer_bits - bits)
    assert torch.equal(result, expected)
    assert torch.equal(rounded(-values, bits=bits, integer_bits=integer_bits), -result)
    assert torch.equal(rounded(result, bits=bits, integer_bits=integer_bits), result)


def test_the_range_is_symmetric_and_infinity_stops_there():
    values = torch.tensor([-9.0, 9, math.inf, -math.inf])
    assert rounded(values, bits=3, integer_bits=3).tolist() == [-7, 7, 7, -7]


@pytest.mark.parametrize("shape", [(0,), (), (0, 2), (1, 1)])
def test_any_shape_keeps_its_shape(shape):
    assert rounded(torch.zeros(shape), bits=9, integer_bits=0).shape == shape


@pytest.mark.parametrize("bits", [0, 32])
def test_bits_outside_1_to_31_are_refused(bits):
    with pytest.raises(ValueError, match=f"1..31 besides the sign, not {bits}"):
        rounded(torch.zeros(2), bits=bits, integer_bits=0)
    with pytest.raises(ValueError, match=f"1..31 and no more than storage_bits, not {bits}"):
        DynamicFixedPoint(bits=bits, storage_bits=31)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="hold NaN"):
        rounded(torch.tensor([math.nan]), bits=9, integer_bits=0)
    with pytest.raises(ValueError, match=r"torch.float16: accepted"):
        rounded(torch.zeros(1).half(), bits=9, integer_bits=0)
    with pytest.raises(ValueError, match=r"integer_bits must be in -60..60, not 61"):
        rounded(torch.zeros(1), bits=9, integer_bits=61)
    with pytest.raises(ValueError, match="not 11 and 9"):
        DynamicFixedPoint(bits=11, storage_bits=9)
    with pytest.raises(ValueError, match=r"not 0 and 0.5"):
        DynamicFixedPoint(bits=9, every=0, limit=0.5)
    with pytest.raises(ValueError, match="not 9 and 2"):
        DynamicFixedPoint(bits=9, every=9, limit=2)


# -- The controller ------------------------------------------------------------


@pytest.mark.parametrize("bits", [3, 9, 20])
@pytest.mark.parametrize("largest", [0.003, 0.75, 1.3, 100.0])
@pytest.mark.parametrize("start", [-9, 12])
def test_a_constant_settles_in_the_range_of_its_largest_number_and_stays(bits, largest, start):
    arithmetic = DynamicFixedPoint(bits=bits, integer_bits=start, every=1, limit=0)
    ranges = settled(torch.tensor([largest, -largest / 3]), arithmetic, steps=40)
    expected = math.ceil(math.log2(largest / (1 - 2.0**-bits)))
    assert ranges[-15:] == [expected] * 15
    moves = np.diff([start, *ranges])
    assert np.abs(moves).max() == 1 and len(set(moves[moves != 0])) == 1
    assert arithmetic.ranges["place"].moves == abs(expected - start)


def test_a_range_moves_only_after_so_many_steps():
    ranges = settled(torch.ones(4), DynamicFixedPoint(bits=9, integer_bits=5, every=100), steps=300)
    assert ranges == [5] * 99 + [4] * 100 + [3] * 100 + [2]


def test_a_few_may_overflow_but_no_more():
    values = torch.full((10_000,), 0.4)
    values[0] = 100.0  # one in ten thousand: just allowed
    assert settled(values, DynamicFixedPoint(bits=9, integer_bits=0, every=1), 30)[-1] == -1
    values[1] = 100.0
    assert settled(values, DynamicFixedPoint(bits=9, integer_bits=0, every=1), 30)[-1] == 7


def test_a_range_of_zeros_stays_and_none_leaves_its_limits():
    assert set(settled(torch.zeros(5), DynamicFixedPoint(bits=9, integer_bits=3, every=1))) == {3}
    assert settled(torch.full((2,), 1e-30), DynamicFixedPoint(bits=9, every=1))[-1] == LIMITS[0]
    assert settled(torch.full((2,), 1e30), DynamicFixedPoint(bits=9, every=1))[-1] == LIMITS[1]


def test_fixed_ranges_never_move_and_nothing_is_counted_outside_training():
    assert set(settled(torch.ones(3), DynamicFixedPoint(bits=9, every=None))) == {5}
    arithmetic = DynamicFixedPoint(bits=9, every=1)
    arithmetic.rounded(torch.ones(3), "place")
    arithmetic.end_of_step()
    assert arithmetic.ranges["place"] == Range(5)


# -- Training ------------------------------------------------------------------


def test_each_kind_of_number_of_each_layer_has_its_own_range():
    arithmetic = DynamicFixedPoint(bits=9, storage_bits=11, every=1)
    train(models.lenet_300_100(), images(), arithmetic=arithmetic, epochs=8, seed=0, batch_size=10)
    kinds = [f"{p}{kind}" for p in ("weight", "bias") for kind in ("", ".gradient", ".update")]
    for name, relu in (("fc1", "relu1"), ("fc2", "relu2")):  # ten for a layer with its activation
        own = {f"{name}.{kind}" for kind in kinds} | {f"{n}.output{k}" for n in (name, relu) for k in ("", ".error")}
        assert len(own) == 10 and own <= set(arithmetic.ranges)
    ranges = {place: known.integer_bits for place, known in arithmetic.ranges.items()}
    assert len(set(ranges.values())) > 3 and ranges["fc1.weight.gradient"] < 0 < ranges["input"] + 1


def test_parameters_are_kept_with_more_bits_than_they_are_multiplied_with():
    arithmetic = DynamicFixedPoint(bits=3, storage_bits=11, integer_bits=0, every=None)
    value = torch.tensor([0.30078125])
    assert arithmetic.keep(value, "fc.weight").item() == 0.30078125  # 154 / 2^9 = 616 / 2^11
    assert arithmetic.rounded(value, "fc.weight").item() == 0.25


def test_with_23_bits_training_is_that_of_floats():
    split, trained = images(200), []
    for arithmetic in (Arithmetic(), DynamicFixedPoint(bits=23)):  # 20 steps, in which no range moves
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.Tanh(), nn.Linear(100, 10))  # no kink to fall off
        train(model, split, arithmetic=arithmetic, epochs=2, seed=0, batch_size=20)
        trained.append(model)
    for value, other in zip(trained[0].parameters(), trained[1].parameters(), strict=True):
        assert 0 < (value - other).abs().max() < 1e-4


def test_half_floats_are_those_of_numpy():
    model, split = models.lenet_300_100(), images(6)
    train(model, split, arithmetic=HalfFloat(), epochs=1, seed=0)
    for value in model.parameters():
        array = value.detach().numpy()
        assert np.array_equal(array, array.astype(np.float16).astype(np.float32))
    values = torch.randn(100) * 1e3
    expected = values.numpy().astype(np.float16).astype(np.float32)
    assert np.array_equal(HalfFloat().rounded(values, "input").numpy(), expected)


def test_the_warm_up_finds_ranges_and_leaves_the_model_alone():
    model, arithmetic = models.lenet_300_100(), DynamicFixedPoint(bits=9, storage_bits=11, every=1)
    before = copy.deepcopy(model.state_dict())
    find_ranges(model, images(), arithmetic=arithmetic, epochs=4, seed=0, batch_size=10)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert arithmetic.ranges["fc1.weight"].integer_bits < 0
    assert all((known.numbers, known.over, known.moves) == (0, 0, 0) for known in arithmetic.ranges.values())


def test_the_warm_up_trains_with_the_options_of_train():
    every_set = []
    for options in ({}, {"learning_rate": 30.0}, {"decay": 1e-9}, {"batch_size": 10}):
        found, wide = DynamicFixedPoint(bits=9, every=1), DynamicFixedPoint(bits=31, every=1)
        find_ranges(models.lenet_300_100(), images(), arithmetic=found, epochs=20, seed=0, **options)
        train(models.lenet_300_100(), images(), arithmetic=wide, epochs=20, seed=0, **options)
        ranges, expected = ({place: known.integer_bits for place, known in a.ranges.items()} for a in (found, wide))
        assert ranges == expected and ranges not in every_set, options
        every_set.append(ranges)


def test_a_misspelt_option_is_refused_before_training():
    arithmetic = DynamicFixedPoint(bits=9)
    with pytest.raises(TypeError, match="unexpected keyword argument 'momentum'"):
        find_ranges(models.lenet_300_100(), images(), arithmetic=arithmetic, epochs=1, seed=0, momentum=0.9)
    assert not arithmetic.ranges


def test_the_weights_go_into_a_file_by_the_format_of_their_layer(tmp_path):
    model, arithmetic = models.lenet_300_100(), DynamicFixedPoint(bits=9, storage_bits=11, every=1)
    train(model, images(), arithmetic=arithmetic, epochs=3, seed=0, batch_size=10)
    before = copy.deepcopy(model.state_dict())
    formats = arithmetic.formats()
    assert {format.word for format in formats.values()} == {10} and set(formats) == {"fc1", "fc2", "fc3"}
    storage.save(fixed_point.quantize(model, formats), tmp_path / "model.slim")
    loaded = storage.load(tmp_path / "model.slim", models.lenet_300_100(1)).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in before.items())


def test_a_torchvision_model_and_odd_layers_train():
    split = Split(torch.rand(2, 3, 32, 32), torch.tensor([0, 2]))
    arithmetic = DynamicFixedPoint(bits=9, storage_bits=11, every=1)
    train(
        torchvision.models.squeezenet1_1(num_classes=3),
        split,
        arithmetic=arithmetic,
        epochs=1,
        seed=0,
        learning_rate=0.01,
    )
    torch.manual_seed(0)
    odd = nn.Sequential(nn.Conv2d(3, 3, 3, groups=3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    train(odd, split, arithmetic=DynamicFixedPoint(bits=9, every=1), epochs=2, seed=0, batch_size=1)
    with computing(odd, DynamicFixedPoint(bits=9, integer_bits=2)), torch.no_grad():
        assert odd(split.images[:1]).shape == (1, 3)


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_bits_of_numpy_are_whole_numbers_and_others_are_refused(kind):
    values = torch.tensor([0.3, -0.3, 9.0])
    expected = rounded(values, bits=3, integer_bits=0)
    assert torch.equal(rounded(values, bits=kind(3), integer_bits=kind(0)), expected)
    made = DynamicFixedPoint(bits=kind(3), storage_bits=kind(5), integer_bits=kind(0))
    assert torch.equal(made.rounded(values, "x"), expected) and type(made.storage_bits) is int
    for options in ({"bits": 3.5}, {"bits": 3, "storage_bits": 5.0}, {"bits": 3, "integer_bits": "0"}):
        with pytest.raises(ValueError, match=r"bits must be a whole number, not"):
            DynamicFixedPoint(**options)
