"""The diagonal against the whole matrix from autograd, and the saliency against what a deletion really costs."""

import copy
from functools import partial
from itertools import product

import given
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lib import datasets, models, training
from lib.datasets import Split
from lib.pruning import magnitude
from lib.pruning import optimal_brain_damage as damage
from lib.pruning.shared import per_sample
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


class Sequences(nn.Module):
    """Samples are the second axis of what the first layer reads, as in a transformer's layers."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(x.transpose(0, 1))).mean(dim=0))


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
    "samples second": (Sequences, (5, 2, 3)),
    "as many places as samples": (Sequences, (4, 4, 3)),
    "one sample second": (Sequences, (1, 4, 3)),
    "padded in circles": (
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), nn.GELU(), nn.Flatten()),
        (3, 2, 4),
    ),
    "padded to the same size": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, (2, 3), padding="same", padding_mode="reflect"), nn.Tanh(), nn.AvgPool2d(4), nn.Flatten()
        ),
        (3, 1, 4, 4),
    ),
    "transposed convolution, volumes": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(1, 2, 2, stride=2),
            nn.Unflatten(2, (2, 2)),
            nn.Conv3d(2, 4, 2),
            nn.Flatten(2),
            nn.AdaptiveMaxPool1d(1),
            nn.Flatten(),
        ),
        (4, 1, 2, 2),
    ),
    "embedded words": (lambda: nn.Sequential(nn.Embedding(6, 3), nn.Flatten(), nn.Linear(9, 4)), (5, 3)),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_size", [2, 100])
def test_the_diagonal_is_that_of_the_whole_gauss_newton_matrix(name, batch_size):
    build, shape = NETWORKS[name]
    model, data = seeded(build), split(*shape)
    if name == "embedded words":
        data = Split((6 * data.images).long(), data.labels)
    curvature = damage.curvature(model, data, batch_size=batch_size)
    images = data.images if name == "embedded words" else data.images.double()
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


# -- Drawn classes -----------------------------------------------------------------------------------------------------


def drawn_as(monkeypatch, labels):
    """Let every draw be these labels, one or more for each sample."""
    monkeypatch.setattr(torch, "multinomial", lambda *_, **__: torch.tensor(labels).reshape(len(labels), -1))


def test_the_mean_over_all_draws_is_the_exact_diagonal(monkeypatch):
    model, data = seeded(NETWORKS["convolution"][0]), split(2, 1, 6, 6)
    p = model(data.images.double()).softmax(dim=1).detach()
    mean = dict.fromkeys(damage.curvature(model, data), 0.0)
    for labels in product(range(4), repeat=2):
        drawn_as(monkeypatch, labels)
        chance = float(p[0, labels[0]] * p[1, labels[1]])
        for name, h in damage.curvature(model, data, classes=1).items():
            mean[name] = mean[name] + chance * h
    torch.testing.assert_close(mean, damage.curvature(model, data))


def test_several_draws_are_the_mean_of_single_ones(monkeypatch):
    model, data = seeded(NETWORKS["mlp"][0]), split(2, 6)
    draws = [[0, 3], [0, 1], [2, 1], [0, 1], [0, 3]]
    alone = []
    for labels in draws:
        drawn_as(monkeypatch, labels)
        alone.append(damage.curvature(model, data, classes=1)["1"])
    drawn_as(monkeypatch, [list(of_one) for of_one in zip(*draws, strict=True)])
    torch.testing.assert_close(damage.curvature(model, data, classes=5)["1"], torch.stack(alone).mean(dim=0))


def test_draws_depend_on_the_seed_alone():
    model, data = seeded(NETWORKS["mlp"][0]), split(7, 6)
    first, again, other = (damage.curvature(model, data, classes=2, seed=seed)["1"] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.testing.assert_close(damage.curvature(model, data, classes=2, seed=3, batch_size=3)["1"], first)


def test_many_classes_take_no_more_passes_than_draws(monkeypatch):
    model, data, passes, gradient = nn.Linear(5, 1000), split(3, 5), [], torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *given, **options: passes.append(1) or gradient(*given, **options)
    )
    damage.curvature(model, data, classes=4)
    assert 1 <= len(passes) <= 4
    model.bias.data[7] = 1e4  # the answer is certain: all draws are of one class
    passes.clear()
    assert not damage.curvature(model, data, classes=4)[""].any()
    assert len(passes) == 1


# -- One pass ----------------------------------------------------------------------------------------------------------


def test_one_pass_ranks_trained_weights_as_the_exact_diagonal():
    digits = datasets.load("digits").train
    model = given.seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 10)))
    training.fit(model, digits, epochs=5, seed=0, learning_rate=0.05)
    exact, paper = (damage.saliencies(model, digits.first(200), one_pass=one_pass) for one_pass in (False, True))
    for name in exact:
        assert spearmanr(exact[name].flatten(), paper[name].flatten()).statistic > 0.98
    torch.testing.assert_close(paper["3"], exact["3"])  # behind the last layer it is exact
    assert not torch.allclose(paper["1"].sum(), exact["1"].sum(), rtol=0.02)  # elsewhere cross terms are missing


def test_one_pass_costs_what_a_gradient_costs():
    model, data = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 4)), split(30, 20)
    costs = []
    for work in (
        lambda: nn.functional.cross_entropy(model(data.images), data.labels).backward(),
        lambda: damage.curvature(model, data, one_pass=True, batch_size=30),
        lambda: damage.curvature(model, data),
    ):
        with FlopCounterMode(display=False) as counter:
            work()
        costs.append(counter.get_total_flops())
    assert costs[0] == costs[1] < costs[2]


def test_one_pass_is_the_mean_over_batches():
    model, data = seeded(NETWORKS["mlp"][0]), split(7, 6)
    whole, parts = (damage.curvature(model, data, one_pass=True, batch_size=n) for n in (100, 3))
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(damage.curvature(model, data, one_pass=True, layers=["1"])["1"], whole["1"])


# -- Networks of others ------------------------------------------------------------------------------------------------


def transformer():
    """Two blocks, whose attention reads the weight of ``out_proj`` and does not call the layer."""
    from lib.vision import torchvision

    shape = {"image_size": 8, "patch_size": 4, "num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    model = torchvision.models.VisionTransformer(num_classes=3, **shape)
    nn.init.normal_(model.heads.head.weight)  # zero at first
    return model


def callable_layers(model):
    return [name for name, layer in layers(model) if isinstance(layer, nn.Module) and not name.endswith("out_proj")]


def test_a_transformer_is_refused_by_name_and_its_other_layers_are_measured():
    model, data = seeded(transformer), split(3, 3, 8, 8, classes=3)
    with pytest.raises(ValueError, match=r"self_attention.(in_proj_weight|out_proj)"):
        damage.curvature(model, data)
    names = callable_layers(model)
    curvature = damage.curvature(model, data, layers=names)
    assert list(curvature) == names and len(names) == 6
    images = data.images.double()
    p = model(images).softmax(dim=1).detach()
    for name in ("conv_proj", "encoder.layers.encoder_layer_1.mlp.0"):
        weight = model.get_submodule(name).weight
        rows = [torch.autograd.grad(model(x[None])[0, c], weight)[0].flatten() for x in images for c in range(3)]
        j = torch.stack(rows).unflatten(0, (3, 3))
        factor = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        expected = torch.einsum("nck,ncd,ndk->k", j, factor, j) / 3
        torch.testing.assert_close(curvature[name].flatten(), expected)
    keep = damage.masks(damage.saliencies(model, data, layers=names), density=0.5)
    assert magnitude.apply(model, keep) is model


def test_the_layers_of_a_recurrent_network_that_are_called_are_measured():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 4)

        def forward(self, x):
            return self.head(self.lstm(x)[0][:, -1])

    model, data = seeded(Recurrent), split(5, 2, 3)
    p = model(data.images.double()).softmax(dim=1)
    read = model.lstm(data.images.double())[0][:, -1]
    expected = (p * (1 - p)).T @ read.square() / 5
    torch.testing.assert_close(damage.curvature(model, data, layers=["head"])["head"], expected.detach())
    for names in (None, ["lstm.weight_hh_l0"]):
        with pytest.raises(ValueError, match=r"weight 'lstm.weight_.h_l0' belongs to no layer that is called"):
            damage.saliencies(model, data, layers=names)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_small_derivative(dtype):
    model, data = models.lenet_300_100().to(dtype), split(600, 1, 28, 28)
    h = damage.curvature(model, data)
    expected = damage.curvature(models.lenet_300_100().to(dtype).float(), data)
    torch.testing.assert_close(h, expected)
    assert damage.saliencies(model, data.first(2))["fc1"].dtype == torch.float32


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_the_layout_of_the_memory_changes_nothing(at_once, monkeypatch):
    monkeypatch.setattr(per_sample, "AT_ONCE", at_once)
    model, data = seeded(NETWORKS["convolution"][0]), split(3, 1, 6, 6)
    expected = damage.curvature(model, data)
    torch.testing.assert_close(damage.curvature(model.to(memory_format=torch.channels_last), data), expected)


def test_tensors_are_made_where_the_model_is():
    model, data = models.lenet5(), split(3, 1, 28, 28)
    with torch.device("meta"):  # what is made without a device would have no values
        found = damage.curvature(model, data)
    torch.testing.assert_close(found, damage.curvature(model, data))


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


@pytest.mark.parametrize("options", [{"one_pass": True}, {"classes": 2}])
def test_the_recipe_takes_cheaper_diagonals_and_the_layers_that_are_named(options):
    model, before = models.lenet_300_100(), models.lenet_300_100()
    common = {"density": 0.25, "rounds": 2, "epochs": 1, "seed": 0, "samples": 8, "learning_rate": 0.01}
    damage.iterative(model, split(16, 1, 28, 28), layers=["fc1"], **common, **options)
    assert float((model.fc1.weight != 0).float().mean()) == pytest.approx(0.25, abs=1e-5)
    assert (model.fc2.weight != 0).all() and not torch.equal(model.fc2.weight, before.fc2.weight)


class Odd(nn.Module):
    """Networks whose layers' calls do not tell all."""

    def __init__(self, forward):
        super().__init__()
        self.first, self.second, self.last, self.odd = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3), forward

    def forward(self, x):
        return self.last(self.odd(self, x))


