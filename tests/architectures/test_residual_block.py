"""Residual blocks against exact counts, torchvision's networks, the identity, and derivatives."""

import copy

import given
import pytest
import torch
from given_architectures import check_seed_and_copies, drawn, with_drawn_norms, with_weights_of
from torch import nn

from lib import measure, models
from lib.architectures.residual_block import (
    BasicBlock,
    Bottleneck,
    ZeroPadding,
    cifar_resnet,
    imagenet_resnet,
    shortcut_layers,
)
from lib.vision import torchvision


@pytest.mark.parametrize(
    ("depth", "parameters", "multiply_adds"),
    [
        (8, 75_290, 12.24),
        (20, 269_722, 40.55),
        (32, 464_154, 68.86),
        (44, 658_586, 97.17),
        (56, 853_018, 125.49),
        (110, 1_727_962, 252.89),
    ],
)
def test_networks_for_small_images_have_the_known_counts(depth, parameters, multiply_adds):
    with torch.device("meta"):
        network = cifar_resnet(depth=depth)
    assert measure.parameters(network) == parameters
    assert round(measure.multiply_adds(network, (3, 32, 32)) / 1e6, 2) == multiply_adds
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in network.modules()) == depth


def test_a_projection_adds_its_own_weights_and_nothing_else():
    counts = {kind: measure.parameters(cifar_resnet(shortcut=kind)) for kind in ("A", "B", "none")}
    assert counts["B"] - counts["A"] == (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert counts["none"] == counts["A"]


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_networks_for_large_images_have_torchvisions_counts(depth):
    with torch.device("meta"):
        ours, theirs = imagenet_resnet(depth=depth), getattr(torchvision.models, f"resnet{depth}")()
    assert measure.parameters(ours) == measure.parameters(theirs)
    if depth <= 50:  # the deeper ones repeat its blocks
        assert measure.multiply_adds(ours, (3, 224, 224)) == measure.multiply_adds(theirs, (3, 224, 224))


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_networks_for_large_images_give_torchvisions_answers(depth):
    theirs = with_drawn_norms(given.seeded(lambda: getattr(torchvision.models, f"resnet{depth}")(num_classes=7)))
    with torch.device("meta"):
        ours = imagenet_resnet(depth=depth, classes=7)
    ours = with_weights_of(theirs, ours.to_empty(device="cpu"))
    images = given.split(2, 3, 40, 64).images
    with torch.no_grad():
        for training in (False, True):
            torch.testing.assert_close(ours.train(training)(images), theirs.train(training)(images))


def test_the_papers_stride_makes_three_convolutions_four_times_cheaper():
    with torch.device("meta"):
        ours, paper = imagenet_resnet(depth=50), imagenet_resnet(depth=50, strided="1x1")
    work = [measure.multiply_adds(network, (3, 224, 224)) for network in (ours, paper)]
    # three first convolutions run on a quarter of the pixels
    saved = sum(
        inputs * inputs // 2 * (side**2 - (side // 2) ** 2) for inputs, side in [(256, 56), (512, 28), (1024, 14)]
    )
    assert work == [4_089_184_256, 4_089_184_256 - saved] and round(work[1] / 1e9, 2) == 3.86
    assert measure.parameters(ours) == measure.parameters(paper)


def test_with_projections_it_is_the_networks_of_models():
    for depth, build in ((8, models.resnet8), (20, models.resnet20)):
        theirs, ours = with_drawn_norms(build(width=4)), cifar_resnet(depth=depth, width=0.25, shortcut="B").eval()
        ours.load_state_dict(theirs.state_dict())
        images = given.split(2, 3, 32, 32).images
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize("build", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_residual_a_block_is_the_identity(build, dtype):
    block = given.seeded(lambda: build(8, 8)).to(dtype)
    last = [layer for layer in block.modules() if isinstance(layer, nn.BatchNorm2d)][-1]
    nn.init.zeros_(last.weight)
    x = torch.rand(3, 8, 5, 6, generator=given.generator(), dtype=dtype)
    assert torch.equal(block(x), x)
    assert torch.equal(block(-x), torch.zeros_like(x))


@pytest.mark.parametrize("build", [BasicBlock, Bottleneck])
def test_the_jacobian_has_the_identity_in_it(build):
    block = with_drawn_norms(given.seeded(lambda: build(4, 4))).double()
    x = torch.randn(1, 4, 3, 3, generator=given.generator(), dtype=torch.float64, requires_grad=True)
    whole, residual = (torch.autograd.functional.jacobian(f, x).reshape(36, 36) for f in (block, block.residual))
    active = (block(x) > 0).double().reshape(36, 1)
    assert 0 < active.sum() < 36
    torch.testing.assert_close(whole, active * (residual + torch.eye(36, dtype=torch.float64)))
    assert torch.autograd.gradcheck(block, x)  # finite differences


def test_a_plain_block_is_its_residual_alone():
    for build in (BasicBlock, Bottleneck):
        block = with_drawn_norms(given.seeded(lambda build=build: build(8, 8, shortcut="none")))
        x = given.split(2, 8, 5, 5).images
        assert torch.equal(block(x), block.residual(x).relu())
        assert not torch.equal(block(x), (block.residual(x) + x).relu())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_zero_padding_is_a_fixed_convolution(dtype):
    x = torch.randn(2, 3, 5, 7, generator=given.generator()).to(dtype)
    selection = torch.eye(5, 3, dtype=dtype).reshape(5, 3, 1, 1)
    ours = ZeroPadding(3, 5, 2)(x)
    assert ours.dtype == dtype
    assert torch.equal(ours, nn.functional.conv2d(x, selection, stride=2))
    assert torch.equal(ZeroPadding(3, 5, 2)(x.transpose(2, 3)), ours.transpose(2, 3))


@pytest.mark.parametrize("shortcut", ["A", "B", "none"])
@pytest.mark.parametrize("build", [BasicBlock, Bottleneck])
def test_every_block_keeps_or_halves_the_sides(build, shortcut):
    for stride, sides in ((1, (5, 6)), (2, (3, 3)), (3, (2, 2))):
        block = build(4, 8, stride, shortcut=shortcut)
        assert block(torch.zeros(2, 4, 5, 6)).shape == (2, 8, *sides)
        assert sum(p.numel() for p in block.shortcut.parameters()) == (48 if shortcut == "B" else 0)


def test_plain_and_padded_networks_start_from_the_same_weights():
    a, plain = cifar_resnet(3, depth=8), cifar_resnet(3, depth=8, shortcut="none")
    assert given.same_state(given.state(a), given.state(plain))
    images = given.split(2, 3, 8, 8).images
    assert not torch.allclose(a(images), plain(images))


@pytest.mark.parametrize("build", [BasicBlock, Bottleneck])
def test_its_text_tells_a_plain_block_apart(build):
    blocks = [build(8, 8, shortcut=shortcut) for shortcut in ("A", "B", "none")]
    assert len({str(block) for block in blocks}) == 3


def test_it_depends_on_its_seed_alone_with_weights_of_hes_spread():
    check_seed_and_copies(lambda seed: cifar_resnet(seed, depth=8), drawn(2, 3, 9, 8))
    weight = cifar_resnet(1, depth=8).stage3_1.conv2.weight
    assert float(weight.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("build", [cifar_resnet, imagenet_resnet])
def test_one_pixel_one_channel_and_other_widths_are_taken(build):
    network = build(channels=1, classes=2, width=0.3).double().eval()
    image = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert network(image).shape == (1, 2) and network(image).isfinite().all()
    assert torch.equal(copy.deepcopy(network)(image), network(image))
    widths = [layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert widths[0] == {cifar_resnet: 5, imagenet_resnet: 19}[build]


def test_all_weights_of_each_network_learn():
    for network in (
        cifar_resnet(depth=8, width=0.25),
        imagenet_resnet(depth=50, width=1 / 16, classes=3, strided="1x1"),
    ):
        network(given.split(4, 3, 33, 47).images).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: BasicBlock(4, 8, shortcut="C"), 'shortcut must be "A", "B" or "none", not \'C\''),
        (lambda: BasicBlock(8, 4, shortcut="A"), "outputs must be 8 or more, not 4"),
        (lambda: ZeroPadding(8, 4, 1), "outputs must be 8 or more, not 4"),
        (lambda: BasicBlock(0, 4), "inputs must be a whole number of 1 or more, not 0"),
        (lambda: BasicBlock(4, 4, 0), "stride must be a whole number of 1 or more, not 0"),
        (lambda: shortcut_layers(4, 4, 1.0, shortcut="B"), "stride must be a whole number of 1 or more, not 1.0"),
        (lambda: Bottleneck(4, 6), "multiple of 4, not 6"),
        (lambda: Bottleneck(4, 8, strided="5x5"), 'strided must be "1x1" or "3x3", not \'5x5\''),
        (lambda: cifar_resnet(depth=10), r"6 n \+ 2 for n blocks in each stage \(8, 14, 20, ...\), not 10"),
        (lambda: cifar_resnet(depth=2), "not 2"),
        (lambda: cifar_resnet(classes=1), "classes must be a whole number of 2 or more, not 1"),
        (lambda: cifar_resnet(width=float("nan")), "width must be a finite number above 0, not nan"),
        (lambda: cifar_resnet(channels=0), "channels must be a whole number of 1 or more, not 0"),
        (lambda: cifar_resnet(shortcut="plain"), 'shortcut must be "A", "B" or "none"'),
        (lambda: imagenet_resnet(depth=20), "depth must be one of 18, 34, 50, 101, 152, not 20"),
        (lambda: imagenet_resnet(depth=18, strided="1x1"), "depth 18 has basic blocks"),
        (lambda: imagenet_resnet(width=0), "width must be a finite number above 0, not 0"),
        (lambda: cifar_resnet(depth=8)(torch.zeros(1, 1, 8, 8)), r"takes \(n, 3, height, width\)"),
    ],
)
def test_what_no_block_can_be_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
