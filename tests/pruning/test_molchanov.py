"""Every criterion against its definition or a second implementation, and the loop against what it promises."""

import copy
from functools import partial

import given
import given_tokens
import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from torch import nn

from lib import measure, models, structure
from lib.datasets import Split
from lib.pruning import filter_l1, molchanov
from lib.pruning.shared import reading
from lib.vision import torchvision


def images(*shape, n=6, seed=0):
    return given.split(n, *shape, seed=seed)


def double(data):
    return Split(data.images.double(), data.labels)


GRAY, COLOR, PHOTOGRAPH = images(1, 28, 28), images(3, 32, 32), images(3, 64, 64, n=3)
CONVOLUTIONS = ("conv1", "conv2")


@pytest.fixture
def lenet():
    return models.lenet5(1).double().eval()


# -- What each criterion is --------------------------------------------------------------------------------------------


def test_weight_mean_and_deviation_are_of_the_maps_that_are_read(lenet):
    data = double(GRAY)
    first = lenet.pool1(lenet.conv1(data.images)).detach()
    second = lenet.pool2(lenet.conv2(first)).detach()
    third = torch.relu(lenet.fc1(second.flatten(1))).detach()
    for batch_size in (1, 4, 250):
        mean = molchanov.scores(lenet, data, criterion="mean", batch_size=batch_size)
        deviation = molchanov.scores(lenet, data, criterion="deviation", batch_size=batch_size)
        for name, z in (("conv1", first), ("conv2", second), ("fc1", third[:, :, None, None])):
            assert torch.allclose(mean[name], z.abs().mean((0, 2, 3)))
            assert torch.allclose(deviation[name], z.transpose(0, 1).flatten(1).std(1, correction=0))
    weight = molchanov.scores(lenet, data, criterion="weight")
    assert torch.allclose(weight["conv2"], lenet.conv2.weight.detach().square().mean((1, 2, 3)))


def test_taylor_is_the_mean_absolute_product_of_map_and_gradient(lenet):
    data, expected = double(GRAY), torch.zeros(20, dtype=torch.float64)
    for image, label in zip(data.images, data.labels, strict=True):  # one by one, as equation 8 has it
        z = lenet.pool1(lenet.conv1(image[None])).detach().requires_grad_()
        molchanov.cross_entropy(lenet[2:](z), label[None]).backward()
        expected += (z * z.grad).mean((0, 2, 3)).abs() / len(data)
    lenet.zero_grad()
    for batch_size in (1, 4, 250):
        assert torch.allclose(molchanov.scores(lenet, data, batch_size=batch_size)["conv1"], expected)


def test_taylor_is_exactly_the_oracle_where_the_cost_is_linear():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 26 * 26, 4)).double()
    one, places = double(GRAY).first(1), 26 * 26

    def cost(logits, labels):
        return logits.sum(1)

    taylor = molchanov.scores(model, one, cost=cost)["0"]
    oracle = molchanov.oracle(model, one, cost=cost)["0"]
    assert torch.allclose(places * taylor, oracle, rtol=1e-9)
    assert oracle.max() > 0


def test_signed_terms_add_up_to_the_product_of_gradient_and_maps(lenet):
    one, found = double(GRAY).first(1), structure.groups(lenet, GRAY.images[:1].double())
    gates = [torch.ones(1, g.channels, dtype=torch.float64, requires_grad=True) for g in found]
    with reading.scaled(lenet, found, gates):
        cost = molchanov.cross_entropy(lenet(one.images), one.labels).sum()
    slopes = dict(zip([g.producers[0] for g in found], torch.autograd.grad(cost, gates), strict=True))
    z = lenet.pool1(lenet.conv1(one.images)).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(molchanov.cross_entropy(lenet[2:](z), one.labels).sum(), z)
    assert torch.allclose(slopes["conv1"].sum(), (gradient * z).sum())


