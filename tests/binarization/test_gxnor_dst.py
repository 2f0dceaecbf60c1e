"""GXNOR: ternary values between layers, networks of them, and their training."""

import copy

import given
import pytest
import torch
from given_binarization import converted_alike, in_space, snapshot, ternary, ternary_network, two_halves, unchanged
from torch import nn

from lib import models, storage, training
from lib.binarization import gxnor_dst
from lib.binarization.gxnor_dst import DERIVATIVES, TernaryActivation, ternarize
from lib.binarization.shared import inference
from lib.binarization.shared.signs import Binarized
from lib.binarization.shared.state_optimizer import INCREMENTS
from lib.binarization.shared.states import PROBABILITIES, TernaryStates
from lib.cache import cached
from lib.vision import torchvision
from lib.weights import compress, compressed_form, layers

# -- the activation ----------------------------------------------------------------------------------------------------

X = [-9.0, -1.0, -0.75, -0.5, -0.25, -0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 9.0]


@pytest.mark.parametrize("r", [0.0, 0.3, 0.5, 1.0])
def test_the_activation_and_its_bases_are_exact(r):
    edge = torch.tensor([r, -r] * 40)
    x = torch.cat([torch.tensor(X), torch.randn(1000, generator=given.generator()), edge])
    x = torch.cat([x, *(torch.nextafter(edge, torch.full((80,), far)) for far in (-9.0, 9.0))])
    form = TernaryActivation(r)
    limit = edge[0].item()
    wanted = [1.0 if v > limit else -1.0 if v < -limit else 0.0 for v in x.tolist()]
    assert form(x).tolist() == wanted
    assert [factor for _, factor in form.bases()] == [0.5, 0.5]
    assert torch.equal(sum(b * torch.where(x >= t, 1.0, -1.0) for t, b in form.bases()), form(x))
    assert set(form(x.double()).tolist()) == {-1.0, 0.0, 1.0}


@pytest.mark.parametrize(("r", "a"), [(0.5, 0.5), (1.0, 0.5), (0.5, 0.25), (0.0, 1.0)])
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_the_derivative_is_the_published_one(r, a, derivative):
    x = torch.tensor(X, requires_grad=True)
    (TernaryActivation(r, a, derivative)(x) * 3).sum().backward()
    for value, found in zip(X, x.grad.tolist(), strict=True):
        if derivative == "rectangular":
            assert found == 3 * (1 / (2 * a) if r - a <= abs(value) <= r + a else 0)
        else:
            assert found == 3 * max(0.0, 1 - abs(abs(value) - r) / a) / a


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_each_jump_gets_the_area_one(derivative):
    x = torch.linspace(-3, 3, 60_001, dtype=torch.float64, requires_grad=True)
    TernaryActivation(1.0, 0.5, derivative)(x).sum().backward()
    assert x.grad.sum().item() * 1e-4 == pytest.approx(2, abs=1e-3)  # from -1 to 1


