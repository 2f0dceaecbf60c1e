"""Fixed point: its grid and rails, both roundings, exact sums, the update that is swallowed, training, the file."""

import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from lib import measure, models, storage, training
from lib.datasets import Split
from lib.precision.fixed_point import (
    Arithmetic,
    FixedPoint,
    FixedPointWeight,
    Format,
    computing,
    convert,
    quantize,
    train,
)
from lib.vision import torchvision
from lib.weights import decompress, layers

FORMATS = [Format(8, 8), Format(6, 10), Format(4, 12), Format(2, 14), Format(1, 0), Format(-3, 11), Format(20, -4)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 40, seed: int = 0, inputs: int = 784) -> Split:
    return Split(torch.rand(n, 1, 1, inputs, generator=seeded(seed)), torch.arange(n) % 10)


def on_grid(values: torch.Tensor, format: Format) -> bool:
    whole = values.double() / format.step
    return bool((whole == whole.round()).all() and (values >= format.lowest).all() and (values <= format.highest).all())


def exact(value: float, format: Format) -> Fraction:
    """Rounded to nearest, ties up, in fractions."""
    step = Fraction(2) ** -format.fraction_bits
    rounded = math.floor(Fraction(value) / step + Fraction(1, 2)) * step
    return min(max(rounded, Fraction(format.lowest)), Fraction(format.highest))


# -- The format ----------------------------------------------------------------


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


# -- Rounding ------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_is_the_nearest_number_of_the_grid(format, dtype):
    values = torch.randn(500, generator=seeded(), dtype=dtype) * -format.lowest / 2
    ties = (torch.arange(-9, 10, dtype=dtype) + 0.5) * format.step
    near = torch.tensor([0.49999997, -1e-30, 1e-30, -0.50000006, -0.49999997], dtype=dtype) * format.step
    for value in torch.cat([values, ties, near]):
        found = convert(value, format).item()
        assert Fraction(found) == exact(value.item(), format), value
        assert not (found == 0 and math.copysign(1, found) < 0), "a negative zero is no fixed-point number"


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_no_rounding_moves_a_number_by_a_step_and_the_grid_stays(format, rounding):
    values = torch.empty(5000).uniform_(format.lowest, format.highest, generator=seeded())
    found = convert(values, format, rounding=rounding, generator=seeded())
    assert on_grid(found, format)
    limit = format.step * (0.5 if rounding == "nearest" else 1)
    distance = (found.double() - values.double()).abs()
    assert (distance <= limit).all() if rounding == "nearest" else (distance < limit).all()
    assert torch.equal(convert(found, format, rounding=rounding, generator=seeded(1)), found)


def test_the_rails_are_not_symmetric_and_infinity_stops_there():
    values = torch.tensor([-9.0, -8.0, 8.0, 7.999, math.inf, -math.inf])
    for rounding in ("nearest", "stochastic"):
        found = convert(values, Format(4, 4), rounding=rounding, generator=seeded())
        assert found.tolist() == [-8, -8, 7.9375, 7.9375, 7.9375, -8]


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("place", [-3, 0, 5])
def test_stochastic_rounding_is_unbiased_and_has_the_variance_of_a_coin(fraction, place):
    n, step = 10**6, 2.0**-8
    x = float(np.float32((place + fraction) * step))
    share = x / step - math.floor(x / step)
    found = convert(torch.full((n,), x), Format(8, 8), rounding="stochastic", generator=seeded(7)).double()
    assert abs(found.mean().item() - x) <= 4 * step * math.sqrt(share * (1 - share) / n)
    assert found.var().item() == pytest.approx(step**2 * share * (1 - share), rel=0.02)
    assert set(found.unique().tolist()) == {math.floor(x / step) * step, (math.floor(x / step) + 1) * step}


def test_neighbours_are_rounded_independently():
    found = convert(torch.full((10**6,), 0.5), Format(8, 0), rounding="stochastic", generator=seeded(3)).double()
    for lag in (1, 2, 3, 64):
        correlation = np.corrcoef(found[:-lag], found[lag:])[0, 1]
        assert abs(correlation) < 4e-3


