"""The diagonal against the whole matrix from autograd, and the saliency against what a deletion really costs."""

import copy
from functools import partial

import given
import pytest
import torch
from torch import nn

from lib import models
from lib.pruning import magnitude
from lib.pruning import optimal_brain_damage as damage
from lib.weights import layers


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def split(*shape, classes=4, seed=0):
    return given.split(*shape, classes=classes, seed=seed, labels="in turn")


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().double().eval()


class Reused(nn.Module):
    """One layer used twice, and a ReLU in place right behind a layer."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 5), nn.Linear(5, 4, bias=False)

    def forward(self, x):
        return self.outer(torch.relu_(self.inner(torch.relu_(self.inner(x.flatten(1))))))


NETWORKS = {
    "mlp": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), (7, 6)),
    "one sample, one input": (lambda: nn.Linear(1, 4), (1, 1)),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Conv2d(4, 4, 3, groups=4, bias=False),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 1, groups=2),
            nn.Flatten(),
            nn.Linear(16, 4),
        ),
        (5, 1, 6, 6),
    ),
    "used twice": (Reused, (6, 5)),
    "linear over places": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 4)),
        (5, 2, 3),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_size", [2, 100])
def test_the_diagonal_is_that_of_the_whole_gauss_newton_matrix(name, batch_size):
    build, shape = NETWORKS[name]
    model, data = seeded(build), split(*shape)
    curvature = damage.curvature(model, data, batch_size=batch_size)
    images = data.images.double()
    p = model(images).softmax(dim=1).detach()
    factor = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    for layer_name, layer in layers(model):
        key = f"{layer_name}.weight".lstrip(".")
        logits = partial(lambda key, w: torch.func.functional_call(model, {key: w}, (images,)), key)
        j = torch.func.jacrev(logits)(layer.weight.detach()).flatten(2)
        expected = torch.einsum("nck,ncd,ndk->k", j, factor, j) / len(data)
        torch.testing.assert_close(curvature[layer_name].flatten(), expected, rtol=1e-9, atol=1e-12)


def test_it_is_the_whole_second_derivative_of_a_linear_network():
    model, data = seeded(lambda: nn.Linear(6, 4)), split(9, 6)

    def loss(weight):
        return nn.functional.cross_entropy(data.images.double() @ weight.T + model.bias.detach(), data.labels)

    hessian = torch.func.hessian(loss)(model.weight.detach()).reshape(24, 24)
    torch.testing.assert_close(damage.curvature(model, data)[""].flatten(), hessian.diagonal())


def test_one_pass_of_the_paper_gives_the_same_for_one_hidden_layer():
    """d²E/da_i² = f'(a_i)² Σ_l w_li² d²E/da_l², with d²E/da_l² = 2 at linear outputs; h_ij = d²E/da_i² x_j²."""
    x = torch.rand(8, 5, generator=generator(), dtype=torch.float64)
    first, second = (torch.randn(s, generator=generator(1), dtype=torch.float64) for s in ((6, 5), (3, 6)))
    targets = torch.zeros(8, 3, dtype=torch.float64)
    hidden_slope = 1 - torch.tanh(x @ first.T).square()
    by_recursion = ((hidden_slope.square() * (second.square().sum(dim=0) * 2)).T @ x.square()) / 8
    jacobian = torch.func.jacrev(lambda w: torch.tanh(x @ w.T) @ second.T - targets)(first).flatten(2)
    torch.testing.assert_close(by_recursion.flatten(), 2 * jacobian.square().sum(dim=(0, 1)) / 8)


def test_the_last_layer_agrees_with_the_papers_p_times_one_minus_p():
    model, data = seeded(NETWORKS["mlp"][0]), split(7, 6)
    images = data.images.double()
    p, hidden = model(images).softmax(dim=1), model[:3](images)
    expected = (p * (1 - p)).T @ hidden.square() / len(data)
    torch.testing.assert_close(damage.curvature(model, data)["3"], expected.detach())


def test_a_deletion_costs_its_saliency_on_a_bowl():
    a = torch.randn(6, 6, generator=generator(), dtype=torch.float64)
    w = torch.randn(6, generator=generator(1), dtype=torch.float64)
    for h in (a @ a.T, torch.diag(a.diagonal().square())):
        for q in range(6):
            step = torch.zeros_like(w)
            step[q] = -w[q]
            assert step @ h @ step / 2 == pytest.approx(float(h[q, q] * w[q] ** 2 / 2), rel=1e-12)
    chosen = torch.tensor([1.0, 0, 1, 1, 0, 0], dtype=torch.float64)
    step = -w * chosen
    assert step @ h @ step / 2 == pytest.approx(float((chosen * h.diagonal() * w.square() / 2).sum()), rel=1e-12)


