"""Converted networks against the float networks they came from: equal answers, bit for bit."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import models, storage
from lib.binarization import abc_net, binaryconnect, bnn, bwn, gxnor_dst, xnor_net
from lib.binarization.abc_net import AbcActivation, AbcWeight
from lib.binarization.binaryconnect import BinaryConnectWeight
from lib.binarization.bwn import BinaryWeight
from lib.binarization.gxnor_dst import DiscreteStateTransition, TernaryActivation, TernaryStates
from lib.binarization.shared import kernels
from lib.binarization.shared.conversion import clip
from lib.binarization.shared.inference import BitLayer, bases, convert
from lib.binarization.shared.signs import NORMS, Binarized, SignActivation
from lib.vision import torchvision
from lib.weights import compress, decompress, layers


def without_numba(patch):
    patch.setattr(kernels, "numba", None)
    kernels.available.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert not kernels.available()


@pytest.fixture(params=["compiled", "without numba"])
def path(request, monkeypatch):
    kernels.available.cache_clear()
    if request.param == "without numba":
        without_numba(monkeypatch)
    monkeypatch.setattr(kernels, "bits_win", lambda *_: True)  # the smallest layer too
    yield request.param
    kernels.available.cache_clear()


def images(count, channels, side, seed=0, last=True):
    x = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last) if last else x


def trained(model, channels, side):
    """A few steps move weights and the averages of batch norm; then some of its gammas are turned, and some are 0."""
    x, labels = images(8, channels, side, seed=9), torch.arange(8) % 10
    if any(isinstance(module, TernaryStates) for module in model.modules()):
        optimizer = DiscreteStateTransition(model, lr=0.02)
    else:
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(model(x).flatten(1), labels).backward()
        optimizer.step()
        clip(model)
    turn(model)
    return model.eval()


@torch.no_grad()
def turn(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, NORMS) and module.affine:
            module.weight[::3] *= -1
            module.weight[3::7] = 0
            module.bias += torch.randn(module.bias.shape, generator=generator) / 4


def answers(model, x):
    with torch.no_grad():
        return model(x)


def bit_layers(model):
    return [name for name, module in model.named_modules() if isinstance(module, BitLayer)]


NETWORKS = {
    "xnor lenet5": (lambda: xnor_net.binarize(models.lenet5()), 1, 28),
    "xnor lenet5, K and maps": (
        lambda: xnor_net.binarize(models.lenet5(), input_scale=True, maps={"fc1": 50}, centered=True),
        *(1, 28),
    ),
    "xnor lenet5, maps": (lambda: xnor_net.binarize(models.lenet5(), maps={"fc1": 50}), 1, 28),
    "bnn mlp": (lambda: bnn.binarize(models.mlp(inputs=64, hidden=(70, 130))), 1, 8),
    "bnn lenet5": (lambda: bnn.binarize(models.lenet5(), classes=10), 1, 28),
    "bnn vgg": (lambda: bnn.binarize(models.vgg_small(width=8)), 3, 32),
    "xnor vgg": (lambda: xnor_net.binarize(models.vgg_small(width=8)), 3, 32),
    "xnor vgg, K": (lambda: xnor_net.binarize(models.vgg_small(width=8), input_scale=True), 3, 32),
    "ternary mlp": (lambda: gxnor_dst.ternarize(models.mlp(inputs=64, hidden=(70, 130))), 1, 8),
    "ternary vgg": (lambda: gxnor_dst.ternarize(models.vgg_small(width=8)), 3, 32),
    "ternary lenet5, r = 0.3": (lambda: gxnor_dst.ternarize(models.lenet5(), r=0.3, space=0), 1, 28),
    "xnor resnet8, K": (lambda: xnor_net.binarize(models.resnet8(), input_scale=True), 3, 16),
    "ternary vgg, 9 levels": (
        lambda: gxnor_dst.ternarize(models.vgg_small(width=8), space=2, activation_space=3),
        *(3, 32),
    ),
    "xnor resnet18": (lambda: xnor_net.binarize(torchvision.models.resnet18(num_classes=10)), 3, 32),
    "bnn resnet18": (lambda: bnn.binarize(torchvision.models.resnet18(num_classes=10)), 3, 32),
    "xnor squeezenet, K": (
        lambda: xnor_net.binarize(torchvision.models.squeezenet1_1(num_classes=10), input_scale=True),
        *(3, 32),
    ),
    "ternary squeezenet": (lambda: gxnor_dst.ternarize(torchvision.models.squeezenet1_1(num_classes=10)), 3, 32),
}
_made = {}


def network(name):
    """Trained once, and copied for each test that asks."""
    if name not in _made:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            build, channels, side = NETWORKS[name]
            _made[name] = trained(build(), channels, side)
    return copy.deepcopy(_made[name]), *NETWORKS[name][1:]


# -- whole networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_converted_network_gives_the_very_same_answers(path, name):
    model, channels, side = network(name)
    found = convert(model)
    assert bit_layers(found) == [each for each, module in model.named_modules() if isinstance(module, Binarized)]
    for count in (1, 3):
        x = images(count, channels, side, seed=count)
        expected = answers(model, x)
        assert torch.equal(answers(found, x), expected) and expected.unique().numel() > 1


@pytest.mark.parametrize("name", ["xnor lenet5", "bnn vgg", "xnor vgg", "ternary lenet5, r = 0.3", "bnn mlp"])
def test_between_signs_the_memory_layout_of_images_does_not_matter(path, name):
    model, channels, side = network(name)
    found = convert(model)
    for count in (1, 3):
        x = images(count, channels, side, seed=count, last=False)
        assert torch.equal(answers(found, x), answers(model, x))


def test_a_real_layer_after_signs_may_round_otherwise_in_plain_memory():
    torch.manual_seed(0)
    model = xnor_net.binarize(nn.Sequential(nn.Conv2d(3, 9, 3), nn.Conv2d(9, 40, 3), nn.Conv2d(40, 5, 3))).eval()
    x = images(3, 3, 12, last=False)
    torch.testing.assert_close(answers(convert(model), x), answers(model, x), rtol=1e-5, atol=1e-5)


def test_the_original_stays_and_the_copy_is_its_own(path):
    model, channels, side = network("bnn lenet5")
    x = images(4, channels, side)
    expected, text = answers(model, x), str(model)
    model.train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = convert(model)
    assert str(model) == text and all(module.training for module in model.modules())
    assert not any(module.training for module in found.modules())
    answers(found, x)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-3)
    twin = copy.deepcopy(found)
    for parameter in found.parameters():
        parameter.data.zero_()
    assert torch.equal(answers(twin, x), expected)


def test_only_the_named_layers_are_converted(path):
    model, channels, side = network("xnor vgg")
    for names in (["conv3"], ("conv5", "conv2", "conv5"), []):
        found = convert(model, names=names)
        assert sorted(bit_layers(found)) == sorted(set(names))
        x = images(2, channels, side)
        assert torch.equal(answers(found, x), answers(model, x))
    again = convert(convert(model, names=["conv3"]))
    assert torch.equal(answers(again, x), answers(model, x)) and len(bit_layers(again)) == len(bit_layers(found)) + 5


@pytest.mark.parametrize("name", ["xnor lenet5, K and maps", "bnn vgg", "xnor squeezenet, K"])
def test_a_network_read_from_its_file_is_converted_as_well(tmp_path, path, name):
    model, channels, side = network(name)
    storage.save(model, tmp_path / "net.slim")
    fresh = storage.load(tmp_path / "net.slim", NETWORKS[name][0]()).eval()
    x = images(3, channels, side)
    expected = answers(model, x)
    assert torch.equal(answers(convert(fresh), x), expected)
    assert torch.equal(answers(convert(decompress(copy.deepcopy(model))), x), expected)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize(("kind", "scope"), [("abc", "layer"), ("greedy", "filter")])
def test_sums_of_several_bases_differ_by_rounding_alone(path, m, n, kind, scope):
    torch.manual_seed(0)
    model = abc_net.binarize(models.lenet5(), bases=m, activation_bases=n, kind=kind, scope=scope).train()
    model(images(16, 1, 28))
    turn(model)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, AbcActivation):
                module.beta.mul_(1.25)
    x = images(5, 1, 28, seed=1)
    found = convert(model)
    torch.testing.assert_close(answers(found, x), answers(model.eval(), x), rtol=1e-4, atol=1e-4)


# -- the state of a converted network ----------------------------------------------------------------------------------


def other(name):
    """A network like the one called so, with other weights."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        build, channels, side = NETWORKS[name]
        model = build()
        for module in model.modules():
            if isinstance(module, TernaryStates):
                module.states.copy_((module.states + 1) % 3)
        for parameter in model.parameters():
            parameter.data.copy_(torch.randn(parameter.shape))
        clip(model)
        return convert(trained(model, channels, side))


