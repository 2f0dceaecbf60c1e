"""The norm of filters against its definition, and layer after layer against the layers one by one."""

import copy

import given
import given_tokens
import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib import models, structure
from lib.datasets import Split
from lib.pruning import filter_l1
from lib.vision import torchvision


def images(*shape, n=3, seed=0):
    return given.split(n, *shape, seed=seed)


GRAY, COLOR, PHOTOGRAPH = images(1, 28, 28), images(3, 32, 32), images(3, 64, 64, n=1)


def test_a_score_is_the_sum_of_the_absolute_weights_of_one_filter():
    model = models.lenet5()
    scores = filter_l1.scores(model, GRAY)
    assert scores.keys() == {"conv1", "conv2", "fc1"}
    for name, score in scores.items():
        filters = model.get_submodule(name).weight.detach()
        assert score.shape == filters.shape[:1]
        for value, one in zip(score[:5], filters[:5], strict=True):
            assert float(value) == pytest.approx(sum(abs(w) for w in one.flatten().tolist()), rel=1e-5)


@pytest.mark.parametrize("build", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
@pytest.mark.parametrize("folded", [False, True])
def test_networks_we_did_not_write_get_a_score_for_every_filter(build, folded):
    model = getattr(torchvision.models, build)(num_classes=10)
    found = structure.groups(model, PHOTOGRAPH.images)
    scores = filter_l1.scores(model, PHOTOGRAPH, folded=folded)
    assert {name: len(score) for name, score in scores.items()} == {
        name: group.channels for group in found for name in group.producers
    }
    assert model.training
    assert sum(structure.keep(scores, fraction=0.5, groups=found).removed.values()) > 0


def test_a_scale_moved_into_the_next_layer_changes_only_the_rank():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(2 * 24 * 24, 3)
    ).double()
    data = Split(GRAY.images.double(), GRAY.labels)
    before, answer = filter_l1.scores(model, data)["0"], model(data.images)
    first = int(before.argmin())
    with torch.no_grad():
        model[0].weight[first] *= 100
        model[0].bias[first] *= 100
        model[2].weight[:, first] /= 100
    assert torch.allclose(model(data.images), answer, atol=1e-12)
    assert filter_l1.scores(model, data)["0"].argmax() == first


def test_folded_counts_what_batch_norm_multiplies_with():
    model = models.resnet8().double()
    data = Split(COLOR.images.double(), COLOR.labels)
    generator = torch.Generator().manual_seed(1)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data = torch.randn(len(layer.weight), generator=generator, dtype=torch.float64)
            layer.running_var = torch.rand(len(layer.weight), generator=generator, dtype=torch.float64) + 0.1
    scores = filter_l1.scores(model, data, folded=True)
    for conv, norm in (
        ("conv", "bn"),
        ("stage1_1.conv1", "stage1_1.bn1"),
        ("stage3_1.shortcut.0", "stage3_1.shortcut.1"),
    ):
        fused = fuse_conv_bn_eval(model.get_submodule(conv).eval(), model.get_submodule(norm).eval())
        assert torch.allclose(scores[conv], fused.weight.abs().sum((1, 2, 3)))
    plain = filter_l1.scores(model, data)
    assert not torch.allclose(plain["conv"], scores["conv"])


def test_folded_leaves_layers_without_batch_norm_alone():
    model = models.lenet5()
    plain, folded = filter_l1.scores(model, GRAY), filter_l1.scores(model, GRAY, folded=True)
    assert all(torch.equal(plain[name], folded[name]) for name in plain)


def test_greedy_ranks_like_scores_where_only_one_layer_is_cut():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 30), nn.ReLU(), nn.Linear(30, 10))
    masks = filter_l1.greedy(model, GRAY, fraction=0.4)
    alone = structure.keep(filter_l1.scores(model, GRAY), fraction=0.4)
    assert masks.keys() == alone.keys() == {"1"}
    assert torch.equal(masks["1"], alone["1"])


