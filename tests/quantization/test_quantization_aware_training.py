"""Fake quantization and its gradient, the delay, and the way out to integers."""

import copy

import given_quantization
import pytest
import torch
from torch import nn

from lib import datasets, models, storage
from lib.book.zoo.agreement import Apart
from lib.cache import cached
from lib.datasets import Split
from lib.quantization.affine import AffineWeight, calibrate, simulate
from lib.quantization.quantization_aware_training import fit
from lib.quantization.shared import integer_network
from lib.quantization.shared.activation import activations
from lib.quantization.shared.grids import grid
from lib.training import FitOptions, error_pct


def split(n=40):
    return datasets.load("digits").train.first(n)


def network(bits=4, build=models.lenet_300_100):
    return calibrate(simulate(build(), bits=bits), split().images)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_fake_quantization_is_quantization_and_back_bit_for_bit(bits):
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * 3
    chosen = grid(-2.0, 4.0, bits=bits)
    fake = chosen.fake(x)
    assert torch.equal(fake, chosen.dequantize(chosen.quantize(x)))
    assert torch.equal(chosen.fake(fake), fake)
    a, b = (end.double() for end in chosen.bounds())
    clipped = (x.double().clamp(a, b) - a) / chosen.scale.double()  # the paper's formula, with the nudged range
    near = (clipped - clipped.floor() - 0.5).abs() > 1e-3
    assert ((clipped.round() * chosen.scale.double() + a - fake.double()).abs() < 1e-5)[near].all()


