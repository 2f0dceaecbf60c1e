"""Importance of weights: three diagonals held against one another, against finite differences and by hand."""

import copy

import given as toys
import pytest
import torch
from torch import nn

from lib import models
from lib.datasets import Split
from lib.pruning import optimal_brain_damage
from lib.quantization.shared import hessian_diagonal
from lib.weights import layers, weight_named


def split(n, *shape, classes=3, seed=0, dtype=torch.float32):
    return toys.split(n, *shape, classes=classes, seed=seed, dtype=dtype)


def test_the_exact_diagonal_is_the_one_of_finite_differences():
    model, data, epsilon = toys.perceptron(), split(20, 6, dtype=torch.float64), 1e-4
    diagonal = hessian_diagonal.exact_diagonal(model, data, chunk=4)

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
        torch.testing.assert_close(diagonal[name].flatten(), numeric, rtol=1e-4, atol=1e-6)


def test_with_logits_linear_in_the_weights_gauss_newton_is_the_hessian():
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Flatten(), nn.Linear(4, 3).double()), split(15, 4, dtype=torch.float64)
    exact = hessian_diagonal.exact_diagonal(model, data)["1"]
    p = model(data.images).softmax(dim=1)
    by_hand = (p * (1 - p)).T @ data.images.square() / 15  # E[p (1 - p) x²]
    torch.testing.assert_close(exact, by_hand)
    torch.testing.assert_close(optimal_brain_damage.curvature(model, data)["1"], exact)
    draws = 400
    sampled = hessian_diagonal.gauss_newton_diagonal(model, data, seed=0, draws=draws)["1"]
    # One draw's g² is x² (y - p)², between 0 and x²: its variance is below x⁴ / 4.
    bound = 4 * (data.images**4).sum(dim=0).div(4 * draws).sqrt() / 15
    assert ((sampled - exact).abs() <= bound).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_sampled_gauss_newton_agrees_with_one_pass_for_each_class(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4))
    data = split(12, 1, 7, 7, classes=4)
    expected = optimal_brain_damage.curvature(model, data)
    sampled = hessian_diagonal.gauss_newton_diagonal(model, data, seed=seed, draws=400)
    for name, h in expected.items():
        assert (sampled[name] >= 0).all()
        assert torch.norm(sampled[name] - h) < 0.1 * torch.norm(h)


def test_gauss_newton_depends_on_the_seed_alone_and_leaves_the_network():
    model, data = models.lenet5(), split(7, 1, 28, 28, classes=10)
    before = copy.deepcopy(model.state_dict())
    drawn = [hessian_diagonal.gauss_newton_diagonal(model, data, seed=seed)["conv2"] for seed in (3, 3, 4)]
    assert torch.equal(*drawn[:2]) and not torch.equal(*drawn[1:])
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    one, data = toys.perceptron(), split(6, 6, dtype=torch.float64)
    sure = copy.deepcopy(one)
    sure[3].bias.data += torch.tensor([1e4, 0, 0])  # the answer is certain, so no label is drawn by chance
    certain = [hessian_diagonal.gauss_newton_diagonal(sure, data, seed=0, batch_size=b)["1"] for b in (1, 4, None)]
    assert all(torch.equal(h, torch.zeros(5, 6, dtype=torch.float64)) for h in certain)


# -- Networks of others ------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(3, 1, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(dim=1))


