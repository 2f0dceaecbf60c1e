"""Inception against torchvision's, where that is the same, and against the paper's table."""

import given
import pytest
import torch
from torch import nn

from lib import measure
from lib.architectures.inception import MODULES, Inception, Sizes, googlenet
from lib.architectures.shared.googlenet_heads import HEADS, with_heads
from lib.vision import torchvision

SMALL = Sizes(2, 3, 4, 2, 3, 1)


def weights_of(model):
    return sum(p.numel() for p in model.parameters() if p.dim() > 1)


def same_as_torchvision(**options):
    """torchvision's GoogLeNet, and ours with its filters of 3 x 3, its batch norm, its last pool and its weights."""
    theirs = given.seeded(lambda: torchvision.models.googlenet(weights=None, init_weights=False, **options)).eval()
    for i, buffer in enumerate(theirs.buffers()):
        if buffer.dim():
            buffer.add_(torch.rand(buffer.shape, generator=given.generator(i)) / 2)
    ours = with_heads(googlenet(classes=options["num_classes"], large=3, batch_norm=True)).eval()
    ours.network.pool4 = nn.MaxPool2d(2, 2, ceil_mode=True)
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    theirs_by_part = {"network": {}, "aux1": {}, "aux2": {}}
    for name, value in theirs.state_dict().items():
        theirs_by_part.get(name.split(".")[0], theirs_by_part["network"])[name] = value
    for part, model in zip(theirs_by_part, (ours.network, *ours.heads.values()), strict=True):
        names = model.state_dict()
        assert len(names) == len(theirs_by_part[part])
        model.load_state_dict(dict(zip(names, theirs_by_part[part].values(), strict=True)))
    return ours, theirs


def test_with_its_filters_and_norms_it_computes_what_torchvision_computes():
    ours, theirs = same_as_torchvision(num_classes=10)
    images = torch.rand(2, 3, 70, 64, generator=given.generator())
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
        for name, aux in zip(HEADS, (theirs.aux1, theirs.aux2), strict=True):
            inputs = ours.heads[name].conv.conv.in_channels
            maps = torch.rand(2, inputs, 4, 4, generator=given.generator(1))
            torch.testing.assert_close(ours.heads[name](maps), aux(maps), rtol=1e-4, atol=1e-4)


def test_counts_are_those_of_torchvision_with_its_filters_and_norms():
    with torch.device("meta"):
        model = with_heads(googlenet(large=3, batch_norm=True))
    assert measure.parameters(model.network) == 6_624_904
    assert measure.parameters(model) == 13_004_888
    assert measure.multiply_adds(model, (3, 224, 224)) == 1_498_376_192


def test_counts_of_the_paper_come_from_its_table():
    with torch.device("meta"):
        model = googlenet()
    inputs, weights, biases, adds = 192, 0, 0, 0
    for name, (ones, reduce3, threes, reduce5, fives, pooled) in MODULES.items():
        module = inputs * (ones + reduce3 + reduce5 + pooled) + 9 * reduce3 * threes + 25 * reduce5 * fives
        assert weights_of(model.get_submodule(f"inception{name}")) == module
        weights, biases = weights + module, biases + ones + reduce3 + threes + reduce5 + fives + pooled
        adds += module * {"3": 28, "4": 14, "5": 7}[name[0]] ** 2
        inputs = ones + threes + fives + pooled
    stem = (64 * 3 * 49, 64 * 64 + 192 * 64 * 9)
    parameters = sum(stem) + 64 + 64 + 192 + weights + biases + 1024 * 1000 + 1000
    # 6,998,552 is also the count of Caffe's GoogLeNet without heads
    assert measure.parameters(model) == parameters == 6_998_552
    adds += stem[0] * 112**2 + stem[1] * 56**2 + 1_024_000
    assert measure.multiply_adds(model, (3, 224, 224)) == adds == 1_582_671_872


def test_the_first_module_is_what_the_paper_prints():
    module = Inception(192, MODULES["3a"])
    assert weights_of(module) == 163_328 == 159.5 * 1024  # the table says 159K, so its K is 1024
    assert measure.multiply_adds(module, (192, 28, 28)) == 128_049_152  # 128M
    assert weights_of(module) - weights_of(Inception(192, MODULES["3a"], large=3)) == 8_192
    assert weights_of(module.fives) == 15_872
    assert weights_of(Inception(192, MODULES["3a"].naive()).fives) == 153_600


def test_maps_of_the_nine_modules():
    with torch.device("meta"):
        model = googlenet()
        modules = [module for module in model.modules() if isinstance(module, Inception)]
        assert [module.outputs for module in modules] == [256, 480, 512, 512, 512, 528, 832, 832, 1024]
        sides, maps = {}, torch.zeros(1, 3, 224, 224)
        for name, layer in model.named_children():
            maps = layer(maps)
            sides[name] = tuple(maps.shape[1:])
    assert sides["pool1"] == (64, 56, 56) and sides["pool2"] == (192, 28, 28)
    assert sides["pool3"] == (480, 14, 14) and sides["pool4"] == (832, 7, 7) and sides["flatten"] == (1024,)