@pytest.mark.parametrize(("build", "data", "name"), [(models.lenet5, GRAY, "conv2"), (models.resnet8, COLOR, "conv")])
def test_the_oracle_is_the_change_of_cost_without_the_filter(build, data, name):
    model, data = build(3).double().eval(), double(data.first(2))
    group = next(group for group in structure.groups(model, data.images) if name in group.producers)
    signed = molchanov.oracle(model, data, layers=[name], signed=True)
    assert set(signed) == set(group.producers)
    whole = molchanov.cross_entropy(model(data.images), data.labels).mean()
    for channel in range(0, group.channels, 8):
        keep = torch.arange(group.channels) != channel
        small = structure.shrink(model, dict.fromkeys(group.producers, keep), data.images)
        change = molchanov.cross_entropy(small(data.images), data.labels).mean() - whole
        assert signed[name][channel].item() == pytest.approx(change.item(), abs=1e-12)
    absolute = molchanov.oracle(model, data, layers=[name])[name]
    assert torch.equal(absolute, signed[name].abs())


@pytest.mark.parametrize("bins", [2, 5, 10])
def test_information_is_that_of_scikit_learn(bins):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (300,), generator=generator)
    values = torch.randn(300, 6, generator=generator) + labels[:, None] * torch.tensor([0, 0.5, 1, 2, 5, 50])
    ours = molchanov.information(values, labels, bins=bins)
    edges = torch.quantile(values.double(), torch.linspace(0, 1, bins + 1).double()[1:-1], dim=0)
    for column in range(6):
        codes = torch.searchsorted(edges[:, column].contiguous(), values[:, column].double().contiguous())
        assert ours[column].item() == pytest.approx(mutual_info_score(labels.numpy(), codes.numpy()), abs=1e-12)
    assert (ours <= entropy(labels.bincount().numpy()) + 1e-12).all()


def test_information_is_entropy_for_labels_and_known_bias_for_noise():
    labels = torch.arange(2000) % 5
    noise = torch.rand(2000, 200, generator=torch.Generator().manual_seed(0))
    everything = molchanov.information(labels[:, None].float(), labels, bins=5)
    assert everything.item() == pytest.approx(torch.tensor(5.0).log().item())
    bias = molchanov.information(noise, labels, bins=10).mean().item()
    assert bias == pytest.approx((10 - 1) * (5 - 1) / (2 * 2000), rel=0.1)
    assert molchanov.information(torch.zeros(50, 1), torch.arange(50) % 3).item() == pytest.approx(0, abs=1e-12)


def test_normalized_scores_have_unit_norm_and_a_silent_layer_stays_zero():
    scores = molchanov.normalized({"a": torch.tensor([3.0, 4.0]), "silent": torch.zeros(3)})
    assert scores["a"].tolist() == pytest.approx([0.6, 0.8])
    assert scores["silent"].tolist() == [0, 0, 0]


