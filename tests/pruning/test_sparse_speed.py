"""Sparse products against the dense layer, and break-even densities against their formula. No test looks at a clock."""

import copy
import math

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from lib import measure, models, structure
from lib.pruning import magnitude
from lib.pruning.sparse_speed import Race, break_even, csr, products, race, shrunk, shrunk_to, thinned
from lib.vision import torchvision


def thin(layer, density=0.2, seed=0):
    return thinned(layer, density=density, seed=seed)


def same(layer, inputs):
    calls = products(layer, inputs)
    expected = layer(inputs)
    assert list(calls) == ["dense", "scipy CSR", "torch CSR"]
    for name, call in calls.items():
        for _ in range(2):  # a call leaves nothing behind
            result = call()
            assert result.shape == expected.shape, name
            assert torch.allclose(result, expected, atol=1e-4), name


def test_a_large_weight_is_compressed_in_parts_as_it_is_whole():
    weight = torch.zeros(5, 2**22)  # four rows are compressed at a time
    places = torch.randint(0, weight.numel(), (1000,), generator=torch.Generator().manual_seed(0))
    weight.view(-1)[places] = places.float() + 1
    weight[3] = 0  # an empty row
    matrix, expected = csr(weight), scipy.sparse.csr_array(weight.numpy())
    assert (matrix != expected).nnz == 0 and matrix.nnz == expected.nnz
    assert np.array_equal(matrix.indptr, expected.indptr) and matrix.indptr.dtype == matrix.indices.dtype == np.int32


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("density", [0.01, 0.5, 1.0])
def test_linear_products_agree(n, bias, density):
    same(thin(nn.Linear(40, 30, bias=bias), density), torch.randn(n, 40, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"stride": 2, "bias": False}, {"dilation": (2, 1), "padding": (0, 2)}]
)
def test_convolution_products_agree(n, options):
    same(thin(nn.Conv2d(3, 8, 3, **options)), torch.randn(n, 3, 11, 9, generator=torch.Generator().manual_seed(0)))


def test_a_layer_that_was_pruned_and_one_of_zeros():
    layer = magnitude.prune(nn.Linear(20, 10), density=0.3)
    same(layer, torch.randn(4, 20))
    assert csr(layer.weight).nnz == 60
    empty = nn.Linear(5, 3)
    nn.init.zeros_(empty.weight)
    same(empty, torch.randn(1, 5))


def test_layers_of_a_network_that_others_wrote():
    model = torchvision.models.squeezenet1_1(num_classes=4).eval()
    magnitude.prune(model, density=0.1)
    same(model.features[0], torch.rand(1, 3, 32, 32))
    same(model.features[3].squeeze, torch.rand(2, 64, 8, 8))


def test_compressed_rows_hold_exactly_the_non_zeros():
    weight = torch.randn(6, 2, 3, 3) * (torch.rand(6, 2, 3, 3) < 0.3)
    matrix = csr(weight)
    assert matrix.nnz == weight.count_nonzero() and matrix.indices.dtype == np.int32 == matrix.indptr.dtype
    assert np.array_equal(matrix.toarray(), weight.flatten(1).numpy())


@pytest.mark.parametrize("density", [0.04, 0.35, 1.0])
def test_thinned_layers_have_the_density_of_independent_draws(density):
    layer = thin(nn.Linear(500, 400), density)
    kept = layer.weight.count_nonzero().item() / layer.weight.numel()
    assert kept == pytest.approx(density, abs=4 * math.sqrt(density * (1 - density) / 200_000) + 1e-9)
    assert layer.weight[layer.weight != 0].std().item() == pytest.approx(500**-0.5, rel=0.05)
    columns = (layer.weight != 0).float().mean(0)
    assert columns.std().item() == pytest.approx(math.sqrt(density * (1 - density) / 400), rel=0.2, abs=1e-9)


def test_the_seed_decides_which_weights_are_there():
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()
    weights = [thin(nn.utils.skip_init(nn.Linear, 50, 40), seed=seed).weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state[0]) and np.random.get_state()[1].tolist() == state[1]