STATES = ["xnor lenet5, K and maps", "bnn mlp", "ternary vgg", "ternary lenet5, r = 0.3", "xnor squeezenet, K"]


@pytest.mark.parametrize("name", STATES)
def test_a_converted_network_is_all_in_its_state(tmp_path, path, name):
    model, channels, side = network(name)
    found, x = convert(model), images(2, channels, side)
    expected = answers(found, x)
    twin, by_file = other(name), other(name)
    assert not torch.equal(answers(twin, x), expected)
    assert torch.equal(answers(copy.deepcopy(found), x), expected)
    assert not twin.load_state_dict(found.state_dict()).missing_keys
    storage.save(found, tmp_path / "bits.slim")
    storage.load(tmp_path / "bits.slim", by_file)
    for same in (twin, by_file, copy.deepcopy(twin)):
        assert torch.equal(answers(same, x), expected)
    for value in twin.state_dict().values():  # in place, as an optimizer or a file would
        value.zero_()
    twin(x)
    twin.load_state_dict(found.state_dict())
    assert torch.equal(answers(twin, x), expected)


def test_several_bases_and_their_factors_are_in_the_state(path):
    def build(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = abc_net.binarize(models.lenet5(seed), bases=2, activation_bases=3)
            for module in model.modules():
                if isinstance(module, AbcActivation):
                    torch.nn.init.normal_(module.beta)
            return convert(trained(model, 1, 28))

    found, twin, x = build(0), build(1), images(2, 1, 28)
    twin.load_state_dict(found.state_dict())
    assert torch.equal(answers(twin, x), answers(found, x))
    with pytest.raises(RuntimeError, match="size mismatch"):
        convert(abc_net.binarize(models.lenet5(), bases=1, activation_bases=3)).load_state_dict(found.state_dict())


def test_a_network_that_was_converted_without_gradients_is_right_after_a_change(path):
    model, channels, side = network("bnn lenet5")
    x = images(2, channels, side)
    with torch.inference_mode():
        found = convert(model)
        expected = found(x).clone()
    state = {name: value.clone() for name, value in found.state_dict().items()}
    for value in found.state_dict().values():
        value.zero_()
    assert not torch.equal(answers(found, x), expected)
    found.load_state_dict(state)
    assert torch.equal(answers(found, x), expected) and torch.equal(answers(model, x), expected)


def test_converted_networks_of_another_type_or_device_are_refused_by_name():
    found = convert(xnor_net.binarize(models.lenet5()))
    for move in (lambda m: m.double(), lambda m: m.half(), lambda m: m.to("meta")):
        moved, layer = move(copy.deepcopy(found)), "conv2"
        x = torch.zeros(1, 20, 12, 12, dtype=moved.conv1.weight.dtype, device=moved.conv1.weight.device)
        refused(f"^layer '{layer}' counts bits on the CPU, for float32, not on", lambda x=x, m=moved: m.conv2(x))


# -- one layer ---------------------------------------------------------------------------------------------------------


def reader(layer, form=BinaryWeight, activation=SignActivation, norm=None, scaled=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    scale = xnor_net.InputScale(layer) if scaled else None
    return Binarized(compress(layer, lambda *_: form()), activation(), norm, scale).eval()


LAYERS = {
    "linear": (lambda: nn.Linear(37, 11), (5, 37)),
    "linear without bias": (lambda: nn.Linear(64, 17, bias=False), (1, 64)),
    "linear on rows of rows": (lambda: nn.Linear(6, 4), (2, 3, 6)),
    "linear on one row": (lambda: nn.Linear(70, 4), (70,)),
    "linear on no row": (lambda: nn.Linear(6, 4), (0, 6)),
    "convolution": (lambda: nn.Conv2d(5, 7, 3), (2, 5, 8, 9)),
    "stride, border, no bias": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (3, 4, 9, 8)),
    "same": (lambda: nn.Conv2d(3, 4, (3, 4), padding="same"), (2, 3, 6, 7)),
    "dilation": (lambda: nn.Conv2d(65, 4, (3, 2), dilation=(2, 1), padding=(2, 0)), (2, 65, 9, 9)),
    "groups": (lambda: nn.Conv2d(6, 8, 3, groups=2, padding=1), (2, 6, 5, 5)),
    "border of mirrored pixels": (lambda: nn.Conv2d(5, 4, 3, padding=2, padding_mode="reflect"), (2, 5, 6, 7)),
    "border of copies, stride": (lambda: nn.Conv2d(4, 4, (3, 2), 2, (1, 2), padding_mode="replicate"), (2, 4, 6, 7)),
    "border around, groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2, padding_mode="circular"), (2, 4, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, groups=6, stride=2, padding=1, bias=False), (2, 6, 7, 7)),
    "one image without its batch": (lambda: nn.Conv2d(3, 8, 3), (3, 10, 10)),
    "no image": (lambda: nn.Conv2d(3, 2, 3, padding=1), (0, 3, 5, 5)),
}
KINDS = {
    "signs": (BinaryWeight, SignActivation),
    "BinaryConnect": (BinaryConnectWeight, SignActivation),
    "ternary": (TernaryStates, TernaryActivation),
    "ternary weights": (TernaryStates, SignActivation),
    "ternary input": (BinaryConnectWeight, lambda: TernaryActivation(0.25)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", LAYERS)
def test_a_layer_of_every_shape_is_the_same(path, place, kind):
    build, shape = LAYERS[place]
    layer = reader(build(), *KINDS[kind])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x.flatten()[:4] = torch.tensor([0.0, -0.0, 0.5, -0.5])[: x.numel()]
    expected, found = answers(layer, x), answers(BitLayer(layer), x)
    assert found.shape == expected.shape and found.dtype == expected.dtype and torch.equal(found, expected)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", ["signs", "BinaryConnect", "ternary"])
@pytest.mark.parametrize("place", LAYERS)
def test_a_layer_left_in_floats_is_the_same(monkeypatch, place, kind):
    monkeypatch.setattr(kernels, "bits_win", lambda *_: False)
    build, shape = LAYERS[place]
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1]) if len(shape) in (2, 4) else None
    if norm is not None:
        norm(3 * torch.randn(9, *shape[1:], generator=torch.Generator().manual_seed(2)) + 1)
        turn(norm)
    layer = convert(reader(build(), *KINDS[kind], norm=norm))
    assert layer.chooses
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x.flatten()[:4] = torch.tensor([0.0, -0.0, 0.5, -0.5])[: x.numel()]
    expected, found = answers(reader(build(), *KINDS[kind], norm=norm), x), answers(layer, x)
    assert found.shape == expected.shape and torch.equal(found, expected)
    if x.numel() and kind != "ternary":
        x.view(-1)[-1] = torch.nan
        refused(r"^a value to pack is not a number \(NaN\): it has no sign$", lambda: layer(x))


@pytest.mark.parametrize("place", ["linear", "convolution", "groups", "depthwise"])
def test_batch_norm_of_every_kind_becomes_thresholds(path, place):
    build, shape = LAYERS[place]
    kind, generator = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d), torch.Generator().manual_seed(2)
    for settings in ({}, {"affine": False}, {"eps": 0.1}):
        norm = kind(shape[1], **settings)
        norm(3 * torch.randn(9, *shape[1:], generator=generator) + 1)
        turn(norm)
        layer = reader(build(), norm=norm)
        found = BitLayer(layer)
        assert isinstance(found.norm, nn.Identity)
        x = 3 * torch.randn(shape, generator=generator) + 1
        assert torch.equal(answers(found, x), answers(layer, x))


