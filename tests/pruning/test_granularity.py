"""Holes of four shapes against their definitions, and the lowered product against the masked convolution."""

import copy
import math

import pytest
import torch
from torch import nn

from lib import models, structure, training
from lib.datasets import Split
from lib.pruning import granularity, magnitude
from lib.pruning.granularity import LoweredConvolution, lower, masks, multiply_adds, rows
from lib.vision import torchvision
from lib.weights import layers

OPTIONS = {
    "weight": {"density": 0.5},
    "kernel": {"density": 0.5},
    "stride": {"stride": 2},
    "map": {"density": 0.5},
}


def convolution(*arguments, seed=0, **options):
    torch.manual_seed(seed)
    return nn.Conv2d(*arguments, **options)


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class Mixed(nn.Sequential):
    """One channel in, batch norm with shifts, depthwise without bias, grouped, linear behind a flatten."""

    def __init__(self):
        torch.manual_seed(0)
        parts = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, bias=False)]
        parts += [nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 1, groups=2)]
        super().__init__(*parts, nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
        for layer in self:
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.bias)
                nn.init.uniform_(layer.running_var, 0.5, 2)
        self[4].weight.data[[0, 1, 2, 6, 7, 8]] *= 10  # the halves of a grouped convolution can only be cut alike
        self[7].weight.data[[0, 1, 4, 5]] *= 10


@pytest.mark.parametrize(
    ("kernel", "stride", "offset", "count"), [(3, 2, 0, 5), (3, 2, 1, 4), (3, 3, 2, 3), (5, 4, 3, 6)]
)
def test_a_stride_keeps_every_sth_place_from_the_offset(kernel, stride, offset, count):
    layer = convolution(1, 4, kernel)
    layer.weight.data.zero_()
    layer.weight.data.view(4, -1)[:, offset::stride] = 1  # what is worth keeping
    mask = masks(layer, images(1, 1, 9, 9), level="stride", stride=stride)[""]
    assert torch.equal(mask, layer.weight > 0)
    assert rows(mask).sum() == count == math.ceil((kernel**2 - offset) / stride)


@pytest.mark.parametrize("select", ["magnitude", "random"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_kernels_of_a_source_map_share_the_offset_and_source_maps_differ(select, groups):
    layer = convolution(8, 12, 3, groups=groups)
    mask = masks(layer, images(1, 8, 9, 9), level="stride", stride=2, select=select)[""]
    by_group = mask.flatten(2).unflatten(0, (groups, -1))
    assert (by_group == by_group[:, :1]).all()  # the same for every filter of the group
    patterns = {tuple(pattern) for pattern in by_group[:, 0].flatten(0, 1).int().tolist()}
    assert patterns == {(1, 0) * 4 + (1,), (0, 1) * 4 + (0,)}


def test_offsets_are_chosen_by_the_mean_of_what_they_keep():
    layer = convolution(1, 1, 3, bias=False)
    layer.weight.data.view(-1)[:] = torch.tensor([1.0, 1.2] * 4 + [1.0])  # the sum is larger at offset 0: 5 against 4.8
    assert rows(masks(layer, images(1, 1, 9, 9), level="stride", stride=2)[""]).sum() == 4


@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 1.0])
def test_weights_and_kernels_keep_their_share_the_largest(density):
    layer = convolution(6, 10, 3)
    single = masks(layer, images(1, 6, 9, 9), level="weight", density=density)[""]
    kernels = masks(layer, images(1, 6, 9, 9), level="kernel", density=density)[""]
    assert single.sum() == max(1, round(density * 540)) and kernels.sum() == 9 * max(1, round(density * 60))
    assert torch.equal(kernels, kernels[:, :, :1, :1].expand_as(kernels))
    for value, mask in ((layer.weight.abs(), single), (layer.weight.abs().sum((2, 3)), kernels[:, :, 0, 0])):
        assert mask.all() or value[mask].min() >= value[~mask].max()


@pytest.mark.parametrize("build", [models.resnet8, Mixed, models.lenet5])
def test_masked_maps_are_the_physically_smaller_network(build):
    model = build().eval()
    x = images(5, {Mixed: 1, models.lenet5: 1}.get(build, 3), *((28, 28) if build is models.lenet5 else (12, 12)))
    groups = structure.groups(model, x)
    mask = masks(model, x, level="map", density=0.5)
    scores = {n: model.get_submodule(n).weight.abs().flatten(1).sum(1).detach() for g in groups for n in g.producers}
    kept = structure.keep(scores, fraction=0.5, groups=groups)
    small = structure.shrink(model, kept, x)
    masked = magnitude.apply(copy.deepcopy(model), mask)
    assert torch.allclose(masked(x), small(x), atol=1e-5)
    assert not torch.allclose(masked(x), model(x), atol=1e-3)
    if build is models.resnet8:
        alone = {name: m for name, m in mask.items() if name != "fc"}
        counted = {n: torch.ones_like(c.weight) for n, c in small.named_modules() if isinstance(c, nn.Conv2d)}
        assert multiply_adds(model, alone, x) == multiply_adds(small, counted, x)