def test_greedy_leaves_out_the_kernels_that_are_gone():
    model = models.lenet5(1)
    before = copy.deepcopy(model.state_dict())
    masks = filter_l1.greedy(model, GRAY, fraction=0.5)
    first = structure.keep(filter_l1.scores(model, GRAY), fraction=0.5)["conv1"]
    second = model.conv2.weight.detach()[:, first].abs().sum((1, 2, 3))
    assert torch.equal(masks["conv1"], first)
    assert torch.equal(masks["conv2"], structure.keep({"conv2": second}, fraction=0.5)["conv2"])
    third = model.fc1.weight.detach().reshape(500, 50, 16)[:, masks["conv2"]].abs().sum((1, 2))
    assert torch.equal(masks["fc1"], structure.keep({"fc1": third}, fraction=0.5)["fc1"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_greedy_leaves_out_the_kernels_of_a_grouped_convolution_too():
    model = given.seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 3, groups=2), nn.Conv2d(4, 3, 1), nn.Conv2d(3, 2, 1))
    )
    masks = filter_l1.greedy(model, GRAY, fraction=0.5)
    weight = model[1].weight.detach().clone()
    for row in range(4):  # a filter of block b reads the maps 3 b to 3 b + 2
        weight[row, ~masks["0"][3 * (row // 2) : 3 * (row // 2) + 3]] = 0
    assert torch.equal(masks["1"], structure.keep({"1": weight.abs().sum((1, 2, 3))}, fraction=0.5)["1"])
    assert not torch.equal(masks["1"], structure.keep(filter_l1.scores(model, GRAY), fraction=0.5)["1"])


def test_greedy_and_scores_of_tokens_are_those_in_convolutions():
    model, data = given_tokens.mixer(), given_tokens.patches()
    maps = given_tokens.AsConvolutions(model)
    assert torch.equal(filter_l1.scores(model, data)["fc1"], filter_l1.scores(maps, data)["fc1"])
    masks = [filter_l1.greedy(m, data, fraction=0.5)["fc1"] for m in (model, maps)]
    assert torch.equal(*masks) and not masks[0][3]  # unit 3 is dead


def test_a_gate_is_no_filter_of_the_channel_that_it_scales():
    model, data = given_tokens.gated(), given.split(3, 2, 5, 5, dtype=torch.float64)
    for scores in (filter_l1.scores(model, data), filter_l1.greedy(model, data, fraction=0.3)):
        assert scores.keys() == {"first", "second", "squeeze"}
    masks = filter_l1.greedy(model, data, fraction=0.5)
    assert structure.shrink(model, masks, data.images).excite.out_channels == 3  # it goes with the channels


def test_norms_of_half_the_precision_are_summed_in_full():
    model = nn.Sequential(nn.Conv2d(1, 4, 25), nn.Flatten(), nn.Linear(4 * 16, 3)).bfloat16()
    scores = filter_l1.scores(model, Split(GRAY.images.bfloat16(), GRAY.labels))
    assert torch.equal(scores["0"], model[0].weight.detach().float().abs().flatten(1).sum(1))


def test_folded_needs_the_running_variance_of_a_batch_norm():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(4 * 676, 2)
    )
    with given.refused(model, "batch norm '1' keeps no running variance: folded needs it"):
        filter_l1.scores(model, GRAY, folded=True)


def test_greedy_masks_of_a_residual_network_can_be_cut_out():
    model = models.resnet8().double().eval()
    data = Split(COLOR.images.double(), COLOR.labels)
    masks = filter_l1.greedy(model, data, fraction=0.5)
    small, masked = (cut(model, masks, data.images) for cut in (structure.shrink, structure.mask))
    assert masks.removed["conv"] == masks.removed["stage1_1.conv2"] == 8
    assert torch.allclose(small(data.images), masked(data.images), atol=1e-12)
    assert sum(p.numel() for p in small.parameters()) < 0.3 * sum(p.numel() for p in model.parameters())


def test_the_largest_filters_are_the_complement_of_the_smallest():
    scores = filter_l1.scores(models.lenet5(), GRAY)
    smallest = structure.keep(scores, fraction=0.5)
    largest = structure.keep({name: -score for name, score in scores.items()}, fraction=0.5)
    assert all(torch.equal(smallest[name], ~largest[name]) for name in scores)


@pytest.mark.parametrize("score", [filter_l1.scores, lambda model, data: filter_l1.greedy(model, data, fraction=0.5)])
def test_an_empty_split_and_weights_not_finite_are_refused(score):
    model = models.lenet5()
    with pytest.raises(ValueError, match="the split is empty: at least one sample"):
        score(model, GRAY.first(0))
    model.conv2.weight.data[3] = float("inf")
    with pytest.raises(ValueError, match="weights of layer 'conv2' hold NaN or infinity"):
        score(model, GRAY)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_greedy_refuses_a_fraction_outside(fraction):
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\), not"):
        filter_l1.greedy(models.lenet5(), GRAY, fraction=fraction)
