"""Every criterion against its definition or a second implementation, and the loop against what it promises."""

import copy

import given
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from torch import nn

from lib import measure, models, structure
from lib.datasets import Split
from lib.pruning import filter_l1, molchanov
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
    with molchanov._gated(lenet, found, gates):
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
    model = models.lenet5()
    assert molchanov._millions(model, "conv1", data.images[:1]) == pytest.approx((25 * 24**2 + 50 * 25 * 8**2) / 1e6)


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
    for wrong in (0, -1):
        counts = {"step": 2, "updates": 10, "samples": 500, "batch_size": 64} | {name: wrong}
        values = "{step}, {updates}, {samples} and {batch_size}".format(**counts)
        with given.refused(model, f"step, updates, samples and batch_size must be 1 or more, not {values}"):
            molchanov.shrink_iteratively(model, GRAY, fraction=0.1, watch=seen.append, **counts)
    assert not seen


def test_bad_input_is_refused(lenet):
    data = double(GRAY)
    with pytest.raises(ValueError, match=r"criterion must be one of weight, mean, .*, not 'oracle'"):
        molchanov.scores(lenet, data, criterion="oracle")
    with pytest.raises(ValueError, match="bins must be 2 or more and batch_size 1 or more, not 1 and 250"):
        molchanov.scores(lenet, data, bins=1)
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
    with pytest.raises(ValueError, match=r"without 0\.99 of its filters the network has a layer without any"):
        molchanov.shrink_iteratively(lenet, data, fraction=0.99, layers=CONVOLUTIONS)


@pytest.mark.parametrize("criterion", ["weight", "mean", "deviation", "information", "taylor"])
def test_nan_is_refused(criterion, lenet):
    lenet.conv1.weight.data[3] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        molchanov.scores(lenet, double(GRAY), criterion=criterion)
