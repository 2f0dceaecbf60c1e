"""HashedNets against indexing, hashed inputs and least squares; the file that holds the seed; the rivals."""

import copy

import given
import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from lib import datasets, measure, models, storage, training
from lib.hashing import hashed_nets
from lib.hashing.hashed_nets import HashedWeight, RemainingEdges, compress, equal_width, remove_edges
from lib.hashing.shared import mixing
from lib.vision import torchvision
from lib.weights import chain_of, compressed, compressed_form, decompress, layers


def linear(inputs: int, outputs: int, *, dtype=torch.float64, seed: int = 0) -> nn.Linear:
    return given.seeded(lambda: nn.Linear(inputs, outputs).to(dtype), seed)


def hashed(layer: nn.Module, **options) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The compressed layer, its values, and the bucket and the sign of each of its weights by the hash itself."""
    shape = layer.weight.shape
    compress(layer, **options)
    form, (values,) = compressed_form(layer)
    seed, signed = form.hash.tolist()
    keys = np.arange(shape.numel()).reshape(shape)  # i m + j
    signs = mixing.signs(keys, seed) if signed else np.ones(shape)
    return layer, values, torch.from_numpy(mixing.buckets(keys, len(values), seed)), torch.from_numpy(signs).to(values)


LAYERS = {
    "linear": (lambda: nn.Linear(20, 30), (4, 20)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 7, 7)),
    "transposed": (lambda: nn.ConvTranspose1d(4, 6, 3), (2, 4, 7)),
}


# --- what the layer computes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("signed", [True, False])
def test_output_and_gradients_are_those_of_indexed_weights(kind, signed):
    build, shape = LAYERS[kind]
    layer, values, buckets, signs = hashed(given.seeded(build).double(), fraction=0.2, signed=signed)
    plain = build().double()
    plain.load_state_dict({"weight": (values[buckets] * signs).detach(), "bias": layer.bias.detach()})
    x = torch.randn(shape, generator=given.generator(), dtype=torch.float64)
    assert torch.equal(layer(x), plain(x))
    for network in (layer, plain):
        network(x).square().sum().backward()
    expected = torch.zeros_like(values).index_add(0, buckets.flatten(), (signs * plain.weight.grad).flatten())
    torch.testing.assert_close(values.grad, expected)


def test_an_output_is_the_product_with_hashed_inputs():
    layer, values, buckets, signs = hashed(linear(40, 7), buckets={"": 9})
    x = torch.randn(40, generator=given.generator(), dtype=torch.float64)
    for i in range(7):
        phi = torch.zeros(9, dtype=torch.float64).index_add(0, buckets[i], signs[i] * x)
        torch.testing.assert_close(layer(x)[i], values @ phi + layer.bias[i])


def test_a_layer_has_as_many_magnitudes_as_buckets():
    assert len(hashed(linear(50, 40), buckets={"": 31})[0].weight.abs().unique()) == 31
    assert len(hashed(linear(50, 40), buckets={"": 31})[0].weight.unique()) == 62
    assert len(hashed(linear(50, 40), buckets={"": 31}, signed=False)[0].weight.unique()) == 31


@pytest.mark.parametrize("fraction", [1, 0.5, 1 / 3, 0.07, 1 / 64, 1e-9])
def test_a_layer_stores_the_fraction_of_its_weights_rounded_up(fraction):
    model = compress(models.mlp(inputs=20, hidden=(5,), classes=3, batch_norm=False), fraction=fraction)
    exact = {1: (100, 15), 0.5: (50, 8), 1 / 3: (34, 5), 0.07: (7, 2), 1 / 64: (2, 1), 1e-9: (1, 1)}
    assert tuple(len(values) for _, _, (values,) in compressed(model)) == exact[fraction]


def test_weights_are_dealt_evenly_to_buckets():
    model = compress(models.mlp(hidden=(300,), batch_norm=False))
    for _, form, (values,) in compressed(model):
        loads = torch.bincount(form.codes // 2, minlength=len(values)).numpy()
        assert loads.mean() == form.shape.numel() / len(values) and stats.chisquare(loads).pvalue > 1e-3


def test_each_layer_has_a_hash_of_its_own():
    model = compress(nn.Sequential(*(nn.Linear(30, 30) for _ in range(4))), buckets=dict.fromkeys("0123", 50))
    first, *others = [form.codes for _, form, _ in compressed(model)]
    for codes in others:  # one pair in a hundred has the same code by chance
        assert (codes == first).float().mean() < 0.04
    assert not torch.equal(*(chain_of(model[i]).original for i in (0, 1)))


def test_a_hash_does_not_depend_on_the_other_layers_chosen():
    alone, all_of_them = compress(models.lenet_300_100(), layers=["fc2"]), compress(models.lenet_300_100())
    assert torch.equal(alone.fc2.weight, all_of_them.fc2.weight)
    assert torch.equal(alone.fc1.weight, models.lenet_300_100().fc1.weight)


def test_the_layout_is_the_same_everywhere():
    # Files hold the seed alone: were one of these numbers to change, all that were saved would be lost.
    shared, _ = compressed_form(compress(nn.Linear(4, 3), seed=5, buckets={"": 6}))
    remaining, _ = compressed_form(remove_edges(nn.Linear(4, 3), seed=5, fraction=0.5))
    assert shared.hash.tolist() == [3567305580077179309, 1]
    assert shared.codes.tolist() == [11, 11, 3, 2, 11, 0, 0, 0, 7, 1, 7, 11]
    assert remaining.codes.tolist() == [0, 12, 12, 2, 4, 12, 12, 12, 6, 8, 12, 10]


def test_the_seed_decides_everything_and_the_random_state_nothing():
    before = torch.get_rng_state()
    first, again, other = (compress(linear(30, 20, seed=s), seed=seed) for s, seed in ((0, 1), (9, 1), (0, 2)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)


# --- where training begins --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYERS)
def test_drawn_values_are_uniform_like_those_of_a_dense_layer(kind):
    layer = LAYERS[kind][0]().double()
    weight = layer.weight.detach().clone()
    bound = 1 / weight[0].numel() ** 0.5
    assert weight.abs().max() <= bound  # torch draws from the same interval
    _, values, *_ = hashed(layer, fraction=1)
    assert stats.kstest(values.detach().numpy(), "uniform", (-bound, 2 * bound)).pvalue > 1e-3


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("count", [1, 20, 400])  # with 400 for as many weights, some buckets are empty
def test_projected_values_have_the_least_squared_error(signed, count):
    layer = linear(20, 20)
    weight = layer.weight.detach().clone()
    _, values, buckets, signs = hashed(layer, buckets={"": count}, signed=signed, start="project")
    design = np.zeros((400, count))
    design[np.arange(400), buckets.flatten()] = signs.flatten()
    best = np.linalg.lstsq(design, weight.flatten().numpy(), rcond=None)[0]  # of minimum norm: 0 in empty buckets
    np.testing.assert_allclose(values.detach().numpy(), best, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("start", ["draw", "project"])
def test_other_types_of_floats_are_kept(dtype, start):
    layer, full = linear(40, 30, dtype=dtype), linear(40, 30, dtype=dtype).double()
    compress(layer, fraction=0.1, start=start)
    compress(full, fraction=0.1, start=start)
    assert layer.weight.dtype == dtype and torch.equal(layer.weight, full.weight.to(dtype))
    layer(torch.ones(2, 40, dtype=dtype)).sum().backward()
    assert chain_of(layer).original.grad.dtype == dtype


def test_training_fits_digits_with_a_sixty_fourth_of_the_weights():
    digits = datasets.load("digits")
    model = compress(models.mlp(hidden=(100,), batch_norm=False))
    losses = training.fit(model, digits.train, epochs=8, seed=0, learning_rate=0.02, batch_size=32)
    assert sum(p.numel() for p in model.parameters()) == 1225 + 16 + 110
    assert losses[-1] < 0.3 * losses[0] and training.error_pct(model, digits.test) < 10


def test_weight_decay_leaves_the_values_alone():
    trained = []
    for decay in (0.0, 0.9):
        model = compress(given.perceptron(), fraction=0.3)
        split = given.split(20, 6, classes=3, dtype=torch.float64)
        training.fit(model, split, epochs=2, seed=0, weight_decay=decay)
        trained.append(given.state(model))
    assert given.same_state(*trained) and not given.same_state(trained[0], given.state(given.perceptron()))


# --- files and states -------------------------------------------------------------------------------------------------


def test_a_file_holds_the_values_and_the_seed_alone(tmp_path):
    model = models.mlp(hidden=(1000,), batch_norm=False)
    dense = measure.dense_bytes(model)
    size = storage.save(compress(model, seed=3), tmp_path / "model")
    stored = 4 * (12_250 + 157 + 1010)
    assert stored < size < stored + 200 and dense / size > 59
    fresh = storage.load(tmp_path / "model", models.mlp(1, hidden=(1000,), batch_norm=False))
    assert all(torch.equal(fresh.get_submodule(name).weight, layer.weight) for name, layer in layers(model))


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
@pytest.mark.parametrize("form", [HashedWeight, RemainingEdges])
def test_the_seed_survives_a_file_bit_for_bit(form, seed):
    weight = torch.randn(12, 10, generator=given.generator())
    made = form(30, seed=seed, signed=False)
    values = made.right_inverse(weight)
    encoding = made.encode(values)
    assert encoding.tables["hash"].dtype == torch.float32 and not encoding.symbols
    assert torch.equal(form.decode(encoding, weight.shape), made(values))


@pytest.mark.parametrize(
    "words", [[2.0, 0, 0, 0, 0], [1.0, 65536, 0, 0, 0], [1.0, 0, 0, 0, 40000], [1.0, 0], [0.5] * 5]
)
def test_a_damaged_hash_in_a_file_is_refused(words):
    form = HashedWeight(3, seed=0)
    encoding = form.encode(form.right_inverse(torch.ones(4, 5)))
    encoding.tables["hash"] = torch.tensor(words)
    with pytest.raises(ValueError, match=r"its hash is|seed must be|5 whole numbers are needed"):
        HashedWeight.decode(encoding, torch.Size([4, 5]))


@pytest.mark.parametrize("form", [HashedWeight, RemainingEdges])
def test_a_file_without_values_is_refused(form):
    made = form(3, seed=0)
    encoding = made.encode(made.right_inverse(torch.ones(4, 5)))
    encoding.tables["value"] = torch.zeros(0)
    with pytest.raises(ValueError, match="number of buckets must be from 1"):
        form.decode(encoding, torch.Size([4, 5]))


@pytest.mark.parametrize("make", [compress, remove_edges])
def test_a_state_dict_is_small_and_brings_its_seed_along(make):
    model, other = make(models.lenet_300_100(), seed=1), make(models.lenet_300_100(), seed=2)
    state = model.state_dict()
    assert sum(value.numel() for value in state.values()) < 266_610 / 50
    twin = copy.deepcopy(other)
    twin.load_state_dict(state)
    for name, layer in layers(model):
        assert torch.equal(twin.get_submodule(name).weight, layer.weight)
        assert not torch.equal(other.get_submodule(name).weight, layer.weight)  # the copy has a hash of its own
    storage.loads(storage.dumps(twin), model)
    assert storage.dumps(twin) == storage.dumps(model)


def test_a_model_that_is_decompressed_computes_the_same():
    model, images = compress(models.lenet5()), given.split(2, 1, 28, 28).images
    answers = model(images)
    assert torch.equal(decompress(model)(images), answers) and not list(compressed(model))
    assert isinstance(model.conv1.weight, nn.Parameter)


# --- networks we did not write ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks_of_torchvision_train_and_come_back_from_a_file(name, tmp_path):
    model, split, _ = given.of_torchvision(name)
    compress(model)
    before = given.state(model)
    training.fit(model, split, epochs=1, seed=0, learning_rate=0.01, batch_size=2)
    after = model.state_dict()
    assert all(not torch.equal(after[key], before[key]) for key in after if key.endswith("original"))
    storage.save(model, tmp_path / "model")
    fresh = storage.load(tmp_path / "model", getattr(torchvision.models, name)(num_classes=4).eval())
    assert torch.equal(fresh(split.images), model(split.images))


def test_grouped_and_depthwise_layers_come_back_alike(tmp_path):
    assert given.reads_back_alike(lambda model, names: compress(model, layers=names, fraction=0.1), tmp_path)


# --- rivals -----------------------------------------------------------------------------------------------------------


def test_edges_that_remain_are_a_random_share_and_scaled():
    layer = linear(50, 40)
    weight = layer.weight.detach().clone()
    kept = remove_edges(layer, fraction=0.1, seed=4).weight.detach()
    mask = kept != 0
    assert int(mask.sum()) == 200
    torch.testing.assert_close(kept[mask], weight[mask] / 0.1**0.5)
    assert stats.chisquare(mask.sum(0).numpy()).pvalue > 1e-3 and stats.chisquare(mask.sum(1).numpy()).pvalue > 1e-3
    assert not torch.equal(remove_edges(linear(50, 40), fraction=0.1, seed=5).weight != 0, mask)


def test_an_output_varies_as_much_with_random_edges_as_without():
    x = torch.randn(500, 400, generator=given.generator(), dtype=torch.float64)
    dense = linear(400, 200)
    sparse = remove_edges(copy.deepcopy(dense), fraction=0.1)
    assert sparse(x).var().item() == pytest.approx(dense(x).var().item(), rel=0.05)


def test_removed_edges_stay_removed_in_training_and_cost_nothing():
    model = remove_edges(models.lenet_300_100(), fraction=0.05)
    zero = {name: layer.weight == 0 for name, layer in layers(model)}
    training.fit(model, given.split(40, 1, 28, 28), epochs=2, seed=0, learning_rate=0.05)
    assert all(torch.equal(layer.weight == 0, zero[name]) for name, layer in layers(model))
    rival = compress(models.lenet_300_100(), fraction=0.05)
    assert len(storage.dumps(model)) == pytest.approx(len(storage.dumps(rival)), abs=20)  # longer by the form's name


def test_all_edges_kept_is_the_dense_network():
    model = remove_edges(models.lenet5(), fraction=1)
    assert all(torch.equal(layer.weight, models.lenet5().get_submodule(name).weight) for name, layer in layers(model))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("values", [300, 1000, 20_001])
def test_the_equal_width_is_the_largest_that_fits(depth, values):
    def size(width: int) -> int:
        network = models.mlp(inputs=20, hidden=(width,) * depth, classes=7, batch_norm=False)
        return sum(p.numel() for p in network.parameters())

    width = equal_width(values, inputs=20, outputs=7, hidden_layers=depth)
    assert size(width) <= values < size(width + 1)
    assert equal_width(size(width), inputs=20, outputs=7, hidden_layers=depth) == width


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("make", [compress, remove_edges])
def test_fractions_outside_0_to_1_are_refused(make, fraction):
    model = models.lenet5()
    with given.refused(model, rf"fraction must be in \(0, 1\], not {fraction}"):
        make(model, fraction=fraction)


@pytest.mark.parametrize("count", [0, -2, 5001, 2.5, True])
def test_buckets_below_1_or_above_the_weights_are_refused(count):
    model = models.lenet5()
    with given.refused(model, rf"buckets of layer 'fc2' must be a whole number in 1..5000, not {count}"):
        compress(model, buckets={"fc2": count})
    form = HashedWeight(21, seed=0)
    with pytest.raises(ValueError, match="21 buckets for 20 weights: accepted is one for each at most"):
        form.right_inverse(torch.zeros(4, 5))


def test_unknown_layers_and_none_are_refused():
    model = models.lenet_300_100()
    for options in ({"layers": ["fc9"]}, {"buckets": {"fc9": 2}}):
        with given.refused(model, "has no layer 'fc9' with a weight: it has fc1, fc2, fc3"):
            compress(model, **options)
    with given.refused(model, "layers is empty: name at least one of fc1, fc2, fc3"):
        compress(model, layers=[])
    with given.refused(model, "buckets are given for layer 'fc2', which is not one of layers: fc1"):
        compress(model, layers=["fc1"], buckets={"fc2": 3})
    with pytest.raises(ValueError, match="no layer with a weight"):
        compress(nn.ReLU())


@pytest.mark.parametrize("make", [compress, remove_edges])
def test_a_compressed_layer_is_refused_by_name(make):
    model = compress(models.lenet_300_100(), layers=["fc2"])
    with given.refused(model, "layer 'fc2' is compressed already, as HashedWeight: decompress it first, or leave it"):
        make(model)
    assert isinstance(compressed_form(make(model, layers=["fc1"]).fc1)[0], HashedWeight)


def test_weights_that_cannot_share_values_are_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.data[0, 0] = float("nan")
    with given.refused(model, "weights of layer '1' hold NaN or infinity"):
        compress(model)
    model[1].weight = model[0].weight
    with given.refused(model, "layers '0' and '1' share one weight"):
        compress(model)
    model = nn.Sequential(nn.Linear(3, 3), nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    with given.refused(model, "layer '1' cannot be compressed: Linear computes its weight by"):
        compress(model)
    model = nn.Sequential(nn.Embedding(5, 4, padding_idx=0), nn.Linear(4, 2))
    with given.refused(model, "layer '0' is an embedding with a row of padding"):
        compress(model)


def test_other_seeds_and_starts_are_refused():
    model = models.lenet5()
    for seed in (-1, 2**63, 0.5):
        with given.refused(model, "seed must be a whole number"):
            compress(model, seed=seed)
    with given.refused(model, "start must be one of draw, project, not 'zero'"):
        compress(model, start="zero")
    assert hashed_nets.STARTS == ("draw", "project")


def test_a_width_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="26 values are too few: a network of one unit a layer has 27"):
        equal_width(26, inputs=20, outputs=3)
    assert equal_width(27, inputs=20, outputs=3) == 1
    for sizes in ({"inputs": 0, "outputs": 1}, {"inputs": 1, "outputs": 0}):
        with pytest.raises(ValueError, match="must be 1 or more, not"):
            equal_width(100, **sizes)
    with pytest.raises(ValueError, match="must be 1 or more, not 1, 1 and 0"):
        equal_width(100, inputs=1, outputs=1, hidden_layers=0)
