"""What the methods share: the sign, which layers read signs, whole sums, and networks that nobody here wrote."""

import copy

import pytest
import torch
from given_binarization import snapshot, unchanged
from torch import nn
from torch.nn import functional

from lib import models, storage, training
from lib.binarization import bnn, bwn, xnor_net
from lib.binarization.binaryconnect import BinaryConnectWeight
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared.signs import (
    Binarized,
    Sign,
    SignActivation,
    chosen,
    clip,
    filter_size,
    inner,
    read_signs,
    rescaled,
)
from lib.datasets import Split
from lib.vision import torchvision
from lib.weights import compress, compressed_form, decompress, layers

METHODS = {
    "bwn": bwn.binarize,
    "bnn": bnn.binarize,
    "xnor_net": xnor_net.binarize,
    "xnor_net with K, centered": lambda model: xnor_net.binarize(model, input_scale=True, centered=True),
}


def ten_classes(seed=0, size=64, count=4):
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(count, 3, size, size, generator=generator), torch.arange(count) % 10)


# -- the sign ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_the_sign_of_both_zeros_is_plus_one(dtype):
    tiny = torch.finfo(dtype).tiny
    x = torch.tensor([0.0, -0.0, tiny, -tiny, 1e-3, -1e-3, 7.0, -7.0, torch.inf, -torch.inf], dtype=dtype)
    found = Sign.apply(x)
    assert found.dtype == dtype and found.tolist() == [1, 1, 1, -1, 1, -1, 1, -1, 1, -1]
    many = torch.randn(1001, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(Sign.apply(many), torch.where(many >= 0, 1.0, -1.0).to(dtype))


def test_the_smallest_floats_have_a_sign_too():
    assert Sign.apply(torch.tensor([1e-45, -1e-45])).tolist() == [1, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gradient_passes_up_to_one_and_not_one_float_further(dtype):
    one, far = torch.tensor(1.0, dtype=dtype), torch.tensor(9.0, dtype=dtype)
    above = torch.nextafter(one, far)
    x = torch.stack([-above, -one, -one / 2, 0 * one, one / 3, one, above, far]).requires_grad_()
    gradient = torch.arange(1.0, 9.0, dtype=dtype) / 7
    Sign.apply(x).backward(gradient)
    assert torch.equal(x.grad, gradient * torch.tensor([0, 1, 1, 1, 1, 1, 0, 0], dtype=dtype))


def test_with_infinite_reach_every_gradient_passes_drawn_signs_too():
    x = torch.tensor([-30.0, -0.5, 0.5, 30.0], requires_grad=True)
    found = Sign.apply(x, torch.inf, torch.tensor([1.0, -1.0, 0.0, -2.0]))
    found.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert found.tolist() == [1, -1, 1, -1] and x.grad.tolist() == [1, 2, 3, 4]
    x.grad = None
    Sign.apply(x, 1.0, torch.ones(4)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


def test_the_sign_leaves_what_it_is_given_as_it_is():
    x, shown = torch.tensor([-3.0, 0.0, 2.0]), torch.tensor([1.0, -1.0, 5.0])
    Sign.apply(x)
    Sign.apply(x, 1.0, shown)
    assert x.tolist() == [-3, 0, 2] and shown.tolist() == [1, -1, 5]


# -- which layers ------------------------------------------------------------------------------------------------------


def test_inner_layers_are_linear_or_2d_and_neither_first_nor_last():
    assert inner(models.lenet_300_100()) == ["fc2"] and inner(models.lenet5()) == ["conv2", "fc1"]
    mixed = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.Linear(4, 4), nn.Linear(4, 2))
    assert inner(mixed) == ["3"] and chosen(mixed, None) == ["3"]
    assert chosen(mixed, ("4", "1")) == ["4", "1"] and chosen(mixed, ["1", "1"]) == ["1"]
    with pytest.raises(ValueError, match=r"no layer '0' to binarize: accepted are 1, 3, 4$"):
        chosen(mixed, ["0"])


def test_unknown_layers_and_layers_that_read_signs_already_are_refused():
    model = xnor_net.binarize(models.lenet5())
    with pytest.raises(ValueError, match=r"no layer 'fc9' to binarize: accepted are conv1, fc2$"):
        chosen(model, ["fc2", "fc9"])
    for name in ("fc1.layer", "fc1"):
        with pytest.raises(ValueError, match=f"no layer '{name}' to binarize: accepted are conv1, fc2$"):
            chosen(model, [name])
    with pytest.raises(ValueError, match="Sequential has no layer to binarize: at least one linear or 2-d"):
        chosen(model, None)
    alone = Binarized(nn.Linear(3, 2), SignActivation())
    with pytest.raises(ValueError, match="no layer 'layer' to binarize: accepted are none"):
        chosen(alone, ["layer"])


def test_a_layer_is_replaced_under_all_its_names():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Sequential(shared))
    read_signs(model, ["0"], lambda layer: Binarized(layer, SignActivation()))
    assert isinstance(model[0], Binarized) and model[1][0] is model[0] and model[0].layer is shared
    alone = nn.Linear(4, 4)
    wrapped = read_signs(alone, [""], lambda layer: Binarized(layer, SignActivation()))
    assert isinstance(wrapped, Binarized) and wrapped.layer is alone


@pytest.mark.parametrize("layer", [nn.Conv1d(2, 2, 1), nn.Embedding(2, 2), nn.ReLU(), nn.ConvTranspose2d(2, 2, 1)])
def test_other_layers_cannot_read_signs(layer):
    with pytest.raises(
        ValueError, match=rf"a {type(layer).__name__} cannot read signs: accepted are Linear and Conv2d"
    ):
        Binarized(layer, SignActivation())


TWICE = [(first, second) for first in ("bnn", "xnor_net") for second in ("bnn", "xnor_net", "bwn")]


@pytest.mark.parametrize(("first", "second"), TWICE)
def test_a_network_that_reads_signs_is_not_binarized_again(first, second):
    model = METHODS[first](models.lenet5())
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"no layer .*to binarize"):
        METHODS[second](model)
    assert unchanged(model, before)