def test_a_kernel_mask_with_a_zero_column_removes_the_source_map():
    model = nn.Sequential(convolution(2, 6, 3), nn.ReLU(), convolution(6, 4, 3, seed=1)).eval()
    x = images(3, 2, 10, 10)
    mask = torch.ones(4, 6, 3, 3, dtype=torch.bool)
    mask[:, 2] = False
    kept = torch.arange(6) != 2
    small = structure.shrink(model, {"0": kept}, x)
    assert torch.allclose(magnitude.apply(copy.deepcopy(model), {"2": mask})(x), small(x), atol=1e-6)
    assert torch.equal(rows(mask), kept.repeat_interleave(9))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"stride": 2, "padding": (2, 0)},
        {"dilation": 2, "padding": 2},
        {"bias": False},
        {"stride": (1, 3), "dilation": (2, 1)},
    ],
)
@pytest.mark.parametrize("n", [1, 3])
def test_the_lowered_product_is_the_masked_convolution(options, n):
    layer = convolution(5, 7, (3, 4), **options)
    x = images(n, 5, 11, 13)
    for mask in (
        masks(layer, x, level="stride", stride=2, select="random", seed=n)[""],
        masks(layer, x, level="kernel", density=0.2)[""],
        torch.ones(7, 5, 3, 4, dtype=torch.bool),
        torch.zeros(7, 5, 3, 4, dtype=torch.bool),
    ):
        expected = magnitude.apply(copy.deepcopy(layer), {"": mask})(x)
        small = LoweredConvolution(layer, mask)
        assert small(x).shape == expected.shape and torch.allclose(small(x), expected, atol=1e-5)
        assert small.kernel.shape == (7, rows(mask).sum())


def test_the_feature_matrix_is_torchs_unfold_without_the_rows_that_nobody_needs():
    layer = convolution(3, 4, 3, padding=1, stride=2)
    x = images(2, 3, 9, 9).contiguous(memory_format=torch.channels_last)
    mask = masks(layer, x, level="stride", stride=3)[""]
    unfolded = nn.functional.unfold(x, 3, padding=1, stride=2)
    assert torch.equal(LoweredConvolution(layer, mask).features(x).flatten(2), unfolded[:, rows(mask)])


def test_masks_with_different_offsets_for_one_source_map_leave_all_rows():
    mask = torch.zeros(2, 1, 9, dtype=torch.bool)
    mask[0, 0, 0::2] = mask[1, 0, 1::2] = True
    assert rows(mask).all()
    mask[1] = mask[0]
    assert rows(mask).sum() == 5


def test_a_lowered_network_computes_and_learns_what_the_masked_one_does():
    model = models.lenet5().eval()
    x = images(4, 1, 28, 28)
    mask = masks(model, x, level="stride", stride=2)
    small, masked = lower(model, mask), magnitude.apply(copy.deepcopy(model), mask)
    assert sum(isinstance(layer, LoweredConvolution) for layer in small) == 2
    assert torch.allclose(small(x), masked(x), atol=1e-5)
    small(x).square().sum().backward()
    masked(x).square().sum().backward()
    gradient = masked.conv2.parametrizations.weight.original.grad.flatten(1)[:, rows(mask["conv2"])]
    assert torch.allclose(small.conv2.kernel.grad, gradient, atol=1e-4)


def test_a_network_whose_masks_leave_all_rows_stays_as_it_is():
    model = models.lenet5()
    small = lower(model, masks(model, images(1, 1, 28, 28), level="weight", density=0.9))
    assert type(small.conv2) is nn.Conv2d and small.conv2 is not model.conv2