def test_batch_norm_of_tokens_becomes_thresholds_of_features(path):
    norm = nn.BatchNorm1d(6)
    norm(3 * torch.randn(9, 6, generator=torch.Generator().manual_seed(0)) + 1)
    turn(norm)
    layer = reader(nn.Linear(6, 4), norm=norm)
    for shape in ((2, 6, 6), (3, 2, 5, 6), (6,)):
        x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 1
        found = BitLayer(layer)
        assert isinstance(found.norm, nn.Identity) and torch.equal(answers(found, x), answers(layer, x))


NOT_FOLDED = {
    "layer norm": (lambda: nn.Linear(12, 5), lambda: nn.LayerNorm(12), (4, 12)),
    "layer norm of steps": (lambda: nn.Linear(12, 5), lambda: nn.LayerNorm(12), (4, 12, 12)),
    "group norm": (lambda: nn.Conv2d(6, 5, 3, padding=1), lambda: nn.GroupNorm(2, 6), (3, 6, 7, 7)),
    "batch norm without averages": (
        lambda: nn.Conv2d(6, 4, 3, groups=2, bias=False),
        lambda: nn.BatchNorm2d(6, track_running_stats=False),
        *((3, 6, 7, 7),),
    ),
    "rows without averages": (
        lambda: nn.Linear(12, 5),
        lambda: nn.BatchNorm1d(12, track_running_stats=False),
        *((4, 12),),
    ),
    "two of them": (
        lambda: nn.Linear(12, 5),
        lambda: nn.Sequential(nn.BatchNorm1d(12), nn.Tanh()),
        *((4, 12),),
    ),
}


