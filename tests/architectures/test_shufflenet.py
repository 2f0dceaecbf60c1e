"""ShuffleNet: the shuffle as a permutation, who sees whom, the counts of the paper and of other people's code."""

import pytest
import torch
from given import generator
from given_architectures import check_least_images, check_seed_and_copies
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d

from lib import measure
from lib.architectures.shared.flow import flow
from lib.architectures.shufflenet import OUTPUTS, Shuffle, Unit, permutation, shuffle, shufflenet
from lib.vision import torchvision

SMALL = {"classes": 3, "outputs": 48, "groups": 4, "units": (2, 1), "strides": (1, 1, 2, 2)}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(), dtype=torch.float64)


@pytest.mark.parametrize(("channels", "groups"), [(12, 3), (12, 4), (6, 6), (5, 1), (240, 8), (1, 1)])
def test_the_shuffle_is_a_permutation_that_another_shuffle_undoes(channels, groups):
    x = normal(2, channels, 3, 2)
    order = permutation(channels, groups)
    assert torch.equal(shuffle(x, groups), x[:, order])
    matrix = torch.eye(channels, dtype=torch.float64)[order]
    assert torch.equal(matrix @ matrix.T, torch.eye(channels, dtype=torch.float64))
    assert torch.equal(torch.einsum("oi,nihw->nohw", matrix, x), shuffle(x, groups))
    assert torch.equal(shuffle(shuffle(x, groups), channels // groups), x)
    for identity in (1, channels):
        assert torch.equal(shuffle(x, identity), x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64, torch.bool])
def test_two_other_implementations_shuffle_alike(dtype):
    x = (10 * normal(2, 4, 3, 12)).to(dtype).permute(0, 3, 1, 2)  # not contiguous
    expected = torchvision.models.shufflenetv2.channel_shuffle(x.contiguous(), 4)
    assert torch.equal(shuffle(x, 4), expected) and torch.equal(Shuffle(4)(x), expected)
    if dtype.is_floating_point:
        assert torch.equal(nn.functional.channel_shuffle(x, 4), expected)


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_groups_talk_only_where_channels_are_shuffled(groups):
    channels = groups * groups

    def convolution() -> nn.Conv2d:
        return nn.Conv2d(channels, channels, 1, groups=groups, bias=False)

    images = normal(1, channels, 2, 2)
    blocks = torch.block_diag(*[torch.ones(groups, groups, dtype=torch.bool)] * groups)
    assert torch.equal(flow(nn.Sequential(convolution(), convolution()), images) > 0, blocks)
    assert (flow(nn.Sequential(convolution(), Shuffle(groups), convolution()), images) > 0).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6])
