"""Signs: the best scale, what a scale cannot change, and the file."""

import copy

import given
import pytest
import torch
from torch import nn

from lib import models, storage, training
from lib.datasets import Split
from lib.quantization.sign_quantization import SCALES, SignWeight, quantize, signed
from lib.vision import torchvision
from lib.weights import compressed, layers


def lost(weight, model):
    return (weight - model.weight).double().square().sum().item()


def zero_biases(model):
    for _, layer in layers(model):
        nn.init.zeros_(layer.bias)
    return model.double()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shape", [(4, 6), (3, 1, 5), (6, 1, 3, 3), (1, 1), (2, 3, 1, 1, 2)])
def test_each_weight_keeps_its_sign_and_the_file_says_it(shape, scale):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weight.view(-1)[0] = 0.0  # counts as positive
    form = SignWeight(scale)
    stored = form.right_inverse(weight)
    weights = form(stored)
    rows = weight.abs().flatten(1)
    size = {"none": torch.ones(1, 1), "layer": rows.mean().reshape(1, 1), "row": rows.mean(1, keepdim=True)}[scale]
    torch.testing.assert_close(weights, (size * torch.where(weight.flatten(1) >= 0, 1.0, -1.0)).reshape(shape))
    assert torch.equal(SignWeight.decode(form.encode(stored), weight.shape), weights)


def test_row_scales_lose_least_and_the_mean_is_the_best_scale():
    layer = nn.Linear(40, 30)
    weight = layer.weight.detach().clone() * torch.linspace(0.1, 2, 30)[:, None]
    losses = {}
    for scale in SCALES:
        layer.weight.data.copy_(weight)
        losses[scale] = lost(weight, quantize(copy.deepcopy(layer), scale=scale))
    others = [
        (weight - a * torch.where(weight >= 0, 1.0, -1.0)).square().sum().item() for a in torch.linspace(0, 2, 50)
    ]
    assert losses["row"] < losses["layer"] < losses["none"]
    assert losses["layer"] <= min(others) + 1e-9


@pytest.mark.parametrize("factor", [0.01, 0.37, 12.5])
def test_with_zero_biases_no_positive_scale_of_a_layer_changes_a_decision(factor):
    images = torch.rand(200, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    signs = quantize(zero_biases(models.lenet_300_100()))
    scaled = quantize(zero_biases(models.lenet_300_100()), scale="layer")
    with torch.no_grad():
        scaled.fc2.parametrizations.weight.original *= factor
        torch.testing.assert_close(
            signs(images) * scaled(images)[0, 0] / signs(images)[0, 0], scaled(images), rtol=1e-9, atol=0
        )
        assert torch.equal(signs(images).argmax(1), scaled(images).argmax(1))


def test_with_biases_a_scale_does_change_decisions():
    torch.manual_seed(0)
    images = torch.rand(200, 1, 28, 28)
    model = models.lenet_300_100()
    nn.init.normal_(model.fc3.bias)
    signs, scaled = quantize(copy.deepcopy(model)), quantize(copy.deepcopy(model), scale="layer")
    assert (signs(images).argmax(1) != scaled(images).argmax(1)).any()


@pytest.mark.parametrize("scale", SCALES)
def test_a_network_of_torchvision_is_written_and_read_back(tmp_path, scale):
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=10).eval()
    quantize(net, scale=scale)
    size = storage.save(net, tmp_path / "net.slim", coder="fixed")
    fresh = storage.load(tmp_path / "net.slim", torchvision.models.shufflenet_v2_x0_5(num_classes=10)).eval()
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(fresh(image), net(image))
    weights = sum(layer.weight.numel() for _, layer in layers(net))
    plain = sum(t.numel() * t.element_size() for name, t in fresh.state_dict().items()) - 4 * weights
    scales = {"none": 0, "layer": len(list(layers(net))), "row": sum(len(layer.weight) for _, layer in layers(net))}
    assert 0 <= size - weights / 8 - plain - 4 * scales[scale] < 60 * len(list(layers(net))) + 300