def test_stochastic_rounding_repeats_with_its_generator_alone():
    values = torch.rand(1000)
    first, again, other = (convert(values, Format(8, 4), rounding="stochastic", generator=seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("word", [25, 32])
def test_a_format_finer_than_floats_stops_before_the_rail(word):
    format = Format(2, word - 2)
    assert convert(torch.tensor([5.0]), format).item() == 2 - 2.0**-23
    assert convert(torch.tensor([5.0], dtype=torch.float64), format).item() == format.highest


@pytest.mark.parametrize("shape", [(0,), (), (1,), (0, 3, 2), (1, 1, 1)])
def test_any_shape_keeps_its_shape(shape):
    assert convert(torch.zeros(shape), Format(8, 8)).shape == shape


def test_what_is_no_float_or_no_number_is_refused():
    with pytest.raises(ValueError, match="hold NaN"):
        convert(torch.tensor([1.0, math.nan]), Format(8, 8))
    for dtype in (torch.float16, torch.int64):
        with pytest.raises(ValueError, match=f"{dtype}: accepted are float32 and float64"):
            convert(torch.zeros(2, dtype=dtype), Format(8, 8))
    with pytest.raises(ValueError, match="nearest, stochastic, not 'up'"):
        convert(torch.zeros(2), Format(8, 8), rounding="up")
    with pytest.raises(ValueError, match="nearest, stochastic, not 'up'"):
        FixedPoint(Format(8, 8), rounding="up")
    with pytest.raises(ValueError, match="without a generator"):
        convert(torch.zeros(2), Format(8, 8), rounding="stochastic")


def test_brevitas_rounds_the_same():
    quant = pytest.importorskip("brevitas.core.quant")
    values = torch.randn(1000, generator=seeded()) * 60
    rounding = quant.IntQuant(narrow_range=False, signed=True, input_view_impl=nn.Identity())
    found = rounding(torch.tensor(2.0**-8), torch.tensor(0.0), torch.tensor(16.0), values)
    ties = (values * 2**8).frac().abs() == 0.5  # theirs go to even
    assert torch.equal(found[~ties], convert(values, Format(8, 8))[~ties])


# -- Sums and updates ----------------------------------------------------------


def test_a_dot_product_in_float64_is_the_integer_one_converted_once():
    format, generator = Format(6, 10), seeded()
    a, b = (convert(torch.randn(1000, 300, generator=generator).double(), format) for _ in range(2))
    found = convert((a[:, None] @ b[:, :, None]).flatten(), format)
    for left, right, value in zip(a, b, found, strict=True):
        total = sum(int(x) * int(y) for x, y in zip(left * 2**10, right * 2**10, strict=True))
        whole = (total + 2**9) >> 10  # from 20 fractional bits to 10, ties up
        assert value.item() == min(max(whole, -(2**15)), 2**15 - 1) / 2**10


def test_a_float64_network_equals_one_of_integers():
    format, model, data = Format(6, 10), models.lenet_300_100(inputs=12).double(), images(8, inputs=12)
    quantize(model, format)
    for layer in (model.fc1, model.fc2, model.fc3):
        layer.bias.data = convert(layer.bias.data, format)
    with computing(model, FixedPoint(format)), torch.no_grad():
        found = model(data.images.double())
    h = convert(data.images.double(), format).flatten(1).mul(2**10).long()
    for layer in (model.fc1, model.fc2, model.fc3):
        wide = h @ layer.weight.mul(2**10).long().T + (layer.bias.mul(2**10).long() << 10)
        h = ((wide + 2**9) >> 10).clamp(-(2**15), 2**15 - 1)
        h = h.clamp(min=0) if layer is not model.fc3 else h
    assert torch.equal(found, h.double() / 2**10)


def test_nearest_swallows_small_updates_and_stochastic_rounding_does_not():
    format, n, generator = Format(8, 8), 10**4, seeded()
    update = torch.tensor([0.4 * format.step])
    nearest = stochastic = torch.ones(1)
    for _ in range(n):
        nearest = convert(nearest - convert(update, format), format)
        rounded = convert(update, format, rounding="stochastic", generator=generator)
        stochastic = convert(stochastic - rounded, format)
    assert nearest.item() == 1
    moved = (1 - stochastic.item()) / format.step
    assert abs(moved - 0.4 * n) <= 4 * math.sqrt(n * 0.24)


# -- Training ------------------------------------------------------------------


def test_floats_train_as_plain_gradient_descent_does():
    ours, theirs, data = models.lenet_300_100(), models.lenet_300_100(), images()
    train(ours, data, arithmetic=Arithmetic(), epochs=3, seed=5, decay=1, batch_size=20)
    order, optimizer = seeded(5), torch.optim.SGD(theirs.parameters(), lr=0.1)
    for batch in [b for _ in range(3) for b in torch.randperm(40, generator=order).split(20)]:
        loss = nn.functional.cross_entropy(theirs(data.images[batch]), data.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for ours_value, value in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours_value, value, rtol=1e-5, atol=1e-6)


class Watched(FixedPoint):
    """Keeps what was converted last at each place."""

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.seen = {}

    def convert(self, values, place):
        self.seen[place] = super().convert(values, place)
        return self.seen[place]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_every_kind_of_number_is_in_the_format(rounding):
    format, model = Format(6, 10, 16), models.lenet_300_100()
    arithmetic = Watched(format, rounding=rounding)
    train(model, images(), arithmetic=arithmetic, epochs=1, seed=0, batch_size=16)
    kinds = ["weight", "bias", "weight.gradient", "bias.gradient", "weight.update", "bias.update"]
    expected = {f"{name}.{kind}" for name in ("fc1", "fc2", "fc3") for kind in [*kinds, "output", "output.error"]}
    expected |= {f"{name}.output{kind}" for name in ("relu1", "relu2") for kind in ("", ".error")} | {"input"}
    assert set(arithmetic.seen) == expected
    assert all(on_grid(values, format) for values in arithmetic.seen.values())
    assert all(on_grid(p, format) for p in model.parameters())
    assert any(values.count_nonzero() for place, values in arithmetic.seen.items() if place.endswith(".update"))


def test_an_error_is_rounded_and_stops_where_the_output_was_cut_off():
    layer, format = nn.Linear(2, 4, bias=False), Format(2, 2)
    layer.weight.data = torch.tensor([[1.0, 0], [3, 0], [-2, 0], [-3, 0]])
    for mask, expected in ((True, [0.75, 0, 0.75, 0]), (False, [0.75] * 4)):
        x = torch.tensor([[1.0, 0]])
        with computing(layer, FixedPoint(format, mask=mask)):
            output = layer(x)
            (gradient,) = torch.autograd.grad((0.7 * output).sum(), layer.weight)
        assert output.tolist() == [[1, 1.75, -2, -2]]
        assert gradient[:, 0].tolist() == expected


def test_storage_keeps_what_the_word_would_swallow():
    model, data = models.lenet_300_100(), images()
    arithmetic = Watched(Format(8, 8), storage=Format(8, 20))
    train(model, data, arithmetic=arithmetic, epochs=1, seed=0, learning_rate=0.01)
    assert all(on_grid(p, Format(8, 8)) for p in model.parameters())
    update = arithmetic.seen["fc1.weight.update"]
    assert update.count_nonzero() and update.abs().max() < 2.0**-9 and on_grid(update, Format(8, 20))


def test_training_repeats_and_rounds_to_nearest_afterwards():
    data, found = images(), []
    for _ in range(2):
        model, arithmetic = models.lenet_300_100(3), FixedPoint(Format(6, 10), rounding="stochastic", seed=4)
        train(model, data, arithmetic=arithmetic, epochs=2, seed=1)
        with computing(model, arithmetic), torch.no_grad():
            found += [model(data.images), model(data.images)]
    assert all(torch.equal(found[0], each) for each in found[1:])


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, groups=1, bias=False), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4, 2)
        ),
        lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 4, 3, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        lambda: nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.3), nn.Flatten()),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 4, bias=False)),
    ],
    ids=["bias-free", "grouped", "batch norm", "linear"],
)
def test_odd_networks_and_one_sample_train(build):
    torch.manual_seed(0)
    model, data = build(), Split(torch.rand(3, 1, 3, 3), torch.tensor([0, 1, 0]))
    arithmetic = FixedPoint(Format(4, 12), rounding="stochastic")
    losses = train(model, data, arithmetic=arithmetic, epochs=2, seed=0, batch_size=2)
    assert len(losses) == 2 and all(on_grid(p, Format(4, 12)) for p in model.parameters())
    with computing(model, arithmetic), torch.no_grad():
        assert on_grid(model(data.images[:1]), Format(4, 12))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_torchvision_model_trains_and_computes_on_the_grid():
    model, format = torchvision.models.squeezenet1_1(num_classes=3), Format(6, 10)
    data = Split(torch.rand(2, 3, 32, 32), torch.tensor([0, 2]))
    train(model, data, arithmetic=FixedPoint(format, rounding="stochastic"), epochs=1, seed=0, learning_rate=0.01)
    assert all(on_grid(p, format) for p in model.parameters())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split": images(0)}, "the training split is empty"),
        ({"epochs": -1}, "epochs must be 0 or more"),
        ({"batch_size": 0}, "batch_size 1 or more"),
        ({"learning_rate": 1e30, "arithmetic": Arithmetic()}, "training diverged in epoch"),
    ],
)
def test_training_refuses_what_it_cannot_do_and_leaves_no_hook(change, says):
    model = models.lenet_300_100()
    asked = {"split": images(), "arithmetic": FixedPoint(Format(8, 8)), "epochs": 9, "seed": 0} | change
    with pytest.raises(ValueError, match=says):
        train(model, asked.pop("split"), **asked)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