@pytest.mark.parametrize("kind", NOT_FOLDED)
def test_a_norm_without_thresholds_is_kept(path, kind):
    build, norm, shape = NOT_FOLDED[kind]
    layer = reader(build(), norm=norm())
    found, x = BitLayer(layer), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert type(found.norm) is type(layer.norm) and found.norm is not layer.norm
    assert torch.equal(answers(found, x), answers(layer, x))


@pytest.mark.parametrize("place", ["linear", "stride, border, no bias", "convolution"])
def test_k_wants_the_values_so_its_norm_is_kept(path, place):
    build, shape = LAYERS[place]
    norm = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1])
    layer = reader(build(), norm=norm, scaled=True)
    found, x = BitLayer(layer), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert type(found.norm) is type(norm)
    assert torch.equal(answers(found, x), answers(layer, x))


def test_filters_of_zeros_give_their_bias(path):
    layer = nn.Linear(6, 3)
    layer.weight.data[1] = 0
    layer = Binarized(compress(layer, lambda *_: BinaryWeight()), SignActivation()).eval()
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    for each in (layer, decompress(copy.deepcopy(layer))):
        found = answers(BitLayer(each), x)
        assert torch.equal(found, answers(layer, x)) and torch.equal(found[:, 1], layer.layer.bias[1].expand(4))


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e6])
def test_sums_of_bases_are_told_from_other_weights_whatever_their_size(size):
    layer = nn.Linear(40, 5)
    layer.weight.data.mul_(size)
    compress(layer, lambda *_: AbcWeight(5))
    signs, scales = bases(layer)
    total = (signs * scales[:, :, None]).sum(0)
    torch.testing.assert_close(total, layer.weight, rtol=1e-4, atol=1e-5 * layer.weight.abs().max().item())