def test_random_is_fixed_by_its_seed_and_touches_no_global_state(lenet):
    state = torch.get_rng_state()
    one, same, other = (molchanov.scores(lenet, double(GRAY), criterion="random", seed=s)["fc1"] for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    ranks = torch.stack([one.argsort().argsort().double(), other.argsort().argsort().double()])
    assert abs(torch.corrcoef(ranks)[0, 1]) < 0.15  # 500 filters: about three standard deviations


# -- Tokens: a map for each feature ------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [2, 8])  # 64 tokens and 4, of 16 features
@pytest.mark.parametrize("grid", [False, True])
def test_criteria_of_tokens_are_those_of_the_same_network_in_convolutions(patch, grid):
    model, data = given_tokens.mixer(patch, grid), given_tokens.patches()
    maps = given_tokens.AsConvolutions(model)
    for criterion in molchanov.CRITERIA:
        ours, theirs = (molchanov.scores(m, data, criterion=criterion)["fc1"] for m in (model, maps))
        torch.testing.assert_close(ours, theirs)
        assert criterion in ("weight", "random") or (ours[3] == 0 and ours.max() > 0)  # unit 3 is dead


@pytest.mark.parametrize("patch", [2, 8])
def test_the_oracle_of_tokens_is_the_change_of_cost_without_the_unit(patch):
    model, data = given_tokens.mixer(patch), given_tokens.patches()
    signed = molchanov.oracle(model, data, signed=True, batch_size=5)["fc1"]
    whole = molchanov.cross_entropy(model(data.images), data.labels).mean()
    for unit in range(16):
        small = structure.shrink(model, {"fc1": torch.arange(16) != unit}, data.images)
        change = molchanov.cross_entropy(small(data.images), data.labels).mean() - whole
        assert signed[unit].item() == pytest.approx(change.item(), abs=1e-12)
    assert signed[3] == 0


def test_taylor_of_tokens_is_the_mean_absolute_product_of_map_and_gradient():
    model, data = given_tokens.mixer(), given_tokens.patches()
    tokens = model.embed(data.images).flatten(2).transpose(1, 2).detach()
    z = torch.relu(model.fc1(model.norm(tokens))).detach().requires_grad_()
    logits = model.head((tokens + model.fc2(z)).mean(1))
    (slope,) = torch.autograd.grad(molchanov.cross_entropy(logits, data.labels).sum(), z)
    expected = (z * slope).mean(1).abs().mean(0)  # places are tokens
    torch.testing.assert_close(molchanov.scores(model, data)["fc1"], expected)
    mean, deviation = (molchanov.scores(model, data, criterion=name)["fc1"] for name in ("mean", "deviation"))
    torch.testing.assert_close(mean, z.abs().mean((0, 1)))
    torch.testing.assert_close(deviation, z.flatten(0, 1).std(0, correction=0))
    assert torch.equal(
        molchanov.scores(model, data, criterion="information")["fc1"], molchanov.information(z.mean(1), data.labels)
    )


def test_a_layer_that_runs_twice_is_measured_both_times():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.second(self.first(x).relu()) + self.second(self.first(2 * x).relu())

    model, data = given.seeded(Twice), images(3, n=8)
    both = [torch.relu(model.first(factor * data.images)).detach() for factor in (1, 2)]
    mean = molchanov.scores(model, data, criterion="mean")["first"]
    torch.testing.assert_close(mean, torch.stack(both).double().abs().mean((0, 1)))


# -- Any model, and nothing left behind --------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", molchanov.CRITERIA)
@pytest.mark.parametrize("build", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_networks_we_did_not_write_get_a_score_for_every_filter(build, criterion):
    model = getattr(torchvision.models, build)(num_classes=10)
    found = structure.groups(model, PHOTOGRAPH.images)
    before = copy.deepcopy(model.state_dict())
    scores = molchanov.scores(model, PHOTOGRAPH, criterion=criterion)
    assert {n: len(s) for n, s in scores.items()} == {n: g.channels for g in found for n in g.producers}
    assert all((score >= 0).all() for score in scores.values())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_channels_after_a_concatenation_are_gated_apart():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.join = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 2, 3, bias=False), nn.Conv2d(5, 4, 1)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            joined = torch.relu(torch.cat([self.left(x), self.right(x)], dim=1))
            return self.head(self.join(joined).mean((2, 3)))

    torch.manual_seed(0)
    model, data = Fork().double(), double(GRAY)
    data = Split(data.images, data.labels % 3)
    oracle = molchanov.oracle(model, data, layers=["left", "right"], signed=True)
    whole = molchanov.cross_entropy(model(data.images), data.labels).mean()
    for name in ("left", "right"):
        keep = torch.arange(len(oracle[name])) != 1
        small = structure.shrink(model, {name: keep}, data.images)
        change = molchanov.cross_entropy(small(data.images), data.labels).mean() - whole
        assert oracle[name][1].item() == pytest.approx(change.item(), abs=1e-12)


@pytest.mark.parametrize("frozen", [False, True])
def test_no_gradient_is_left_or_lost_even_of_a_frozen_network(frozen, lenet):
    lenet.requires_grad_(not frozen)
    lenet.conv1.weight.grad = torch.ones_like(lenet.conv1.weight)
    with torch.no_grad():
        scores = molchanov.scores(lenet, double(GRAY))
    assert (scores["conv1"] > 0).all()
    assert (lenet.conv1.weight.grad == 1).all() and lenet.conv2.weight.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lenet.modules())


