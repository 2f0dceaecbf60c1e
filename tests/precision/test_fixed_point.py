"""Training in fixed point: every kind of number, a wider storage, repeated runs, and the weights in a file."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from lib import measure, models, storage, training
from lib.datasets import Split
from lib.precision.fixed_point import FixedPoint, FixedPointWeight, quantize
from lib.precision.shared.arithmetic import computing
from lib.precision.shared.formats import Format, rounded
from lib.precision.shared.gradient_descent import train
from lib.vision import torchvision
from lib.weights import decompress, layers


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 40, seed: int = 0, inputs: int = 784) -> Split:
    return Split(torch.rand(n, 1, 1, inputs, generator=seeded(seed)), torch.arange(n) % 10)


def on_grid(values: torch.Tensor, format: Format) -> bool:
    return torch.equal(rounded(values, format), values)


class Watched(FixedPoint):
    """Keeps what was rounded last at each place."""

    def __init__(self, *args, **named):
        super().__init__(*args, **named)
        self.seen = {}

    def rounded(self, values, place):
        self.seen[place] = super().rounded(values, place)
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


def test_storage_keeps_what_the_word_would_swallow():
    model, split = models.lenet_300_100(), images()
    arithmetic = Watched(Format(8, 8), storage=Format(8, 20))
    train(model, split, arithmetic=arithmetic, epochs=1, seed=0, learning_rate=0.01)
    assert all(on_grid(p, Format(8, 8)) for p in model.parameters())
    update = arithmetic.seen["fc1.weight.update"]
    assert update.count_nonzero() and update.abs().max() < 2.0**-9 and on_grid(update, Format(8, 20))


def test_training_repeats_and_rounds_to_nearest_afterwards():
    split, outputs = images(), []
    for _ in range(2):
        model, arithmetic = models.lenet_300_100(3), FixedPoint(Format(6, 10), rounding="stochastic", seed=4)
        train(model, split, arithmetic=arithmetic, epochs=2, seed=1)
        with computing(model, arithmetic), torch.no_grad():
            outputs += [model(split.images), model(split.images)]
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])


def test_another_rounding_is_refused():
    with pytest.raises(ValueError, match="nearest, stochastic, not 'up'"):
        FixedPoint(Format(8, 8), rounding="up")


def test_a_torchvision_model_trains_and_computes_on_the_grid():
    model, format = torchvision.models.squeezenet1_1(num_classes=3), Format(6, 10)
    split = Split(torch.rand(2, 3, 32, 32), torch.tensor([0, 2]))
    train(model, split, arithmetic=FixedPoint(format, rounding="stochastic"), epochs=1, seed=0, learning_rate=0.01)
    assert all(on_grid(p, format) for p in model.parameters())


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
    for convolution in (layer, plain):
        convolution(x).square().sum().backward()
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, plain.weight.grad)


def test_a_rounded_network_can_be_trained_on():
    model, split = quantize(models.lenet_300_100(), Format(2, 6)), images()
    losses = training.fit(model, split, epochs=2, seed=0)
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
