"""How networks get binary layers: which layers are chosen, what is refused, and networks that nobody here wrote."""

import copy

import given
import pytest
import torch
from given_binarization import converted_alike, snapshot, unchanged
from torch import nn

from lib import models, storage, training
from lib.binarization import abc_net, bnn, bwn, gxnor_dst, xnor_net
from lib.binarization.binaryconnect import BinaryConnectWeight
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared.conversion import (
    EPSILON,
    chosen,
    clip,
    closed,
    inner,
    like,
    norm_before,
    read_signs,
    readable,
)
from lib.binarization.shared.signs import Binarized, SignActivation
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
    read_signs(model, ["0"], lambda _, layer: Binarized(layer, SignActivation()))
    assert isinstance(model[0], Binarized) and model[1][0] is model[0] and model[0].layer is shared
    alone = nn.Linear(4, 4)
    wrapped = read_signs(alone, [""], lambda _, layer: Binarized(layer, SignActivation()))
    assert isinstance(wrapped, Binarized) and wrapped.layer is alone


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


def test_norms_are_as_wide_as_what_linear_and_2d_layers_read():
    for layer, kind in ((nn.Linear(5, 2), nn.BatchNorm1d), (nn.Conv2d(5, 2, 3), nn.BatchNorm2d)):
        norm = norm_before(layer)
        assert type(norm) is kind and (norm.num_features, norm.eps) == (5, EPSILON)
        assert readable(nn.Sequential(layer), "0") is layer
    with pytest.raises(ValueError, match=r"layer must be a Linear or a Conv2d layer, not Conv1d$"):
        norm_before(nn.Conv1d(5, 2, 3))
    with pytest.raises(ValueError, match=r"layer '0' must be a Linear or a Conv2d layer, not Conv1d$"):
        readable(nn.Sequential(nn.Conv1d(5, 2, 3)), "0")


# -- the type, the device and the mode of what is added ----------------------------------------------------------------

ADDING = {
    "bnn": lambda model: bnn.binarize(model, classes=3),
    "xnor": lambda model: xnor_net.binarize(model, input_scale=True),
    "gxnor": lambda model: gxnor_dst.ternarize(model, classes=3),
    "abc": lambda model: abc_net.binarize(model, activation_bases=2),
    "maps": lambda model: xnor_net.binarize(model, names=["6"], maps={"6": 2}),
}


def convolutional():
    parts = [nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return given.seeded(lambda: nn.Sequential(*parts, nn.Linear(8, 3)))


@pytest.mark.parametrize("method", ADDING)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_what_is_added_has_the_type_of_the_network(dtype, method):
    model = ADDING[method](convolutional().to(dtype))
    assert all(v.dtype == dtype for v in model.state_dict().values() if v.is_floating_point())
    images = given.split(5, 2, 9, 9, dtype=dtype).images
    assert model(images).dtype == dtype
    model(images).sum().backward()


def test_what_is_added_is_on_the_device_of_the_network():
    meta = convolutional().to("meta")
    assert norm_before(meta[2]).weight.device.type == like(meta, nn.BatchNorm1d(3)).weight.device.type == "meta"
    assert closed(meta, 3)[1].running_mean.device.type == "meta"
    assert like(nn.ReLU().eval(), nn.BatchNorm1d(3)).training is False  # a network without parameters has a mode alone


@pytest.mark.parametrize("method", ADDING)
def test_what_is_added_is_in_the_mode_of_the_network(method):
    def modules(model):
        return [module for name, module in model.named_modules() if "parametrizations" not in name]

    assert not any(module.training for module in modules(ADDING[method](convolutional().eval())))
    assert all(module.training for module in modules(ADDING[method](convolutional())))
    mixed = convolutional()
    mixed[2].eval()
    mixed = ADDING[method](mixed)
    net = mixed[0] if len(mixed) == 2 else mixed
    assert mixed.training and net.training and not any(module.training for module in modules(net[2]))


@pytest.mark.parametrize("method", [name for name in ADDING if name != "maps"])
def test_tokens_are_normalized_feature_by_feature(method):
    model = ADDING[method](given.seeded(lambda: nn.Sequential(*[nn.Linear(n, m) for n, m in ((4, 7), (7, 7), (7, 3))])))
    layer = (model[0] if len(model) == 2 else model)[1]
    rows = copy.deepcopy(layer)
    assert layer.norm.num_features == 7
    tokens = torch.randn(5, 7, 7, generator=given.generator())  # as many tokens as features
    for _ in range(2):  # in training and in evaluation mode
        assert torch.equal(layer(tokens), rows(tokens.reshape(35, 7)).reshape(5, 7, 7))
        assert given.equal(layer, rows)
        layer.eval(), rows.eval()
    x = torch.randn(5, 7, 4, generator=given.generator())
    if len(model) == 3:
        assert model.train()(x).shape == (5, 7, 3) and converted_alike(model, x, exact=method != "abc")


@pytest.mark.parametrize("method", ADDING)
def test_frozen_parameters_stay_frozen_and_new_ones_are_not(method):
    model = ADDING[method](convolutional().requires_grad_(False))
    new = ("norm.", "activation.", "1.weight", "1.bias") if len(model) == 2 else ("norm.", "activation.")
    for name, parameter in model.named_parameters():
        added = any(part in name for part in new) and "parametrizations" not in name
        assert parameter.requires_grad == added or not parameter.numel(), name


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
