"""One codebook for all layers: one parameter, its gradient, its file."""

import copy

import given as toys
import pytest
import torch
from torch import nn

from lib import models, storage, training
from lib.pruning.magnitude import prune
from lib.quantization import hessian_weighted_kmeans as weighted
from lib.quantization.deep_compression import set_gap_bits
from lib.quantization.optimal_kmeans import optimal
from lib.quantization.shared import hessian_diagonal
from lib.quantization.shared.joint_codebook import share_together
from lib.weights import compressed, compressed_form, decompress, layers


def split(n, *shape, classes=3, seed=0, dtype=torch.float32):
    return toys.split(n, *shape, classes=classes, seed=seed, dtype=dtype)


def pooled(model):
    return torch.cat([layer.weight.detach().flatten() for _, layer in layers(model)])


def test_layers_that_importance_does_not_name_are_left_alone():
    model, dense = models.lenet_300_100(), models.lenet_300_100()
    weighted.share(model, k=4, importance={"fc1": torch.ones(300, 784), "fc3": torch.ones(10, 100)})
    assert torch.equal(model.fc2.weight, dense.fc2.weight) and compressed_form(model.fc2) is None
    assert torch.cat([model.fc1.weight.flatten(), model.fc3.weight.flatten()]).unique().numel() == 4
    assert torch.equal(pooled(weighted.share(models.lenet5(), k=4, importance={})), pooled(models.lenet5()))


@pytest.mark.parametrize("density", [1.0, 0.3])
def test_the_gradient_of_a_centroid_is_the_sum_over_all_layers(density):
    model = prune(toys.perceptron(), density=density)
    decompress(model)
    weighted.share(model, k=4)
    plain, data = toys.perceptron(), split(9, 6, dtype=torch.float64)
    plain.load_state_dict(decompress(copy.deepcopy(model)).state_dict())
    for network in (model, plain):
        nn.functional.cross_entropy(network(data.images), data.labels).backward()
    centroids = model[1].parametrizations.weight.original0
    assert centroids is model[3].parametrizations.weight.original0
    expected = torch.zeros_like(centroids)
    for name, layer in layers(model):
        form = compressed_form(layer)[0]
        expected.index_add_(0, form.codes, plain.get_submodule(name).weight.grad.flatten()[form.places])
    torch.testing.assert_close(centroids.grad, expected)


def test_training_keeps_one_codebook_and_the_zeros_and_a_copy_its_own():
    model = weighted.share(prune(models.lenet_300_100(), density=0.05), k=6)
    zero, other = pooled(model) == 0, copy.deepcopy(model)
    training.fit(other, split(40, 1, 28, 28, classes=10), epochs=2, seed=0, learning_rate=1e-3)
    assert torch.equal(pooled(other) == 0, zero) and pooled(other)[~zero].unique().numel() <= 6
    assert len([p for p in other.parameters() if p.dim() == 1]) == 1 + 3  # one codebook, three biases
    assert not torch.equal(pooled(other), pooled(model))
    again = weighted.share(other, k=3)  # compressed again
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
    h = hessian_diagonal.gauss_newton_diagonal(model, data, seed=0)
    assert {name: diagonal.shape for name, diagonal in h.items()} == {
        n: layer.weight.shape for n, layer in layers(model)
    }
    weighted.share(model, k=15, importance=h)
    storage.save(model, tmp_path / "model.slim")
    again = storage.load(tmp_path / "model.slim", torchvision.models.shufflenet_v2_x0_5(num_classes=4)).eval()
    assert torch.equal(again(data.images), model(data.images)) and pooled(model).unique().numel() <= 15


def test_the_values_are_clustered_with_weights_of_mean_one_plus_the_floor():
    model, seen = models.lenet_300_100(), []

    def cluster(values, weights):
        seen.append((len(values), weights.mean(), weights.min()))
        return optimal(values, 3, weights)

    importance = {"fc2": torch.rand(100, 300), "fc3": torch.rand(10, 100)}
    share_together(model, cluster, importance=importance, floor=0.5)
    ((count, mean, least),) = seen
    assert count == 31_000 and mean == pytest.approx(1.5) and least >= 0.5
    assert pooled(model[2:]).unique().numel() == 3 and compressed_form(model.fc1) is None


def test_importance_that_does_not_fit_is_refused_before_anything_is_changed():
    model, ones = models.lenet_300_100(), torch.ones(100, 300)
    for importance, floor, says in (
        ({"fc2": ones}, -1.0, "floor must be 0 or more, not -1.0"),
        ({"fc9": ones}, 0.0, "has no layer 'fc9' with a weight: it has fc1, fc2, fc3"),
        ({"fc2": ones[0]}, 0.0, r"importance of layer 'fc2', of shape \(300,\)"),
        ({"fc2": -ones}, 0.0, "not negative"),
    ):
        with pytest.raises(ValueError, match=says):
            share_together(model, lambda v, h: optimal(v, 2, h), importance=importance, floor=floor)
    assert all(compressed_form(layer) is None for _, layer in layers(model))


def test_packed_weights_share_the_codebook_of_the_layers():
    model = toys.seeded(toys.Sequences).eval()
    share_together(model, lambda values, weights: optimal(values, 6, weights))
    assert pooled(model).unique().numel() == 6 and "recurrent.weight_hh_l0_reverse" in dict(layers(model))
    assert len({id(stored[0]) for _, _, stored in compressed(model)}) == 1
    ones = {"encoder.self_attn.in_proj_weight": torch.ones(24, 8), "head": torch.ones(10, 12)}
    few = share_together(toys.seeded(toys.Sequences), lambda v, w: optimal(v, 3, w), importance=ones)
    assert [name for name, _, _ in compressed(few)] == list(ones)