@pytest.mark.parametrize("second", ["bwn", "bnn", "xnor_net"])
def test_binary_weights_alone_may_be_binarized_again(second):
    once = bwn.binarize(models.lenet5())
    dense = decompress(copy.deepcopy(once))
    assert str(METHODS[second](once)) == str(METHODS[second](dense))
    images = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(once.eval()(images), dense.eval()(images), rtol=1e-5, atol=1e-5)


def broken(model):
    next(layer for name, layer in layers(model) if name == "fc1").weight.data[0, 0] = torch.nan
    return model


def tied(model):
    model.fc3.weight = model.fc2.weight
    return model


BAD = [
    (lambda: broken(models.lenet5()), {}, "weights of layer 'fc1' hold NaN or infinity"),
    (lambda: tied(models.mlp(hidden=(9, 9, 9))), {"names": ["fc2", "fc3"]}, "layers 'fc2' and 'fc3' share one weight"),
    (models.lenet5, {"names": ["fc1", "fc7"]}, "no layer 'fc7' to binarize: accepted are conv1, conv2, fc1, fc2$"),
    (models.lenet5, {"names": []}, "Sequential has no layer to binarize"),
    (models.lenet5, {"names": ["relu1"]}, "no layer 'relu1' to binarize: accepted are conv1"),
    (lambda: nn.Sequential(nn.ReLU()), {}, "Sequential has (no layer to binarize|0 linear and 2-d layers)"),
    (lambda: nn.Sequential(nn.Linear(3, 3)), {}, "Sequential has (no layer to binarize|1 linear and 2-d layers)"),
    (lambda: nn.Linear(3, 3), {}, "Linear has (no layer to binarize|1 linear and 2-d layers)"),
]


@pytest.mark.parametrize(("build", "arguments", "message"), BAD)
@pytest.mark.parametrize("method", [bwn.binarize, bnn.binarize, xnor_net.binarize])
def test_a_refusal_is_one_sentence_and_leaves_the_model_as_it_was(method, build, arguments, message):
    model = build()
    before = snapshot(model)
    with pytest.raises(ValueError, match=message) as error:
        method(model, **arguments)
    assert unchanged(model, before) and "\n" not in str(error.value)


@pytest.mark.parametrize("method", [bwn.binarize, bnn.binarize, xnor_net.binarize])
def test_a_layer_that_is_named_twice_is_binarized_once(method):
    once, twice = method(models.lenet5(), names=["fc1"]), method(models.lenet5(), names=["fc1", "fc1"])
    assert str(once) == str(twice)


# -- whole sums --------------------------------------------------------------------------------------------------------