@pytest.mark.parametrize("multiple_of", [1, 8])
@pytest.mark.parametrize("name", ["resnet8", "resnet18", "mobilenet_v2"])
def test_shrunk_networks_are_smaller_and_keep_the_filters_of_largest_magnitude(name, multiple_of):
    model = models.resnet8() if name == "resnet8" else getattr(torchvision.models, name)(num_classes=3)
    model, x = model.eval(), torch.rand(2, 3, 32, 32)
    before = copy.deepcopy(model.state_dict())
    small = shrunk(model, x[:1], fraction=5 / 16, multiple_of=multiple_of)
    assert measure.multiply_adds(small, (3, 32, 32)) < 0.65 * measure.multiply_adds(model, (3, 32, 32))
    assert small(x).shape == model(x).shape
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if name == "resnet8":
        norms = model.stage1_1.conv1.weight.abs().flatten(1).sum(1)
        kept = small.stage1_1.conv1.out_channels
        expected = norms.topk(kept).indices.sort().values
        tied = next(g for g in structure.groups(model, x) if "conv" in g.producers)
        assert kept == (11 if multiple_of == 1 else 8)
        assert torch.equal(small.stage1_1.bn1.weight, model.stage1_1.bn1.weight[expected])
        assert len(tied.producers) > 1  # the stem and the block's sum lose the same channels
        assert small.conv.out_channels == small.stage1_1.conv2.out_channels


@pytest.mark.parametrize("n", [1, 3])
def test_a_race_counts_the_work_of_one_input(n):
    timed = race(thin(nn.Conv2d(2, 4, 3), 0.25), torch.rand(n, 2, 6, 7), runs=20)
    kept = thin(nn.Conv2d(2, 4, 3), 0.25).weight.count_nonzero().item()
    assert (timed.dense_work, timed.sparse_work) == (20 * 72, 20 * kept)
    assert timed.dense_ms > 0 and timed.ratio == timed.sparse_ms / timed.dense_ms
    assert race(thin(nn.Linear(7, 5), 1.0), torch.rand(n, 7), runs=20).sparse_work == 35


def test_the_ratio_of_a_race_is_below_one_where_sparse_is_faster():
    assert Race(4.0, 1.0, 100, 10).ratio == 0.25


def test_break_even_is_where_the_line_in_logarithms_reaches_one():
    densities = [0.01, 0.03, 0.1, 0.3]
    ratios = [(d / 0.07) ** 0.8 for d in densities]  # a straight line in logarithms
    assert break_even(densities, ratios) == pytest.approx(0.07)
    assert break_even(densities, [0.1, 0.5, 1.0, 2.0]) == pytest.approx(0.1)


def test_break_even_beyond_the_sweep_is_its_end():
    assert break_even([0.01, 0.1], [0.2, 0.9]) == 0.1
    assert break_even([0.01, 0.1], [1.2, 4.0]) == 0.01
    assert break_even([0.2], [0.5]) == 0.2


@pytest.mark.parametrize(
    ("densities", "ratios", "message"),
    [
        ([0.1, 0.2], [1.0], "2 densities and 1 ratios"),
        ([], [], "as many of both"),
        ([0.2, 0.1], [1.0, 2.0], "rising"),
        ([0.1, 0.2], [0.0, 2.0], "positive"),
    ],
)
def test_sequences_that_are_no_sweep_are_refused(densities, ratios, message):
    with pytest.raises(ValueError, match=message):
        break_even(densities, ratios)


