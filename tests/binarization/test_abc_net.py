"""ABC-Net: the best sum of given signs against least squares, its gradient, sums of signs as input, and the file."""

import copy
import itertools

import given
import numpy as np
import pytest
import torch
from given_binarization import snapshot, unchanged
from torch import nn
from torch.nn import functional

from lib import models, storage, training
from lib.binarization import abc_net, binaryconnect
from lib.binarization.abc_net import (
    KINDS,
    SCOPES,
    AbcWeight,
    approximate,
    binarize,
    combine,
    even_shifts,
)
from lib.binarization.bipolar_regularizer import residual_signs
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared import inference
from lib.binarization.shared.conversion import norm_before
from lib.binarization.shared.signs import Binarized, Sign
from lib.binarization.shared.staircase import MOST, AbcActivation, gaussian
from lib.datasets import Split
from lib.vision import torchvision
from lib.weights import Encoding, compress, compressed_form, layers

SHAPES = [(4, 6), (8, 3, 3, 3), (5, 1, 7), (6, 2, 1, 1), (1, 1), (2, 3, 1, 1, 2)]


def random(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def groups(weight, scope):
    return weight.flatten(1) if scope == "filter" else weight.reshape(1, -1)


def by_hand(row, count):
    """The signs (M, n) and their scales (M,) for one group, by the definition and numpy's least squares."""
    centered = row - row.mean()
    std = (centered**2).mean().sqrt()
    u = [-1 + (i - 1) * 2 / (count - 1) for i in range(1, count + 1)] if count > 1 else [0.0]
    signs = torch.stack([torch.where(centered + each * std >= 0, 1.0, -1.0).double() for each in u])
    scales, *_ = np.linalg.lstsq(signs.T.numpy(), row.numpy(), rcond=1e-9)
    return signs, torch.from_numpy(scales)


def lost(weight, *approximation):
    return (weight - combine(*approximation)).square().sum()


def ten_classes(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(count, 1, 28, 28, generator=generator), torch.arange(count) % 10)


# -- the weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_signs_are_those_of_the_definition_and_scales_those_of_least_squares(shape, count, scope):
    weight = random(shape, seed=count) + 0.1
    signs, scales = approximate(weight, count, "abc", scope)
    assert signs.shape == (count, *shape) and scales.shape == (count, len(groups(weight, scope)))
    for i, row in enumerate(groups(weight, scope)):
        expected, alpha = by_hand(row, count)
        assert torch.equal(torch.stack([groups(each, scope)[i] for each in signs]), expected)
        torch.testing.assert_close(scales[:, i], alpha, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("count", [1, 3, 5, 16])
def test_what_is_lost_is_orthogonal_to_every_base(count, scope):
    for weight in (random((6, 40)), random((6, 40)).exp(), random((6, 3, 5, 5)) - 2):
        signs, scales = approximate(weight, count, "abc", scope)
        rest = groups(weight - combine(signs, scales), scope)
        products = torch.stack([(rest * groups(sign, scope)).sum(1) for sign in signs])
        assert products.abs().max() < 1e-10 * weight.abs().sum()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_nested_sets_of_bases_lose_less_and_less(shape, scope):
    for weight in (random(shape), random(shape, seed=1).exp()):
        every = [approximate(weight, count, "abc", scope) for count in (1, 3, 5, 9)]
        for (fewer, _), (more, _) in itertools.pairwise(every):
            assert all(any(torch.equal(a, b) for b in more) for a in fewer)
        losses = [lost(weight, *each) for each in every]
        assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(losses))


@pytest.mark.parametrize("seed", range(5))
def test_no_other_scales_of_the_same_signs_are_nearer(seed):
    weight = random((3, 12), seed)
    for scope in SCOPES:
        signs, scales = approximate(weight, 3, "abc", scope)
        best = lost(weight, signs, scales)
        for step in (1e-3, 0.1, 1.0):
            for move in random((60, *scales.shape), seed + 1):
                assert lost(weight, signs, scales + step * move) >= best - 1e-12
    signs, scales = approximate(weight, 2)
    grid = torch.cartesian_prod(*[torch.linspace(-2, 2, 41, dtype=torch.float64)] * 2)
    others = (weight - torch.einsum("gm,m...->g...", grid, signs)).square().flatten(1).sum(1)
    assert (others >= lost(weight, signs, scales) - 1e-12).all()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_outer_values_are_opposite_and_inner_values_means_of_their_weights(count):
    weight = random((5, 400), seed=count).exp()
    for scope in SCOPES:
        signs, scales = approximate(weight, count, "abc", scope)
        found, reached = groups(combine(signs, scales), scope), groups((signs > 0).sum(0), scope)
        for row, values, level in zip(groups(weight, scope), found, reached, strict=True):
            assert values.unique().numel() <= count + 1
            for inner in range(1, count):
                if (level == inner).any():
                    here = values[level == inner]
                    torch.testing.assert_close(here, row[level == inner].mean().expand_as(here), rtol=1e-9, atol=1e-12)
            ends = (level == 0) | (level == count)
            outer = (row * torch.where(level == count, 1, -1))[ends].mean()
            assert ends.any()
            torch.testing.assert_close(values[ends], (outer * torch.where(level == count, 1, -1))[ends])


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_layer_or_filter_has_at_most_one_value_more_than_bases(count):
    for scope in SCOPES:
        model = binarize(models.lenet5(), bases=count, scope=scope)
        for name in ("conv2", "fc1"):
            for row in groups(model.get_submodule(name).weight, scope):
                assert row.unique().numel() <= count + 1


def test_one_base_for_weights_of_mean_zero_is_a_binary_weight():
    half = random((6, 20), dtype=torch.float32).mul(2**10).round().div(2**10)
    weight = torch.cat([half, -half], 1)[:, torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    assert weight.sum() == 0 and (weight != 0).all()
    for kind in KINDS:
        found = AbcWeight(1, kind=kind)(weight)
        torch.testing.assert_close(found, BinaryWeight()(weight.reshape(1, -1)).reshape(6, 40), rtol=1e-6, atol=0)
        torch.testing.assert_close(
            AbcWeight(1, kind=kind, scope="filter")(weight), BinaryWeight()(weight), rtol=1e-6, atol=0
        )


def test_what_is_lost_of_a_gaussian():
    weight = random((400000,), dtype=torch.float32)
    size = weight.double().square().sum()
    expected = {
        ("abc", 1): 0.3628,
        ("abc", 3): 0.1176,
        ("abc", 5): 0.0774,
        ("abc", 9): 0.0669,
        ("greedy", 1): 0.364,
        ("greedy", 2): 0.131,
        ("greedy", 3): 0.0586,
    }
    for (kind, count), share in expected.items():
        found = combine(*approximate(weight, count, kind))
        assert abs(((weight.double() - found) ** 2).sum() / size - share) < 0.004
        assert found.unique().numel() == (count + 1 if kind == "abc" else 2**count)
    assert lost(weight, *approximate(weight, 3, "greedy")) < lost(weight, *approximate(weight, 5))


@pytest.mark.parametrize("factor", [2.0**-20, 0.25, 8.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_scaled_weight_has_a_scaled_approximation(kind, factor):
    weight = random((5, 30), dtype=torch.float32)
    assert torch.equal(combine(*approximate(weight * factor, 3, kind)), combine(*approximate(weight, 3, kind)) * factor)


# -- residual binarization ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_each_greedy_base_takes_its_share_of_the_distance(shape):
    weight = random(shape)
    for scope in SCOPES:
        signs, scales = approximate(weight, 6, "greedy", scope)
        distance = groups(weight, scope).square().sum(1)
        for count in range(1, 7):
            rest = groups(weight - combine(signs[:count], scales[:count]), scope)
            left = rest.square().sum(1)
            torch.testing.assert_close(left, distance - rest.shape[1] * scales[count - 1] ** 2, rtol=1e-9, atol=1e-12)
            assert ((left < distance) | (distance < 1e-20)).all()  # so few weights may be reached already
            distance = left


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_bases_are_those_of_residual_binarization(shape):
    weight = random(shape)
    scales, signs = residual_signs(weight, 4)
    found, factors = approximate(weight, 4, "greedy")
    if weight.numel() > 1:  # of one weight nothing but rounding is left
        assert torch.equal(found, signs)
    torch.testing.assert_close(factors[:, 0], scales, rtol=1e-12, atol=1e-15)
    for i, row in enumerate(weight):
        scales, _ = residual_signs(row, 2)
        torch.testing.assert_close(approximate(weight, 2, "greedy", "filter")[1][:, i], scales, rtol=1e-12, atol=1e-15)


# -- few weights, equal weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.1, -0.25, 1e-30])
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", KINDS)
def test_equal_weights_whose_bases_are_all_the_same_are_found_again(kind, scope, value):
    layer = nn.Conv2d(4, 4, 3, groups=4, bias=False)
    nn.init.constant_(layer.weight, value)
    compress(layer, lambda *_: AbcWeight(5, kind=kind, scope=scope))
    torch.testing.assert_close(layer.weight, torch.full((4, 1, 3, 3), value), rtol=1e-6, atol=0)
    layer.weight.sum().backward()
    assert compressed_form(layer)[1][0].grad.isfinite().all()


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_filters_of_one_two_and_three_weights_and_of_two_values(count):
    for weight in (random((7, 1)), random((7, 2)), random((7, 1, 3)), random((4, 30)).sign() * 0.3 + 0.1):
        for kind in KINDS:
            found = combine(*approximate(weight, count, kind, "filter"))
            assert found.isfinite().all() and lost(weight, *approximate(weight, count, kind, "filter")) <= 1e-12 + (
                lost(weight, *approximate(weight, 1, kind, "filter"))
            )
        if weight[0].numel() == 1:
            torch.testing.assert_close(combine(*approximate(weight, count, "abc", "filter")), weight)


def test_a_constant_filter_among_others_changes_nothing_for_them():
    weight = random((4, 9))
    weight[2] = 0.5
    found = combine(*approximate(weight, 5, "abc", "filter"))
    torch.testing.assert_close(found[2], weight[2], rtol=1e-12, atol=0)
    others = [0, 1, 3]
    torch.testing.assert_close(found[others], combine(*approximate(weight[others], 5, "abc", "filter")))


# -- the form ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize(("kind", "count"), [("abc", 1), ("abc", 4), ("abc", 16), ("greedy", 1), ("greedy", 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_file_alone_and_the_bases_give_the_same_weight(shape, kind, count, scope):
    weight = random(shape, dtype=torch.float32)
    form = AbcWeight(count, kind=kind, scope=scope)
    found, encoding = form(form.right_inverse(weight)), form.encode(weight)
    (symbols,), (scales,) = encoding.symbols.values(), encoding.tables.values()
    assert symbols.shape == (weight.numel(),) and scales.numel() == count * (shape[0] if scope == "filter" else 1)
    assert symbols.min() >= 0 and symbols.max() <= (count if kind == "abc" else 2**count - 1)
    flat = Encoding(encoding.symbols, {name: table.flatten() for name, table in encoding.tables.items()})
    assert torch.equal(AbcWeight.decode(flat, weight.shape), found)  # tables come flat from a file
    signs, factors = form.bases(weight)
    assert signs.shape == (count, *shape) and factors.shape == (count, shape[0]) and (signs.abs() == 1).all()
    assert torch.equal(combine(signs, factors), found)
    total = sum((b * s.flatten(1).T).T for b, s in zip(factors, signs, strict=True))
    assert torch.equal(total.reshape(shape), found)


def test_another_order_of_the_weight_in_memory_gives_the_same_floats():
    weight, gradient = random((8, 6, 3, 3), dtype=torch.float32), random((8, 6, 3, 3), 1, torch.float32)
    for kind, scope in itertools.product(KINDS, SCOPES):
        form, results = AbcWeight(3, kind=kind, scope=scope), []
        for layout in (torch.contiguous_format, torch.channels_last):
            latent = weight.clone(memory_format=layout).requires_grad_()
            form(latent).backward(gradient.to(memory_format=layout))
            results.append((form(latent), latent.grad))
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_of_float_keep_their_type(dtype):
    for kind, scope in itertools.product(KINDS, SCOPES):
        dense = given.seeded(lambda: nn.Linear(400, 400)).to(dtype)
        layer = compress(dense, lambda *_, k=kind, s=scope: AbcWeight(2, kind=k, scope=s))
        rough, found = compressed_form(layer)[1][0].detach(), layer.weight
        assert found.dtype == dtype and all(row.unique().numel() <= 4 for row in groups(found, scope))
        precise = AbcWeight(2, kind=kind, scope=scope)(rough.double())
        torch.testing.assert_close(found.double(), precise, rtol=0.02, atol=1e-3)
        found.sum().backward()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_signs_that_pass_it_straight_through(shape):
    for kind, scope, count in itertools.product(KINDS, SCOPES, (1, 3, 4)):
        weight, gradient = 3 * random(shape, count), random(shape, 9)
        latent, plain = weight.clone().requires_grad_(), weight.clone().requires_grad_()
        AbcWeight(count, kind=kind, scope=scope)(latent).backward(gradient)
        signs, scales = approximate(weight, count, kind, scope)
        by_group = scales.reshape(count, -1, *[1] * (weight.dim() - 1))
        bases = [Sign.apply(plain, torch.inf, sign) for sign in signs]  # shows this sign, has the gradient of plain
        sum(alpha * base for alpha, base in zip(by_group, bases, strict=True)).backward(gradient)
        torch.testing.assert_close(latent.grad, plain.grad, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(latent.grad, gradient * by_group.sum(0), rtol=1e-12, atol=1e-14)


def test_the_gradient_by_hand():
    latent = torch.tensor([[1.0, -3.0], [5.0, -7.0]], requires_grad=True)
    form = AbcWeight(1)
    found = form(latent)  # the mean is -1, so the signs are those of 2, -2, 6, -6, and α = (1 + 3 + 5 + 7) / 4
    found.backward(torch.tensor([[1.0, 2.0], [0.0, -3.0]]))
    assert found.tolist() == [[4, -4], [4, -4]] and latent.grad.tolist() == [[4, 8], [0, -12]]


# -- trained shifts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_shifts_as_they_begin_give_what_fixed_ones_do(count, scope):
    fixed, trained = (
        binarize(nn.Linear(9, 4), names=[""], bases=count, scope=scope, train_shifts=t) for t in (False, True)
    )
    latent, shifts = compressed_form(trained)[1]
    compressed_form(fixed)[1][0].data = latent.data.clone()
    assert torch.equal(trained.weight, fixed.weight) and torch.equal(shifts, even_shifts(count))
    signs, scales = compressed_form(trained)[0].bases(latent, shifts)
    torch.testing.assert_close((signs * scales[:, :, None]).sum(0), trained.weight)
    assert "train_shifts=True" in str(trained) and "shifts" not in str(fixed)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_gradient_of_a_shift_passes_signs_straight_through(scope):
    weight = random((4, 7))
    shifts = torch.tensor([0.4, -0.8, 0.1], dtype=torch.float64, requires_grad=True)
    form, gradient = AbcWeight(3, scope=scope, train_shifts=True), random((4, 7), 1)
    form(weight, shifts).backward(gradient)
    by_hand = torch.zeros(3, dtype=torch.float64)
    rows, given_rows = groups(weight, scope), groups(gradient, scope)
    order = shifts.detach().argsort()
    _, scales = approximate(weight, 3, scope=scope, shifts=shifts)
    for m, place in enumerate(order):
        for g, row in enumerate(rows):
            by_hand[place] += scales[m, g] * row.std(correction=0) * given_rows[g].sum()
    torch.testing.assert_close(shifts.grad, by_hand)


def test_signs_of_other_shifts_are_those_of_definition_and_file():
    weight, shifts = random((4, 7), dtype=torch.float32), torch.tensor([0.7, -0.3])
    form = AbcWeight(2, train_shifts=True)
    signs, scales = approximate(weight, 2, shifts=shifts)
    for sign, u in zip(signs, (-0.3, 0.7), strict=True):
        assert torch.equal(sign, torch.where(weight - weight.mean() + u * weight.std(correction=0) >= 0, 1.0, -1.0))
    assert torch.equal(AbcWeight.decode(form.encode(weight, shifts), weight.shape), form(weight, shifts))
    assert torch.equal(combine(signs, scales), form(weight, shifts))


def test_shifts_are_trained_and_come_back_with_the_state():
    model = binarize(models.lenet5(), bases=3, train_shifts=True)
    twin = binarize(models.lenet5(1), bases=3, train_shifts=True)
    split = ten_classes()
    training.fit(model, split, epochs=1, seed=0, optimizer="adam", learning_rate=1e-2, batch_size=20)
    assert not torch.equal(compressed_form(model.conv2)[1][1], even_shifts(3))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(twin.eval()(split.images), model(split.images))
    for refuses in (
        lambda: AbcWeight(kind="greedy", train_shifts=True),
        lambda: binarize(models.lenet5(), kind="greedy", train_shifts=True),
    ):
        with pytest.raises(ValueError, match="train_shifts is for the kind 'abc', which has shifts, not 'greedy'"):
            refuses()


def test_a_copy_of_a_model_is_its_own():
    model = binarize(models.lenet5(), activation_bases=2)
    other = copy.deepcopy(model)
    before = model.fc1.layer.weight.detach().clone()
    with torch.no_grad():
        compressed_form(other.fc1.layer)[1][0].add_(random((500, 800), dtype=torch.float32))
        other.fc1.activation.v.add_(1)
    assert torch.equal(model.fc1.layer.weight, before) and not torch.equal(other.fc1.layer.weight, before)
    assert not torch.equal(model.fc1.activation.v, other.fc1.activation.v)


# -- what flows between the layers -------------------------------------------------------------------------------------


PLACES = {
    "plain": (nn.Conv2d(4, 6, 3), (2, 4, 7, 7)),
    "stride and border": (nn.Conv2d(3, 5, 3, stride=2, padding=1), (2, 3, 9, 7)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), (1, 4, 5, 5)),
    "one channel": (nn.Conv2d(1, 2, 5, padding=2), (1, 1, 9, 9)),
    "linear": (nn.Linear(20, 7), (5, 20)),
}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_layer_is_the_sum_of_m_n_products_of_signs(place, kind, scope):
    layer, shape = copy.deepcopy(PLACES[place][0]), PLACES[place][1]
    x = random(shape, dtype=torch.float32)
    compress(layer, lambda *_: AbcWeight(3, kind=kind, scope=scope))
    reader = Binarized(layer, AbcActivation(2), norm_before(layer)).eval()
    signs, alphas = (each.detach() for each in compressed_form(layer)[0].bases(*compressed_form(layer)[1]))
    normal, total = reader.norm(x), 0
    for (t, beta), (b, alpha) in itertools.product(reader.activation.bases(), zip(signs, alphas, strict=True)):
        a = torch.where(normal >= t, 1.0, -1.0)
        if isinstance(layer, nn.Linear):
            total = total + alpha * beta * functional.linear(a, b)
        else:
            product = functional.conv2d(a.double(), b.double(), None, layer.stride, layer.padding, 1, layer.groups)
            total = total + alpha.reshape(-1, 1, 1) * beta * product
    bias = 0 if layer.bias is None else layer.bias.reshape(-1, *[1] * (len(shape) - 2))
    torch.testing.assert_close(reader(x), (total + bias).float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reader(x), layer(reader.activation(normal)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("counts", [(1, 1), (3, 2)])
def test_counting_bits_gives_the_answers_of_the_float_network(counts):
    model = binarize(models.lenet5(), bases=counts[0], activation_bases=counts[1], scope="filter").eval()
    images = ten_classes(3).images
    torch.testing.assert_close(inference.convert(model)(images), model(images), rtol=1e-4, atol=1e-4)


# -- networks ----------------------------------------------------------------------------------------------------------


def test_inner_layers_are_binarized_and_all_else_stays_as_it_is():
    dense = models.lenet5()
    weights, both = binarize(models.lenet5(), bases=5), binarize(models.lenet5(), bases=5, activation_bases=3)
    for name, layer in layers(weights):
        original = dense.get_submodule(name)
        if name in ("conv2", "fc1"):
            expected = combine(*approximate(original.weight, 5))
            reader = both.get_submodule(name)
            assert torch.equal(layer.weight, expected) and torch.equal(reader.layer.weight, expected)
            assert torch.equal(compressed_form(layer)[1][0], original.weight)
            assert isinstance(reader, Binarized) and str(reader.norm) == str(norm_before(original))
        else:
            assert compressed_form(layer) is None and torch.equal(layer.weight, original.weight)
            assert type(both.get_submodule(name)) is type(original)
        assert torch.equal(layer.bias, original.bias)
    named = binarize(models.lenet5(), names=["fc1", "conv1"], activation_bases=1)
    assert [name for name, module in named.named_modules() if isinstance(module, Binarized)] == ["conv1", "fc1"]
    assert isinstance(binarize(nn.Linear(5, 3), names=[""], activation_bases=1), Binarized)


def test_settings_show_in_the_text_of_a_model():
    settings = [
        {},
        {"bases": 5},
        {"kind": "greedy"},
        {"scope": "filter"},
        {"activation_bases": 3},
        {"activation_bases": 5},
    ]
    texts = [str(binarize(models.lenet5(), **each)) for each in settings]
    assert len(set(texts)) == len(settings)
    assert "AbcWeight(bases=3, kind=abc, scope=layer)" in texts[0] and "AbcActivation(bases=5)" in texts[5]


@pytest.mark.parametrize(("kind", "scope"), itertools.product(KINDS, SCOPES))
def test_a_network_of_torchvision_is_written_and_read_back(tmp_path, kind, scope):
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=10).eval()
    binarize(net, kind=kind, scope=scope)
    size = storage.save(net, tmp_path / "net.slim", coder="fixed")
    fresh = storage.load(tmp_path / "net.slim", torchvision.models.shufflenet_v2_x0_5(num_classes=10)).eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fresh(image), net(image))
    small = [layer for _, layer in layers(net) if compressed_form(layer)]
    assert all(torch.equal(a.weight, b.weight) for (_, a), (_, b) in zip(layers(net), layers(fresh), strict=True))
    weights = sum(layer.weight.numel() for layer in small)
    plain = sum(t.numel() * t.element_size() for t in fresh.state_dict().values()) - 4 * weights
    scales = 3 * sum(len(layer.weight) if scope == "filter" else 1 for layer in small)
    bits = 2 if kind == "abc" else 3  # of 4 levels, and of 3 signs
    assert 0 <= size - bits * weights / 8 - plain - 4 * scales < 60 * len(list(layers(net))) + 300


@pytest.mark.parametrize("coder", ["fixed", "huffman", "best"])
def test_a_network_that_reads_sums_of_signs_is_written_and_read_back(tmp_path, coder):
    model = binarize(models.lenet5(), bases=5, activation_bases=3)
    training.fit(model, ten_classes(), epochs=1, seed=0, optimizer="adam", learning_rate=1e-3)
    storage.save(model, tmp_path / "net.slim", coder=coder)
    fresh = storage.load(tmp_path / "net.slim", binarize(models.lenet5(seed=1), activation_bases=3)).eval()
    assert torch.equal(fresh(ten_classes(1, seed=1).images), model(ten_classes(1, seed=1).images))  # one sample


def test_files_of_the_most_bases_are_read_back(tmp_path):
    for kind in KINDS:
        layer = binarize(nn.Linear(30, 40), names=[""], bases=MOST, kind=kind)
        for coder in ("fixed", "best"):
            storage.save(layer, tmp_path / "layer.slim", coder=coder)
            fresh = storage.load(tmp_path / "layer.slim", nn.Linear(30, 40))
            assert torch.equal(fresh.weight, layer.weight)


@pytest.mark.parametrize("settings", [{}, {"kind": "greedy", "scope": "filter"}, {"bases": 2, "activation_bases": 2}])
def test_training_lowers_the_loss_and_keeps_the_form(settings):
    split = ten_classes()
    for fit in (binaryconnect.fit, training.fit):
        model = binarize(models.lenet_300_100(), **settings)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        losses = fit(model, split, epochs=8, seed=0, learning_rate=1e-3 if fit is binaryconnect.fit else 0.05)
        assert losses[-1] < losses[0]
        inner = model.fc2.layer if "activation_bases" in settings else model.fc2
        count, kind, scope = compressed_form(inner)[0].settings
        for row in groups(inner.weight, scope):
            assert row.unique().numel() <= (count + 1 if kind == "abc" else 2**count)
        assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_a_second_call_begins_from_the_weights_that_are():
    model = binarize(models.lenet5(), kind="greedy", bases=4)
    coarse = model.fc1.weight.detach().clone()
    binarize(model, bases=2)
    assert torch.equal(model.fc1.weight, combine(*approximate(coarse, 2)))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_an_empty_layer_is_passed_over():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(0, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    binarize(model)
    assert [compressed_form(layer) is None for layer in model] == [True, True, False, True]


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bases": 0}, r"number of bases must be a whole number from 1 to 16, not 0$"),
        ({"bases": 17}, r"number of bases must be a whole number from 1 to 16, not 17$"),
        ({"bases": 2.0}, r"number of bases must be a whole number from 1 to 16, not 2\.0$"),
        ({"activation_bases": 0}, r"number of bases must be a whole number from 1 to 16, not 0$"),
        ({"activation_bases": 17}, r"number of bases must be a whole number from 1 to 16, not 17$"),
        ({"kind": "best"}, r"kind must be one of abc, greedy, not 'best'$"),
        ({"scope": "row"}, r"scope must be one of layer, filter, not 'row'$"),
        ({"names": ["conv2", "fc9"]}, r"no layer 'fc9' to binarize: accepted are conv1, conv2, fc1, fc2$"),
    ],
)
def test_bad_settings_are_refused_and_change_nothing(settings, message):
    model = models.lenet5()
    with given.refused(model, message):
        binarize(model, **settings)
    if "bases" in settings or "kind" in settings or "scope" in settings:
        for refuses in (lambda **options: approximate(torch.ones(2, 2), **options), AbcWeight):
            with pytest.raises(ValueError, match=message):
                refuses(**settings)
    if "bases" in settings:
        for refuses in (AbcActivation, gaussian):
            with pytest.raises(ValueError, match=message):
                refuses(settings["bases"])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("activations", [None, 2])
def test_weights_that_are_not_finite_are_refused_and_change_nothing(bad, activations):
    model = models.lenet5()
    model.fc1.weight.data[3, 4] = bad
    before = snapshot(model)
    with pytest.raises(ValueError, match="weights of layer 'fc1' hold NaN or infinity"):
        binarize(model, activation_bases=activations)
    assert unchanged(model, before)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_stop_being_finite_are_one_clear_error(kind):
    layer = binarize(nn.Linear(6, 4), names=[""], kind=kind)
    for bad in (torch.nan, torch.inf):
        compressed_form(layer)[1][0].data[1, 2] = bad
        for scope in SCOPES:
            with pytest.raises(ValueError, match="weights hold NaN or infinity"):
                approximate(compressed_form(layer)[1][0], 3, kind, scope)
        with pytest.raises(ValueError, match="weights hold NaN or infinity"):
            layer(torch.ones(1, 6))
    with pytest.raises(ValueError, match="too large to be added up"):
        approximate(torch.full((9,), 3e38), 3, kind)
    with pytest.raises(ValueError, match=r"a weight of shape \(0, 3\) is empty: it has no signs"):
        approximate(torch.zeros(0, 3), 3, kind)


def test_shared_weights_and_models_without_inner_layers_are_refused_and_change_nothing():
    model = models.mlp(inputs=8, hidden=(8, 8, 8), classes=8)
    first, second = [layer for _, layer in layers(model)][1:3]
    second.weight = first.weight
    before = snapshot(model)
    with pytest.raises(ValueError, match="share one weight"):
        binarize(model, activation_bases=1)
    assert unchanged(model, before)
    for nothing in (nn.ReLU(), nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))):
        with pytest.raises(ValueError, match="has no layer to binarize"):
            abc_net.binarize(nothing)
    model = binarize(models.lenet5(), activation_bases=1)
    with pytest.raises(ValueError, match=r"no layer 'fc1\.layer' to binarize: accepted are conv1, fc2"):
        binarize(model, names=["fc1.layer"])


@pytest.mark.parametrize(
    ("symbols", "tables", "message"),
    [
        ({"abc": [0, 1, 4]}, {"layer": [1.0, 1.0, 1.0]}, "symbol 4 is too large for 3 signs"),
        ({"greedy": [0, 1, 8]}, {"layer": [1.0, 1.0, 1.0]}, "symbol 8 is too large for 3 signs"),
        ({"abc": [0, 1, 1]}, {"layer": [1.0] * 17}, "whole number from 1 to 16, not 17"),
        ({"abc": [0, 1, 1]}, {"layer": []}, "whole number from 1 to 16, not 0"),
        ({"other": [0, 1, 1]}, {"layer": [1.0]}, "kind must be one of abc, greedy, not 'other'"),
        ({"abc": [0, 1, 1]}, {"row": [1.0]}, "scope must be one of layer, filter, not 'row'"),
        ({}, {"layer": [1.0]}, "expected 2"),
        ({"abc": [0, 1, 1]}, {}, "expected 2"),
    ],
)
def test_a_file_that_makes_no_sense_is_an_error(symbols, tables, message):
    symbols = {name: torch.tensor(each) for name, each in symbols.items()}
    tables = {name: torch.tensor(each) for name, each in tables.items()}
    with pytest.raises(ValueError, match=message):
        AbcWeight.decode(Encoding(symbols, tables), torch.Size([1, 3]))