LAYERS = {
    "linear": (nn.Linear(37, 11), (5, 37)),
    "linear without bias": (nn.Linear(37, 11, bias=False), (1, 37)),
    "linear on rows of rows": (nn.Linear(6, 4), (2, 3, 6)),
    "one input": (nn.Linear(1, 3), (4, 1)),
    "convolution": (nn.Conv2d(5, 7, 3), (2, 5, 8, 9)),
    "border": (nn.Conv2d(4, 6, 3, padding=1), (3, 4, 7, 7)),
    "stride": (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (3, 4, 9, 8)),
    "same": (nn.Conv2d(3, 4, (3, 5), padding="same"), (2, 3, 6, 7)),
    "dilation": (nn.Conv2d(3, 4, 3, dilation=2, padding=2), (2, 3, 9, 9)),
    "groups": (nn.Conv2d(6, 8, 3, groups=2, padding=1), (2, 6, 5, 5)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6, stride=2, padding=1, bias=False), (2, 6, 7, 7)),
    "one channel, one sample": (nn.Conv2d(1, 3, 5, padding=2), (1, 1, 6, 6)),
    "one image without its batch": (nn.Conv2d(3, 8, 3), (3, 10, 10)),
    "no sample": (nn.Conv2d(3, 2, 3), (0, 3, 5, 5)),
}


@pytest.mark.parametrize("form", [BinaryWeight, BinaryConnectWeight], ids=["bwn", "bnn"])
@pytest.mark.parametrize("kind", LAYERS)
def test_sums_are_whole_numbers_whatever_the_order_of_adding(kind, form):
    layer, shape = copy.deepcopy(LAYERS[kind][0]), LAYERS[kind][1]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    x = torch.randn(shape, generator=generator)
    x.flatten()[:3] = 0  # a zero reads as +1, a zero of the border as 0
    compress(layer, lambda *_: form())
    sums = whole(layer, torch.where(x >= 0, 1, -1), torch.where(compressed_form(layer)[1][0] >= 0, 1, -1))
    alpha = layer.weight.flatten(1)[:, 0].abs()
    column = (-1, 1, 1) if layer.weight.dim() == 4 else (-1,)
    expected = sums.float() * alpha.reshape(column)
    if layer.bias is not None:
        expected = expected + layer.bias.reshape(column)
    found = Binarized(layer, SignActivation())(x)
    assert found.shape == expected.shape and torch.equal(found, expected)


@pytest.mark.parametrize("filters", [1, 8, 34])
@pytest.mark.parametrize(("image", "size", "stride"), [((2, 3), (1, 3), (1, 2)), ((5, 3), (3, 2), (1, 3))])
def test_a_layer_of_one_channel_is_right_in_either_memory_layout(image, size, stride, filters):
    """torch's convolutions in channels last are wrong here on some processors."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(1, filters, size, stride=stride, bias=False)
    layer.weight.data = torch.randn(layer.weight.shape, generator=generator).sign()
    x = torch.randn(3, 1, *image, generator=generator).sign()
    expected = whole(layer, x.long(), layer.weight.detach().long()).float()
    for memory in (torch.contiguous_format, torch.channels_last):
        found = Binarized(layer.to(memory_format=memory), SignActivation())(x.to(memory_format=memory))
        assert torch.equal(found, expected)


def whole(layer, signs, weight):
    """The layer's sums of signs in whole numbers, (n, filters, ...) int64."""
    if isinstance(layer, nn.Linear):
        return signs @ weight.T
    batch = signs if signs.dim() == 4 else signs[None]
    padded = functional.pad(batch, layer._reversed_padding_repeated_twice)
    sums = functional.conv2d(padded, weight, None, layer.stride, 0, layer.dilation, layer.groups)
    return sums if signs.dim() == 4 else sums[0]


def test_the_size_of_a_filter_is_its_largest_weight_or_one():
    weight = torch.tensor([[[0.5, -2.0]], [[0.0, 0.0]], [[1e-40, -1e-41]]], requires_grad=True)
    size = filter_size(weight)
    assert size.flatten().tolist() == [2, 1, torch.tensor(1e-40).item()] and size.shape == (3, 1, 1)
    assert not size.requires_grad


def test_a_filter_of_zeros_gives_its_bias():
    layer = nn.Conv2d(3, 2, 3)
    layer.weight.data[0] = 0
    found = Binarized(compress(layer, lambda *_: BinaryWeight()), SignActivation())(torch.randn(2, 3, 6, 6))
    assert torch.equal(found[:, 0], layer.bias[0].expand(2, 4, 4)) and found[:, 1].unique().numel() > 1


