"""Propagation against explicit matrices, the ranking against its series, and the bound that justifies both."""

import copy

import given
import given_tokens
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from lib import models, running, structure
from lib.datasets import Split
from lib.pruning import nisp
from lib.pruning.shared.groups import groups_of
from lib.vision import torchvision


def split(*shape, seed=0):
    return given.split(*shape, seed=seed, labels="zero", dtype=torch.float64)


def build(*parts, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(*[part() for part in parts]).double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.weight, module.bias, module.running_mean):
                    values.data.normal_()
                module.running_var.uniform_(0.5, 2)
    return model


CHAIN = (lambda: nn.Linear(5, 7), nn.ReLU, lambda: nn.Linear(7, 6), nn.ReLU, lambda: nn.Linear(6, 3))


def test_a_chain_of_linear_layers_is_a_product_of_magnitudes():
    model, s = build(*CHAIN), torch.rand(6).double()
    found = nisp.propagate(model, s, torch.rand(1, 5))
    torch.testing.assert_close(found["2"], s)
    torch.testing.assert_close(found["0"], model[2].weight.detach().abs().T @ s)
    assert found.keys() == {"0", "2"}


def matrix(layer, shape):
    """The dense matrix of a linear map of maps, column by column."""
    n = int(np.prod(shape))
    return layer(torch.eye(n).double().reshape(n, *shape)).flatten(1).T


def test_convolution_batch_norm_and_pooling_equal_explicit_matrices():
    model = build(
        lambda: nn.Conv2d(2, 3, 3, padding=1),
        lambda: nn.BatchNorm2d(3),
        nn.ReLU,
        lambda: nn.MaxPool2d(3, stride=2, padding=1),
        lambda: nn.Conv2d(3, 4, 2, stride=2, bias=False),
        nn.ReLU,
        nn.Flatten,
        lambda: nn.Linear(4 * 4, 5),
        lambda: nn.Linear(5, 2),
    )
    s = torch.rand(5).double()
    found = nisp.propagate(model, s, torch.rand(1, 2, 7, 7))
    s = model[7].weight.detach().abs().T @ s
    torch.testing.assert_close(found["4"], s.reshape(4, -1).sum(1))
    kernel = model[4].weight.detach().abs()
    s = matrix(lambda x: nn.functional.conv2d(x, kernel, stride=2), (3, 4, 4)).T @ s
    windows = matrix(lambda x: 9 * nn.functional.avg_pool2d(x, 3, 2, 1), (3, 7, 7))
    assert set(windows.round(decimals=9).unique().tolist()) == {0, 1}  # each place of a window gets the window's score
    s = (windows.T @ s).reshape(3, -1).sum(1)
    torch.testing.assert_close(
        found["0"], s * model[1].weight.detach().abs() / (model[1].running_var + model[1].eps) ** 0.5
    )


def test_an_addition_passes_the_score_to_both_parts():
    model = models.resnet8(width=2).double().eval()
    s = torch.rand(8).double()
    found = nisp.propagate(model, s, torch.rand(1, 3, 8, 8))
    block = model.stage3_1

    def scale(norm):
        return norm.weight.detach().abs() / (norm.running_var + norm.eps) ** 0.5

    torch.testing.assert_close(found["stage3_1.conv2"], s * scale(block.bn2))  # the mean over places, summed again
    torch.testing.assert_close(found["stage3_1.shortcut.0"], s * scale(block.shortcut[1]))


def test_scores_times_activations_are_conserved_where_nothing_is_negative():
    model = build(lambda: nn.Conv2d(1, 4, 3, bias=False), nn.ReLU, nn.Flatten, *CHAIN)
    model[3] = nn.Linear(4 * 16, 7, bias=False).double()
    for p in model.parameters():
        p.data.abs_()
    for layer in (model[5], model[7]):
        layer.bias.data.zero_()
    data, s = split(3, 1, 6, 6), torch.rand(6).double()
    with running.captured(model, ["0", "3", "5", "7"]) as flow, torch.no_grad():
        model(data.images)
    found = nisp.propagate(model, s, data.images)
    total = flow.inputs["7"] @ s
    torch.testing.assert_close(flow.outputs["5"] @ found["5"], total)
    torch.testing.assert_close(flow.outputs["3"] @ found["3"], total)
    every = copy.deepcopy(model)  # after a flatten each place has its own score: the gradient of the model itself
    images = data.images.clone().requires_grad_()
    with running.captured(every, ["7"]) as flow:
        every(images)
        (flow.inputs["7"] @ s).sum().backward()
    torch.testing.assert_close((images.grad * images).flatten(1).sum(1), total)


