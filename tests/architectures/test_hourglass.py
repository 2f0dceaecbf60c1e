"""The hourglass: its equation, its counts, its blocks on bits with equal answers, and its loss."""

import copy
import math

import given
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import measure, storage, training
from lib.architectures.hourglass import Hourglass, Stacks, hourglass, squared_error
from lib.architectures.shared.key_points import pck
from lib.architectures.shared.landmarks import extreme_points, heatmaps
from lib.binarization.bulat_binary_block import BinaryBlock, Bottleneck, equal_width
from lib.binarization.shared import inference
from lib.binarization.shared.signs import Binarized
from lib.cache import cached
from lib.datasets import Split

BLOCKS = {
    "block": lambda c: BinaryBlock(c, c),
    "bottleneck": lambda c: Bottleneck(c, equal_width(c)),
    "real block": lambda c: BinaryBlock(c, c, binary=False),
    "real bottleneck": lambda c: Bottleneck(c, equal_width(c), binary=False),
}


class Scaled(nn.Module):
    """A block that multiplies by its number, 1, 2, 3, ..., in the order in which blocks are made."""

    def __init__(self, made):
        super().__init__()
        made.append(self)
        self.factor = len(made)

    def forward(self, x):
        return self.factor * x


def images(*shape, seed=0):
    return torch.randn(shape, generator=given.generator(seed))


def network(kind, seed=0, **sizes):
    return hourglass(seed, block=BLOCKS[kind], **{"channels": 1, "maps": 4, "features": 8, "depth": 2} | sizes)