def test_the_gradient_is_one_inside_the_range_and_zero_outside():
    chosen = grid(-1.0, 2.0, bits=3)
    a, b = (end.item() for end in chosen.bounds())
    x = torch.tensor([a - 0.01, a, a + 0.01, 0.0, 1.0, b - 0.01, b, b + 0.01], requires_grad=True)
    chosen.fake(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
    torch_own = x.detach().clone().requires_grad_()
    low, high = chosen.low, chosen.high
    torch.fake_quantize_per_tensor_affine(
        torch_own, chosen.scale.item(), chosen.zero.item(), low, high
    ).sum().backward()
    assert torch.equal(torch_own.grad[1:-1], x.grad[1:-1])


@pytest.mark.parametrize("seed", range(20))
def test_a_weight_gets_the_gradient_of_its_rounded_self(seed):
    """The largest weights too, whose own size sets the range that is rounded."""
    torch.manual_seed(seed)
    layer = nn.Linear(6, 3)
    expected = layer.weight.detach()
    simulated = simulate(layer, bits=4)
    x = torch.randn(5, 6)
    simulated(x).square().sum().backward()
    rounded = AffineWeight(4)(expected).detach().requires_grad_()
    nn.functional.linear(x, rounded, layer.bias).square().sum().backward()
    torch.testing.assert_close(simulated.get_submodule("0").parametrizations.weight.original.grad, rounded.grad)


def test_the_range_of_a_weight_moves_with_it():
    simulated = simulate(nn.Linear(4, 2))
    layer = simulated.get_submodule("0")
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(10)
    assert layer.weight.abs().max().item() == pytest.approx(layer.parametrizations.weight.original.abs().max().item())


def test_activations_are_rounded_after_the_delay_and_ranges_follow(monkeypatch):
    seen, simulated = [], network()
    first = activations(simulated)[0]

    def forward(self, r):
        if self.training and (seen or self.observing):  # the first trials run in evaluation mode, or do not observe
            seen.append((self.observing, self.quantizing))
        return r

    monkeypatch.setattr(type(first), "forward", forward)
    fit(simulated, split(), epochs=3, seed=0, delay=0.5)
    per_epoch = [seen[i * len(seen) // 3] for i in range(3)]
    assert per_epoch == [(True, False), (True, False), (True, True)]
    assert not first.observing and first.quantizing


def test_ranges_are_moving_averages_and_biases_are_not_rounded():
    simulated, part = network(), split(8)
    first = activations(simulated)[0]
    first.upper.fill_(3.0)
    fit(simulated, part, epochs=2, seed=0, decay=0.9, learning_rate=0.01)
    assert first.upper.item() == pytest.approx(0.81 * 3 + 0.19 * part.images.max().item(), rel=1e-5)
    assert simulated.fc1.bias.unique().numel() > 250


def test_training_lowers_the_loss_and_depends_on_the_seed_alone():
    losses = [fit(network(), split(200), epochs=3, seed=0, delay=0.0, learning_rate=0.05) for _ in range(2)]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0]


def test_the_defaults_are_those_of_training_except_for_the_learning_rate():
    defaults = {"momentum": 0.9, "weight_decay": 5e-4, "batch_size": 128, "shift": 0, "optimizer": "sgd"}
    defaults |= {"loss": "cross_entropy", "learning_rate": 0.01, "flip": False}
    assert defaults.keys() == FitOptions.__annotations__.keys()
    plain, spelled = (fit(network(), split(), epochs=3, seed=0, **options) for options in ({}, defaults))
    assert plain == spelled
    others = {"momentum": 0.0, "weight_decay": 1.0, "batch_size": 10, "shift": 2, "optimizer": "adam"}
    others |= {"loss": "squared_hinge", "learning_rate": 0.1, "flip": True}
    for name, value in others.items():
        assert fit(network(), split(), epochs=3, seed=0, **{name: value}) != plain, name


def test_it_can_be_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    options = {"split": split(), "epochs": 1, "seed": 0}
    one, two = (cached(fit, network(), **options) for _ in range(2))
    assert torch.equal(one(split().images), two(split().images))


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_exported_network_answers_as_the_trained_one(bits):
    dataset = datasets.load("digits")
    simulated = calibrate(simulate(models.lenet_300_100(), bits=bits), dataset.train.images[:100])
    fit(simulated, dataset.train.first(400), epochs=3, seed=0, learning_rate=0.05)
    rounding = "twice"
    if bits < 8:  # the sums are small then: what a bias, and a second rounding, lose is no longer nothing
        rounding = "once"
        integer_network.round_biases(simulated)
    with torch.no_grad():
        images = dataset.test.images
        expected, computed = simulated(images), integer_network.convert(simulated, rounding=rounding)(images)
    step = activations(simulated)[-1].grid().scale
    top = expected.topk(2).values
    clear = top[:, 0] - top[:, 1] > 2.5 * step  # else one step decides between two classes
    assert (expected.argmax(1) == computed.argmax(1))[clear].float().mean() >= 0.999


def test_its_state_and_its_file_make_another_network_the_same(tmp_path):
    simulated = network()
    fit(simulated, split(), epochs=1, seed=0)
    storage.save(simulated, tmp_path / "q.slim")
    again = storage.load(tmp_path / "q.slim", simulate(models.lenet_300_100(1), bits=4))
    assert torch.equal(again(split().images), simulated(split().images))
    again = simulate(models.lenet_300_100(1), bits=4)
    again.load_state_dict(simulated.state_dict())
    assert torch.equal(again(split().images), simulated(split().images))
    assert torch.equal(copy.deepcopy(simulated)(split().images), simulated(split().images))


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet", "shufflenet_v2_x0_5"])
def test_a_network_of_torchvision_trains_a_step(name):
    model, images = given_quantization.of_torchvision(name)
    part, simulated = Split(images, torch.arange(len(images)) % 2), given_quantization.on_grids(model, images)
    before = copy.deepcopy(simulated.state_dict())
    fit(simulated, part, epochs=1, seed=0, delay=0.0, learning_rate=1e-3)
    moved = [key for key, value in simulated.state_dict().items() if not torch.equal(before[key], value)]
    assert any("weight.original" in key for key in moved) and any(key.endswith("upper") for key in moved)
    assert error_pct(simulated, part) in range(0, 101, 25)
    with torch.no_grad():
        apart = Apart(integer_network.convert(simulated.eval()), simulated, images)
    assert max(int(steps.max()) for steps in apart.steps.values()) <= 1


def test_frozen_weights_are_not_trained():
    model = models.lenet_300_100()
    model.fc1.weight.requires_grad_(False)
    simulated = calibrate(simulate(model, bits=4), split().images)
    before = copy.deepcopy(simulated.state_dict())
    fit(simulated, split(), epochs=1, seed=0, delay=0.0)
    after = simulated.state_dict()
    same = {key for key in after if torch.equal(before[key], after[key])}
    assert "fc1.parametrizations.weight.original" in same and "fc2.parametrizations.weight.original" not in same


def test_one_sample_is_enough():
    fit(network(), split(1), epochs=1, seed=0)


def test_wrong_arguments_are_refused():
    for more, says in (({"delay": 1.5}, r"delay must be in \[0, 1\]"), ({"decay": 1.0}, r"decay in \[0, 1\)")):
        with pytest.raises(ValueError, match=says):
            fit(network(), split(), epochs=1, seed=0, **more)
    with pytest.raises(ValueError, match="no activation on a grid"):
        fit(models.lenet_300_100(), split(), epochs=1, seed=0)
    with pytest.raises(TypeError, match="no option 'momentun': accepted are learning_rate, momentum, "):
        fit(network(), split(), epochs=1, seed=0, momentun=0.5)


def test_a_refusal_leaves_the_network_as_it_was():
    simulated = calibrate(simulate(models.lenet_300_100(), bits=4), split().images, percentile=99.0)
    first = activations(simulated)[0]
    for more, says in (
        ({"split": split(0)}, "the split is empty: at least one sample is needed to train on"),
        ({"batch_size": 0}, "batch_size 1 or more, not 1 and 0"),
        ({"epochs": -1}, "epochs must be 0 or more"),
        (
            {"loss": "hinge"},
            "loss must be one of cross_entropy, squared_hinge, squared_error, or a function, not 'hinge'",
        ),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam, not 'lion'"),
        ({"split": Split(split().images, split().labels + 9)}, "labels hold the class 1"),
        ({"split": Split(split().images[..., :20], split().labels)}, "does not take images of shape"),
        ({"learning_rate": float("nan")}, "learning_rate must be 0 or more and finite in float32, not nan"),
    ):
        with pytest.raises(ValueError, match=says):
            fit(simulated, **{"split": split(), "epochs": 1, "seed": 0} | more)
        assert first.percentile == 99.0 and first.decay is None