@pytest.mark.parametrize("seed", range(20))
def test_the_change_of_the_final_responses_is_bounded_by_what_is_pruned(seed):
    model, data = build(*CHAIN, seed=seed), torch.randn(9, 5, generator=torch.Generator().manual_seed(seed)).double()
    s = torch.rand(6, generator=torch.Generator().manual_seed(seed)).double()
    scores = nisp.propagate(model, s, data)
    with torch.no_grad():
        hidden = torch.relu(model[0](data))
        gone = torch.rand(7, generator=torch.Generator().manual_seed(seed)) < 0.5
        change = (torch.relu(model[2](hidden)) - torch.relu(model[2](hidden * ~gone))).abs() @ s
    assert (change <= (hidden[:, gone].abs() @ scores["0"][gone]) + 1e-12).all()


def test_the_ranking_is_the_sum_of_all_paths():
    values = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values[:, 1] = values[:, 0] ** 3  # another spread, the same order
    found = nisp.ranking(values, alpha=0.3)
    spread = values.std(0).numpy()
    graph = 0.3 * np.maximum.outer(spread, spread) / spread.max() + 0.7 * (1 - np.abs(spearmanr(values.numpy())[0]))
    graph *= 0.9 / np.abs(np.linalg.eigvals(graph)).max()
    total, power = np.zeros(6), np.ones(6)
    for _ in range(400):
        power = graph @ power
        total += power
    np.testing.assert_allclose(found.numpy(), total, rtol=1e-9)


def test_the_ranking_knows_spread_from_correlation():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(200, 4, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 2, 3, 4])
    assert nisp.ranking(values, alpha=1).argsort().tolist() == [0, 1, 2, 3]
    values[:, 1:3] = values[:, :1]  # three copies and a stranger
    assert nisp.ranking(values, alpha=0).argmax() == 3
    values[:, 2] = 7
    assert nisp.ranking(values)[2] == 0
    assert not nisp.ranking(torch.ones(3, 4)).any()
    assert nisp.ranking(torch.rand(5, 1)).shape == (1,)


