"""One bit for each weight and one scale for each filter: the nearest such matrix, its gradient, and the file."""

import itertools

import given
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import models
from lib.binarization.bwn import BinaryWeight, binarize, scale, weights_to_binarize
from lib.weights import compress, compressed, compressed_form, decompress, layers

SHAPES = [(4, 6), (8, 3, 3, 3), (5, 1, 7), (6, 2, 1, 1), (1, 1), (2, 3, 1, 1, 2)]


@pytest.fixture(params=SHAPES)
def weight(request):
    weight = torch.randn(request.param, generator=torch.Generator().manual_seed(0))
    weight.view(-1)[-1] = -0.0  # counts as positive
    return weight


def signs(weight):
    return torch.where(weight >= 0, 1.0, -1.0).to(weight.dtype)


# -- the scale ---------------------------------------------------------------------------------------------------------


def test_the_weight_is_the_mean_size_times_the_sign(weight):
    rows = weight.double().flatten(1)
    expected = (rows.abs().mean(1, keepdim=True) * signs(rows)).reshape(weight.shape)
    torch.testing.assert_close(BinaryWeight()(weight).double(), expected, rtol=1e-6, atol=0)
    assert scale(weight).shape == (len(weight), *[1] * (weight.dim() - 1))


def test_what_is_lost_is_the_weight_less_the_signs_size(weight):
    w = weight.double()
    lost = (w - BinaryWeight()(w)).square().flatten(1).sum(1)
    n, alpha = w[0].numel(), scale(w).flatten()
    torch.testing.assert_close(lost, w.square().flatten(1).sum(1) - n * alpha.square(), rtol=1e-12, atol=1e-12)


def test_what_is_lost_is_orthogonal_to_the_signs(weight):
    w = weight.double()
    assert ((w - BinaryWeight()(w)) * signs(w)).flatten(1).sum(1).abs().max() < 1e-12


@pytest.mark.parametrize("n", range(1, 9))
def test_no_other_signs_with_any_other_scale_are_nearer(n):
    w = torch.randn(1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    lost = (w - BinaryWeight()(w)).square().sum()
    every = torch.tensor(list(itertools.product((1.0, -1.0), repeat=n)), dtype=torch.float64)
    alphas = torch.cat([torch.linspace(-0.5, 2.5, 121, dtype=torch.float64), scale(w).flatten()])
    others = (w - alphas[:, None, None] * every).square().sum(2)
    assert others.min() == pytest.approx(lost.item(), rel=1e-12) and (others >= lost - 1e-12).all()
    best = every @ w[0] / n  # the best scale of each matrix of signs
    assert ((w - best[:, None] * every).square().sum(1) >= lost - 1e-12).all()


@pytest.mark.parametrize("factor", [2.0**-20, 0.25, 8.0])
def test_a_scaled_weight_has_a_scaled_approximation(weight, factor):
    assert torch.equal(BinaryWeight()(weight * factor), BinaryWeight()(weight) * factor)
    torch.testing.assert_close(BinaryWeight()(weight * 0.37), BinaryWeight()(weight) * 0.37, rtol=1e-6, atol=0)
    turned = torch.where(weight == 0, 1.0, weight)
    assert torch.equal(BinaryWeight()(-turned), -BinaryWeight()(turned))


@pytest.mark.parametrize("value", [0.0, 0.25, -0.25])
def test_a_filter_of_one_value_is_exact(value):
    layer = nn.Conv2d(4, 4, 3, groups=4)
    nn.init.constant_(layer.weight, value)
    assert compress(layer, lambda *_: BinaryWeight()).weight.unique().tolist() == [value]


@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1}, {"groups": 2}])
def test_a_convolution_is_that_with_the_signs_times_alpha(settings):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 7, 7, generator=generator)
    layer = nn.Conv2d(4, 6, 3, bias=False, **settings)
    b, alpha = signs(layer.weight.detach()), scale(layer.weight.detach())
    places = {"stride": 1, "padding": 0, "groups": 1} | settings
    expected = alpha.reshape(-1, 1, 1) * functional.conv2d(x.double(), b.double(), **places).float()
    torch.testing.assert_close(compress(layer, lambda *_: BinaryWeight())(x), expected, rtol=1e-5, atol=1e-5)


# -- the gradient ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_the_exact_chain_rule(shape):
    generator = torch.Generator().manual_seed(1)
    w = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    g = torch.randn(shape, dtype=torch.float64, generator=generator)
    BinaryWeight()(w).backward(g)
    rows, gradients, found = w.detach().flatten(1), g.flatten(1), w.grad.flatten(1)
    n = rows.shape[1]
    for row, gradient, result in zip(rows.tolist(), gradients.tolist(), found.tolist(), strict=True):
        alpha = sum(abs(each) for each in row) / n
        sign = [1 if each >= 0 else -1 for each in row]
        shared = sum(a * b for a, b in zip(gradient, sign, strict=True))
        expected = [s / n * shared + alpha * a * (abs(v) <= 1) for s, a, v in zip(sign, gradient, row, strict=True)]
        assert result == pytest.approx(expected, rel=1e-12, abs=1e-14)
    assert w.numel() < 9 or (rows.abs() > 1).any()  # the gate was seen closed