def without_graph(own, x):
    with torch.no_grad():
        return own.second(own.first(x))


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (lambda own, x: own.first(x), "layer 'second' did not run"),
        (lambda own, x: own.first(nn.functional.linear(x, own.second.weight)), "layer 'second' did not run"),
        (
            lambda own, x: nn.functional.linear(own.second(own.first(x)), own.first.weight),
            "the weight of layer 'first' is also read outside of the layer",
        ),
        (without_graph, "layer 'first' runs without gradients"),
        (
            lambda own, x: own.second(own.first(x.repeat(2, 1))).unflatten(0, (2, -1)).sum(dim=0),
            r"layer 'first' reads shape \(6, 4\) for 3 samples: one axis must count the samples",
        ),
        (lambda own, x: own.second(own.first(x))[:2], r"must answer 3 samples with logits of shape \(3, classes\)"),
        (lambda own, x: own.second(own.first(x))[:, None], r"not with \(3, 1, 3\)"),
    ],
)
def test_layers_whose_calls_do_not_tell_all_are_refused(forward, says):
    with pytest.raises(ValueError, match=says):
        damage.curvature(Odd(forward), split(3, 4, classes=3))


def test_a_weight_that_two_layers_share_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match="the weight of layer '0' is also read outside of the layer, or shared"):
        damage.curvature(model, split(3, 4))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.both = nn.Bilinear(4, 4, 3)

    def forward(self, x):
        return self.both(x, x)