def test_rescaling_that_the_next_layer_undoes_changes_magnitudes_and_no_saliency():
    model, data = seeded(NETWORKS["mlp"][0]), split(7, 6)
    before = damage.saliencies(model, data)
    magnitudes = magnitude.masks(model, density=0.5, scope="layer")
    with torch.no_grad():
        for neuron in range(5):
            scale = 4.0 ** (neuron - 2)
            model[1].weight[neuron] *= scale
            model[1].bias[neuron] *= scale
            model[3].weight[:, neuron] /= scale
    after = damage.saliencies(model, data)
    for name, expected in before.items():
        torch.testing.assert_close(after[name], expected)
    assert any(not torch.equal(m, magnitude.masks(model, density=0.5)[n]) for n, m in magnitudes.items())


def test_saliency_is_half_curvature_times_square_and_decay_adds():
    model, data = seeded(NETWORKS["mlp"][0]), split(7, 6)
    h, s = damage.curvature(model, data), damage.saliencies(model, data, weight_decay=0.5)
    for name, layer in layers(model):
        torch.testing.assert_close(s[name], (h[name] + 0.5) * layer.weight.detach() ** 2 / 2)


def test_masks_keep_the_largest_saliencies_of_the_network_and_are_nested():
    saliency = {"a": torch.tensor([[5.0, 1.0], [0.0, 2.0]]), "b": torch.tensor([[9.0, 0.5]])}
    assert damage.masks(saliency, density=0.5)["a"].tolist() == [[True, False], [False, True]]
    last = damage.masks(saliency, density=1.0)
    assert sum(int(m.sum()) for m in last.values()) == 5  # the zero is never kept
    for density in (0.7, 0.5, 0.2):
        kept = damage.masks(saliency, density=density)
        assert all(not (kept[n] & ~last[n]).any() for n in kept)
        last = kept


def test_the_model_is_unchanged_and_pruned_weights_have_no_saliency():
    model, data = models.lenet5(0).train(), split(3, 1, 28, 28)
    magnitude.prune(model, density=0.3)
    model.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    saliency = damage.saliencies(model, data)
    assert len(saliency) == len(list(layers(model))) == 4
    assert all((saliency[name][layer.weight == 0] == 0).all() for name, layer in layers(model))
    assert model.training and all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_models_of_others_have_a_curvature_for_every_layer(name):
    from lib.vision import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.get_model(name, num_classes=3)
    curvature = damage.curvature(model, split(2, 3, 32, 32, classes=3), batch_size=1)
    for layer_name, layer in layers(model):
        h = curvature[layer_name]
        assert h.shape == layer.weight.shape and torch.isfinite(h).all() and (h >= 0).all() and (h > 0).any()


def test_the_recipe_ends_dense_at_the_density_asked_for():
    model = models.lenet_300_100()
    options = {"density": 0.1, "rounds": 2, "epochs": 1, "seed": 0, "samples": 8, "learning_rate": 0.01}
    assert damage.iterative(model, split(16, 1, 28, 28), **options) is model
    assert magnitude.density(model) == pytest.approx(0.1, abs=1e-5)
    assert model.state_dict().keys() == models.lenet_300_100().state_dict().keys()


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_missing_evidence_is_refused():
    model, data = models.lenet_300_100(), split(2, 1, 28, 28)
    with pytest.raises(ValueError, match="at least one sample is needed"):
        damage.curvature(model, data.first(0))
    with pytest.raises(ValueError, match="batch_size must be 1 or more, not 0"):
        damage.curvature(model, data, batch_size=0)
    with pytest.raises(ValueError, match="ReLU has no layer with a weight"):
        damage.curvature(nn.ReLU(), data)
    model.fc1.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="logits hold NaN or infinity"):
        damage.curvature(model, data)


@pytest.mark.parametrize("density", [0, 1.5, float("nan")])
def test_a_density_outside_0_to_1_is_refused(density):
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]"):
        damage.masks({"a": torch.ones(2, 2)}, density=density)
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\]"):
        damage.iterative(nn.Linear(2, 2), split(2, 2), density=density, rounds=1, epochs=1, seed=0, samples=1)


def test_saliencies_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="saliencies hold NaN or infinity"):
        damage.masks({"a": torch.tensor([[1.0, float("nan")]])}, density=0.5)


def test_a_misspelt_option_and_missing_samples_change_nothing():
    model, data = models.lenet_300_100(), split(8, 1, 28, 28)
    before = copy.deepcopy(model.state_dict())
    common = {"density": 0.1, "rounds": 1, "epochs": 1, "seed": 0}
    with pytest.raises(TypeError, match="no option 'learning_rat'"):
        damage.iterative(model, data, samples=8, learning_rat=0.1, **common)
    with pytest.raises(ValueError, match="rounds and samples must be 1 or more, not 1 and 0"):
        damage.iterative(model, data, samples=0, **common)
    with pytest.raises(ValueError, match="at least one sample is needed to train on"):
        damage.iterative(model, data.first(0), samples=8, **common)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