def test_the_papers_gradient_is_that_of_a_filter_of_one_weight():
    w = torch.tensor([[0.3], [-0.7], [1.8]], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([[2.0], [3.0], [5.0]], dtype=torch.float64)
    BinaryWeight()(w).backward(g)
    paper = g * (1 + w.detach().abs() * (w.detach().abs() <= 1))  # n = 1
    torch.testing.assert_close(w.grad, paper, rtol=1e-15, atol=0)


# -- centered ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 6), (8, 3, 3, 3), (6, 2, 1, 1)])
def test_centered_takes_the_mean_over_the_input_channels_off_and_clips(shape):
    w = 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 12
    form = BinaryWeight(centered=True)
    moved = w - torch.stack([w[:, i] for i in range(shape[1])]).mean(0)[:, None]
    assert moved.abs().max() > 1
    torch.testing.assert_close(form(w), BinaryWeight()(moved.clamp(-1, 1)), rtol=1e-12, atol=0)
    torch.testing.assert_close(form(w + 3), form(w), rtol=1e-9, atol=0)  # what all channels share is gone
    assert BinaryWeight()(w).unique().numel() == shape[0]  # while without it every sign is +1


def test_the_gradient_of_a_centered_weight_moves_no_mean():
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(5, 4, 3, dtype=torch.float64, generator=generator).requires_grad_()
    g = torch.randn(5, 4, 3, dtype=torch.float64, generator=generator)
    BinaryWeight(centered=True)(w).backward(g)
    moved = (w.detach() - w.detach().mean(1, keepdim=True)).requires_grad_()
    clipped = moved.detach().clamp(-1, 1).requires_grad_()
    BinaryWeight()(clipped).backward(g)
    through = clipped.grad * (moved.abs() <= 1)
    torch.testing.assert_close(w.grad, through - through.mean(1, keepdim=True), rtol=1e-12, atol=1e-14)
    assert w.grad.sum(1).abs().max() < 1e-12


def test_centring_a_single_channel_is_refused_and_changes_nothing():
    model = models.lenet5()
    with pytest.raises(ValueError, match=r"layer 'conv1' has one input channel: centered, all its weights would be 0$"):
        binarize(model, names=["conv2", "conv1"], centered=True)
    assert str(model) == str(models.lenet5()) and torch.equal(model.conv2.weight, models.lenet5().conv2.weight)
    assert binarize(model, names=["conv1"]).conv1.weight.abs().min() > 0


# -- a network ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centered", [False, True])
def test_the_file_alone_gives_the_same_weight(weight, centered):
    form = BinaryWeight(centered=centered)
    encoding = form.encode(weight)
    assert encoding.symbols["bit"].shape == (weight.numel(),) and encoding.tables["alpha"].numel() == len(weight)
    assert set(encoding.symbols["bit"].tolist()) <= {0, 1}
    assert torch.equal(BinaryWeight.decode(encoding, weight.shape), form(weight))
    signs, scales = form.bases(weight)
    assert signs.shape == (1, *weight.shape) and scales.shape == (1, len(weight))
    assert torch.equal(signs[0] * scales.reshape(-1, *[1] * (weight.dim() - 1)), form(weight))


def test_first_and_last_layer_stay_real_unless_they_are_named():
    model, dense = binarize(models.lenet5()), models.lenet5()
    for name, layer in layers(model):
        original = dense.get_submodule(name)
        if name in ("conv2", "fc1"):
            assert torch.equal(layer.weight, BinaryWeight()(original.weight))
            assert torch.equal(compressed_form(layer)[1][0], original.weight)
        else:
            assert torch.equal(layer.weight, original.weight) and compressed_form(layer) is None
        assert torch.equal(layer.bias, original.bias)
    every = binarize(models.lenet5(), names=["conv1", "conv2", "fc1", "fc2"])
    assert all(compressed_form(layer) for _, layer in layers(every))


def test_settings_show_in_the_text_of_a_model():
    plain, centered = (str(binarize(models.lenet5(), centered=each)) for each in (False, True))
    assert "BinaryWeight(centered=False)" in plain and plain.replace("centered=False", "centered=True") == centered


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_of_float_keep_their_type(dtype):
    layer = compress(nn.Linear(5, 5).to(dtype), lambda *_: BinaryWeight())
    assert layer.weight.dtype == dtype and layer.weight.abs().unique().numel() <= 5


def test_packed_weights_are_binarized_except_in_the_first_and_last_module():
    first = nn.Sequential(nn.LSTM(4, 4), nn.MultiheadAttention(4, 2), nn.Linear(4, 2), nn.GRU(2, 2))
    names = ["1.in_proj_weight", "1.out_proj", "2"]
    assert weights_to_binarize(first, None) == names
    binarize(first)
    assert [name for name, _, _ in compressed(first)] == names
    assert all(len(row.abs().unique()) == 1 for row in first[1].in_proj_weight)
    assert binarize(nn.LSTM(3, 4), names=["weight_hh_l0"]).weight_hh_l0[0].abs().unique().numel() == 1
    mixed = ["3.weight_ih_l0", "2", "2"]
    assert sorted({*weights_to_binarize(decompress(first), mixed)}) == ["2", "3.weight_ih_l0"]


@pytest.mark.parametrize(
    ("build", "names", "message"),
    [
        (lambda: nn.LSTM(3, 4), None, "LSTM has no weight to binarize besides those of its first and last module"),
        (lambda: nn.Sequential(nn.LSTM(3, 4)), ["0"], "no layer '0' to binarize"),
        (lambda: nn.Sequential(nn.LSTM(3, 4)), ["0.weight_ih_l0", "0.bias_ih_l0"], "no layer '0.bias_ih_l0' to bin"),
        (lambda: nn.Sequential(nn.LSTM(3, 4)), [], "Sequential has no layer to binarize"),
    ],
)
def test_what_is_no_weight_is_refused_beside_packed_weights(build, names, message):
    model = build()
    with given.refused(model, message):
        binarize(model, names=names)


def test_a_mean_that_overflows_is_refused_by_name():
    model = models.lenet_300_100()
    nn.init.constant_(model.fc2.weight, 3e38)
    with given.refused(model, "layer 'fc2': weights up to 3e.38 overflow in the mean of a filter"):
        binarize(model)
