"""The baselines: published parameter counts, and weights that depend on the seed alone."""

import pytest
import torch

from lib import measure, models


@pytest.mark.parametrize(("build", "count"), [(models.lenet_300_100, 266_610), (models.lenet5, 431_080)])
def test_parameter_counts_are_the_published_ones(build, count):
    assert sum(p.numel() for p in build().parameters()) == count


def test_weights_per_layer_are_those_of_the_deep_compression_tables():
    counted = [p.numel() for p in models.lenet5().parameters() if p.dim() > 1]
    assert counted == [500, 25_000, 400_000, 5_000]
    assert [p.numel() for p in models.lenet_300_100().parameters() if p.dim() > 1] == [235_200, 30_000, 1_000]


@pytest.mark.parametrize("build", [models.lenet_300_100, models.lenet5])
def test_weights_depend_on_the_seed_alone(build):
    torch.manual_seed(1)
    first = build(3)
    torch.manual_seed(2)
    second, other = build(3), build(4)
    same = [torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)]
    changed = [torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True)]
    assert all(same) and not any(changed)


@pytest.mark.parametrize("build", [models.lenet_300_100, models.lenet5])
def test_building_leaves_the_random_state_of_the_caller(build):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("model", "shape", "classes"),
    [
        (models.lenet_300_100(inputs=64, classes=3), (2, 1, 8, 8), 3),
        (models.lenet5(channels=3, classes=7), (1, 3, 28, 28), 7),
        (models.lenet5(), (0, 1, 28, 28), 10),
    ],
)
def test_one_row_of_logits_for_each_sample(model, shape, classes):
    assert model(torch.zeros(shape)).shape == (shape[0], classes)


def test_resnets_have_the_published_numbers_and_follow_their_seed():
    assert measure.parameters(models.resnet8()) == 78_042
    assert measure.multiply_adds(models.resnet8(), (3, 32, 32)) == 12_501_632
    assert measure.parameters(models.resnet20()) == 272_474
    one, two, other = models.resnet8(1), models.resnet8(1), models.resnet8(2)
    assert torch.equal(one.conv.weight, two.conv.weight) and not torch.equal(one.conv.weight, other.conv.weight)
    assert models.resnet8(channels=1, classes=4, width=4)(torch.zeros(2, 1, 28, 28)).shape == (2, 4)


def test_a_residual_block_adds_its_input():
    block = models.ResidualBlock(4, 4, 1).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 4, 6, 6)
    assert torch.equal(block(x), x)


def test_vgg_small_has_the_parameters_that_are_counted_by_hand():
    convolutions = 9 * (3 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512)
    norms = 2 * (128 + 128 + 256 + 256 + 512 + 512)
    last = 512 * 4 * 4 * 10 + 10
    assert measure.parameters(models.vgg_small()) == convolutions + norms + last == 4_660_106
    assert measure.parameters(models.vgg_small(channels=1, classes=7, width=4)) == (
        9 * (4 + 16 + 32 + 64 + 128 + 256) + 2 * (4 + 4 + 8 + 8 + 16 + 16) + 16 * 16 * 7 + 7
    )


def test_vgg_small_pools_behind_each_pair_and_before_batch_norm():
    names = [name for name, _ in models.vgg_small(width=2).named_children()]
    pairs = (f"conv{i} bn{i} relu{i} conv{i + 1} pool{i // 2 + 1} bn{i + 1} relu{i + 1}" for i in (1, 3, 5))
    assert names == [*" ".join(pairs).split(), "flatten", "fc"]
    model = models.vgg_small(channels=1, classes=7, width=4)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7) and model.eval()(torch.zeros(0, 1, 32, 32)).shape == (0, 7)


def test_cnn_has_the_parameters_that_are_counted_by_hand():
    convolutions, norms, last = 27 * 32 + 288 * 64 + 576 * 128, 2 * (32 + 64 + 128), 128 * 16 * 10 + 10
    assert measure.parameters(models.cnn()) == convolutions + norms + last == 113_962
    small = models.cnn(channels=1, classes=7, width=4, side=28)
    assert small(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
    assert small.fc.in_features == 16 * 3 * 3


def test_mlp_without_batch_norm_has_a_bias_in_each_layer():
    model = models.mlp(inputs=6, hidden=(5, 4), classes=3, batch_norm=False)
    assert [name for name, _ in model.named_children()] == ["flatten", "fc1", "relu1", "fc2", "relu2", "fc3"]
    assert measure.parameters(model) == 6 * 5 + 5 + 5 * 4 + 4 + 4 * 3 + 3


def test_mlp_has_batch_norm_behind_every_layer_and_no_bias_before_it():
    model = models.mlp()
    assert measure.parameters(model) == 784 * 512 + 2 * 512 * 512 + 512 * 10 + 2 * (3 * 512 + 10)
    names = ["flatten", *(f"{kind}{i}" for i in (1, 2, 3) for kind in ("fc", "bn", "relu")), "fc4", "bn4"]
    assert [name for name, _ in model.named_children()] == names
    shallow = models.mlp(inputs=6, hidden=(), classes=3)
    assert [name for name, _ in shallow.named_children()] == ["flatten", "fc1", "bn1"]
    assert measure.parameters(shallow) == 6 * 3 + 2 * 3
    assert models.mlp(inputs=12, hidden=(5,), classes=3)(torch.zeros(2, 3, 2, 2)).shape == (2, 3)


@pytest.mark.parametrize("build", [models.mlp, models.vgg_small])
def test_networks_with_batch_norm_depend_on_the_seed_alone(build):
    small = {"hidden": (8, 8)} if build is models.mlp else {"width": 2}
    torch.manual_seed(1)
    first, after = build(3, **small), torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after)
    second, other = build(3, **small), build(4, **small)
    for (name, a), (_, b), (_, c) in zip(*(net.named_parameters() for net in (first, second, other)), strict=True):
        assert torch.equal(a, b) and ("bn" in name or not torch.equal(a, c))