class Branching(nn.Module):
    """Python looks at the values, so no batch of samples runs at once in vmap."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        x = x.mean(dim=1)
        return self.other(torch.tanh(self.one(x))) if x.sum() > -1e9 else x


def shared():
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Flatten(), nn.Linear(15, 3))
    model[2].weight = model[0].weight
    return model


NETWORKS = {
    "recurrent": (Recurrent, ["lstm.weight_hh_l0", "lstm.weight_ih_l0", "head"]),
    "attention": (Attending, ["attention.in_proj_weight", "attention.out_proj", "head"]),
    "branches": (Branching, ["one", "other"]),
    "one weight of two layers": (shared, ["0", "2", "4"]),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_every_kind_are_measured(name, monkeypatch):
    build, names = NETWORKS[name]
    model, data = toys.seeded(build).double().eval(), split(4, 5, 3, dtype=torch.float64)
    monkeypatch.setattr(torch, "multinomial", lambda p, draws, **_: (torch.arange(len(p)) % 3)[:, None])
    found = hessian_diagonal.gauss_newton_diagonal(model, data, seed=0)
    assert list(found) == names
    for layer_name in names:
        weight = weight_named(model, layer_name).weight
        expected = torch.zeros_like(weight)
        for i, x in enumerate(data.images):
            loss = nn.functional.cross_entropy(model(x[None]), torch.tensor([i % 3]))
            expected += torch.autograd.grad(loss, weight)[0].square() / 4
        torch.testing.assert_close(found[layer_name], expected.detach())
    exact = hessian_diagonal.exact_diagonal(model, data, layers=names[:1])
    weight, epsilon = weight_named(model, names[0]).weight, 1e-4
    at, losses = (1, 2), []
    for step in (-epsilon, 0, epsilon):
        with torch.no_grad():
            weight[at] += step
            losses.append(nn.functional.cross_entropy(model(data.images), data.labels).item())
            weight[at] -= step
    assert list(exact) == names[:1]
    assert exact[names[0]][at].item() == pytest.approx((losses[0] - 2 * losses[1] + losses[2]) / epsilon**2, abs=1e-5)
    roots = hessian_diagonal.second_moment_roots(model, data, optimizer="adagrad", seed=0, steps=1, layers=names[1:])
    assert list(roots) == names[1:]
    whole = nn.functional.cross_entropy(model(data.images), data.labels)
    gradient = torch.autograd.grad(whole, weight_named(model, names[1]).weight)[0]
    torch.testing.assert_close(roots[names[1]], gradient.abs())


def test_a_weight_that_the_loss_does_not_depend_on_is_named():
    class Branched(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.branch = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            return self.trunk(x) + (self.branch(x) if self.training else 0)

    model, data = Branched(), split(6, 6)
    for call in (
        lambda **o: hessian_diagonal.exact_diagonal(model, data, **o),
        lambda **o: hessian_diagonal.gauss_newton_diagonal(model, data, seed=0, **o),
        lambda **o: hessian_diagonal.second_moment_roots(model, data, optimizer="adam", seed=0, steps=1, **o),
    ):
        with pytest.raises(ValueError, match="does not depend on the weight of layer 'branch'"):
            call()
        assert list(call(layers=["trunk"])) == ["trunk"]
        with pytest.raises(ValueError, match="has no layer '9'"):
            call(layers=["9"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_small_gradient(dtype):
    model, data = models.lenet_300_100().to(dtype), split(3, 1, 28, 28)
    h = hessian_diagonal.gauss_newton_diagonal(model, data, seed=0)
    torch.testing.assert_close(h, hessian_diagonal.gauss_newton_diagonal(model.float(), data, seed=0))


def test_tensors_are_made_where_the_model_is():
    model, data = toys.perceptron(), split(6, 6, dtype=torch.float64)
    expected = hessian_diagonal.exact_diagonal(model, data)
    drawn = hessian_diagonal.gauss_newton_diagonal(model, data, seed=0)
    with torch.device("meta"):  # what is made without a device would have no values
        torch.testing.assert_close(hessian_diagonal.exact_diagonal(model, data), expected)
        torch.testing.assert_close(hessian_diagonal.gauss_newton_diagonal(model, data, seed=0), drawn)


def gradients(model, batches):
    rows = []
    for batch in batches:
        loss = nn.functional.cross_entropy(model(batch.images), batch.labels)
        rows.append(torch.autograd.grad(loss, model[3].weight)[0])
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("optimizer", "by_hand"),
    [
        ("adagrad", lambda g: g.square().sum(dim=0)),
        ("adam", lambda g: (0.001 * 0.999 ** torch.arange(len(g) - 1, -1, -1)).to(g) @ g.square().flatten(1)),
        ("rmsprop", lambda g: (0.01 * 0.99 ** torch.arange(len(g) - 1, -1, -1)).to(g) @ g.square().flatten(1)),
        ("adadelta", lambda g: (0.1 * 0.9 ** torch.arange(len(g) - 1, -1, -1)).to(g) @ g.square().flatten(1)),
    ],
)
def test_second_moments_are_those_of_the_gradients_at_resting_weights(optimizer, by_hand):
    model, data = toys.perceptron(), split(10, 6, dtype=torch.float64)
    roots = hessian_diagonal.second_moment_roots(model, data, optimizer=optimizer, seed=0, steps=3, batch_size=10)
    g = gradients(model, [data] * 3)  # whole batches: their order does not matter
    torch.testing.assert_close(roots["3"].square(), by_hand(g).reshape(3, 5))


def test_batches_go_through_the_data_again_and_again():
    model, data = toys.perceptron(), split(10, 6, dtype=torch.float64)
    whole = hessian_diagonal.second_moment_roots(model, data, optimizer="adagrad", seed=5, steps=6, batch_size=4)["3"]
    order, generator = [], torch.Generator().manual_seed(5)
    for _ in range(2):
        order += reversed(torch.randperm(10, generator=generator).split(4))
    g = gradients(model, [Split(data.images[at], data.labels[at]) for at in order])
    torch.testing.assert_close(whole, g.square().sum(dim=0).sqrt())


def test_moments_are_read_from_the_optimizer_that_trained():
    model, data = toys.perceptron(), split(10, 6, dtype=torch.float64)
    adam, sgd = torch.optim.Adam(model.parameters()), torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="Adam keeps no second moment of layer '1'"):
        hessian_diagonal.read_moments(model, adam)
    nn.functional.cross_entropy(model(data.images), data.labels).backward()
    for optimizer in (adam, sgd):
        optimizer.step()
    torch.testing.assert_close(hessian_diagonal.read_moments(model, adam)["1"], 0.001**0.5 * model[1].weight.grad.abs())
    with pytest.raises(ValueError, match="SGD keeps no second moment"):
        hessian_diagonal.read_moments(model, sgd)


def test_bad_measurements_are_refused():
    model, data, empty = toys.perceptron(), split(4, 6, dtype=torch.float64), split(0, 6, dtype=torch.float64)
    for call in (
        lambda: hessian_diagonal.exact_diagonal(model, empty),
        lambda: hessian_diagonal.gauss_newton_diagonal(model, empty, seed=0),
        lambda: hessian_diagonal.second_moment_roots(model, empty, optimizer="adam", seed=0),
    ):
        with pytest.raises(ValueError, match="the split is empty: at least one sample is needed to measure on"):
            call()
    with pytest.raises(ValueError, match="no layer with a weight"):
        hessian_diagonal.gauss_newton_diagonal(nn.ReLU(), data, seed=0)
    with pytest.raises(ValueError, match="optimizer must be one of adam, adagrad, adadelta, rmsprop, not 'sgd'"):
        hessian_diagonal.second_moment_roots(model, data, optimizer="sgd", seed=0)
    with pytest.raises(ValueError, match="steps and batch_size must be 1 or more, not 0 and 128"):
        hessian_diagonal.second_moment_roots(model, data, optimizer="adam", seed=0, steps=0)
    with pytest.raises(ValueError, match="chunk must be 1 or more, not 0"):
        hessian_diagonal.exact_diagonal(model, data, chunk=0)
    for wrong in ("draws", "batch_size"):
        with pytest.raises(ValueError, match=f"{wrong} must be 1 or more, not 0"):
            hessian_diagonal.gauss_newton_diagonal(model, data, seed=0, **{wrong: 0})
    model[3].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="logits hold NaN"):
        hessian_diagonal.gauss_newton_diagonal(model, data, seed=0)