def test_a_shuffle_reaches_no_more_groups_than_a_group_has_channels(n):
    groups = 4
    layers = [nn.Conv2d(groups * n, groups * n, 1, groups=groups, bias=False) for _ in range(2)]
    reached = flow(nn.Sequential(layers[0], Shuffle(groups), layers[1]), normal(1, groups * n, 1, 1)) > 0
    by_group = reached.reshape(groups, n, groups, n).any(3).any(1).sum(1)
    assert by_group.tolist() == [min(n, groups)] * groups


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_unit_mixes_groups_only_by_its_shuffle(shuffled):
    unit = Unit(36, 36, groups=3, shuffled=shuffled)
    blocks = torch.block_diag(*[torch.ones(12, 12, dtype=torch.bool)] * 3)
    reached = flow(unit, normal(6, 36, 2, 2)) > 0
    assert reached.all() if shuffled else torch.equal(reached, blocks)


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(24, 24, 1), (24, 48, 2), (12, 24, 1)])
def test_a_unit_is_its_figure_with_the_shuffle_after_the_depthwise(inputs, outputs, stride):
    unit = Unit(inputs, outputs, groups=3, stride=stride).double()
    for norm in (unit.bn1, unit.bn2, unit.bn3):
        for values in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(values, generator=generator(1))
    unit.eval()
    images, m = normal(2, inputs, 6, 6).relu(), outputs // 4
    order = permutation(m, 3)
    back = order.argsort()

    def normalized(x: torch.Tensor, norm: nn.BatchNorm2d, places: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        parts = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        mean, var, weight, bias = (part[places, None, None] for part in parts)
        return weight * (x - mean) / (var + norm.eps).sqrt() + bias

    y = normalized(conv2d(images, unit.reduce.weight, groups=3), unit.bn1).relu()
    # each channel is filtered by itself, so filters in another order let the shuffle come later
    y = conv2d(y, unit.depthwise.weight[back], stride=stride, padding=1, groups=m)
    y = normalized(y, unit.bn2, back)[:, order]
    y = normalized(conv2d(y, unit.expand.weight, groups=3), unit.bn3)
    if inputs == outputs:
        expected = (images + y).relu()
    else:  # what is pooled has no negative values: ReLU may come before
        expected = torch.cat([avg_pool2d(images, 3, 2, padding=1) if stride == 2 else images, y.relu()], 1)
    torch.testing.assert_close(unit(images), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_a_unit_costs_what_the_paper_says(groups):
    c = OUTPUTS[groups]
    unit, m = Unit(c, c, groups=groups), c // 4
    assert measure.multiply_adds(unit, (c, 7, 5)) * groups == 7 * 5 * (2 * c * m + 9 * m * groups)


@pytest.mark.parametrize(
    ("options", "parameters", "multiply_adds"),
    [
        ({"groups": 1}, 1_531_936, 143_078_976),
        ({"groups": 2}, 1_733_848, 140_836_512),
        ({"groups": 3}, 1_865_728, 137_460_672),
        ({"groups": 4}, 1_968_344, 134_339_776),
        ({"groups": 8}, 2_434_768, 138_365_952),
        ({"width": 1.5}, 3_442_168, 292_443_552),
        ({"width": 1.5, "stem": 36}, 3_443_212, 299_612_448),
        ({"width": 2.0}, 5_450_776, 524_045_184),
        ({"width": 2.0, "stem": 24}, 5_448_208, 507_637_632),
        ({"width": 2.0, "shuffled": False}, 5_450_776, 524_045_184),
        ({"width": 0.5}, 718_324, 37_589_856),
        ({"width": 0.5, "groups": 8}, 1_011_448, 40_469_760),
    ],
)
def test_counts_are_those_of_the_paper(options, parameters, multiply_adds):
    with torch.device("meta"):
        network = shufflenet(**options)
    assert measure.parameters(network) == parameters
    assert measure.multiply_adds(network, (3, 224, 224)) == multiply_adds


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"width": 0.25, "groups": 1, "stem": 6}, 209_746),
        ({"width": 0.25, "stem": 6}, 305_902),
        ({"width": 0.5, "groups": 1}, 534_484),
        ({"width": 0.5}, 718_324),
        ({"width": 0.75, "groups": 1, "stem": 18}, 975_214),
        ({"width": 0.75, "stem": 18}, 1_238_266),
    ],
)
def test_parameters_are_those_that_imgclsmob_publishes(options, parameters):
    with torch.device("meta"):
        network = shufflenet(**options)
    assert measure.parameters(network) == parameters


@pytest.mark.parametrize(
    ("groups", "width", "millions"),
    [(8, 2, 522), (8, 1.5, 290), (3, 0.25, 13)],  # the others are above, to the unit
)
def test_multiply_adds_are_those_that_the_authors_print(groups, width, millions):
    with torch.device("meta"):
        network = shufflenet(width=width, groups=groups)
    assert round(measure.multiply_adds(network, (3, 224, 224)) / 1e6) == millions


def test_the_printed_38_million_in_8_groups_lies_between_two_networks():
    with torch.device("meta"):
        networks = [shufflenet(width=0.5, groups=8, stem=stem) for stem in (8, 16)]
    low, high = (measure.multiply_adds(network, (3, 224, 224)) for network in networks)
    assert (low + high) / 2 == 38_531_712  # the count is linear in the stem, and 12 channels cannot be built
    with pytest.raises(ValueError, match=r"stem must be a multiple of 8, the groups, .* not 12"):
        shufflenet(width=0.5, groups=8, stem=12)