def by_hand(x, glass):
    """The hourglass's equation with blocks that scale, pixel by pixel."""
    skip, down, up = (part.factor for part in (glass.skip, glass.down, glass.up))
    height, width = x.shape[2:]
    low = torch.stack(
        [
            torch.stack([x[:, :, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].amax((2, 3)) for c in range(width // 2)], 2)
            for r in range(height // 2)
        ],
        2,
    )
    inner = by_hand(down * low, glass.inner) if glass.depth > 1 else glass.inner.factor * down * low
    rows = [math.floor(r * (height // 2) / height) for r in range(height)]
    columns = [math.floor(c * (width // 2) / width) for c in range(width)]
    return skip * x + up * inner[:, :, rows][:, :, :, columns]


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (15, 11)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_an_hourglass_is_its_equation(depth, size):
    made = []
    glass = Hourglass(depth, 2, lambda channels: Scaled(made))
    x = images(2, 2, *size)
    assert len(made) == 3 * depth + 1
    torch.testing.assert_close(glass(x), by_hand(x, glass))


@pytest.mark.parametrize(("depth", "stacks"), [(1, 1), (1, 2), (3, 1)])
def test_real_and_binary_networks_have_the_same_parameters(depth, stacks):
    counts = {kind: measure.parameters(network(kind, features=32, depth=depth, stacks=stacks)) for kind in BLOCKS}
    assert counts["block"] == counts["real block"] and counts["bottleneck"] == counts["real bottleneck"]
    c, blocks = 32, 1 + stacks * (3 * depth + 2)
    ends = (9 * c + 3 * c) + stacks * (2 * c + 4 * c + 4) + (stacks - 1) * (c * c + c + 4 * c + c)
    assert counts["block"] == ends + blocks * (99 * c**2 // 16 + 2 * (c + c // 2 + c // 4))
    assert counts["bottleneck"] == pytest.approx(counts["block"], rel=0.05)


def test_a_block_of_256_channels_has_406_400_parameters():
    assert measure.parameters(BLOCKS["block"](256)) == 406_400


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(16, 16), (23, 18)])
def test_maps_have_the_size_of_the_images_over_the_stride(size, stride):
    net = network("real block", stride=stride, channels=3).eval()
    expected = (1, 4, -(-size[0] // stride), -(-size[1] // stride))
    assert net(images(1, 3, *size)).shape == expected


@pytest.mark.parametrize(("depth", "stride", "least"), [(1, 1, 2), (2, 1, 4), (2, 4, 13), (3, 2, 15)])
def test_the_smallest_image_is_taken_and_a_smaller_one_refused(depth, stride, least):
    net = network("block", depth=depth, stride=stride).eval()
    assert net(images(1, 1, least, least)).isfinite().all()
    with pytest.raises(ValueError, match=rf"takes \(n, 1, height, width\) with {least} pixels or more"):
        net(images(1, 1, least - 1, 40))


def seen(net, *shape):
    """The network in evaluation mode, with norms that have seen noise."""
    net.train()
    with torch.no_grad():
        for seed in range(3):
            net(images(*shape, seed=seed))
    return net.eval()


@pytest.mark.parametrize(
    ("kind", "size", "stacks", "stride"),
    [("block", (12, 12), 1, 2), ("block", (13, 9), 2, 1), ("bottleneck", (13, 9), 1, 1)],
)
def test_on_bits_the_answers_are_equal(kind, size, stacks, stride):
    net = seen(network(kind, stacks=stacks, stride=stride), 4, 1, *size)
    signs = [module for module in net.modules() if isinstance(module, Binarized)]
    assert len(signs) == 3 * (1 + 8 * stacks)
    on_bits = inference.convert(net)
    assert not any(isinstance(module, Binarized) for module in on_bits.modules())
    x = images(5, 1, *size, seed=9).to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected, found = net(x), on_bits(x)
        assert torch.equal(found, expected) and expected.std() > 0
        torch.testing.assert_close(on_bits(x.contiguous()), net(x.contiguous()), rtol=1e-4, atol=1e-5)


def test_first_last_and_handing_convolutions_are_real():
    net = network("block", stacks=2)
    inside = {name for name, m in net.named_modules() if isinstance(m, Binarized)}
    real = [
        name
        for name, m in net.named_modules()
        if isinstance(m, nn.Conv2d) and not any(name.startswith(each) for each in inside)
    ]
    heads = ["stacks.heads.0", "stacks.heads.1", "stacks.from_features.0", "stacks.from_maps.0"]
    assert real == ["conv", *heads]


def test_training_sees_the_maps_of_all_hourglasses():
    net = network("real block", stacks=3)
    heads = []
    for head in net.stacks.heads:
        head.register_forward_hook(lambda _, __, maps: heads.append(maps))
    x = images(2, 1, 8, 8)
    outputs = net.train()(x)
    assert torch.equal(outputs, torch.cat(heads, 1)) and outputs.shape == (2, 12, 8, 8)
    heads.clear()
    assert torch.equal(net.eval()(x), heads[2])


def test_the_next_hourglass_reads_maps_features_and_input():
    net = seen(network("real block", stacks=2), 4, 1, 8, 8).double()
    x = images(1, 1, 8, 8).double()
    entered = []
    net.stacks.features[1].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    net(x)
    start = net[:4](x)
    features = net.stacks.features[0](start)
    maps = net.stacks.heads[0](features)
    merged = start + net.stacks.from_features[0](features) + net.stacks.from_maps[0](maps)
    torch.testing.assert_close(entered[0], merged)


@pytest.mark.parametrize("kind", ["block", "real bottleneck"])
def test_the_gradient_reaches_every_parameter(kind):
    net = network(kind, stacks=2).train()
    squared_error(net(images(3, 1, 9, 8)), torch.zeros(3, 4, 9, 8)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(p.grad.any() for p in net.parameters() if p.dim() > 1)


def test_the_loss_is_the_mean_over_hourglasses():
    outputs, targets = images(2, 6, 3, 4), images(2, 3, 3, 4, seed=1)
    expected = [functional.mse_loss(part, targets) for part in outputs.split(3, 1)]
    torch.testing.assert_close(squared_error(outputs, targets), sum(expected) / 2)
    torch.testing.assert_close(squared_error(outputs[:, :3], targets), expected[0])


@pytest.mark.parametrize("kind", ["block", "real bottleneck"])
def test_seeds_copies_and_files_give_the_same_network(kind, tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    net = seen(network(kind, 1, depth=1, stacks=2), 4, 1, 8, 8)
    a, b, c = (network(kind, seed, depth=1) for seed in (1, 1, 2))
    assert given.equal(a, b) and not given.equal(a, c)
    assert torch.equal(before, torch.get_rng_state())
    x = images(2, 1, 8, 8)
    expected = net(x)
    fresh = network(kind, 2, depth=1, stacks=2).eval()
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x), expected) and torch.equal(copy.deepcopy(net)(x), expected)
    storage.save(net, tmp_path / "net.slim")
    loaded = storage.load(tmp_path / "net.slim", network(kind, 2, depth=1, stacks=2)).eval()
    torch.testing.assert_close(loaded(x), expected)
    assert net.double()(x.double()).dtype == torch.float64


def toy(n=32):
    """Images of one bright rectangle each, the Gaussians around its extreme points, and these points."""
    random = given.generator()
    x = torch.zeros(n, 1, 12, 12)
    for image, (r, c, h, w) in zip(x, torch.randint(1, 6, (n, 4), generator=random).tolist(), strict=True):
        image[0, r : r + h, c : c + w] = 1
    points = extreme_points(x)
    return Split(x, heatmaps(points, size=(12, 12))), points


@pytest.mark.parametrize("kind", ["block", "real block"])
def test_training_finds_points_and_the_cache_keeps_it(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    split, points = toy()
    options = {"split": split, "epochs": 8, "seed": 0, "batch_size": 8, "optimizer": "adam", "learning_rate": 0.01}
    nets = [cached(training.fit, network(kind, depth=1), **options, loss=squared_error) for _ in range(2)]
    assert given.equal(*nets) and len(list(tmp_path.glob("*.safetensors"))) == 1
    with torch.no_grad():
        scores = [pck(net.eval()(split.images), points, distance=1.5) for net in (network(kind, depth=1), nets[0])]
    assert scores[1] > 40 > scores[0]


@pytest.mark.parametrize("size", ["channels", "maps", "features", "depth", "stacks", "stride"])
def test_sizes_below_1_are_refused(size):
    for value in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"{size} must be a whole number of 1 or more, not {value}"):
            network("block", **{size: value})


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="depth must be a whole number of 1 or more, not 0"):
        Hourglass(0, 4, BLOCKS["block"])
    with pytest.raises(ValueError, match="stacks must be a whole number of 1 or more, not 0"):
        Stacks(0, 1, 4, 1, BLOCKS["block"])
    with pytest.raises(ValueError, match=r"4, 8, 12, ... outputs, not 6 and 6"):
        network("block", features=6)
    for outputs, targets in (
        ((2, 4, 4, 4), (2, 3, 4, 4)),
        ((2, 6, 4, 3), (2, 3, 4, 4)),
        ((1, 3, 4, 4), (2, 3, 4, 4)),
        ((2, 3, 4, 4), (3, 4, 4)),
        ((2, 0, 4, 4), (2, 3, 4, 4)),
    ):
        with pytest.raises(ValueError, match=r"outputs \(n, stacks · maps, height, width\) and targets"):
            squared_error(torch.zeros(outputs), torch.zeros(targets))