# -- The weights and their file ------------------------------------------------


@pytest.mark.parametrize(
    "format", [Format(2, 14), Format(8, 8), Format(-2, 6), Format(1, 0), Format(4, 16), Format(2, 30)]
)
def test_a_network_and_its_file_hold_the_same_weights(format, tmp_path):
    model = quantize(models.lenet5(), format)
    assert all(on_grid(layer.weight, format) for _, layer in layers(model))
    size = storage.save(model, tmp_path / "model.slim")
    loaded = storage.load(tmp_path / "model.slim", models.lenet5(1))
    for (_, layer), (_, other) in zip(layers(model), layers(loaded), strict=True):
        assert np.array_equal(
            layer.weight.detach().numpy().view(np.int32), other.weight.detach().numpy().view(np.int32)
        )
    if format.word <= 16:
        assert size < measure.dense_bytes(model) * (format.word + 1) / 32 + 2000


def test_a_network_trained_on_the_grid_is_unchanged_by_its_file():
    model, format = models.lenet_300_100(), Format(4, 12)
    train(model, images(), arithmetic=FixedPoint(format), epochs=1, seed=0)
    before = copy.deepcopy(model.state_dict())
    for name, value in decompress(quantize(model, format)).state_dict().items():
        assert torch.equal(value, before[name])


