"""One codebook for all layers: its weights, its gradient, its file; and four diagonals held against one another."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lib import models, storage, training
from lib.datasets import Split
from lib.pruning import optimal_brain_damage
from lib.pruning.magnitude import prune
from lib.quantization import hessian_weighted_kmeans as weighted
from lib.quantization.deep_compression import STARTS, set_gap_bits
from lib.quantization.optimal_kmeans import lloyd, optimal
from lib.weights import compressed_form, decompress, layers


def split(n, *shape, classes=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(n, *shape, generator=generator, dtype=dtype)
    return Split(images, torch.randint(classes, (n,), generator=generator))


def small(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype)


def importance_of(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(layer.weight.shape, generator=generator) for name, layer in layers(model)}


def pooled(model):
    return torch.cat([layer.weight.detach().flatten() for _, layer in layers(model)])


# -- The codebook ------------------------------------------------------------------------------------------------------


def test_importance_of_one_each_is_plain_kmeans_of_all_layers_together():
    model, dense = models.lenet_300_100(), pooled(models.lenet_300_100()).double().numpy()
    ones = {name: torch.full_like(layer.weight, 3.0) for name, layer in layers(model)}
    expected = optimal(dense, 8)
    for given in (None, ones):
        shared = pooled(weighted.share(copy.deepcopy(model), k=8, importance=given))
        np.testing.assert_allclose(shared.numpy(), expected.centroids[expected.codes], rtol=1e-6)


@pytest.mark.parametrize("how", STARTS)
def test_a_common_factor_changes_nothing(how):
    model = models.lenet_300_100()
    given = importance_of(model)
    scaled = {name: 1024.0 * each for name, each in given.items()}
    first, second = (pooled(weighted.share(copy.deepcopy(model), k=5, importance=h, how=how)) for h in (given, scaled))
    assert torch.equal(first, second) and len(first.unique()) <= 5


def test_the_weighted_optimum_is_the_one_of_all_layers_with_their_importance():
    model = prune(models.lenet_300_100(), density=0.1)
    given, weight = importance_of(model), pooled(model).double()
    h = torch.cat([each.flatten() for each in given.values()]).double()[weight != 0]
    expected = optimal(weight[weight != 0].numpy(), 6, h.numpy())
    shared = pooled(weighted.share(model, k=6, importance=given, floor=0.0))
    assert (shared[weight == 0] == 0).all()
    np.testing.assert_allclose(
        shared[weight != 0].double().numpy(), expected.centroids[expected.codes], rtol=1e-5, atol=1e-7
    )


def test_whole_importances_are_repeated_points():
    random = np.random.default_rng(0)
    values, times = random.normal(size=60), random.integers(1, 5, size=60)
    once, repeated = optimal(values, 4, times), optimal(np.repeat(values, times), 4)
    np.testing.assert_allclose(once.centroids, repeated.centroids)
    assert once.squared_error == pytest.approx(repeated.squared_error)


def test_weighted_lloyd_never_rises_and_never_ends_below_the_optimum():
    random = np.random.default_rng(1)
    values, h = random.normal(size=500), random.lognormal(sigma=2, size=500)
    begin = np.linspace(values.min(), values.max(), 7)
    errors = [lloyd(values, begin, h, iterations=n).squared_error for n in range(1, 30)]
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(errors))
    assert errors[-1] >= optimal(values, 7, h).squared_error * (1 - 1e-12)


def test_where_importance_is_zero_the_floor_is_all_that_counts():
    model = nn.Linear(4, 2, bias=False)
    model.weight.data = torch.tensor([[1.0, 1.1, -1.0, -1.1], [5.0, 5.1, 9.0, 9.1]])
    used = {"": torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]])}
    without = weighted.share(copy.deepcopy(model), k=4, importance=used, floor=0.0).weight
    assert torch.allclose(without[0], model.weight[0])  # all four centroids go to what matters
    floor = weighted.share(copy.deepcopy(model), k=4, importance=used, floor=1.0).weight
    assert (floor - model.weight).abs().max() < 0.2
    nothing = {"": torch.zeros(2, 4)}
    equal = weighted.share(copy.deepcopy(model), k=4, importance=nothing).weight
    assert torch.equal(equal, weighted.share(copy.deepcopy(model), k=4).weight)


def test_layers_that_importance_does_not_name_are_left_alone():
    model, dense = models.lenet_300_100(), models.lenet_300_100()
    weighted.share(model, k=4, importance={"fc1": torch.ones(300, 784), "fc3": torch.ones(10, 100)})
    assert torch.equal(model.fc2.weight, dense.fc2.weight) and compressed_form(model.fc2) is None
    assert torch.cat([model.fc1.weight.flatten(), model.fc3.weight.flatten()]).unique().numel() == 4
    assert torch.equal(pooled(weighted.share(models.lenet5(), k=4, importance={})), pooled(models.lenet5()))


# -- One parameter for all layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [1.0, 0.3])
def test_the_gradient_of_a_centroid_is_the_sum_over_all_layers(density):
    model = prune(small(), density=density)
    decompress(model)
    weighted.share(model, k=4)
    plain, data = small(), split(9, 6, dtype=torch.float64)
    plain.load_state_dict(decompress(copy.deepcopy(model)).state_dict())
    for each in (model, plain):
        nn.functional.cross_entropy(each(data.images), data.labels).backward()
    centroids = model[1].parametrizations.weight.original0
    assert centroids is model[3].parametrizations.weight.original0
    expected = torch.zeros_like(centroids)
    for name, layer in layers(model):
        form = compressed_form(layer)[0]
        expected.index_add_(0, form.codes, plain.get_submodule(name).weight.grad.flatten()[form.places])
    torch.testing.assert_close(centroids.grad, expected)


def test_training_keeps_one_codebook_and_the_zeros_and_a_copy_is_a_network_of_its_own():
    model = weighted.share(prune(models.lenet_300_100(), density=0.05), k=6)
    zero, other = pooled(model) == 0, copy.deepcopy(model)
    training.fit(other, split(40, 1, 28, 28, classes=10), epochs=2, seed=0, learning_rate=1e-3)
    assert torch.equal(pooled(other) == 0, zero) and pooled(other)[~zero].unique().numel() <= 6
    assert len([p for p in other.parameters() if p.dim() == 1]) == 1 + 3  # one codebook, three biases
    assert not torch.equal(pooled(other), pooled(model))
    again = weighted.share(other, k=3)  # compressed anew
    assert pooled(again).unique().numel() <= 4
    values = pooled(again)
    assert torch.equal(pooled(decompress(again)), values)
    assert len({id(layer.weight) for _, layer in layers(again)}) == 3


@pytest.mark.parametrize("density", [1.0, 0.4, 0.02])
def test_the_file_alone_gives_the_same_network(tmp_path, density):
    model = prune(models.lenet5(), density=density)
    decompress(model)
    weighted.share(model, k=7)
    for gap_bits in (None, 2):
        set_gap_bits(model, gap_bits)
        for coder in storage.CODERS:
            storage.save(model, tmp_path / "model.slim", coder=coder)
            again = storage.load(tmp_path / "model.slim", models.lenet5(1))
            assert torch.equal(pooled(again), pooled(model))


def test_a_file_repeats_only_the_centroids_that_a_layer_uses():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0, 2], [1, 2]])
    model[1].weight.data = torch.tensor([[5.0, 6], [0, 5]])
    weighted.share(model, k=4)
    first, second = (encoding for _, encoding in storage.streams(model))
    assert first.tables["centroid"].tolist() == [1, 2] and first.symbols["code"].tolist() == [0, 1, 0, 1]
    assert second.tables["centroid"].tolist() == [5, 6] and second.symbols["code"].tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(6, 4, 1, groups=2), nn.Conv2d(1, 1, 1), nn.Embedding(5, 3)],
)
def test_odd_layers_share(layer):
    weighted.share(layer, k=3)
    form, stored = compressed_form(layer)
    assert layer.weight.unique().numel() <= 3
    assert torch.equal(form.decode(form.encode(*stored), layer.weight.shape), layer.weight)


def test_constant_pruned_away_and_empty_layers():
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 0))
    nn.init.constant_(model[0].weight, 0.25)
    nn.init.zeros_(model[1].weight)
    weighted.share(model, k=16)
    assert model[0].weight.unique().tolist() == [0.25] and model[1].weight.count_nonzero() == 0
    for layer in model[:2]:
        form, stored = compressed_form(layer)
        assert torch.equal(form.decode(form.encode(*stored), layer.weight.shape), layer.weight)
    gone = nn.Linear(3, 3)
    nn.init.zeros_(gone.weight)
    assert weighted.share(gone, k=4).weight.count_nonzero() == 0


def test_torchvisions_networks_share_and_come_back(tmp_path):
    from lib.vision import torchvision

    model = torchvision.models.shufflenet_v2_x0_5(num_classes=4).eval()
    data = split(2, 3, 32, 32, classes=4)
    h = weighted.gauss_newton_diagonal(model, data, seed=0)
    assert {name: each.shape for name, each in h.items()} == {n: layer.weight.shape for n, layer in layers(model)}
    weighted.share(model, k=15, importance=h)
    storage.save(model, tmp_path / "model.slim")
    again = storage.load(tmp_path / "model.slim", torchvision.models.shufflenet_v2_x0_5(num_classes=4)).eval()
    assert torch.equal(again(data.images), model(data.images)) and pooled(model).unique().numel() <= 15


# -- The diagonals -----------------------------------------------------------------------------------------------------


def test_the_exact_diagonal_is_the_one_of_finite_differences():
    model, data, epsilon = small(), split(20, 6, dtype=torch.float64), 1e-4
    found = weighted.exact_diagonal(model, data, chunk=4)

    def loss():
        with torch.no_grad():
            return nn.functional.cross_entropy(model(data.images), data.labels).item()

    for name, layer in layers(model):  # ReLU is linear nearly everywhere
        numeric, flat, here = torch.zeros(layer.weight.numel(), dtype=torch.float64), layer.weight.data.view(-1), loss()
        for i, value in enumerate(flat.tolist()):
            around = []
            for flat[i] in (value - epsilon, value + epsilon):
                around.append(loss())
            flat[i] = value
            numeric[i] = (around[0] - 2 * here + around[1]) / epsilon**2
        torch.testing.assert_close(found[name].flatten(), numeric, rtol=1e-4, atol=1e-6)


def test_with_logits_linear_in_the_weights_gauss_newton_is_the_hessian():
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(4, 3).double()), split(15, 4, dtype=torch.float64)
    exact = weighted.exact_diagonal(model, data)["1"]
    p = model(data.images).softmax(dim=1)
    by_hand = (p * (1 - p)).T @ data.images.square() / 15  # E[p (1 - p) x²]
    torch.testing.assert_close(exact, by_hand)
    torch.testing.assert_close(optimal_brain_damage.curvature(model, data)["1"], exact)
    draws = 400
    sampled = weighted.gauss_newton_diagonal(model, data, seed=0, draws=draws)["1"]
    # One draw's g² is x² (y - p)², between 0 and x²: its variance is below x⁴ / 4.
    bound = 4 * (data.images**4).sum(dim=0).div(4 * draws).sqrt() / 15
    assert ((sampled - exact).abs() <= bound).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_sampled_gauss_newton_agrees_with_one_pass_for_each_class(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4))
    data = split(12, 1, 7, 7, classes=4)
    expected = optimal_brain_damage.curvature(model, data)
    found = weighted.gauss_newton_diagonal(model, data, seed=seed, draws=400)
    for name, h in expected.items():
        assert (found[name] >= 0).all()
        assert torch.norm(found[name] - h) < 0.1 * torch.norm(h)


def test_gauss_newton_depends_on_the_seed_alone_and_does_not_change_the_network():
    model, data = models.lenet5(), split(7, 1, 28, 28, classes=10)
    before = copy.deepcopy(model.state_dict())
    found = [weighted.gauss_newton_diagonal(model, data, seed=seed)["conv2"] for seed in (3, 3, 4)]
    assert torch.equal(*found[:2]) and not torch.equal(*found[1:])
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    one, data = small(), split(6, 6, dtype=torch.float64)
    sure = copy.deepcopy(one)
    sure[3].bias.data += torch.tensor([1e4, 0, 0])  # the answer is certain, so no label is drawn by chance
    certain = [weighted.gauss_newton_diagonal(sure, data, seed=0, batch_size=b)["1"] for b in (1, 4, None)]
    assert all(torch.equal(each, torch.zeros(5, 6, dtype=torch.float64)) for each in certain)


def rank_correlation(seed):
    """How well the predicted rise of the loss orders the measured one, for a network on one draw of data."""
    model, data = small(), split(300, 6, seed=seed, dtype=torch.float64)
    training.minimise(model, data, weight_decay=1e-3)
    h = weighted.exact_diagonal(model, data)
    ks, predicted, measured = range(2, 14), [], []
    with torch.no_grad():
        start = nn.functional.cross_entropy(model(data.images), data.labels)
        for k in ks:
            shared = weighted.share(copy.deepcopy(model), k=k, importance={n: v.clamp(min=0) for n, v in h.items()})
            moved = {n: (layer.weight - model.get_submodule(n).weight).square() for n, layer in layers(shared)}
            predicted.append(sum((h[n] * moved[n]).sum() / 2 for n in h).item())
            measured.append((nn.functional.cross_entropy(shared(data.images), data.labels) - start).item())
    return np.corrcoef(np.argsort(np.argsort(predicted)), np.argsort(np.argsort(measured)))[0, 1]


def test_predicted_and_measured_loss_rise_together():
    # Where a minimum lies depends on the processor's rounding, and one draw may be unlucky; the mean of six is not.
    assert np.mean([rank_correlation(seed) for seed in range(6)]) > 0.8


# -- What optimizers know ----------------------------------------------------------------------------------------------


def gradients(model, batches):
    found = []
    for batch in batches:
        loss = nn.functional.cross_entropy(model(batch.images), batch.labels)
        found.append(torch.autograd.grad(loss, model[3].weight)[0])
    return torch.stack(found)


@pytest.mark.parametrize(
    ("optimizer", "by_hand"),
    [
        ("adagrad", lambda g: g.square().sum(dim=0)),
        ("adam", lambda g: (0.001 * 0.999 ** torch.arange(len(g) - 1, -1, -1)).to(g) @ g.square().flatten(1)),
        ("rmsprop", lambda g: (0.01 * 0.99 ** torch.arange(len(g) - 1, -1, -1)).to(g) @ g.square().flatten(1)),
        ("adadelta", lambda g: (0.1 * 0.9 ** torch.arange(len(g) - 1, -1, -1)).to(g) @ g.square().flatten(1)),
    ],
)
def test_second_moments_are_those_of_the_gradients_at_the_weights_as_they_are(optimizer, by_hand):
    model, data = small(), split(10, 6, dtype=torch.float64)
    found = weighted.second_moment_roots(model, data, optimizer=optimizer, seed=0, steps=3, batch_size=10)
    g = gradients(model, [data] * 3)  # whole batches: their order does not matter
    torch.testing.assert_close(found["3"].square(), by_hand(g).reshape(3, 5))


def test_batches_go_through_the_data_again_and_again():
    model, data = small(), split(10, 6, dtype=torch.float64)
    whole = weighted.second_moment_roots(model, data, optimizer="adagrad", seed=5, steps=6, batch_size=4)["3"]
    order, generator = [], torch.Generator().manual_seed(5)
    for _ in range(2):
        order += reversed(torch.randperm(10, generator=generator).split(4))
    g = gradients(model, [Split(data.images[at], data.labels[at]) for at in order])
    torch.testing.assert_close(whole, g.square().sum(dim=0).sqrt())


def test_moments_are_read_from_the_optimizer_that_trained():
    model, data = small(), split(10, 6, dtype=torch.float64)
    adam, sgd = torch.optim.Adam(model.parameters()), torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="Adam keeps no second moment of layer '1'"):
        weighted.read_moments(model, adam)
    nn.functional.cross_entropy(model(data.images), data.labels).backward()
    for each in (adam, sgd):
        each.step()
    torch.testing.assert_close(weighted.read_moments(model, adam)["1"], 0.001**0.5 * model[1].weight.grad.abs())
    with pytest.raises(ValueError, match="SGD keeps no second moment"):
        weighted.read_moments(model, sgd)


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused_and_the_network_stays():
    model = models.lenet_300_100()
    good = importance_of(model)
    for change, says in (
        ({"k": 0}, "k must be 1 or more, not 0"),
        ({"how": "best"}, "how must be one of linear, density, random, optimal, not 'best'"),
        ({"floor": -1.0}, "floor must be 0 or more, not -1.0"),
        ({"importance": good | {"fc9": torch.ones(1)}}, "no layer 'fc9'"),
        ({"importance": good | {"fc2": torch.ones(3)}}, r"importance of layer 'fc2', of shape \(3,\)"),
        ({"importance": good | {"fc2": -good["fc2"]}}, "not negative"),
        ({"importance": good | {"fc2": good["fc2"] * float("nan")}}, "must be finite"),
    ):
        with pytest.raises(ValueError, match=says):
            weighted.share(model, **{"k": 4, "importance": good} | change)
    assert all(compressed_form(layer) is None for _, layer in layers(model))
    with pytest.raises(ValueError, match="no layer with a weight"):
        weighted.share(nn.ReLU(), k=2)
    with pytest.raises(ValueError, match="several types"):
        weighted.share(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), k=2)
    model.fc2.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        weighted.share(model, k=2)


def test_bad_measurements_are_refused():
    model, data, empty = small(), split(4, 6, dtype=torch.float64), split(0, 6, dtype=torch.float64)
    for call in (
        lambda: weighted.exact_diagonal(model, empty),
        lambda: weighted.gauss_newton_diagonal(model, empty, seed=0),
        lambda: weighted.second_moment_roots(model, empty, optimizer="adam", seed=0),
    ):
        with pytest.raises(ValueError, match="the split to measure on is empty"):
            call()
    with pytest.raises(ValueError, match="no layer with a weight"):
        weighted.gauss_newton_diagonal(nn.ReLU(), data, seed=0)
    with pytest.raises(ValueError, match="optimizer must be one of adam, adagrad, adadelta, rmsprop, not 'sgd'"):
        weighted.second_moment_roots(model, data, optimizer="sgd", seed=0)
    with pytest.raises(ValueError, match="steps and batch_size must be 1 or more, not 0 and 128"):
        weighted.second_moment_roots(model, data, optimizer="adam", seed=0, steps=0)
    model[3].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="logits hold NaN"):
        weighted.gauss_newton_diagonal(model, data, seed=0)