def test_a_layer_alone_and_a_layer_under_two_names_are_converted(path):
    alone = reader(nn.Linear(6, 6))
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    found = convert(alone)
    assert isinstance(found, BitLayer) and torch.equal(answers(found, x), answers(alone, x))
    twice = nn.Sequential(alone, nn.Tanh(), alone)
    found = convert(twice)
    assert found[0] is found[2] and torch.equal(answers(found, x), answers(twice, x))


def test_inputs_that_need_a_gradient_are_read(path):
    layer = reader(nn.Linear(6, 4), norm=nn.BatchNorm1d(6))
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = x.detach().clone()
    assert torch.equal(BitLayer(layer)(x), layer(x)) and torch.equal(x, before)


# -- bad input ---------------------------------------------------------------------------------------------------------


def refused(message, call):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_layers_that_read_no_signs_are_named():
    model = xnor_net.binarize(models.lenet5())
    for name in ("conv1", "fc2", "fc9", "fc1.layer"):
        message = f"^layer '{name}' is not binary, it reads no signs: those that do are conv2, fc1$"
        refused(message, lambda name=name: convert(model, names=["fc1", name]))
    assert isinstance(model.fc1, Binarized)


def test_a_network_without_signs_is_refused():
    message = "^Sequential has no layer that reads signs: binarize conv1, conv2, fc1, fc2$"
    for model in (models.lenet5(), bwn.binarize(models.lenet5()), abc_net.binarize(models.lenet5())):
        refused(message, lambda model=model: convert(model))
    refused(message, lambda: convert(models.lenet5(), names=["fc1"]))
    refused("^ReLU has no layer that reads signs: binarize another network$", lambda: convert(nn.ReLU()))