@pytest.mark.parametrize("width", [0.25, 0.5, 1, 1.5, 2])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_every_network_of_the_paper_runs_or_is_refused(groups, width):
    if OUTPUTS[groups] * width % (4 * groups):  # a bottleneck that the groups do not divide
        assert groups in (2, 4) and width not in (1, 2)
        with pytest.raises(ValueError, match=f"must be a multiple of {4 * groups}, 4 times the groups"):
            shufflenet(width=width, groups=groups)
        return
    with torch.device("meta"):
        network = shufflenet(width=width, groups=groups).eval()
    assert network(torch.zeros(1, 3, 224, 224, device="meta")).shape == (1, 1000)
    units = [m for m in network if isinstance(m, Unit)]
    assert len(units) == 16 and [unit.reduce.groups for unit in units] == [1] + [groups] * 15
    assert units[-1].outputs == 4 * OUTPUTS[groups] * width


@pytest.mark.parametrize("side", [28, 32])
@pytest.mark.parametrize("shuffled", [True, False])
def test_small_images_reach_every_weight(side, shuffled):
    network = shufflenet(channels=1, shuffled=shuffled, **SMALL)
    assert sum(isinstance(m, Shuffle) for m in network.modules()) == 3 * shuffled
    stages = nn.Sequential(*list(network)[:-3])
    assert stages(torch.zeros(2, 1, side, side)).shape == (2, 96, side // 4, side // 4)
    network(torch.rand(2, 1, side, side, generator=generator())).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("strides", [(2, 2, 2, 2), (1, 1, 1, 1), (1, 2, 1, 2)])
def test_it_takes_its_least_images_and_no_smaller_ones(strides):
    check_least_images(shufflenet(**SMALL | {"strides": strides}), (1, 3))


def test_it_depends_on_its_seed_alone_and_can_be_copied():
    images = normal(1, 3, 32, 32)
    check_seed_and_copies(lambda seed: shufflenet(seed, **SMALL), images)
    network = shufflenet(1, **SMALL).eval()
    assert network.bfloat16()(images.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shuffle(torch.zeros(2, 10), 3), r"an input of \(2, 10\): .* must be a multiple of 3"),
        (lambda: shuffle(torch.zeros(10), 2), "an input of .* must be a multiple of 2"),
        (lambda: Shuffle(0), "groups must be a whole number of 1 or more, not 0"),
        (lambda: permutation(10, 4), "must be a multiple of 4"),
        (lambda: Unit(24, 40, groups=3, stride=2), "24 to 40 channels in 3 groups: .* the outputs of 12"),
        (lambda: Unit(25, 36, groups=3), "the inputs must be a multiple of 3"),
        (lambda: Unit(24, 24, groups=3, stride=2), "must have more outputs than inputs"),
        (lambda: Unit(48, 24, groups=3), "must have more outputs than inputs"),
        (lambda: Unit(24, 48, stride=4), "strides must be one number, 1 or 2"),
        (lambda: shufflenet(groups=5), "groups must be one of 1, 2, 3, 4, 8 where outputs is not given, not 5"),
        (lambda: shufflenet(groups=5, outputs=50), "50 channels .* multiple of 20, 4 times the groups"),
        (lambda: shufflenet(width=0), "width must be a finite number above 0"),
        (lambda: shufflenet(stem=25), "stem must be a multiple of 3, the groups, .* not 25"),
        (lambda: shufflenet(stem=240), "below the 240 channels after it, not 240"),
        (lambda: shufflenet(stem=0), "stem must be a whole number of 1 or more, not 0"),
        (lambda: shufflenet(outputs=24), "stem must be .* below the 24 channels after it, not 24"),
        (lambda: shufflenet(units=(4, 0, 4)), r"units\[1\] must be a whole number of 1 or more, not 0"),
        (lambda: shufflenet(units=()), "units must be a whole number for each stage"),
        (lambda: shufflenet(units=(1, 1)), "strides must be 4 numbers"),
        (lambda: shufflenet(classes=1), "classes must be"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_its_text_tells_two_shuffles_apart():
    assert str(Shuffle(2)) != str(Shuffle(3))