@pytest.mark.parametrize("sizes", [SMALL, SMALL.naive(), SMALL._replace(pooled=None)])
def test_branches_stand_beside_each_other_in_the_order_of_the_paper(sizes):
    module = given.seeded(lambda: Inception(5, sizes)).double().eval()
    x = torch.randn(2, 5, 7, 6, generator=given.generator(), dtype=torch.float64)
    answer = module(x)
    assert answer.shape == (2, module.outputs, 7, 6)

    def by_hand(layers, x):
        for layer in layers:
            weight = layer.conv.weight
            x = torch.relu(nn.functional.conv2d(x, weight, layer.conv.bias, padding=weight.shape[-1] // 2))
        return x

    pooled = nn.functional.max_pool2d(x, 3, 1, padding=1)
    parts = [by_hand(layers, x) for layers in (module.ones, module.threes, module.fives)]
    parts.append(by_hand(list(module.pooled)[1:], pooled))
    torch.testing.assert_close(answer, torch.cat(parts, 1))
    assert [part.shape[1] for part in parts] == [2, 4, 3, sizes.pooled or 5]
    assert [layers[-1].conv.kernel_size[0] for layers in (module.ones, module.threes, module.fives)] == [1, 3, 5]


def test_the_naive_module_passes_the_pooled_input_on():
    module, x = Inception(3, SMALL.naive()), torch.rand(1, 3, 5, 5)
    assert torch.equal(module(x)[:, -3:], nn.functional.max_pool2d(x, 3, 1, padding=1))
    assert module.outputs == 2 + 4 + 3 + 3


def test_the_module_of_batch_norm_has_no_bias():
    module = Inception(3, SMALL, batch_norm=True)
    assert sum("bias" in name and "conv" in name for name, _ in module.named_parameters()) == 0
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in module.modules()) == 6


def test_normalization_by_neighbors_is_that_of_caffe():
    layer, x = googlenet(width=0.1).norm1, torch.rand(1, 9, 2, 2, generator=given.generator(), dtype=torch.float64) * 50
    expected = torch.stack(
        [x[:, i] / (1 + 1e-4 / 5 * x[:, max(0, i - 2) : i + 3].square().sum(1)) ** 0.75 for i in range(9)], 1
    )
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("side", [31, 47])
def test_networks_of_any_width_and_size_run(side):
    model = googlenet(channels=1, classes=3, width=0.05).eval()
    assert model(torch.rand(2, 1, side, side + 1)).shape == (2, 3)
    assert model.dropout.p == 0.4
    with pytest.raises(ValueError, match="with 31 pixels or more"):
        model(torch.rand(2, 1, 30, 64))


def test_signals_neither_die_nor_explode():
    model = googlenet(classes=5, width=0.25)
    images = torch.randn(4, 3, 64, 64, generator=given.generator())
    with torch.no_grad():
        maps = nn.Sequential(*list(model.eval().children())[:-3])(images)
    assert 0.01 < maps.std() < 100


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b, c = (googlenet(seed, classes=2, width=0.05) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert given.equal(a, b) and not given.equal(a, c)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_of_floats_run(dtype):
    model = googlenet(classes=2, width=0.05, batch_norm=True).eval()
    images = torch.rand(1, 3, 33, 33, generator=given.generator())
    expected = model(images).double()
    assert (model.to(dtype)(images.to(dtype)).double() - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize(
    ("inputs", "sizes", "options", "says"),
    [
        (0, SMALL, {}, "inputs must be a whole number of 1 or more, not 0"),
        (3, SMALL, {"large": 4}, "large must be odd, so that height and width stay, not 4"),
        (3, SMALL._replace(ones=None), {}, "ones must be a whole number of 1 or more, not None"),
        (3, SMALL._replace(reduce3=0), {}, "reduce3 must be a whole number of 1 or more, not 0"),
        (3, SMALL._replace(pooled=1.5), {}, r"pooled must be a whole number of 1 or more, not 1\.5"),
    ],
)
def test_modules_of_bad_sizes_are_refused(inputs, sizes, options, says):
    with pytest.raises(ValueError, match=says):
        Inception(inputs, sizes, **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"channels": 0}, "channels must be a whole number of 1 or more, not 0"),
        ({"classes": 1}, "classes must be a whole number of 2 or more, not 1"),
        ({"width": 0}, "width must be a finite number above 0, not 0"),
        ({"large": 2, "width": 0.05}, "large must be odd"),
    ],
)
def test_networks_of_bad_sizes_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        googlenet(**options)