class Unbatched(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2)

    def forward(self, x):
        return torch.stack([self.conv(image).mean(dim=(1, 2)) for image in x])


def test_layers_of_two_inputs_or_without_an_axis_of_samples_are_refused():
    with pytest.raises(ValueError, match="layer 'both', Bilinear, must read one tensor and answer with one"):
        damage.curvature(Pair(), split(3, 4, classes=3))
    for n in (1, 3):
        with pytest.raises(ValueError, match=rf"layer 'conv' reads shape \(1, 4, 4\) for {n} samples"):
            damage.curvature(Unbatched(), split(n, 1, 4, 4, classes=3))


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_missing_evidence_is_refused():
    model, data = models.lenet_300_100(), split(2, 1, 28, 28)
    with pytest.raises(ValueError, match="at least one sample is needed"):
        damage.curvature(model, data.first(0))
    with pytest.raises(ValueError, match="batch_size must be 1 or more, not 0"):
        damage.curvature(model, data, batch_size=0)
    for options, says in (
        ({"classes": 0}, "classes must be 1 or more, and None with one_pass, not 0"),
        ({"classes": 2, "one_pass": True}, "classes must be 1 or more, and None with one_pass, not 2"),
        ({"layers": ["fc9"]}, "no layer 'fc9' with a weight: it has fc1, fc2, fc3"),
    ):
        with pytest.raises(ValueError, match=says):
            damage.saliencies(model, data, **options)
    with pytest.raises(ValueError, match="weight_decay must be 0 or larger, not -1"):
        damage.saliencies(model, data, weight_decay=-1)
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
