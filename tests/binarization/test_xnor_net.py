"""XNOR-Net: the scale of the input against brute force, the best common scale, and why the order of layers matters."""

import itertools

import given
import pytest
import torch
from given_binarization import alive, converted_alike, snapshot, unchanged
from torch import nn
from torch.nn import functional

from lib import models
from lib.binarization import bnn, bwn, xnor_net
from lib.binarization.bwn import BinaryWeight, scale
from lib.binarization.shared import inference
from lib.binarization.shared.conversion import EPSILON
from lib.binarization.shared.signs import Binarized, SignActivation
from lib.binarization.xnor_net import BitsActivation, InputScale, MapNorm, binarize, speedup
from lib.weights import compress, compressed_form, layers

# -- the scale of the input --------------------------------------------------------------------------------------------

CONVOLUTIONS = {
    "plain": (nn.Conv2d(4, 3, 3), (2, 4, 7, 8)),
    "border": (nn.Conv2d(4, 3, 3, padding=1), (2, 4, 6, 6)),
    "stride": (nn.Conv2d(3, 2, 3, stride=2, padding=1), (2, 3, 9, 7)),
    "odd and even": (nn.Conv2d(2, 2, (2, 5), stride=(3, 1), padding=(1, 2)), (1, 2, 11, 5)),
    "one channel": (nn.Conv2d(1, 2, 5, padding=2), (3, 1, 5, 9)),
    "one pixel": (nn.Conv2d(6, 2, 1), (2, 6, 3, 3)),
    "dilation": (nn.Conv2d(2, 2, 3, dilation=2, padding=2), (1, 2, 7, 7)),
    "same": (nn.Conv2d(2, 2, (3, 4), padding="same"), (1, 2, 5, 6)),
    "one channel and column": (nn.Conv2d(1, 2, (3, 2), stride=(1, 2)), (3, 1, 5, 3)),
    "one image without its batch": (nn.Conv2d(3, 2, 3), (3, 5, 5)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_k_is_the_mean_size_under_each_place_of_the_filter(kind):
    layer, shape = CONVOLUTIONS[kind]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    k = InputScale(layer)(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)
    batched = x.reshape(-1, *shape[-3:])
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    padded = functional.pad(batched, (left, right, top, bottom)).double()
    (down, along), (dy, dx), (high, wide) = layer.stride, layer.dilation, layer.kernel_size
    output = layer(x)
    assert k.shape == (*output.shape[:-3], 1, *output.shape[-2:])
    for n, row, column in itertools.product(*map(range, (len(batched), *output.shape[-2:]))):
        seen = [
            padded[n, c, row * down + i * dy, column * along + j * dx].abs().item()
            for c, i, j in itertools.product(range(layer.in_channels), range(high), range(wide))
        ]
        found = k.reshape(-1, *k.shape[-2:])[n, row, column].item()
        assert found == pytest.approx(sum(seen) / len(seen), abs=1e-6)


def test_k_of_a_linear_layer_is_the_mean_size_of_its_row():
    x = torch.tensor([[1.0, -2.0, 0.0, 5.0], [-1.0, -1.0, -1.0, 1.0]])
    assert InputScale(nn.Linear(4, 3))(x).tolist() == [[2], [1]]
    assert InputScale(nn.Linear(4, 3))(x[None]).tolist() == [[[2], [1]]]


@pytest.mark.parametrize("kind", ["plain", "stride"])
def test_a_layer_is_a_convolution_of_signs_times_k_and_alpha(kind):
    layer, shape = CONVOLUTIONS[kind]
    layer = compress(nn.Conv2d(shape[1], 4, 3, layer.stride, layer.padding), lambda *_: BinaryWeight())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    latent = compressed_form(layer)[1][0].detach()
    b, alpha, k = torch.where(latent >= 0, 1.0, -1.0), scale(latent), InputScale(layer)(x)
    signs = torch.where(x.detach() >= 0, 1.0, -1.0).requires_grad_()
    sums = functional.conv2d(signs.double(), b.double(), None, layer.stride, layer.padding).float()
    expected = sums * alpha.reshape(-1, 1, 1) * k + layer.bias.reshape(-1, 1, 1)
    found = Binarized(layer, SignActivation(), None, InputScale(layer))(x)
    assert torch.equal(found, expected) and not k.requires_grad
    gradient = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    found.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(x.grad, signs.grad * (x.detach().abs() <= 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_each_group_has_a_k_of_its_own_channels(groups):
    layer = nn.Conv2d(6, 12, 3, stride=2, padding=1, groups=groups)
    x = torch.randn(2, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    alone = InputScale(nn.Conv2d(6 // groups, 4, 3, stride=2, padding=1))
    expected = torch.cat([alone(part).expand(-1, 12 // groups, -1, -1) for part in x.chunk(groups, 1)], 1)
    assert torch.equal(InputScale(layer)(x), expected) and InputScale(layer)(x[0]).shape == expected[0].shape


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_k_of_a_border_of_copies_is_that_of_the_padded_image(mode):
    x = torch.randn(2, 4, 7, 8, generator=torch.Generator().manual_seed(0))
    wide = functional.pad(x, (2, 2, 1, 1), mode)
    found = InputScale(nn.Conv2d(4, 3, (3, 5), padding=(1, 2), padding_mode=mode))(x)
    assert torch.equal(found, InputScale(nn.Conv2d(4, 3, (3, 5)))(wide))


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect")])
def test_networks_with_k_learn_and_are_counted_on_bits(layer):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 3))
    model = binarize(model, input_scale=True)
    images = torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    model(images).sum().backward()
    assert all(p.grad.any() for p in model.parameters())
    # the last convolution is of floats, and may round otherwise where its images lie otherwise in memory
    assert converted_alike(model[:-1], images) and converted_alike(model, images, exact=False)


# -- activations of several bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
def test_activations_of_k_bits_are_those_of_the_formula(bits):
    form, levels = BitsActivation(bits), 2**bits - 1
    x = torch.cat([torch.linspace(-3, 3, 2000, dtype=torch.float64), torch.randn(999, dtype=torch.float64)])
    clipped = x.clamp(-1, 1)
    expected = 2 * ((levels * (clipped + 1) / 2 + 0.5).floor() / levels - 0.5)
    torch.testing.assert_close(form(x), expected, rtol=0, atol=1e-12)
    assert form(x).unique().numel() == levels + 1
    total = sum(b * torch.where(x >= t, 1.0, -1.0).double() for t, b in form.bases())
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    if bits == 1:
        assert torch.equal(form(x), SignActivation()(x))


def test_the_gradient_of_k_bits_is_that_of_the_sign():
    x = torch.tensor([-1.5, -1.0, -0.3, 0.0, 1.0, 1.0001], requires_grad=True)
    (gradient,) = torch.autograd.grad(BitsActivation(3)(x), x, torch.arange(1.0, 7.0))
    assert gradient.tolist() == [0, 2, 3, 4, 5, 0]


def test_a_network_reads_k_bits_and_counts_them():
    model = binarize(models.lenet5(), activation_bits=2)
    assert isinstance(model.conv2.activation, BitsActivation)
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert alive(model, images)
    x, layer = torch.randn(3, 20, 9, 9, generator=torch.Generator().manual_seed(0)), model.conv2.eval()
    torch.testing.assert_close(inference.convert(layer)(x), layer(x), rtol=1e-4, atol=1e-5)
    for bits in (0, 9, 2.5):
        with given.refused(
            plain := models.lenet5(), f"bits of activations must be a whole number from 1 to 8, not {bits}"
        ):
            binarize(plain, activation_bits=bits)


# -- the best common scale ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 9))
def test_the_best_scale_is_the_mean_product_of_sizes(n):
    generator = torch.Generator().manual_seed(n)
    x, w = torch.randn(2, 1, n, dtype=torch.float64, generator=generator)
    best = (x.abs() * w.abs()).mean()
    every = torch.tensor(list(itertools.product((1.0, -1.0), repeat=n)), dtype=torch.float64)  # H · B
    scales = torch.cat([torch.linspace(-1, 3, 81, dtype=torch.float64), best[None]])
    lost = (x * w - scales[:, None, None] * every).square().sum(2)
    found = (x * w - best * SignActivation()(x) * SignActivation()(w)).square().sum()
    assert lost.min() == pytest.approx(found.item(), rel=1e-9) and (lost >= found - 1e-12).all()
    alpha, beta = scale(w), InputScale(nn.Linear(n, 1))(x)
    together = ((x.abs() - beta) * (w.abs() - alpha)).mean()  # the covariance of the sizes is what α β leaves out
    torch.testing.assert_close(best, (alpha * beta).squeeze() + together, rtol=1e-12, atol=1e-12)


def test_alpha_beta_is_the_best_scale_where_all_inputs_have_one_size():
    generator = torch.Generator().manual_seed(0)
    x = 0.7 * SignActivation()(torch.randn(3, 40, generator=generator))
    layer = compress(nn.Linear(40, 5, bias=False), lambda *_: BinaryWeight())
    w = compressed_form(layer)[1][0].detach()
    best = (x.abs()[:, None] * w.abs()).mean(2)
    torch.testing.assert_close(InputScale(layer)(x) * scale(w).T, best, rtol=1e-5, atol=0)
    found = Binarized(layer, SignActivation(), None, InputScale(layer))(x)
    torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-6)  # nothing is lost on such an input


# -- the argument ------------------------------------------------------------------------------------------------------


def test_the_gain_by_count_of_operations_is_the_papers():
    assert speedup(256, 9) == pytest.approx(62.27, abs=0.005) and speedup(3, 1) == pytest.approx(2.87, abs=0.005)
    assert speedup(256, 9) == 64 * 256 * 9 / (256 * 9 + 64)
    assert 63.99 < speedup(10**6, 9) < 64
    assert speedup(256, 9, bits=341, floats=16) == pytest.approx(18.6, abs=0.05)


def test_pooling_signs_leaves_almost_only_plus_one():
    generator = torch.Generator().manual_seed(0)
    signs = torch.where(torch.rand(50, 1, 64, 64, generator=generator) < 0.5, 1.0, -1.0)
    pooled = functional.max_pool2d(signs, 2)
    share, expected = (pooled == 1).double().mean().item(), 1 - 2**-4
    assert abs(share - expected) < 4 * (expected * (1 - expected) / pooled.numel()) ** 0.5


def test_behind_relu_every_sign_is_plus_one():
    layer = Binarized(nn.Linear(8, 3), SignActivation())
    x, y = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert (SignActivation()(torch.relu(x)) == 1).all()
    assert torch.equal(layer(torch.relu(x)), layer(torch.relu(y)))
    assert not torch.equal(layer(x), layer(y))


# -- the network -------------------------------------------------------------------------------------------------------


def test_inner_layers_read_signs_after_batch_norm_all_else_stays():
    model, dense = binarize(models.lenet5()), models.lenet5()
    assert list(model._modules) == list(dense._modules)
    for name, norm in (("conv2", nn.BatchNorm2d(20, eps=EPSILON)), ("fc1", nn.BatchNorm1d(800, eps=EPSILON))):
        layer = model.get_submodule(name)
        assert isinstance(layer, Binarized) and str(layer.norm) == str(norm) and layer.input_scale is None
        assert torch.equal(layer.layer.weight, BinaryWeight()(dense.get_submodule(name).weight))
    for name in ("conv1", "fc2"):
        assert torch.equal(model.get_submodule(name).weight, dense.get_submodule(name).weight)
    assert type(model.relu1) is nn.ReLU and type(model.pool1) is nn.MaxPool2d


def test_a_layer_normalizes_takes_the_sign_and_multiplies_in_this_order():
    model = binarize(nn.Sequential(nn.Linear(5, 6)), names=["0"], input_scale=True)
    layer = model[0]
    x = 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(0)) + 1
    normal = (x - x.mean(0)) / (x.var(0, correction=0) + EPSILON).sqrt()
    expected = layer.layer(torch.where(normal >= 0, 1.0, -1.0)) - layer.layer.bias
    expected = expected * normal.abs().mean(1, keepdim=True) + layer.layer.bias
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5)


def test_settings_choose_and_show_in_the_text_of_a_model():
    settings = [
        {},
        {"names": ["fc1"]},
        {"input_scale": True},
        {"norm": False},
        {"centered": True},
        {"maps": {"fc1": 50}},
    ]
    texts = [str(binarize(models.lenet5(), **each)) for each in settings]
    assert len(set(texts)) == len(settings)
    assert "InputScale" in texts[2] and "BatchNorm" not in texts[3] and "centered=True" in texts[4]
    every = binarize(models.lenet5(), names=["conv1", "conv2", "fc1", "fc2"])
    assert sum(isinstance(module, Binarized) for module in every.modules()) == 4


def test_without_k_it_has_the_weights_of_a_binary_weight_network():
    ours, weights = binarize(models.lenet5()), bwn.binarize(models.lenet5())
    for (_, a), (_, b) in zip(layers(ours), layers(weights), strict=True):
        assert torch.equal(a.weight, b.weight)


def test_the_norm_of_flattened_maps_is_that_of_the_maps():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(6, 5, 3, 4, generator=generator)
    flat, plain = MapNorm(5, eps=EPSILON), nn.BatchNorm2d(5, eps=EPSILON)
    with torch.no_grad():
        for norm in (flat, plain):
            norm.weight.copy_(torch.tensor([-2.0, -1.0, 0.0, 0.5, 3.0]))
            norm.bias.copy_(torch.arange(5.0))
    for norms in ((flat.train(), plain.train()), (flat.eval(), plain.eval())):
        found, expected = norms[0](images.flatten(1)), norms[1](images).flatten(1)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    t, below = bnn.threshold(flat, 60, target=0.5)
    far = torch.tensor(torch.inf)
    edge = torch.stack([t, torch.nextafter(t, far), torch.nextafter(t, -far)]).clamp(-1e30, 1e30)
    x = torch.cat([images.flatten(1), edge])
    assert torch.equal(torch.where(below, x <= t, x >= t), flat(x) >= 0.5)


def test_maps_give_the_named_layer_their_norm():
    model = binarize(models.lenet5(), maps={"fc1": 50})
    assert isinstance(model.fc1.norm, MapNorm) and (model.fc1.norm.num_features, model.fc1.norm.eps) == (50, EPSILON)
    assert type(model.conv2.norm) is nn.BatchNorm2d and model(torch.rand(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize("maps", [{"fc1": 51}, {"fc1": 0}, {"conv2": 20}, {"fc2": 10}, {"fc9": 1}])
def test_maps_that_do_not_fit_are_refused_and_change_nothing(maps):
    model = models.lenet5()
    (name, count), *_ = maps.items()
    with pytest.raises(
        ValueError, match=f"maps: '{name}' must be a linear layer to binarize with inputs for {count} maps"
    ):
        binarize(model, maps=maps)
    assert str(model) == str(models.lenet5())


def test_weights_that_are_not_finite_are_refused_and_change_nothing():
    model = models.lenet5()
    model.conv2.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="weights of layer 'conv2' hold NaN or infinity"):
        xnor_net.binarize(model)
    with pytest.raises(ValueError, match="layer 'conv1' has one input channel: centered"):
        xnor_net.binarize(models.lenet5(), names=["conv1"], centered=True)
    assert str(model) == str(models.lenet5())


def test_maps_of_a_norm_that_is_left_out_are_refused():
    model = models.lenet5()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"maps must be empty where norm is False, not \{'fc1': 50\}"):
        binarize(model, norm=False, maps={"fc1": 50})
    assert unchanged(model, before)
