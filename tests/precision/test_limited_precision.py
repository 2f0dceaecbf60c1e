"""Weights as short floats in a file, words of fixed point against their grid, and back-propagation by hand."""

import copy

import given
import numpy as np
import pytest
import torch
from torch import nn

from lib import models, storage, training
from lib.datasets import Split
from lib.precision import limited_precision as lp
from lib.precision.shared import short_floats
from lib.vision import torchvision
from lib.weights import layers


def same(a, b):
    """Equal bit for bit, but that every NaN is like every other."""
    nan = a.isnan()
    return torch.equal(nan, b.isnan()) and torch.equal(a[~nan].view(torch.int32), b[~nan].view(torch.int32))


# -- weights in a file ----------------------------------------------------------------------------


@pytest.mark.parametrize(("exponent", "significand"), [(8, 16), (7, 16), (8, 7), (5, 10), (4, 3), (2, 1)])
@pytest.mark.parametrize("shape", [(4, 6), (3, 1, 5), (6, 1, 3, 3), (1, 1)])
def test_a_file_holds_the_rounded_weights_bit_for_bit(exponent, significand, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.3
    weight.flatten()[0] = -0.0
    form = lp.FloatWeight(exponent=exponent, significand=significand)
    stored = form.right_inverse(weight)
    encoding = form.encode(stored)
    back = lp.FloatWeight.decode(encoding, weight.shape)
    assert same(back.flatten(), form(stored).flatten())
    assert max(int(s.max()) for s in encoding.symbols.values()) < 2 ** max(exponent + 1, significand)


def test_the_subnormal_numbers_of_the_widest_exponent_come_back_too():
    weight = torch.tensor([[1e-40, -1e-42, 2.0**-126, 1.0]])
    form = lp.FloatWeight(exponent=8, significand=16)
    assert same(lp.FloatWeight.decode(form.encode(weight), weight.shape).flatten(), form(weight).flatten())


@pytest.mark.parametrize(("name", "options"), [("squeezenet1_1", {}), ("mobilenet_v2", {"width_mult": 0.25})])
def test_a_network_of_torchvision_in_24_bits(name, options, tmp_path):
    model = torchvision.models.get_model(name, num_classes=3, **options).eval()
    x = torch.rand(1, 3, 64, 64)
    dense, size = model(x), sum(layer.weight.numel() for _, layer in layers(model))
    plain = len(storage.dumps(model))
    lp.store(model, exponent=7, significand=16)
    assert (model(x) - dense).abs().max() < 1e-3 * dense.abs().max()
    written = storage.save(model, tmp_path / "model.slim")
    assert written < plain - size  # at least one byte of each weight's four
    other = storage.load(tmp_path / "model.slim", torchvision.models.get_model(name, num_classes=3, **options)).eval()
    assert torch.equal(other(x), model(x))


def test_the_gradient_passes_through_the_rounding():
    layer, plain = nn.Linear(5, 3), nn.Linear(5, 3)
    lp.store(layer, exponent=4, significand=3)
    plain.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    for linear in (layer, plain):
        linear(torch.ones(2, 5)).square().sum().backward()
    assert torch.equal(layer.parametrizations.weight.original.grad, plain.weight.grad)
    training.fit(layer, Split(torch.randn(8, 5), torch.randint(3, (8,))), epochs=1, seed=0)
    assert torch.equal(short_floats.rounded(layer.weight, exponent=4, significand=3), layer.weight)


def test_weights_beyond_the_format_and_long_significands_are_refused():
    layer = nn.Linear(2, 2)
    layer.weight.data[0, 0] = 70000
    before = layer.weight.detach().clone()
    with pytest.raises(ValueError, match="70000 overflows: the format ends at 65504"):
        lp.store(layer, exponent=5, significand=10)
    assert torch.equal(layer.weight, before) and not hasattr(layer, "parametrizations")
    with pytest.raises(ValueError, match=r"1..16 for a weight that is stored, not 20"):
        lp.store(layer, exponent=8, significand=20)
    with pytest.raises(ValueError, match="no layer with a weight"):
        lp.store(nn.ReLU(), exponent=8, significand=7)


# -- the network with one hidden layer ------------------------------------------------------------


def samples(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Split(torch.rand(n, 1, 3, 4, generator=generator), torch.randint(4, (n,), generator=generator))


def network(words, seed=0):
    model = lp.Perceptron(12, hidden=5, classes=4, seed=seed)
    model.words = words
    return model


def test_back_propagation_is_gradient_descent_on_the_squared_error():
    model, split = network(lp.single()), samples()
    twin = copy.deepcopy(model)
    lp.learn(model, split, epochs=3, seed=1, learning_rate=0.7, batch_size=8)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for batch in torch.randperm(40, generator=generator).split(8):
            targets = nn.functional.one_hot(split.labels[batch], 4).float()
            loss = (twin(split.images[batch]) - targets).square().sum() / 2 / 8
            gradients = torch.autograd.grad(loss, list(twin.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(twin.parameters(), gradients, strict=True):
                    parameter -= 0.7 * gradient
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_weights_and_signals_stay_on_their_grids(bits):
    model = network(lp.fixed(bits))
    share = lp.learn(model, samples(), epochs=2, seed=0, learning_rate=2.0)
    for parameter in model.parameters():
        whole = parameter.detach().double() * 2 ** (bits - 4)
        assert torch.equal(whole, whole.round()) and parameter.abs().max() <= 8
    for signal in model.activations(samples().images):
        whole = signal.double() * 2 ** (bits - 1)
        assert torch.equal(whole, whole.round()) and signal.max() <= 1 - 2.0 ** (1 - bits)
    assert 0 <= share <= 1


WORDS = {"single": lp.single(), "short": lp.floating(exponent=5, significand=4), "fixed": lp.fixed(6, integer=3)}


@pytest.mark.parametrize("kind", WORDS)
def test_the_words_of_a_network_come_back_with_its_state(kind, tmp_path):
    model, images = lp.retrieve(network(lp.single()), WORDS[kind]), samples().images
    by_state, by_file = (network(lp.fixed(4), seed=1) for _ in range(2))
    by_state.load_state_dict(model.state_dict())
    storage.save(model, tmp_path / "net.slim")
    storage.load(tmp_path / "net.slim", by_file)
    for same in (by_state, by_file, copy.deepcopy(model)):
        assert same.words.code == WORDS[kind].code == lp.words_of(WORDS[kind].code).code
        assert torch.equal(same(images), model(images))
    assert (kind == "single") == torch.equal(model(images), network(lp.single())(images))


@pytest.mark.parametrize(
    ("code", "message"), [((3, 0, 0), r"no words have the code \[3, 0, 0\]"), ((2, 30, 4), "bits must be")]
)
def test_a_code_of_no_words_is_refused(code, message):
    with pytest.raises(ValueError, match=message):
        lp.words_of(code)


def test_an_update_below_half_a_step_is_swallowed():
    model = network(lp.fixed(8))
    start = copy.deepcopy(lp.retrieve(model, lp.fixed(8)).state_dict())
    assert lp.learn(model, samples(), epochs=20, seed=0, learning_rate=1e-3) == 1
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
    assert lp.learn(network(lp.single()), samples(), epochs=1, seed=0, learning_rate=1.0) == 0


def test_a_float_of_32_bits_learns_as_float32_and_seeds_repeat():
    states = []
    for words in (lp.single(), lp.floating(exponent=8, significand=23), lp.floating(exponent=8, significand=23)):
        model = network(words)
        lp.learn(model, samples(), epochs=2, seed=3)
        states.append(model.state_dict())
    assert all(
        torch.equal(states[0][name], other[name]) for name in states[0] if name != "code" for other in states[1:]
    )


def test_inference_rounds_a_copy():
    model = network(lp.single())
    before = copy.deepcopy(model.state_dict())
    rounded = lp.retrieve(model, lp.fixed(6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    whole = rounded.hidden.weight.detach() * 4
    assert torch.equal(whole, whole.round())
    images = samples().images
    assert torch.equal(lp.retrieve(model, lp.single())(images), model(images))
    x = torch.floor(images.flatten(1) * 32 + 0.5).clamp(max=31) / 32
    h = torch.floor(torch.sigmoid(rounded.hidden(x)) * 32 + 0.5).clamp(max=31) / 32
    y = torch.floor(torch.sigmoid(rounded.output(h)) * 32 + 0.5).clamp(max=31) / 32
    assert torch.equal(rounded(images), y)


def test_one_sample_and_no_sample():
    model = network(lp.fixed(8))
    lp.learn(model, samples(1), epochs=1, seed=0)
    assert model(samples(1).images).shape == (1, 4)
    with pytest.raises(ValueError, match="at least one sample"):
        lp.learn(model, samples(0), epochs=1, seed=0)


def test_widths_that_are_no_float_are_refused_for_words():
    with pytest.raises(ValueError, match="not 9 and 5"):
        lp.floating(exponent=9, significand=5)


@pytest.mark.parametrize(("bits", "integer"), [(3, 4), (25, 4), (8, 0)])
def test_words_that_are_none_are_refused(bits, integer):
    with pytest.raises(ValueError, match=f"not {bits} and {integer}"):
        lp.fixed(bits, integer=integer)


def test_the_baselines_take_short_floats():
    model = lp.store(models.lenet_300_100(), exponent=8, significand=7)
    assert torch.equal(model.fc1.weight, models.lenet_300_100().fc1.weight.bfloat16().float())


@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_widths_of_numpy_are_whole_numbers_and_others_are_refused(kind):
    layer = given.seeded(lambda: nn.Linear(9, 9))
    plain = lp.store(copy.deepcopy(layer), exponent=8, significand=7)
    model = lp.store(layer, exponent=kind(8), significand=kind(7))
    assert torch.equal(model.weight, plain.weight) and storage.dumps(model) == storage.dumps(plain)
    with given.refused(model, "significand must be a whole number, not 7.5"):
        lp.store(model, exponent=8, significand=7.5)
    assert torch.equal(lp.fixed(kind(8)).weights(layer.bias), lp.fixed(8).weights(layer.bias))