@pytest.mark.parametrize("r", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("space", range(2, 7))
def test_more_levels_are_the_states_of_their_space(space, r):
    form, count = TernaryActivation(r, space=space), 2 ** (space - 1)
    x = torch.cat([torch.linspace(-2, 2, 4001), torch.randn(500, generator=given.generator()), torch.zeros(1)])
    steps = torch.tensor([r + k * (1 - r) / count for k in range(count)])
    expected = x.sign() * (x.abs()[:, None] > steps).sum(1) / count
    assert torch.equal(form(x), expected) and in_space(form(x), space)
    assert form(x).unique().numel() == 2**space + 1
    assert torch.equal(sum(b * torch.where(x >= t, 1.0, -1.0) for t, b in form.bases()), expected)
    assert form.bases()[:2] == [(-r, 0.5 / count), (torch.nextafter(steps[0], steps[0] + 1).item(), 0.5 / count)]


@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_with_more_levels_each_jump_gets_its_own_height(derivative):
    x = torch.linspace(-3, 3, 60_001, dtype=torch.float64, requires_grad=True)
    TernaryActivation(0.5, 0.1, derivative, 3)(x).sum().backward()
    assert x.grad.sum().item() * 1e-4 == pytest.approx(2, abs=1e-2)  # from -1 to 1
    windows = [abs(x.detach().abs() - r) <= 0.1 for r in (0.5, 0.625, 0.75, 0.875)]
    assert torch.equal(x.grad > 1e-9, torch.stack(windows).any(0) & (x.grad > 1e-9)) and x.grad[30_000] == 0
    one = x.grad[(x.detach() - 0.41).abs().argmin()]  # the window of the first step alone
    assert one == pytest.approx(0.25 * (5 if derivative == "rectangular" else 1.0), rel=0.02)


# -- networks ----------------------------------------------------------------------------------------------------------


def test_a_network_of_more_levels_learns_and_is_counted_on_bits():
    model = ternarize(models.lenet5(), space=2, activation_space=3)
    images = given.split(6, 1, 28, 28)
    gxnor_dst.fit(model, images, epochs=1, seed=0)
    seen = []
    model.fc2.activation.register_forward_hook(lambda _, __, values: seen.append(values))
    assert converted_alike(model, images.images) and len(seen[0].unique()) > 3 and in_space(seen[0], 3)
    assert "space=3" in str(model.fc2.activation) and "space" not in str(TernaryActivation())


def test_a_network_reads_ternary_values_behind_its_first_layer():
    model = ternarize(models.lenet5())
    readers = {name: m for name, m in model.named_modules() if isinstance(m, Binarized)}
    assert list(readers) == ["conv2", "fc1", "fc2"]
    assert all(isinstance(m.norm, nn.BatchNorm1d | nn.BatchNorm2d) for m in readers.values())
    assert not any(isinstance(m, nn.ReLU) for m in model.modules())
    assert all(in_space(layer.weight) for _, layer in layers(model))
    seen = []
    model.fc2.activation.register_forward_hook(lambda _, __, out: seen.append(out))
    assert model(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    assert set(seen[0].unique().tolist()) <= {-1, 0, 1}


def test_a_network_with_batch_norm_gets_more_only_after_its_output():
    own = ternarize(models.mlp(hidden=(8, 8)))
    assert all(isinstance(m.norm, nn.Identity) for m in own.modules() if isinstance(m, Binarized))
    assert len(own) == len(models.mlp(hidden=(8, 8)))
    assert isinstance(ternarize(models.lenet_300_100(), classes=10)[1], nn.BatchNorm1d)


def test_only_the_named_layers_are_ternary_and_other_rectifiers_stay():
    dense, model = models.mlp(hidden=(8, 8, 8)), ternarize(models.mlp(hidden=(8, 8, 8)), names=["fc3"])
    assert in_space(model.fc3.layer.weight) and isinstance(model.fc3, Binarized)
    assert all(torch.equal(getattr(model, n).weight, getattr(dense, n).weight) for n in ("fc1", "fc2", "fc4"))
    assert [type(getattr(model, f"relu{i}")) for i in (1, 2, 3)] == [nn.ReLU, nn.Identity, nn.ReLU]
    twice = ternarize(ternarize(models.lenet_300_100(), names=["fc2"]), names=["fc1", "fc3"])
    assert isinstance(twice.fc3.norm, nn.BatchNorm1d) and not isinstance(twice.fc1, Binarized)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_alone_and_odd_networks_work():
    assert in_space(ternarize(nn.Linear(5, 1, bias=False)).weight)
    odd = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.Conv2d(3, 3, 3, groups=3))
    model = ternarize(odd).eval()
    assert model(torch.rand(1, 1, 5, 5)).shape == (1, 3, 3, 3)
    with_empty = nn.Sequential(nn.Linear(3, 2), nn.Linear(0, 2))
    ternarize(with_empty)
    assert not hasattr(with_empty[1], "parametrizations") and in_space(with_empty[0].weight)


def test_other_types_of_float_keep_their_type():
    for dtype in (torch.float64, torch.float16):
        layer = ternarize(nn.Linear(5, 5).to(dtype))
        assert layer.weight.dtype == dtype and in_space(layer.weight)
        assert compressed_form(layer.float())[0].states.dtype == torch.int8 and layer.weight.dtype == torch.float32


def test_copies_are_independent_and_states_are_saved_and_loaded():
    model = ternary_network()
    twin = copy.deepcopy(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gxnor_dst.fit(twin, two_halves(), epochs=2, seed=0, batch_size=16)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in twin.state_dict().items() if "states" in name)
    model.load_state_dict(twin.state_dict())
    images = two_halves().images
    assert torch.equal(model.eval()(images), twin(images))
    assert not any("gradient" in name for name in before)
    assert sum("states" in name for name in before) == 4


def test_a_layer_takes_another_weight():
    layer, weight = ternarize(nn.Linear(4, 3)), ternary(3, 4, seed=1)
    layer.weight = weight
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("space", [0, 1, 3])
def test_a_network_of_torchvision_is_written_and_read_back(tmp_path, space):
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    names = [name for name, _ in layers(net)]
    ternarize(net, names=names, space=space).eval()
    size = storage.save(net, tmp_path / "net.slim", coder="fixed")
    fresh = ternarize(torchvision.models.shufflenet_v2_x0_5(num_classes=10), names=names, space=space)
    fresh = storage.load(tmp_path / "net.slim", fresh).eval()
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(fresh(image), net(image))
    weights = sum(layer.weight.numel() for _, layer in layers(net))
    plain = sum(t.numel() * t.element_size() for t in fresh.state_dict().values()) - 4 * weights
    bits = (2**space).bit_length()
    assert 0 <= size - bits * weights / 8 - plain < 70 * len(names) + 300
    states = [compressed_form(layer)[0].states.clone() for _, layer in layers(net)]
    compress(fresh, lambda name, layer: TernaryStates(space))  # a dense weight of the space: training can go on
    assert all(torch.equal(a, compressed_form(b)[0].states) for a, (_, b) in zip(states, layers(fresh), strict=True))


@pytest.mark.parametrize("make", [models.lenet5, lambda: models.mlp(hidden=(70, 70))])
def test_counted_in_bits_a_network_gives_the_very_same_answers(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ternarize(make())
        images = torch.rand(20, 1, 28, 28)
        model(images)  # batch norm sees values
    with torch.no_grad():
        assert torch.equal(inference.convert(model)(images), model.eval()(images))


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("increment", ["adam", "sign"])
@pytest.mark.parametrize("probability", PROBABILITIES)
def test_training_reduces_the_loss(increment, probability):
    losses = gxnor_dst.fit(
        ternary_network(), two_halves(), epochs=15, seed=0, batch_size=16, increment=increment, probability=probability
    )
    assert len(losses) == 15 and losses[-1] < losses[0]


@pytest.mark.parametrize("increment", INCREMENTS)
def test_states_and_real_parameters_have_rates_of_their_own(increment):
    for rates, moves in (((0.5, 0.0), {True: False, False: True}), ((0.0, 0.5), {True: True, False: False})):
        model = ternary_network()
        before = copy.deepcopy(model.state_dict())
        options = {"learning_rate": rates[0], "real_learning_rate": rates[1], "increment": increment}
        gxnor_dst.fit(model, two_halves(), epochs=2, seed=0, batch_size=16, **options)
        real = {name for name, _ in model.named_parameters()}
        for kind, names in ((True, real), (False, {name for name in before if name.endswith("states")})):
            assert moves[kind] != all(torch.equal(before[name], model.state_dict()[name]) for name in names)


def test_training_depends_on_the_seed_alone_and_can_be_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    options = {"split": two_halves(), "epochs": 2, "batch_size": 16}
    found = []
    for seed in (0, 0, 1):
        torch.rand(1)  # what else draws does not matter
        found.append(cached(gxnor_dst.fit, ternary_network(), seed=seed, **options).state_dict())
        trained = ternary_network()
        gxnor_dst.fit(trained, seed=seed, **options)
        assert all(torch.equal(value, found[-1][name]) for name, value in trained.state_dict().items())
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    same = [all(torch.equal(found[0][name], other[name]) for name in other) for other in found[1:]]
    assert same == [True, False]
    cached(gxnor_dst.fit, ternary_network(r=0.25), seed=0, **options)  # another setting, another entry
    cached(gxnor_dst.fit, ternary_network(space=2), seed=0, **options)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_training_with_a_validation_split_ends_with_the_best_network():
    split, validation = two_halves(), two_halves(32)
    options = {"epochs": 5, "seed": 0, "batch_size": 16, "learning_rate": 0.5}
    plain, judged = ternary_network(), ternary_network()
    gxnor_dst.fit(plain, split, **options)
    losses = gxnor_dst.fit(judged, split, validation=validation, patience=99, **options)
    assert len(losses) == 5 and training.error_pct(judged, validation) <= training.error_pct(plain, validation)
    assert not any(module.training for module in judged.modules())


def test_training_that_is_stuck_restarts_and_keeps_its_best():
    split = two_halves()
    model = ternary_network()
    best = training.error_pct(model, split)
    gxnor_dst.fit(model, split, validation=split, patience=1, epochs=4, seed=0, learning_rate=0.0)
    assert training.error_pct(model, split) <= best  # rates of 0 move nothing: what moved was drawn
    with pytest.raises(ValueError, match="patience must be 1 epoch or more, not 0"):
        gxnor_dst.fit(model, split, validation=split, patience=0, epochs=1, seed=0)
    with pytest.raises(ValueError, match="the split is empty"):
        gxnor_dst.fit(model, split, validation=two_halves(0), epochs=1, seed=0)


def test_one_sample_is_enough_without_batch_norm():
    layer = ternarize(nn.Sequential(nn.Flatten(), nn.Linear(36, 2, bias=False)))
    assert len(gxnor_dst.fit(layer, two_halves(1), epochs=2, seed=0)) == 2
    assert in_space(layer[1].weight)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"space": 7}, "space must be a whole number from 0 to 6, not 7"),
        ({"space": -1}, "from 0 to 6, not -1"),
        ({"space": 0.5}, "from 0 to 6, not 0.5"),
        ({"r": -0.5}, "r must be 0 or more and a above 0, both finite, not -0.5 and 0.5"),
        ({"a": 0.0}, "both finite, not 0.5 and 0.0"),
        ({"r": float("nan")}, "both finite, not nan"),
        ({"a": float("inf")}, "both finite, not 0.5 and inf"),
        ({"activation_space": 0}, "the space of activations must be a whole number from 1 to 6, not 0"),
        ({"activation_space": 7}, "from 1 to 6, not 7"),
        ({"activation_space": 2, "r": 1.0}, "r must be below 1 where activations have more than three values, not 1.0"),
        ({"classes": 0}, "classes, the width of the output, must be 1 or more, not 0"),
        ({"derivative": "round"}, "derivative must be one of rectangular, triangular, not 'round'"),
        ({"names": ["fc9"]}, "no layer 'fc9'"),
        ({"names": []}, "no layer to binarize"),
    ],
)
def test_settings_that_make_no_sense_are_refused_and_change_nothing(settings, message):
    model = models.lenet_300_100()
    with given.refused(model, message):
        ternarize(model, **settings)