@pytest.mark.parametrize("level", granularity.LEVELS)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_networks_that_others_wrote(name, level):
    model = getattr(torchvision.models, name)(num_classes=5).eval()
    before = copy.deepcopy(model.state_dict())
    x = images(1, 3, 64, 64)
    mask = masks(model, x, level=level, **OPTIONS[level])
    convolutions = {n for n, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    assert convolutions <= set(mask)
    if level == "stride":  # a kernel of one place has nothing to leave out
        assert all(m.all() for m in mask.values() if m.shape[2:] == (1, 1))
        mask = {n: m for n, m in mask.items() if m.shape[2:] != (1, 1)}
    kept = multiply_adds(model, mask, x) / multiply_adds(model, {n: torch.ones_like(m) for n, m in mask.items()}, x)
    assert 0.2 < kept < 0.7
    assert torch.isfinite(magnitude.apply(copy.deepcopy(model), mask)(x)).all()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("level", granularity.LEVELS)
def test_the_seed_draws_the_random_masks_and_leaves_the_global_state(level):
    model, x = models.lenet5(), images(1, 1, 28, 28)
    state = torch.get_rng_state()
    one, same, other = (masks(model, x, level=level, select="random", seed=s, **OPTIONS[level]) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[n], same[n]) for n in one) and any(not torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("level", granularity.LEVELS)
def test_holes_stay_while_training(level):
    model, x = Mixed(), images(12, 1, 12, 12)
    mask = masks(model, x, level=level, **OPTIONS[level])
    magnitude.apply(model, mask)
    split = Split(x, torch.arange(12) % 10)
    training.fit(model, split, epochs=2, seed=0, learning_rate=0.01, batch_size=5)
    assert all((dict(layers(model))[name].weight[~m] == 0).all() for name, m in mask.items())


def test_multiply_adds_by_hand():
    layer = convolution(2, 3, 3, padding=1)
    mask = torch.zeros(3, 2, 3, 3, dtype=torch.bool)
    mask[0, 0, 0] = True
    assert multiply_adds(layer, {"": mask}, images(4, 2, 5, 7)) == 3 * 35


def test_counting_leaves_a_network_in_training_as_it_was():
    model, x = Mixed().train(), images(2, 1, 12, 12)
    before = copy.deepcopy(model.state_dict())
    multiply_adds(model, masks(model, x, level="kernel", density=0.5), x)
    assert model.training and all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("level", granularity.LEVELS)
@pytest.mark.parametrize("select", granularity.SELECTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_masks_of_other_types_are_those_of_float32(dtype, select, level):
    model = models.lenet5().to(dtype)
    twin = copy.deepcopy(model).float()
    x = images(2, 1, 28, 28)
    found = masks(model, x.to(dtype), level=level, select=select, **OPTIONS[level])
    expected = masks(twin, x, level=level, select=select, **OPTIONS[level])
    assert found.keys() == expected.keys() and all(torch.equal(found[n], expected[n]) for n in found)
    masked = magnitude.apply(model, found)
    assert masked(x.to(dtype)).dtype == dtype
    if level == "stride":
        assert lower(model, found)(x.to(dtype)).dtype == dtype


def test_a_convolution_of_zeros_keeps_its_share():
    layer = convolution(4, 6, 3)
    nn.init.zeros_(layer.weight)
    for level, count in (("weight", 108), ("kernel", 108), ("stride", 120)):
        mask = masks(layer, images(1, 4, 9, 9), level=level, **OPTIONS[level])[""]
        assert mask.sum() == count, level


class Mixer(nn.Module):
    """Patches, then a map of each by a linear layer, then sequences by a 1-d convolution with batch norm."""

    def __init__(self):
        super().__init__()
        self.patch, self.mix, self.out = nn.Conv2d(1, 8, 2, stride=2), nn.Linear(8, 6), nn.Linear(6, 8)
        self.sequence, self.norm, self.last = nn.Conv1d(8, 5, 3), nn.BatchNorm1d(5), nn.Conv1d(5, 4, 1)

    def forward(self, x):
        tokens = self.patch(x).flatten(2).mT
        tokens = self.out(self.mix(tokens).relu())
        return self.last(self.norm(self.sequence(tokens.mT)).relu()).mean(2)


def test_layers_on_tokens_and_of_other_dimensions_are_masked_and_counted():
    torch.manual_seed(0)
    model, x = Mixer().eval(), images(3, 1, 8, 8)
    nn.init.normal_(model.norm.bias)
    groups = structure.groups(model, x)
    mask = masks(model, x, level="map", density=0.5)
    removed = {name for group in groups for name in group.producers}
    assert {"mix", "sequence"} <= removed <= set(mask)
    assert mask["mix"].any(1).sum() == 3 and mask["out"].any(0).sum() == 3
    scores = {n: model.get_submodule(n).weight.abs().flatten(1).sum(1).detach() for g in groups for n in g.producers}
    small = structure.shrink(model, structure.keep(scores, fraction=0.5, groups=groups), x[:1])
    torch.testing.assert_close(magnitude.apply(copy.deepcopy(model), mask)(x), small(x))
    half = torch.arange(6)[:, None].expand(6, 8) < 3
    assert multiply_adds(model, {"mix": half}, x) == 16 * 24  # 16 tokens
    assert multiply_adds(model, {"sequence": torch.ones(5, 8, 3)}, x) == 14 * 120


def test_work_is_counted_for_transposed_and_repeated_layers():
    up = nn.ConvTranspose2d(2, 3, 3, stride=2)
    assert multiply_adds(up, {"": torch.ones(2, 3, 3, 3)}, images(1, 2, 4, 5)) == 20 * 54
    shared = convolution(2, 2, 3, padding=1)
    mask = torch.zeros(2, 2, 3, 3, dtype=torch.bool)
    mask[0, 0, 0] = True
    model = nn.Sequential(shared, nn.ReLU(), shared)
    assert multiply_adds(model, {"0": mask}, images(1, 2, 4, 5)) == 2 * 3 * 20


def test_frozen_layers_and_modes_stay_when_lowered():
    model = models.lenet5().train()
    model.conv1.requires_grad_(False)
    model.conv2.eval()
    small = lower(model, masks(model, images(1, 1, 28, 28), level="stride", stride=2))
    assert (
        not small.conv1.kernel.requires_grad and not small.conv1.bias.requires_grad and small.conv2.bias.requires_grad
    )
    assert small.conv1.training and not small.conv2.training


def test_masks_are_made_where_the_weights_are():
    layer = convolution(4, 6, 3)
    with torch.device("meta"):  # what is made on the default device would be elsewhere
        for level in ("weight", "kernel", "stride"):
            for select in granularity.SELECTIONS:
                mask = masks(layer, None, level=level, select=select, **OPTIONS[level])[""]
                assert mask.device.type == "cpu" and mask.any()
        assert LoweredConvolution(layer, mask).kernel.device.type == "cpu"


class Standardized(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def test_what_cannot_be_lowered_or_counted_is_refused_by_name():
    model = nn.Sequential(convolution(4, 4, 3, groups=2))
    mask = {"0": torch.zeros(4, 2, 3, 3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"layer '0': .* cannot be lowered: accepted are groups=1"):
        lower(model, mask)
    with pytest.raises(ValueError, match="cannot be lowered: it has a forward pass of its own"):
        LoweredConvolution(Standardized(1, 1, 3), torch.ones(1, 1, 3, 3))
    with pytest.raises(ValueError, match=r"must be \(n, channels, height, width\), not of shape \(4, 9, 9\)"):
        LoweredConvolution(convolution(4, 4, 3), torch.ones(4, 4, 3, 3) > 0)(images(4, 9, 9))
    with pytest.raises(ValueError, match=r"the mask of '0' must be of shape \(4, 2, 3, 3\), not \(4, 4\)"):
        multiply_adds(model, {"0": torch.ones(4, 4)}, images(1, 4, 9, 9))
    attention = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    with pytest.raises(ValueError, match=r"layer 'self_attn\.out_proj' did not run"):
        multiply_adds(attention, {"self_attn.out_proj": torch.ones(8, 8)}, images(1, 5, 8))
    with pytest.raises(ValueError, match=r"'self_attn\.in_proj_weight' is a weight of MultiheadAttention, which is no"):
        multiply_adds(attention, {"self_attn.in_proj_weight": torch.ones(24, 8)}, images(1, 5, 8))
    layer = nn.Sequential(convolution(1, 2, 3))
    layer[0].weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="the weights of layer '0' hold NaN or infinity"):
        masks(layer, images(1, 1, 9, 9), level="weight", density=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "filter", "density": 0.5}, "weight, kernel, stride, map, not 'filter'"),
        ({"level": "kernel"}, "takes density, in .0, 1., and no stride, not None"),
        ({"level": "kernel", "density": 1.5}, "not 1.5"),
        ({"level": "weight", "density": 0.5, "stride": 2}, "no stride"),
        ({"level": "stride"}, "takes stride, 1 or more"),
        ({"level": "stride", "stride": 0}, "not 0"),
        ({"level": "stride", "stride": 2, "density": 0.5}, "no density"),
        ({"level": "map", "density": 0.5, "select": "best"}, "one of magnitude, random, not 'best'"),
    ],
)
def test_bad_arguments_are_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        masks(models.lenet5(), images(1, 1, 28, 28), **options)


def test_models_and_layers_that_cannot_be_served_are_refused_by_name():
    with pytest.raises(ValueError, match="has no 2-d convolution"):
        masks(models.lenet_300_100(), images(1, 1, 28, 28), level="kernel", density=0.5)
    with pytest.raises(ValueError, match="no feature map that can go"):
        masks(nn.Sequential(convolution(1, 3, 3)), images(1, 1, 9, 9), level="map", density=0.5)
    for layer in (convolution(4, 4, 3, groups=2), convolution(1, 1, 3, padding="same")):
        with pytest.raises(ValueError, match="cannot be lowered"):
            LoweredConvolution(layer, layer.weight > 0)
    for call in (lower, lambda model, chosen: multiply_adds(model, chosen, images(1, 1, 28, 28))):
        with pytest.raises(ValueError, match="has no layer 'conv9'"):
            call(models.lenet5(), {"conv9": torch.zeros(1, 1, 3, 3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"the mask must be of shape \(4, 4, 3, 3\), not \(4, 4\)"):
        LoweredConvolution(convolution(4, 4, 3), torch.ones(4, 4, dtype=torch.bool))