def with_layer(layer, activation=None):
    return nn.Sequential(nn.Linear(4, 4), Binarized(layer, SignActivation() if activation is None else activation))


def test_weights_that_are_not_binary_are_refused_by_name():
    message = "^layer '1' is not binary: a filter has weights of more than one size"
    refused(message, lambda: convert(with_layer(nn.Linear(4, 3))))
    almost = nn.Linear(4, 3)
    almost.weight.data.fill_(0.5)[2, 1] = 0.50001
    refused(message, lambda: convert(with_layer(almost)))
    almost.weight.data[2, 1] = torch.nan
    refused("^layer '1' is not binary", lambda: convert(with_layer(almost)))
    ternary = gxnor_dst.ternarize(models.mlp(inputs=8, hidden=(9, 9)))
    refused("^layer 'fc2' is not binary", lambda: convert(decompress(ternary)))


def test_weights_that_stopped_being_finite_are_refused_by_name():
    model = xnor_net.binarize(models.lenet5())
    model.fc1.layer.parametrizations.weight.original.data[0, 0] = torch.nan
    refused("^layer 'fc1' is not binary now", lambda: convert(model))


@pytest.mark.parametrize("size", [1.0, 1e-7])
def test_real_weights_of_a_stochastic_network_are_refused_but_not_signs(size):
    model = with_layer(nn.Linear(4, 3))
    model[1].layer.weight.data.mul_(size)
    drawn, signs = copy.deepcopy(model), copy.deepcopy(model)
    compress(drawn[1], lambda *_: BinaryConnectWeight(stochastic=True))
    refused("^layer '1' is not binary now: its weights are not a sum of signs$", lambda: convert(drawn))
    compress(signs[1], lambda *_: BinaryConnectWeight(stochastic=True, inference="sign"))
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(answers(convert(signs), x), answers(signs.eval(), x))
    assert len(list(layers(binaryconnect.binarize(models.lenet5())))) == 4


@pytest.mark.parametrize("activation", [nn.Identity(), nn.Tanh()])
def test_an_activation_that_gives_no_signs_is_refused_by_name(activation):
    layer = compress(nn.Linear(4, 3), lambda *_: BinaryWeight())
    kind = type(activation).__name__
    message = f"^layer '1' reads the values of {kind}, which are no signs: it cannot count bits$"
    refused(message, lambda: convert(with_layer(layer, activation)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_of_other_floats_is_refused_by_name(dtype):
    model = xnor_net.binarize(models.lenet5()).to(dtype)
    refused(f"^layer 'conv2' has weights of {dtype}: accepted is torch.float32$", lambda: convert(model))


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d(3), nn.GroupNorm(1, 3)])
def test_an_input_that_is_not_a_number_is_refused(path, norm):
    found = BitLayer(reader(nn.Conv2d(3, 4, 3), norm=norm))
    x = images(2, 3, 6)
    x[1, 2, 3, 4] = torch.nan
    refused(r"^a value to pack is not a number \(NaN\): it has no sign$", lambda: found(x))


def test_inputs_of_another_shape_are_refused(path):
    rows, maps = (BitLayer(reader(layer)) for layer in (nn.Linear(6, 4), nn.Conv2d(6, 4, 3)))
    refused("^thresholds has the shape", lambda: rows(torch.zeros(2, 5)))
    refused("^images of shape", lambda: maps(torch.zeros(2, 5, 8, 8)))
    refused("^images of shape", lambda: maps(torch.zeros(2, 6)))
    refused("^an image of 2 x 8 with border", lambda: maps(torch.zeros(2, 6, 2, 8)))