def test_the_gradient_goes_straight_to_the_dense_weight():
    layer, plain, x = nn.Conv2d(4, 6, 3, groups=2), nn.Conv2d(4, 6, 3, groups=2), torch.randn(2, 4, 5, 5)
    quantize(layer, Format(2, 6))
    plain.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    for each in (layer, plain):
        each(x).square().sum().backward()
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, plain.weight.grad)


def test_a_rounded_network_can_be_trained_on():
    model, data = quantize(models.lenet_300_100(), Format(2, 6)), images()
    losses = training.fit(model, data, epochs=2, seed=0)
    assert len(losses) == 2 and on_grid(model.fc1.weight, Format(2, 6))


def test_a_mapping_rounds_the_layers_it_names_and_odd_layers_work():
    model = quantize(models.lenet_300_100(), {"fc3": Format(2, 2)})
    assert on_grid(model.fc3.weight, Format(2, 2)) and torch.equal(model.fc1.weight, models.lenet_300_100().fc1.weight)
    constant = nn.Conv2d(3, 3, 3, groups=3)
    nn.init.constant_(constant.weight, 0.3)
    assert quantize(constant, Format(2, 2)).weight.unique().tolist() == [0.25]
    empty = nn.Sequential(nn.Linear(2, 2), nn.Linear(0, 3))
    assert on_grid(quantize(empty, Format(2, 2))[0].weight, Format(2, 2))


def test_what_cannot_be_rounded_is_refused_and_left_as_it_is():
    model = models.lenet_300_100()
    with pytest.raises(ValueError, match="no layer 'fc9' to quantize: the layers are fc1, fc2, fc3"):
        quantize(model, {"fc9": Format(8, 8)})
    with pytest.raises(ValueError, match="accepted are float32 and float64"):
        quantize(models.lenet_300_100().half(), Format(8, 8))
    model.fc3.weight.data[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize(model, Format(8, 8))
    with pytest.raises(ValueError, match="no layer with a weight"):
        quantize(nn.ReLU(), Format(8, 8))
    assert type(model.fc1) is nn.Linear


def test_a_file_of_the_form_holds_its_format():
    form = FixedPointWeight(Format(3, 5))
    encoding = form.encode(form.right_inverse(torch.tensor([[-4.0, 3.96875, 0.0]])))
    assert encoding.symbols["code"].tolist() == [0, 255, 128] and encoding.tables["bits"].tolist() == [3, 5]