@pytest.mark.parametrize("shape", [(2, 7, 12), (2, 3, 5, 12), (1, 1, 12)])
def test_products_of_tokens_agree_and_count_each_token(shape):
    layer = thin(nn.Linear(12, 6))
    same(layer, torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    work = math.prod(shape[1:-1])
    timed = race(layer, torch.randn(shape), runs=20)
    assert (timed.dense_work, timed.sparse_work) == (work * 72, work * layer.weight.count_nonzero().item())


def test_float64_and_other_layouts_are_right():
    layer = thinned(nn.Conv2d(3, 8, 3, padding=1).double(), density=0.3, seed=1)
    same(layer, torch.randn(2, 3, 7, 9, dtype=torch.float64))
    last = nn.Conv2d(3, 8, 3, padding=1).to(memory_format=torch.channels_last)
    expected = thin(nn.Conv2d(3, 8, 3, padding=1)).weight
    assert torch.equal(thin(last).weight, expected)
    same(last, torch.randn(2, 3, 7, 9).to(memory_format=torch.channels_last))
    assert thin(nn.Linear(9, 5).bfloat16()).weight.dtype == torch.bfloat16


def test_half_precision_networks_are_shrunk_as_float32_ones():
    model = models.resnet8().eval()
    half = copy.deepcopy(model).bfloat16()
    x = torch.rand(1, 3, 16, 16)
    twin = copy.deepcopy(half).float()
    small, expected = shrunk(half, x.bfloat16(), fraction=0.4), shrunk(twin, x, fraction=0.4)
    assert all(p.dtype == torch.bfloat16 for p in small.parameters())
    for (name, a), (_, b) in zip(small.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.equal(a.float(), b), name


class Standardized(nn.Conv2d):
    def forward(self, images):
        return self._conv_forward(images, self.weight - self.weight.mean(), self.bias)


def test_what_has_no_sparse_product_is_refused_by_name():
    for layer, x, message in (
        (nn.Linear(3, 2).bfloat16(), torch.rand(1, 3).bfloat16(), r"a weight of torch\.bfloat16 on cpu"),
        (nn.Linear(3, 2).double(), torch.rand(1, 3), "inputs of torch.float32 do not fit a weight of torch.float64"),
        (nn.Linear(3, 2), torch.rand(1, 4), "Linear does not take images of shape"),
        (nn.Linear(3, 2), torch.rand(3), r"not shape \(3,\)"),
        (nn.Conv2d(1, 1, 3), torch.rand(1, 5, 5), r"must be \(n, channels, height, width\), not of shape \(1, 5, 5\)"),
        (Standardized(1, 1, 3), torch.rand(1, 1, 5, 5), "has no sparse product here"),
        (nn.Conv1d(1, 1, 3), torch.rand(1, 1, 5), "has no sparse product here"),
    ):
        with pytest.raises(ValueError, match=message):
            products(layer, x)
    with pytest.raises(ValueError, match="on meta has no sparse product here"):
        csr(torch.ones(2, 2, device="meta"))
    with pytest.raises(ValueError, match="is computed from other tensors: decompress the layer first"):
        thin(magnitude.prune(nn.Linear(3, 2), density=0.5))


def test_other_layers_and_inputs_are_refused():
    for layer, x in (
        (nn.Conv2d(4, 4, 3, groups=2), torch.rand(1, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 4, 3), torch.rand(1, 4, 5, 5)),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), torch.rand(1, 1, 5, 5)),
    ):
        with pytest.raises(ValueError, match="has no sparse product here: accepted are Linear, and Conv2d"):
            products(layer, x)
    with pytest.raises(ValueError, match="padding='same' is not accepted"):
        products(nn.Conv2d(1, 1, 3, padding="same"), torch.rand(1, 1, 5, 5))
    with pytest.raises(ValueError, match="at least one sample"):
        products(nn.Linear(3, 2), torch.rand(0, 3))
    with pytest.raises(ValueError, match="NaN"):
        csr(torch.tensor([[math.nan]]))
    with pytest.raises(ValueError, match="two dimensions"):
        csr(torch.ones(4))
    for density in (0, 1.2, math.nan):
        with pytest.raises(ValueError, match="density must be in"):
            thin(nn.Linear(3, 2), density)


@pytest.mark.parametrize("layer", [nn.Linear(40, 35), nn.Conv2d(3, 20, 3, padding=1)])
@pytest.mark.parametrize("n", [1, 4])
def test_the_product_in_blocks_agrees(layer, n):
    thin(layer, 0.1)
    shape = (n, 40) if isinstance(layer, nn.Linear) else (n, 3, 9, 7)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    calls = products(layer, inputs, blocks=True)
    assert list(calls) == ["dense", "blocks"]
    assert torch.allclose(calls["blocks"](), layer(inputs), atol=1e-5)
    assert race(layer, inputs, runs=20, blocks=True).sparse_ms > 0


