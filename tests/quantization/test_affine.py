"""Weights and activations on grids against their formulas, and networks as they are simulated and calibrated."""

import copy

import given_quantization
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import models, running, storage
from lib.quantization.affine import AffineWeight, calibrate, correct_biases, quantize, simulate
from lib.quantization.shared.activation import Activation, activations
from lib.vision import torchvision
from lib.weights import layers


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


class InPlace(nn.Module):
    """A network whose activations overwrite what a layer gave."""

    def __init__(self, inplace=True):
        super().__init__()
        self.conv1, self.conv2, self.fc1 = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 4, 5), nn.Linear(4, 3)
        self.act = nn.ReLU(inplace=inplace)

    def forward(self, x):
        x = self.act(self.conv2(self.act(self.conv1(x))))
        return self.fc1(x.mean((2, 3)))


@pytest.mark.parametrize("build", [models.lenet5, InPlace])
def test_corrected_biases_bring_each_mean_back(build):
    torch.manual_seed(0)
    model, images = build(), torch.rand(10, 1, 28, 28)
    network = calibrate(simulate(model, bits=3), images)
    correct_biases(network, model, images)
    plain = model if build is models.lenet5 else InPlace(inplace=False)
    plain.load_state_dict(model.state_dict())
    with (
        running.captured(network, ["conv1", "conv2", "fc1"]) as rounded,
        running.captured(plain, ["conv1", "conv2", "fc1"]) as exact,
    ):
        network(images), plain(images)
    for name in exact.outputs:
        means = [flow.outputs[name].transpose(0, 1).flatten(1).mean(1) for flow in (exact, rounded)]
        torch.testing.assert_close(*means, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no images to correct"):
        correct_biases(network, model, images[:0])


def test_a_layer_that_is_used_twice_has_no_bias_to_correct():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(functional.relu(self.fc(x)))

    model, images = Twice(), rand(5, 3)
    network = given_quantization.on_grids(model, images)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match="layer 'fc' is used 2 times: one bias cannot correct the means of all"):
        correct_biases(network, model, images)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


# --- what a simulated network is, and keeps -----------------------------------------------------------------------


def test_bits_of_numpy_are_those_of_python():
    images = rand(4, 3)
    ours, numpys = (
        given_quantization.on_grids(nn.Linear(3, 2), images, bits=kind(4), edge_bits=kind(8))
        for kind in (int, np.int64)
    )
    numpys.load_state_dict(ours.state_dict())
    assert torch.equal(ours(images), numpys(images))
    for bits in (4.0, True, np.float32(4)):
        for made in (lambda bits=bits: simulate(nn.Linear(3, 2), bits=bits), lambda bits=bits: Activation(bits)):
            with pytest.raises(ValueError, match=rf"bits must be in .*, not {bits}: a whole number is needed"):
                made()
    with pytest.raises(ValueError, match=r"bits must be in 1..32, not 0"):
        simulate(nn.Linear(3, 2), edge_bits=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_types_with_too_few_digits_are_refused_by_name(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).to(dtype)
    with pytest.raises(ValueError, match=f"^1.weight is {dtype}: accepted are float32 and float64"):
        simulate(model)
    rounded = quantize(copy.deepcopy(model), bits=4)[1].weight  # weights alone may have any type
    assert rounded.dtype == dtype and len(rounded[0].unique()) <= 15


def test_a_network_of_doubles_is_simulated_in_doubles():
    model, images = models.lenet_300_100().double(), torch.rand(4, 1, 28, 28, dtype=torch.float64)
    network = given_quantization.on_grids(model, images)
    twin = given_quantization.on_grids(model.float(), images.float())
    step = activations(twin)[-1].grid().scale
    with torch.no_grad():
        assert network(images).dtype == torch.float64
        assert (network(images) - twin(images.float())).abs().max() < 1.5 * step


def test_a_state_makes_another_network_the_same(tmp_path):
    images = torch.rand(4, 1, 28, 28)
    network = given_quantization.on_grids(models.lenet5(0), images, bits=4)
    wanted = network(images)
    for again in (
        simulate(models.lenet5(5), bits=4),
        given_quantization.on_grids(models.lenet5(5), 2 * images, bits=4),
    ):
        again.load_state_dict(network.state_dict())
        assert torch.equal(again(images), wanted)
    storage.save(network, tmp_path / "network.slim")
    again = storage.load(tmp_path / "network.slim", simulate(models.lenet5(5), bits=4))
    assert torch.equal(again(images), wanted) and torch.equal(copy.deepcopy(network)(images), wanted)
    for options in ({"bits": 3}, {"bits": 4, "edge_bits": 7}, {"bits": 4, "per_channel": False}):
        other = simulate(models.lenet5(5), **options)
        with pytest.raises(RuntimeError, match="Missing key"):
            other.load_state_dict(network.state_dict())
    with pytest.raises(ValueError, match="another architecture"):
        storage.load(tmp_path / "network.slim", simulate(models.lenet5(5), bits=3))


def test_ranges_keep_their_type_and_frozen_weights_stay_frozen():
    model, images = models.resnet8(), torch.rand(2, 3, 16, 16)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("fc"))
    network = given_quantization.on_grids(model, images)
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {"fc.bias", "fc.parametrizations.weight.original"}
    before = [(each.lower.clone(), each.upper.clone()) for each in activations(network)]
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        moved = [(each.lower, each.upper) for each in activations(copy.deepcopy(network).to(dtype).float())]
        assert all(torch.equal(a, b) for pair in zip(before, moved, strict=True) for a, b in zip(*pair, strict=True))


def test_what_flows_must_be_finite():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    model[0].weight.data.fill_(3e38)
    network = simulate(model)
    with pytest.raises(ValueError, match="what flows through '_0_grid' is not finite"):
        calibrate(network, torch.full((1, 2), 10.0))
    assert activations(network)[0].lower == torch.inf  # as before