@pytest.mark.parametrize("scale", SCALES)
def test_training_moves_the_scales_and_biases_only(scale):
    generator = torch.Generator().manual_seed(0)
    split = Split(torch.rand(64, 1, 28, 28, generator=generator), torch.arange(64) % 10)
    model = quantize(models.lenet5(), scale=scale)
    before = {name: layer.weight.detach().clone() for name, layer in layers(model)}
    training.fit(model, split, epochs=1, seed=0, learning_rate=1e-4)
    for name, layer in layers(model):
        assert torch.equal(layer.weight > 0, before[name] > 0)
        assert scale != "none" or torch.equal(layer.weight, before[name])


def test_only_the_named_layers_are_quantized():
    model, dense = quantize(models.lenet5(), names=["fc1"]), models.lenet5()
    assert model.fc1.weight.unique().tolist() == [-1, 1]
    assert all(torch.equal(getattr(model, n).weight, getattr(dense, n).weight) for n in ("conv1", "conv2", "fc2"))


@pytest.mark.parametrize("value", [0.0, 0.25, -0.25])
def test_a_constant_layer_without_bias_is_exact_with_a_scale(value):
    layer = nn.Conv2d(4, 4, 3, groups=4, bias=False)
    nn.init.constant_(layer.weight, value)
    assert quantize(layer, scale="row").weight.unique().tolist() == [value]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_of_float_keep_their_type(dtype):
    assert all(quantize(nn.Linear(5, 5).to(dtype), scale=scale).weight.dtype == dtype for scale in SCALES)


def test_bad_arguments_are_refused_and_change_nothing():
    model = models.lenet_300_100()
    with given.refused(model, "one of none, layer, row, not 'column'"):
        quantize(model, scale="column")
    with pytest.raises(ValueError, match="one of none, layer, row, not 'column'"):
        SignWeight("column")
    with given.refused(model, "has no layer 'fc9' with a weight: it has fc1, fc2, fc3"):
        quantize(model, names=["fc1", "fc9"])
    model.fc3.weight.data[0, 0] = float("nan")
    with given.refused(model, "NaN or infinity"):
        quantize(model)
    with pytest.raises(ValueError, match="no layer with a weight"):
        quantize(nn.ReLU())


def test_an_empty_layer_is_passed_over():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(0, 2))
    quantize(model)
    assert not hasattr(model[1], "parametrizations") and model[0].weight.unique().numel() <= 2


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_a_row_of_a_transposed_convolution_is_what_writes_one_output(kind, groups, tmp_path):
    layer = given.seeded(lambda: kind(6, 15, 2, groups=groups))
    dense, weight = copy.deepcopy(layer), layer.weight.detach().clone()
    expected = torch.empty_like(weight)
    for i in range(6):
        for j in range(15 // groups):  # the output is number ``first + j``
            group = i // (6 // groups)
            inputs = range(group * (6 // groups), (group + 1) * (6 // groups))
            mean = weight[list(inputs), j].abs().double().mean().float()
            expected[i, j] = mean * torch.where(weight[i, j] >= 0, 1.0, -1.0)
    quantize(layer, scale="row")
    assert len(layer.parametrizations.weight.original) == 15
    torch.testing.assert_close(layer.weight, expected)
    storage.save(layer, tmp_path / "up.slim")
    assert torch.equal(storage.load(tmp_path / "up.slim", dense).weight, layer.weight)


@pytest.mark.parametrize(("count", "transposed"), [(3, 0), (2, 2), (6, 4), (4, -1)])
def test_scales_that_fit_no_weight_are_refused(count, transposed):
    with pytest.raises(ValueError, match=rf"{count} scales in {transposed} groups do not fit a weight of \(6, 2, 3\)"):
        signed(torch.ones(6, 2, 3, dtype=torch.bool), torch.ones(count), transposed)


def test_weights_of_attention_and_recurrent_layers_are_named_like_their_parameters():
    model = nn.Sequential(nn.Linear(4, 4), nn.GRU(4, 3), nn.MultiheadAttention(4, 2))
    quantize(model, scale="row", names=["1.weight_ih_l0", "2.in_proj_weight"])
    assert [(name, tuple(stored.shape)) for name, _, (stored,) in compressed(model)] == [
        ("1.weight_ih_l0", (9,)),
        ("2.in_proj_weight", (12,)),
    ]
