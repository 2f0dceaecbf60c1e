"""Propagation against explicit matrices, the ranking against its series, and the bound that justifies both."""

import copy

import given
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from lib import models, running, structure
from lib.datasets import Split
from lib.pruning import nisp
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


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v2", "vgg11"])
def test_networks_of_others(name):
    model = getattr(torchvision.models, name)(num_classes=4).train() if name != "vgg11" else models.resnet20().train()
    data = Split(split(3, 3, 64, 64).images.float(), torch.zeros(3, dtype=torch.long))
    state = copy.deepcopy(model.state_dict())
    found = structure.groups(model, data.images[:1])
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
    for p in model.parameters():
        p.data.fill_(1e300)
    with pytest.raises(ValueError, match="overflow"):
        nisp.propagate(model, torch.full((6,), 1e10), torch.ones(1, 5))