def test_what_cannot_be_ternary_is_refused_and_stays_as_it_was():
    with pytest.raises(ValueError, match="no layer to binarize"):
        ternarize(nn.ReLU())
    done = ternarize(models.lenet_300_100())
    text = str(done)
    with pytest.raises(ValueError, match="Sequential has no layer to binarize"):
        ternarize(done)
    assert str(done) == text
    model = models.lenet_300_100()
    model.fc2.weight.data[0, 0] = float("nan")
    text = str(model)
    with pytest.raises(ValueError, match="'fc2' hold NaN or infinity"):
        ternarize(model)
    shared = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    shared[2].weight = shared[0].weight
    with pytest.raises(ValueError, match="share one weight"):
        ternarize(shared)
    assert str(model) == text and isinstance(shared[1], nn.ReLU)
    layer = ternarize(nn.Linear(2, 2))
    before = layer.weight.clone()
    with pytest.raises(ValueError, match="a weight holds NaN or infinity"):
        layer.weight = torch.full((2, 2), float("inf"))
    assert torch.equal(layer.weight, before)


def test_training_needs_a_model_in_states_and_samples():
    model = models.lenet_300_100(inputs=36)
    with pytest.raises(ValueError, match="ternarize it first"):
        gxnor_dst.fit(model, two_halves(), epochs=1, seed=0)
    with pytest.raises(ValueError, match="the split is empty"):
        gxnor_dst.fit(ternary_network(), two_halves(0), epochs=1, seed=0)


@pytest.mark.parametrize("name", ["optimizer", "momentum", "learnin_rate", "after_step"])
def test_an_option_that_training_does_not_take_is_refused_first(name):
    model = ternary_network().train()
    before = snapshot(model)
    with pytest.raises(TypeError, match=f"there is no option '{name}': accepted are weight_decay, "):
        gxnor_dst.fit(model, two_halves(0), epochs=1, seed=0, **{name: "sgd"})
    assert unchanged(model, before) and model.training


def test_without_options_a_step_takes_256_images(monkeypatch):
    calls = []
    monkeypatch.setattr(training, "fit", lambda *_, **options: calls.append(options))
    gxnor_dst.fit(ternary_network(), two_halves(), epochs=2, seed=0)
    gxnor_dst.fit(ternary_network(), two_halves(), epochs=2, seed=0, batch_size=16, shift=1)
    defaults = {"epochs": 2, "seed": 0, "batch_size": 256, "loss": "squared_hinge", "weight_decay": 0.0}
    defaults |= {"before_epoch": None}
    assert [c.pop("optimizer") is not None for c in calls] == [True, True]
    assert calls == [defaults, defaults | {"batch_size": 16, "shift": 1}]