def test_a_gate_is_no_filter_of_the_channel_that_it_scales():
    model, data = given_tokens.gated(), given.split(6, 2, 5, 5, classes=4, dtype=torch.float64)
    assert {"first", "excite"} in [set(group.producers) for group in structure.groups(model, data.images)]
    for criterion in molchanov.CRITERIA:
        assert molchanov.scores(model, data, criterion=criterion).keys() == {"first", "second", "squeeze"}
    weight = molchanov.scores(model, data, criterion="weight")["first"]
    assert torch.equal(weight, model.first.weight.detach().square().mean((1, 2, 3)))
    signed = molchanov.oracle(model, data, layers=["first"], signed=True)["first"]
    small = structure.shrink(model, {"first": torch.arange(6) != 2}, data.images)
    costs = [molchanov.cross_entropy(m(data.images), data.labels).mean().item() for m in (small, model)]
    assert signed[2].item() == pytest.approx(costs[0] - costs[1], abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_of_a_network_of_another_type(dtype):
    model, data = models.lenet5(1), images(1, 28, 28)
    for criterion in ("weight", "mean", "deviation", "taylor"):
        expected = molchanov.scores(model.float(), data, criterion=criterion)
        found = molchanov.scores(
            model.to(dtype), Split(data.images.to(dtype), data.labels), criterion=criterion, batch_size=4
        )
        for name, score in found.items():
            assert score.dtype in (torch.float32, torch.float64)
            assert ((score - expected[name]).norm() < 0.1 * expected[name].norm()).item()
    exact = molchanov.oracle(model, Split(data.images.to(dtype), data.labels), layers=["conv1"])
    assert exact["conv1"].dtype == torch.float64


@pytest.mark.parametrize("criterion", molchanov.CRITERIA)
def test_one_sample_is_enough(criterion, lenet):
    scores = molchanov.scores(lenet, double(GRAY).first(1), criterion=criterion)
    assert all(torch.isfinite(score).all() for score in scores.values())


# -- The loop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["taylor", filter_l1.scores])
def test_the_loop_removes_the_share_in_steps_and_leaves_the_model(criterion):
    model, data, seen = models.lenet5(), images(1, 28, 28, n=30), []
    before = copy.deepcopy(model.state_dict())
    options = {
        "fraction": 0.2,
        "step": 4,
        "updates": 1,
        "layers": CONVOLUTIONS,
        "batch_size": 10,
        "learning_rate": 0.01,
    }
    options["samples"] = 10
    small = molchanov.shrink_iteratively(
        model,
        data,
        criterion=criterion,
        watch=lambda m: seen.append(m.conv1.out_channels + m.conv2.out_channels),
        **options,
    )
    assert seen == [66, 66, 62, 62, 58, 58, 56, 56]  # just cut, and after the updates; 14 of 70 in steps of 4
    assert small.fc1.out_features == 500
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = molchanov.shrink_iteratively(model, data, criterion=criterion, **options)
    assert all(torch.equal(a, b) for a, b in zip(small.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_price_of_a_filter_steers_the_loop_to_the_expensive_layer():
    data = images(1, 28, 28, n=10)
    options = {
        "fraction": 0.3,
        "step": 21,
        "updates": 1,
        "samples": 10,
        "layers": CONVOLUTIONS,
        "batch_size": 10,
        "learning_rate": 1e-4,
    }
    free, priced = (
        molchanov.shrink_iteratively(models.lenet5(), data, flops_weight=w, **options) for w in (0.0, 100.0)
    )
    assert measure.multiply_adds(priced, (1, 28, 28)) < measure.multiply_adds(free, (1, 28, 28))
    assert priced.conv1.out_channels <= 2  # a map of conv1 costs 25 x 24 x 24 and 50 x 25 x 8 x 8 multiply-adds


class Joined(nn.Module):
    """Two branches, joined, of which one is also read alone; a layer that reads what it is added to."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 3, 3), nn.Conv2d(2, 5, 3, bias=False)
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.join, self.alone, self.again = nn.Conv2d(8, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.one, self.head = nn.Linear(4 * 16, 1), nn.Linear(1, 3)

    def forward(self, x):
        left = self.left(x)
        x = self.join(self.deep(torch.cat([left, self.right(x)], 1))) + self.alone(left)[:, :, 1:-1, 1:-1]
        return self.head(self.one((x + self.again(x)).relu().flatten(1)))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (models.lenet5, (1, 28, 28)),
        (models.resnet8, (3, 32, 32)),
        (Joined, (2, 8, 8)),
        (given_tokens.gated, (2, 5, 5)),
        (given_tokens.mixer, (1, 16, 16)),
    ],
)
def test_the_price_of_a_filter_is_what_the_shrunk_network_saves(build, shape):
    model, example = build().float(), torch.zeros(1, *shape)
    price, whole = molchanov.prices(model, example), measure.multiply_adds(model, shape)
    for group in structure.groups(model, example):
        kept = torch.arange(group.channels) > 0
        if kept.any():
            small = structure.shrink(model, {group.producers[0]: kept}, example)
        saved = whole - measure.multiply_adds(small, shape) if kept.any() else 0
        assert {price.pop(name) for name in group.producers} == {saved / 1e6}
    assert not price


def test_the_loop_keeps_tied_layers_alike():
    data = images(3, 16, 16, n=8)
    small = molchanov.shrink_iteratively(models.resnet8(width=4), data, fraction=0.25, step=10, updates=1, batch_size=8)
    assert small(data.images).shape == (8, 10)
    kept = small.conv.out_channels
    assert small.stage1_1.conv2.out_channels == kept


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_the_loop_refuses_an_unknown_option_before_it_begins():
    model, seen = models.lenet5(), []
    with pytest.raises(TypeError, match="there is no option 'epochs': accepted are learning_rate, "):
        molchanov.shrink_iteratively(model, GRAY, fraction=0.5, watch=seen.append, epochs=2)
    with pytest.raises(ValueError, match=r"criterion must be a function or one of weight, .*, not 'oracle'"):
        molchanov.shrink_iteratively(model, GRAY, fraction=0.0, criterion="oracle")
    assert not seen


@pytest.mark.parametrize("name", ["step", "updates", "samples", "batch_size"])
def test_the_loop_refuses_counts_below_one_before_it_begins(name):
    model, seen = models.lenet5(), []
    for wrong in (0, -1, 2.5):
        with given.refused(model, rf"{name} must be .*1 or more, not {wrong}"):
            molchanov.shrink_iteratively(model, GRAY, fraction=0.1, watch=seen.append, **{name: wrong})
    with given.refused(model, "flops_weight must be finite, not nan"):
        molchanov.shrink_iteratively(model, GRAY, fraction=0.1, watch=seen.append, flops_weight=float("nan"))
    assert not seen


def test_the_loop_returns_a_copy_even_where_nothing_goes():
    model = models.lenet5()
    same = molchanov.shrink_iteratively(model, GRAY, fraction=0.0)
    assert same is not model and given.equal(same, model)


def test_the_loop_takes_numbers_of_numpy_and_names_what_has_no_score():
    data = images(1, 28, 28, n=10)
    counts = {"step": 10, "updates": 1, "samples": 6, "batch_size": 5, "seed": 1}
    options = {"fraction": 0.2, "layers": ("conv2",), "learning_rate": 0.01}
    one, other = (
        molchanov.shrink_iteratively(models.lenet5(), data, **{k: kind(n) for k, n in counts.items()}, **options)
        for kind in (int, np.int64)
    )
    assert given.equal(one, other)
    with pytest.raises(ValueError, match="the criterion gives layer 'conv2' no scores: leave it out of layers"):
        molchanov.shrink_iteratively(models.lenet5(), data, criterion=lambda model, split: {}, **options)


def test_layers_that_cannot_be_measured_are_refused_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c, self.d = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.a(x).relu()), self.d(self.c(x).relu())

    class Bypassed(Two):
        def forward(self, x):
            x = self.a(x).relu()
            return self.b(x) if torch.is_grad_enabled() else nn.functional.linear(x, self.b.weight, self.b.bias)

    data = given.split(4, 3, classes=2)
    with given.refused(Two(), "layer 'c' gets no gradient: the cost does not depend on it"):
        molchanov.scores(Two(), data, cost=lambda logits, labels: molchanov.cross_entropy(logits[0], labels))
    for call in (molchanov.oracle, *(partial(molchanov.scores, criterion=name) for name in ("taylor", "mean"))):
        with given.refused(Bypassed(), "Bypassed has no layer whose filters can go"):
            call(Bypassed(), data)


def test_bad_input_is_refused(lenet):
    data = double(GRAY)
    with pytest.raises(ValueError, match=r"criterion must be one of weight, mean, .*, not 'oracle'"):
        molchanov.scores(lenet, data, criterion="oracle")
    with pytest.raises(ValueError, match="bins must be 2 or more, not 1"):
        molchanov.scores(lenet, data, bins=1)
    with pytest.raises(ValueError, match="batch_size must be 1 or more, not 0"):
        molchanov.oracle(lenet, data, batch_size=0)
    for call in (molchanov.scores, molchanov.oracle):
        with pytest.raises(ValueError, match=r"cost must return one number for each of 6 samples, not \(\)"):
            call(lenet, data, cost=lambda logits, labels: logits.mean())
    for labels in (-torch.ones(6).long(), torch.rand(6), torch.zeros(6, 2).long()):
        with pytest.raises(ValueError, match=r"labels must be 6 class numbers, 0 or more, not torch\."):
            molchanov.scores(lenet, Split(data.images, labels), criterion="information")
    for layers in ("conv1", [], [1]):
        with pytest.raises(ValueError, match="layers must be a list of at least one name, not "):
            molchanov.oracle(lenet, data, layers=layers)
    with pytest.raises(ValueError, match="layer 'fc9' has no filters that can go: accepted are conv1, conv2, fc1"):
        molchanov.oracle(lenet, data, layers=["fc9"])
    for call in (molchanov.scores, molchanov.oracle, lambda m, d: molchanov.shrink_iteratively(m, d, fraction=0.1)):
        with pytest.raises(ValueError, match="the split is empty"):
            call(lenet, data.first(0))
    for fraction in (1.0, -0.1):
        with pytest.raises(ValueError, match=rf"fraction must be in \[0, 1\), not {fraction}"):
            molchanov.shrink_iteratively(lenet, data, fraction=fraction)
    with pytest.raises(ValueError, match="bins must be 2 or more, not 1"):
        molchanov.information(torch.rand(3, 2), torch.arange(3), bins=1)
    with pytest.raises(ValueError, match="batch_size must be 1 or more, not 0"):
        molchanov.taylor_scores(lenet, data, structure.groups(lenet, data.images), molchanov.cross_entropy, 0)
    with pytest.raises(ValueError, match=r"removing 0\.99 of the filters would leave a layer without any"):
        molchanov.shrink_iteratively(lenet, data, fraction=0.99, layers=CONVOLUTIONS)


@pytest.mark.parametrize("criterion", ["weight", "mean", "deviation", "information", "taylor"])
def test_nan_is_refused(criterion, lenet):
    lenet.conv1.weight.data[3] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        molchanov.scores(lenet, double(GRAY), criterion=criterion)