def work_in_blocks(model, shape, block):
    """Multiply-adds of convolutions and linear layers whose filters are filled up to whole blocks."""
    whole = measure.multiply_adds_by_layer(model, shape)
    convolutions = {n: m.out_channels for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    return sum(
        work * (math.ceil(convolutions[n] / block) * block / convolutions[n] if n in convolutions else 1)
        for n, work in whole.items()
    )


@pytest.mark.parametrize(("share", "least"), [(1.0, 0.5), (0.7, 0.5), (0.5, 0.5), (0.4, 0.0), (0.2, 0.1)])
def test_networks_shrunk_to_a_share_keep_multiples_and_equal_the_masked(share, least):
    model, x = models.resnet8(seed=1).eval(), torch.rand(2, 3, 32, 32)
    small = shrunk_to(model, x, multiply_adds=share, least=least)
    left = measure.multiply_adds(small, (3, 32, 32)) / measure.multiply_adds(model, (3, 32, 32))
    assert share / 2 < left <= share
    assert all(m.out_channels % 8 == 0 for m in small.modules() if isinstance(m, nn.Conv2d))
    kept = {}
    for group in structure.groups(model, x):
        norms = [model.get_submodule(n).weight.abs().flatten(1).sum(1) for n in group.producers]
        together = sum(norm / norm.mean() for norm in norms)
        chosen = together.topk(small.get_submodule(group.producers[0]).out_channels).indices
        assert len(chosen) >= least * group.channels
        kept |= dict.fromkeys(group.producers, torch.isin(torch.arange(group.channels), chosen))
    assert torch.allclose(small(x), structure.mask(model, kept, x)(x), atol=1e-5)


def test_blocks_that_stay_half_full_are_avoided():
    model, x = models.resnet8().eval(), torch.zeros(1, 3, 32, 32)
    chosen = shrunk_to(model, x, multiply_adds=0.5)
    alike = shrunk(model, x, fraction=structure.fraction_for(model, x, multiply_adds=0.5, multiple_of=8))
    filled = [measure.multiply_adds(m, (3, 32, 32)) / work_in_blocks(m, (3, 32, 32), 16) for m in (chosen, alike)]
    assert filled[0] > filled[1] + 0.05


def test_where_a_filter_is_a_block_as_much_is_left():
    model, x = models.lenet5(), torch.zeros(1, 1, 28, 28)
    small = shrunk_to(model, x, multiply_adds=0.5, multiple_of=1, block=1)
    left = measure.multiply_adds(small, (1, 28, 28)) / measure.multiply_adds(model, (1, 28, 28))
    assert 0.45 < left <= 0.5


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x0_5"])
def test_grouped_and_concatenated_channels_are_shrunk_to_a_share(name):
    model, x = getattr(torchvision.models, name)(num_classes=3).eval(), torch.rand(1, 3, 32, 32)
    small = shrunk_to(model, x, multiply_adds=0.6)
    assert measure.multiply_adds(small, (3, 32, 32)) <= 0.601 * measure.multiply_adds(model, (3, 32, 32))
    assert small(x).shape == (1, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiply_adds": 0}, "must be in"),
        ({"multiply_adds": 1.5}, "must be in"),
        ({"multiply_adds": 0.5, "multiple_of": 0}, "1 or more"),
        ({"multiply_adds": 0.5, "block": 0}, "1 or more"),
        ({"multiply_adds": 0.5, "least": 1.5}, "and least in"),
        ({"multiply_adds": 0.001, "least": 0}, "more than 0.001 of the multiply-adds is left"),
        ({"multiply_adds": 0.2}, "keeps 0.5 of its filters"),
    ],
)
def test_a_share_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        shrunk_to(models.resnet8(), torch.zeros(1, 3, 32, 32), **options)


def test_a_network_without_filters_that_can_go_has_no_share():
    with pytest.raises(ValueError, match="no filters that can go"):
        shrunk_to(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2), multiply_adds=0.5)