def test_what_is_going_to_be_removed_passes_nothing_on():
    model, data = build(*CHAIN), split(30, 5)
    whole, aware = nisp.scores(model, data), nisp.scores(model, data, fraction=0.5)
    torch.testing.assert_close(aware["2"], whole["2"])
    kept = structure.keep({"2": whole["2"]}, fraction=0.5)["2"]
    importance = nisp.ranking(nisp.responses(model, data, images=30, seed=0))
    expected = model[2].weight.detach().abs()[kept].T @ importance[kept]
    torch.testing.assert_close(aware["0"].double(), expected / expected.mean(), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(aware["0"], whole["0"])


# -- Tokens, gates and layers that run twice ---------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [2, 8])
@pytest.mark.parametrize("grid", [False, True])
def test_tokens_equal_explicit_matrices(patch, grid):
    model, images = given_tokens.mixer(patch, grid), given_tokens.patches().images
    nn.init.uniform_(model.norm.weight, -1, 1)
    s = torch.rand(12).double()
    found = nisp.propagate(model, s, images)
    torch.testing.assert_close(found["fc2"], s)  # 1 / tokens at each of the tokens
    torch.testing.assert_close(found["fc1"], model.fc2.weight.detach().abs().T @ s)
    with torch.no_grad():
        deviation = (model.embed(images).var(1, correction=0) + model.norm.eps).sqrt()
        read = model.fc1.weight.abs().T @ found["fc1"] * model.norm.weight.abs() * (1 / deviation).mean()
    torch.testing.assert_close(found["embed"], s + read)


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_tokens_are_scored_like_the_same_network_in_convolutions(fraction):
    for patch in (2, 8):
        model, data = given_tokens.mixer(patch), given_tokens.patches()
        tokens, maps = (nisp.scores(m, data, fraction=fraction) for m in (model, given_tokens.AsConvolutions(model)))
        assert tokens.keys() == maps.keys() == {"fc1"} and tokens["fc1"].shape == (16,)
        torch.testing.assert_close(tokens["fc1"], maps["fc1"])


def test_a_classifier_of_tokens_is_averaged_after_it():
    model, data = given_tokens.mixer(), given_tokens.patches()
    after = nn.Sequential(model.embed, nn.Flatten(2), Turn(), model.fc1, nn.ReLU(), model.fc2, nn.ReLU(), model.head)
    read = after[:7](data.images).detach()
    torch.testing.assert_close(
        nisp.responses(after, data, images=12, seed=0).sort(0).values, read.mean(1).sort(0).values
    )
    s = torch.rand(12).double()
    torch.testing.assert_close(nisp.propagate(after, s, data.images)["3"], 64 * model.fc2.weight.detach().abs().T @ s)


class Turn(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_a_gate_is_frozen_at_its_mean():
    model, images, s = given_tokens.gated(), split(9, 2, 5, 5).images, torch.rand(4).double()
    found = nisp.propagate(model, s, images)
    with torch.no_grad():
        maps = model.first(images).relu()
        gate, read = model.gate(maps).mean((0, 2, 3)), model.second.weight[:, :, 0, 0].abs().T @ s
        torch.testing.assert_close(found["second"], s)
        torch.testing.assert_close(found["first"], gate * read)
        torch.testing.assert_close(found["excite"], maps.mean((0, 2, 3)) * read)
        torch.testing.assert_close(found["squeeze"], model.excite.weight[:, :, 0, 0].abs().T @ found["excite"])
    data = Split(images, torch.zeros(9, dtype=torch.long))
    scores = nisp.scores(model, data)
    assert scores.keys() == {"first", "second", "squeeze"}  # what the gate's filters scale is scored
    inside = nisp.propagate(model, importance(model, data), images)["squeeze"]
    torch.testing.assert_close(scores["squeeze"].double(), inside / inside.mean(), rtol=1e-6, atol=0)


def test_a_layer_that_runs_twice_is_scored_by_both_runs():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.fc(self.fc(x).relu()).relu())

    model, s = given.seeded(Twice).double(), torch.rand(3).double()
    torch.testing.assert_close(
        nisp.propagate(model, s, torch.rand(1, 3))["fc"], s + model.fc.weight.detach().abs().T @ s
    )


def one_after_the_other(model, data, fraction):
    """Importance where each group is cut after a propagation of its own: slow, and what the one pass must equal."""
    ranking = importance(model, data)
    order, scores, removed = nisp.in_order(model, data.images), {}, {}
    for group in sorted(groups_of(model, data), key=lambda group: -max(map(order.index, group.producers))):
        passed = nisp.propagate(model, ranking, data.images, removed=removed)
        scores |= {name: (passed[name] / passed[name].mean()).float() for name in group.producers}
        kept = structure.keep({name: scores[name] for name in group.producers}, fraction=fraction, groups=[group])
        removed |= {name: ~mask for name, mask in kept.items()}
    return scores


def importance(model, data):
    return nisp.ranking(nisp.responses(model, data, images=len(data), seed=0))


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: given.seeded(lambda: models.resnet8(width=4)), (3, 16, 16)),
        (given_tokens.gated, (2, 5, 5)),
        (lambda: given.seeded(models.lenet5), (1, 28, 28)),
    ],
)
def test_one_pass_cuts_as_one_propagation_for_each_layer_does(build, shape):
    model, data = build().double().eval(), split(5, *shape)
    expected = one_after_the_other(model, data, 0.4)
    with torch.no_grad():
        found = nisp.scores(model, data, fraction=0.4)
    assert found.keys() == expected.keys()
    for name, score in found.items():
        torch.testing.assert_close(score, expected[name])
    assert any(not torch.allclose(score, found[name]) for name, score in nisp.scores(model, data).items())


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v2", "vgg11", "mobilenet_v3_small"])
def test_networks_of_others(name):
    model = getattr(torchvision.models, name)(num_classes=4).train() if name != "vgg11" else models.resnet20().train()
    data = Split(split(3, 3, 64, 64).images.float(), torch.zeros(3, dtype=torch.long))
    state = copy.deepcopy(model.state_dict())
    found = groups_of(model, data)
    with torch.no_grad():
        scores = nisp.scores(model, data)
    assert scores.keys() == {name for group in found for name in group.producers}
    assert all((score >= 0).all() and score.mean() == pytest.approx(1, abs=1e-4) for score in scores.values())
    assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    structure.keep(scores, fraction=0.5, groups=found)