def test_sums_are_rescaled_along_their_filters():
    size, bias = torch.tensor([2.0, 3.0]), torch.tensor([0.5, -1.0])
    rows = torch.tensor([[1.0, -1.0], [4.0, 5.0]])
    expected = torch.tensor([[2.5, -4.0], [8.5, 14.0]])
    assert torch.equal(rescaled(rows.clone(), size, None, bias, -1), expected)
    assert torch.equal(rescaled(rows[:, None].clone(), size, None, bias, -1), expected[:, None])
    images = rows[:, :, None, None].expand(2, 2, 2, 2)
    assert torch.equal(rescaled(images.clone(), size, None, bias, 1), expected[:, :, None, None].expand(2, 2, 2, 2))
    assert torch.equal(rescaled(images[0].clone(), size, None, bias, 1), expected[0, :, None, None].expand(2, 2, 2))
    scale = torch.tensor([[10.0], [100.0]])
    assert torch.equal(rescaled(rows.clone(), size, scale, None, -1), rows * size * scale)


@pytest.mark.parametrize("kind", ["linear", "stride", "groups"])
def test_the_gradient_is_that_of_the_product_without_the_size(kind):
    layer, shape = copy.deepcopy(LAYERS[kind][0]).double(), LAYERS[kind][1]
    compress(layer, lambda *_: BinaryWeight())
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    latent = compressed_form(layer)[1][0]
    gradients = []
    for output in (Binarized(layer, SignActivation())(x), layer(Sign.apply(x))):
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
        gradients.append(torch.autograd.grad((output * weights).sum(), latent)[0])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


# -- clip --------------------------------------------------------------------------------------------------------------


def test_clip_brings_back_what_has_limits_and_leaves_the_rest():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
    forms = {"0": BinaryConnectWeight(limit=0.25), "1": BinaryWeight()}
    compress(model, lambda name, layer: forms.get(name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0).add_(torch.linspace(-3, 3, parameter.numel()).reshape(parameter.shape))
    before = {name: p.clone() for name, p in model.named_parameters()}
    clip(model)
    for name, parameter in model.named_parameters():
        bounded = name == "0.parametrizations.weight.original"
        assert torch.equal(parameter, before[name].clamp(-0.25, 0.25) if bounded else before[name])


def test_clip_draws_nothing():
    model = compress(nn.Sequential(nn.Linear(4, 4)), lambda *_: BinaryConnectWeight(stochastic=True))
    generator = compressed_form(model[0])[0].generator
    before = generator.get_state()
    clip(model)
    assert torch.equal(generator.get_state(), before)


# -- networks of torchvision -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["resnet18", "squeezenet1_1"])
def build(request):
    return lambda: getattr(torchvision.models, request.param)(num_classes=10)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_of_torchvision_learns_and_comes_back_from_its_file(tmp_path, build, method):
    torch.manual_seed(0)
    split = ten_classes()
    model = METHODS[method](build())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = training.fit(model, split, epochs=1, seed=0, optimizer="adam", learning_rate=1e-4, batch_size=4)
    binary = {name: layer for name, layer in layers(model) if compressed_form(layer)}
    assert len(losses) == 1 and len(binary) >= len(list(layers(model))) - 2
    for name in binary:
        latent = f"{name}.parametrizations.weight.original"
        assert not torch.equal(model.get_parameter(latent), before[latent])
    size = storage.save(model, tmp_path / "net.slim", coder="fixed")
    fresh = storage.load(tmp_path / "net.slim", METHODS[method](build())).eval()
    dense = dict(layers(fresh))
    for name, layer in binary.items():
        assert compressed_form(dense[name]) is None and torch.equal(dense[name].weight, layer.weight)
    assert torch.equal(fresh(split.images), model(split.images))
    weights = sum(layer.weight.numel() for layer in binary.values())
    scales = sum(len(layer.weight) for layer in binary.values()) if method != "bnn" else 0
    plain = sum(t.numel() * t.element_size() for t in fresh.state_dict().values()) - 4 * weights
    tensors = len(fresh.state_dict())
    assert 0 <= size - weights / 8 - plain - 4 * scales < 40 * len(binary) + 8 * tensors + 100


def test_weights_of_one_bit_fit_a_network_that_was_never_binarized(tmp_path, build):
    model = bwn.binarize(build()).eval()
    storage.save(model, tmp_path / "net.slim", coder="fixed")
    plain = storage.load(tmp_path / "net.slim", build()).eval()
    images = ten_classes(count=2).images
    assert torch.equal(plain(images), model(images)) and str(plain) == str(build())