def test_one_channel_two_samples_no_biases():
    model = build(lambda: nn.Conv2d(1, 1, 1, bias=False), nn.Flatten, lambda: nn.Linear(4, 2, bias=False))
    assert nisp.scores(model, split(2, 1, 2, 2)) == {"0": torch.ones(1)}


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="the split is empty: at least one sample is needed to score filters"):
        nisp.scores(build(*CHAIN), split(0, 5))
    with pytest.raises(ValueError, match="responses to 1 images cannot be ranked: two or more are needed"):
        nisp.scores(build(*CHAIN), split(1, 5))
    with pytest.raises(ValueError, match="the split is empty: at least one sample is needed to run through"):
        nisp.responses(build(*CHAIN), split(0, 5), images=1, seed=0)
    for images in (0, -1):
        with pytest.raises(ValueError, match=f"images must be 1 or more, not {images}"):
            nisp.responses(build(*CHAIN), split(2, 5), images=images, seed=0)


def test_responses_that_never_change_are_refused():
    data = split(6, 5)
    data.images[:] = 1
    with pytest.raises(ValueError, match="the same for all images"):
        nisp.scores(build(*CHAIN), data)


def test_attention_and_recurrent_layers_are_refused_by_name():
    vit = torchvision.models.VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=4)
    layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.LSTM(5, 5, batch_first=True), First(), nn.Linear(5, 3)]
    recurrent = nn.Sequential(*layers)
    for model, shape, name in (
        (vit, (3, 16, 16), "layer 'encoder.layers.encoder_layer_0.self_attention', of type MultiheadAttention"),
        (recurrent, (7, 4), "layer '3', of type LSTM"),
    ):
        with given.refused(model, f"importance cannot be propagated through {name}: accepted are"):
            nisp.scores(model, given.split(3, *shape))


class First(nn.Module):
    def forward(self, x):
        return x[0][:, -1]


def test_layers_that_the_final_responses_do_not_depend_on_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.aux, self.head = nn.Linear(5, 4), nn.Linear(5, 3), nn.Linear(3, 2), nn.Linear(4, 2)

        def forward(self, x):
            aside = self.aux(self.b(x).relu())
            return self.head(self.a(x).relu()), aside

    model = given.seeded(Two).double()
    for fraction in (0.0, 0.5):
        with given.refused(model, "the final responses do not depend on layer 'b': its filters have no importance"):
            nisp.scores(model, split(4, 5), fraction=fraction)


def test_numbers_of_numpy_and_other_types_of_networks():
    model, data = build(*CHAIN), split(6, 5)
    expected = nisp.scores(model, data, images=4, seed=2)
    found = nisp.scores(model, data, images=np.int64(4), seed=np.int64(2))
    assert all(torch.equal(found[name], score) for name, score in expected.items())
    half = nisp.scores(model.bfloat16(), Split(data.images.bfloat16(), data.labels), images=4, seed=2)
    assert all(torch.allclose(half[name], score, rtol=0.1) for name, score in expected.items())
    assert model[0].weight.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"images must be a whole number, 1 or more, not 2\.5"):
        nisp.scores(model, data, images=2.5)


def test_values_that_are_not_accepted_are_named():
    model, data = build(*CHAIN), split(6, 5)
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\), not 1"):
        nisp.scores(model, data, fraction=1)
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], not 2"):
        nisp.scores(model, data, alpha=2)
    with pytest.raises(ValueError, match=r"responses of shape \(1, 3\) cannot be ranked"):
        nisp.ranking(torch.ones(1, 3))
    data.images[0, 0] = float("nan")
    with pytest.raises(ValueError, match="all finite, are needed"):
        nisp.scores(model, data)
    with pytest.raises(ValueError, match="one finite number, 0 or more"):
        nisp.propagate(model, -torch.ones(6), data.images)
    with pytest.raises(ValueError, match="the importance must be of 6 features, not 1"):
        nisp.propagate(model, torch.ones(1), torch.ones(1, 5))
    with pytest.raises(ValueError, match="layer 'fc9' does not run: accepted in removed are 0, 2, 4"):
        nisp.propagate(model, torch.ones(6), torch.ones(1, 5), removed={"fc9": torch.ones(7) > 0})
    for p in model.parameters():
        p.data.fill_(1e300)
    with pytest.raises(ValueError, match="overflow"):
        nisp.propagate(model, torch.full((6,), 1e10), torch.ones(1, 5))
