"""Which channels may go: those whose ways are understood are right, all others are left out, and a reason is given."""

import dataclasses
import random
from collections import namedtuple

import given
import numpy as np
import pytest
import torch
from given_structure import Net, between, close, conv, halves, head, images, instead, silenced
from torch import nn
from torch.nn import functional

from lib import structure
from lib.vision import torchvision

Pair = namedtuple("Pair", "logits maps")


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    maps: torch.Tensor


def gated(net, maps, gate=torch.sigmoid, pool=torch.mean):
    squeezed = torch.relu(net.squeeze(pool(maps, (2, 3), keepdim=True)))
    return maps * gate(net.excite(squeezed))


def attended(net, x):
    tokens = net.a(x.flatten(2).transpose(1, 2))
    weights = torch.softmax(tokens @ tokens.transpose(1, 2), -1)
    return net.fc(torch.relu(net.b(weights @ tokens)).mean(1))


def mixed(net, x):
    """One block of an MLP mixer: a perceptron over tokens, one over channels."""
    x = net.patches(x).flatten(2).transpose(1, 2)
    x = x + net.token2(functional.gelu(net.token1(x.transpose(1, 2)))).transpose(1, 2)
    return net.fc((x + net.channel2(functional.gelu(net.channel1(net.norm(x))))).mean(1))


def unet(net, x):
    down = torch.relu(net.down(functional.max_pool2d(torch.relu(net.a(x)), 2)))
    up = functional.interpolate(down, scale_factor=2.0, mode="bilinear")
    return head(net, torch.cat([torch.relu(net.a(x)), up], 1))


def squeeze():
    return {"squeeze": nn.Conv2d(8, 4, 1), "excite": nn.Conv2d(4, 8, 1)}


# name -> the network, and the first layers of the groups that it has
RIGHT = given.seeded(
    lambda: {
        "nothing": (between(lambda net, y: y), "a b"),
        "one parameter for all": (between(lambda net, y: y * net.scale, scale=nn.Parameter(torch.ones(1))), "a b"),
        "squeeze and excitation": (between(gated, **squeeze()), "a b squeeze"),
        "gates that close": (
            between(lambda n, y: gated(n, y, lambda z: torch.relu(z - 1)), **squeeze()),
            "a b squeeze",
        ),
        "the same channels twice": (between(lambda net, y: torch.cat([y, -y], 1), 16), "a b"),
        "a zero channel at the end": (between(lambda n, y: functional.pad(y, (0, 0, 0, 0, 0, 1)), 9), "a b"),
        "height and width swapped": (between(lambda net, y: y.transpose(2, 3)), "a b"),
        "linear layer on the last axis": (
            between(lambda net, y: net.mlp(y.permute(0, 2, 3, 1)).relu().permute(0, 3, 1, 2), mlp=nn.Linear(8, 8)),
            "a b mlp",
        ),
        "a comparison": (instead(lambda n, x: head(n, torch.where(n.a(x) > 0, n.a(x), 0 * n.a(x)))), "a b"),
        "signs": (instead(lambda net, x: head(net, torch.sign(net.a(x)))), "a b"),
        "NaN that disappears": (between(lambda net, y: y.nan_to_num()), "a b"),
        "norms of maps": (between(lambda net, y: functional.normalize(y, dim=(2, 3))), "a b"),
        "batch norm without parameters": (between(lambda n, y: n.norm(y), norm=nn.BatchNorm2d(8, affine=False)), "a b"),
        "batch norm without statistics": (
            between(lambda net, y: net.norm(y), norm=nn.BatchNorm2d(8, track_running_stats=False, momentum=None)),
            "a b",
        ),
        "instance norm": (
            between(lambda n, y: n.norm(y), norm=nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
            "a b",
        ),
        "a slope for each channel": (instead(lambda n, x: head(n, n.act(n.a(x))), act=nn.PReLU(8)), "a b"),
        "one slope for all": (instead(lambda n, x: head(n, n.act(n.a(x))), act=nn.PReLU()), "a b"),
        "one layer for two images": (instead(lambda n, x: head(n, n.a(x).relu()) - head(n, n.a(-x).relu())), "a b"),
        "one layer twice in a row": (between(lambda n, y: n.c(n.c(y).relu()).relu(), c=conv(8, 8)), "a b"),
        "an argument by its name": (instead(lambda net, x: head(net, net.a(input=x).relu())), "a b"),
        "changed in place": (instead(lambda net, x: head(net, net.a(x).relu_().mul_(2))), "a b"),
        "dropout": (between(lambda net, y: functional.dropout(y, 0.5, net.training)), "a b"),
        "noise while training": (between(lambda n, y: y * torch.rand_like(y) if n.training else y), "a b"),
        "parts of one layer": (instead(lambda n, x: head(n, n.c(x)[:, :4].relu()), 4, c=conv(3, 8)), "b"),
        "outputs that are no tensors": (instead(lambda net, x: {"y": [head(net, net.a(x).relu()), None, 3]}), "a b"),
        "batch norm after a flatten": (
            Net(
                lambda net, x: net.fc(net.norm(net.a(x).flatten(1)).relu()),
                **{"a": conv(3, 8), "norm": nn.BatchNorm1d(512), "fc": nn.Linear(512, 4)},
            ),
            "a",
        ),
        "places around the maps": (
            Net(lambda n, x: n.fc(functional.pad(n.a(x), (1, 1, 1, 1)).flatten(1)), a=conv(3, 8), fc=nn.Linear(800, 4)),
            "a",
        ),
        "mixer": (
            Net(
                mixed,
                **{"patches": nn.Conv2d(3, 6, 2, 2), "norm": nn.LayerNorm(6), "fc": nn.Linear(6, 4)},
                **{"token1": nn.Linear(16, 10), "token2": nn.Linear(10, 16)},
                **{"channel1": nn.Linear(6, 12), "channel2": nn.Linear(12, 6)},
            ),
            "channel1 token1",
        ),
        "U-Net": (Net(unet, a=conv(3, 8), down=conv(8, 8), b=conv(16, 6), fc=nn.Linear(6, 4)), "a b down"),
        "encoder layer": (
            Net(
                lambda net, x: net.fc(net.b(net.encoder(net.a(x.flatten(2).transpose(1, 2)))).relu().mean(1)),
                encoder=nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
                **{"a": nn.Linear(3, 8), "b": nn.Linear(8, 6), "fc": nn.Linear(6, 4)},
            ),
            "b encoder.linear1",
        ),
    }
)


@pytest.mark.parametrize("name", RIGHT)
def test_understood_channels_go_as_if_their_filters_were_silent(name):
    model, layers = RIGHT[name]
    model.eval()
    found = structure.groups(model, images())
    assert sorted(group.producers[0] for group in found) == layers.split()
    masks = halves(found)
    with torch.no_grad():
        small, masked = structure.shrink(model, masks, images()), structure.mask(model, masks, images())
        wanted, change = silenced(model, masks)(images()), model(images())
        got, zeroed = small(images()), masked(images())
    if isinstance(wanted, dict):
        wanted, change, got, zeroed = (answer["y"][0] for answer in (wanted, change, got, zeroed))
    assert close(got, wanted) and close(zeroed, wanted) and not close(wanted, change)
    assert all(len(small.get_submodule(layer).weight) == int(kept.sum()) for layer, kept in masks.items())


def stages(pack):
    return instead(lambda net, x: pack(net.a(x).relu(), head(net, net.a(x).relu())))


READS = "other things that layer 'b' reads depend on them"
ELSE = "without them the network computes something else in evaluation mode"
CANNOT = "without them the network cannot run in evaluation mode"

# name -> the network, and why the filters of its layer a stay
SPARED = given.seeded(
    lambda: {
        "buffer": (between(lambda net, y: y * net.scale, scale=torch.ones(1, 8, 1, 1)), CANNOT),
        "statistics in buffers": (
            between(lambda n, y: functional.batch_norm(y, n.m, n.v), m=torch.zeros(8), v=torch.ones(8)),
            CANNOT,
        ),
        "parameter": (
            between(lambda net, y: y * net.scale, scale=nn.Parameter(torch.ones(8, 1, 1))),
            "parameter 'scale'",
        ),
        "product with a parameter": (
            between(lambda n, y: torch.einsum("nchw,cd->ndhw", y, n.w), w=nn.Parameter(torch.ones(8, 8))),
            "parameter 'w' is combined with its channels",
        ),
        "added to the input": (
            Net(lambda n, x: head(n, n.a(x) + x), a=conv(3, 3), b=conv(3, 6), fc=nn.Linear(6, 4)),
            CANNOT,
        ),
        "joined with the input": (instead(lambda n, x: head(n, torch.cat([x, n.a(x)], 1)), 11), READS),
        "broadcast over channels": (between(lambda n, y: y * n.one(y).sigmoid(), one=conv(8, 1)), "'one'"),
        "tuple": (stages(lambda a, b: (a, b)), "output"),
        "tuple, other order": (stages(lambda a, b: (b, a)), "output"),
        "list": (stages(lambda a, b: [b, [a]]), "output"),
        "dictionary": (stages(lambda a, b: {"logits": b, "maps": a}), "output"),
        "named tuple": (stages(lambda a, b: Pair(b, a)), "output"),
        "record": (stages(lambda a, b: Result(b, a)), "output"),
        "embedding": (stages(lambda a, b: (b, a.mean((2, 3)))), "output"),
        "chunk": (between(lambda net, y: y.chunk(2, 1)[0], 4), "split, joined or mixed"),
        "split": (between(lambda net, y: torch.cat(y.split([2, 6], 1)[::-1], 1)), "split"),
        "slices": (between(lambda net, y: y[:, :4], 4), "split, joined or mixed"),
        "maxout": (between(lambda net, y: torch.maximum(y[:, :4], y[:, 4:]), 4), "tied to each other"),
        "gated linear unit": (between(lambda net, y: functional.glu(y, 1), 4), "split, joined or mixed"),
        "mean over channels": (between(lambda net, y: y - y.mean(1, keepdim=True)), READS),
        "largest of the channels": (between(lambda net, y: y / (1 + y.amax(1, keepdim=True))), READS),
        "softmax": (between(lambda net, y: y.softmax(1)), READS),
        "sorted": (between(lambda net, y: y.sort(1)[0]), READS),
        "sum so far": (between(lambda net, y: y.cumsum(1)), READS),
        "group norm": (between(lambda n, y: n.norm(y), norm=nn.GroupNorm(2, 8)), "'norm', a GroupNorm, works on"),
        "group norm without parameters": (between(lambda net, y: functional.group_norm(y, 2)), READS),
        "layer norm without parameters": (between(lambda net, y: functional.layer_norm(y, y.shape[1:])), READS),
        "root mean square": (between(lambda net, y: y / (y.square().mean(1, keepdim=True) + 1e-6).sqrt()), READS),
        "local response norm": (between(lambda net, y: functional.local_response_norm(y, 3)), READS),
        "unit length": (between(lambda net, y: functional.normalize(y, dim=1)), READS),
        "strongest channel": (between(lambda net, y: y * (1.0 + y.argmax(1, keepdim=True))), ELSE),
        "how many are positive": (between(lambda net, y: y * (y > 0.3).sum(1, keepdim=True)), "something else"),
        "mean of what is no NaN": (between(lambda net, y: y + y.nanmean(1, keepdim=True)), "something else"),
        "number of channels": (between(lambda net, y: y / y.shape[1] ** 0.5), ELSE),
        "sign of the sum": (between(lambda net, y: y if y.sum() > 0 else -y), "something else"),
        "sizes in the code": (between(lambda net, y: y.view(-1, 8, 64).view(-1, 8, 8, 8)), CANNOT),
        "shuffle by views": (between(lambda n, y: y.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8)), ""),
        "shuffle": (between(lambda n, y: n.shuffle(y), shuffle=nn.ChannelShuffle(2)), READS),
        "flip": (between(lambda net, y: y.flip(1)), READS),
        "roll": (between(lambda net, y: y.roll(1, 1)), READS),
        "zero channels in front": (between(lambda net, y: functional.pad(y, (0, 0, 0, 0, 1, 1)), 10), READS),
        "another order": (between(lambda net, y: y[:, [1, 0, 3, 2, 5, 4, 7, 6]]), READS),
        "channels swapped with height": (between(lambda net, y: y.transpose(1, 2)), READS),
        "pixels to channels": (between(lambda net, y: functional.pixel_unshuffle(y, 2), 32), READS),
        "channels to pixels": (between(lambda net, y: functional.pixel_shuffle(y, 2), 2), "split, joined or mixed"),
        "channels last, flattened": (
            Net(lambda n, x: n.fc(n.a(x).permute(0, 2, 3, 1).flatten(1)), a=conv(3, 8), fc=nn.Linear(512, 4)),
            "other things that layer 'fc' reads depend on them",
        ),
        "time first, then reshape": (
            Net(
                lambda net, x: net.fc(net.a(x.flatten(2)).transpose(1, 2).reshape(len(x), -1)),
                **{"a": nn.Conv1d(3, 8, 3, padding=1), "fc": nn.Linear(512, 4)},
            ),
            "other things that layer 'fc' reads depend on them",
        ),
        "joined, then flattened": (
            Net(
                lambda net, x: net.fc(torch.cat([net.a(x), net.c(x)], 1).flatten(1)),
                **{"a": conv(3, 8), "c": conv(3, 8), "fc": nn.Linear(1024, 4)},
            ),
            "",
        ),
        "flattened, then joined": (
            Net(
                lambda net, x: net.fc(torch.cat([net.a(x).flatten(1), net.c(x).flatten(1)], 1)),
                **{"a": conv(3, 8), "c": conv(3, 8), "fc": nn.Linear(1024, 4)},
            ),
            "other things that layer 'fc' reads depend on them",
        ),
        "dense block, then flattened": (
            Net(
                lambda n, x: n.fc((lambda y: torch.cat([y, n.c(y)], 1))(torch.cat([x, n.a(x)], 1)).flatten(1)),
                **{"a": conv(3, 8), "c": conv(11, 8), "fc": nn.Linear(19 * 64, 4)},
            ),
            "",
        ),
        "products of channels": (
            Net(
                lambda n, x: n.fc((lambda y: y @ y.mT)(n.a(x).flatten(2)).flatten(1)), a=conv(3, 8), fc=nn.Linear(64, 4)
            ),
            "",
        ),
        "attention": (Net(attended, a=nn.Linear(3, 8), b=nn.Linear(8, 6), fc=nn.Linear(6, 4)), READS),
        "transposed convolution": (
            between(lambda n, y: n.up(y), up=nn.ConvTranspose2d(8, 8, 3)),
            "'up', a ConvTranspose2d",
        ),
        "recurrent layer": (
            Net(
                lambda net, x: net.fc(net.memory(net.a(x.flatten(2).transpose(1, 2)))[0][:, -1]),
                **{"a": nn.Linear(3, 8), "memory": nn.LSTM(8, 6, batch_first=True), "fc": nn.Linear(6, 4)},
            ),
            "'memory', a LSTM, works on its channels",
        ),
        "a weight that the owner reads": (
            instead(lambda net, x: head(net, functional.conv2d(x, net.a.weight, padding=1))),
            "it is not called",
        ),
        "a weight that the owner reads without gradients": (
            instead(
                lambda net, x: head(
                    net,
                    net.a(x) if torch.is_grad_enabled() else functional.conv2d(x, net.a.weight, net.a.bias, padding=1),
                )
            ),
            "layer 'a' does not run: its owner reads its weight without calling it",
        ),
        "a reader that the owner reads": (
            instead(lambda n, x: n.fc(functional.conv2d(n.a(x).relu(), n.b.weight).relu().mean((2, 3)))),
            "",
        ),
        "outside the graph": (between(lambda net, y: y.detach()), "it is not called"),
        "partly outside the graph": (between(lambda n, y: y + n.c(y.detach()), c=conv(8, 8)), READS),
        "a count in a buffer": (between(lambda n, y: y / (1 + n.most.copy_(y.amax())), most=torch.zeros(())), READS),
        "one channel in each group": (
            between(lambda n, y: n.c(y), 16, c=conv(8, 16, groups=8)),
            "hold one of its channels",
        ),
        "wrong while training": (
            between(lambda n, y: y.flip(1) if n.training else y),
            "something else in training mode",
        ),
        "mixed while training": (
            between(lambda n, y: y - y.mean(1, keepdim=True) if n.training else y),
            "something else in training mode",
        ),
    }
)


@pytest.mark.parametrize("name", SPARED)
def test_other_channels_are_spared_and_the_rest_is_not(name):
    model, reason = SPARED[name]
    model.eval()
    found = {layer: group for group in structure.groups(model, images()) for layer in group.producers}
    assert "a" not in found
    assert "b" in found or not hasattr(model, "b") or name == "a reader that the owner reads"
    with pytest.raises(ValueError, match=rf"layer 'a' has no filters that can go.*{reason}"):
        structure.shrink(model, {"a": torch.arange(model.a.weight.shape[0]) % 2 > 0}, images())
    if "b" in found:
        small = structure.shrink(model, {"b": torch.arange(6) < 3}, images())
        assert small.b.weight.shape[0] == 3 and small.a.weight.shape == model.a.weight.shape


def test_a_map_and_a_vector_that_share_channels_end_the_search():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 3, 1)
            self.norm, self.fc, self.last = nn.BatchNorm2d(5), nn.Linear(22, 3), nn.Linear(3, 2)

        def forward(self, x):
            b = self.b(self.a(x))
            y = self.norm(torch.cat([b, self.c(b)], 1))
            return self.last(self.fc(torch.cat([y.flatten(1), b.mean((2, 3))], 1)))

    found = structure.groups(Mixed(), torch.zeros(1, 1, 2, 2))
    assert [group.producers for group in found] == [("a",), ("fc",)]


def weight_of_another():
    net = between(lambda net, y: net.d(net.c(y).relu()).relu(), c=conv(8, 8), d=conv(8, 8))
    net.d.weight = net.c.weight
    return net


def weight_from_others():
    net = between(lambda net, y: y)
    net.b = nn.utils.spectral_norm(net.b)
    return net


def tied_to_a_plain_parameter():
    net = between(lambda net, y: y)
    net.same = net.b.weight
    return net


@pytest.mark.parametrize(
    ("build", "layer", "reason"),
    [
        (weight_of_another, "a", "another layer shares the weight of 'c'"),
        (weight_of_another, "d", "another layer shares the weight of 'd'"),
        (weight_from_others, "a", "other parameters make the weight of 'b'"),
        (tied_to_a_plain_parameter, "a", "another layer shares the weight of 'b'"),
    ],
)
def test_weights_that_are_not_the_layers_alone_stay(build, layer, reason):
    model = given.seeded(build).eval()
    assert layer not in {name for group in structure.groups(model, images()) for name in group.producers}
    with pytest.raises(ValueError, match=reason):
        structure.mask(model, {layer: torch.arange(8) < 4}, images())


class Auxiliary(nn.Module):
    """A second head that runs in training mode alone, as in GoogLeNet."""

    def __init__(self, way=lambda maps: maps):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(8, 6), nn.Linear(6, 4)
        self.side, self.side_fc, self.way = conv(8, 5), nn.Linear(5, 4), way

    def forward(self, x):
        maps = torch.relu(self.a(x))
        logits = head(self, maps)
        if not self.training:
            return logits
        return logits, self.side_fc(torch.relu(self.side(self.way(maps))).mean((2, 3)))


def test_heads_that_only_train_shrink_with_the_rest():
    model = given.seeded(Auxiliary)
    found = structure.groups(model, images())
    assert [group.producers for group in found] == [("a",), ("b",), ("side",)]
    masks = halves(found)
    small = structure.shrink(model, masks, images())
    assert small.training and small.side.weight.shape == (3, 4, 3, 3)
    for training in (True, False):
        answers, wanted = small.train(training)(images()), silenced(model, masks).train(training)(images())
        assert all(close(a, b) for a, b in zip(answers, wanted, strict=True))
    for way, reason in ((lambda maps: maps.flip(1), "something else"), (lambda maps: maps.detach(), "cannot run")):
        other = given.seeded(lambda way=way: Auxiliary(way))
        assert [group.producers for group in structure.groups(other, images())] == [("b",), ("side",)]
        with pytest.raises(ValueError, match=f"layer 'a' has no filters that can go: .*{reason} in training mode"):
            structure.shrink(other, {"a": torch.arange(8) < 3}, images())


def test_shuffled_networks_keep_what_is_shuffled():
    model = given.seeded(lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=5)).eval()
    x = images(1, 3, 32, 32)
    found = structure.groups(model, x)
    assert [group.producers[0] for group in found][:3] == ["conv1.0", "stage2.0.branch2.0", "stage2.1.branch2.0"]
    assert len(found) == 18
    masks = halves(found)
    with torch.no_grad():
        assert close(structure.shrink(model, masks, x)(x), structure.mask(model, masks, x)(x))
    with pytest.raises(ValueError, match=r"layer 'stage2.0.branch1.2' has no filters that can go \(its channels are"):
        structure.shrink(model, {"stage2.0.branch1.2": torch.arange(24) > 0}, x)


class Unusual(nn.Module):
    """It counts its runs in a buffer, a list and the random state, and draws from the global generator."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.fc = conv(3, 8), nn.BatchNorm2d(8), conv(8, 6), nn.Linear(6, 4)
        self.register_buffer("runs", torch.zeros(()))
        self.log: list[int] = []

    def forward(self, x):
        self.runs += 1
        self.log.append(len(x) + random.randint(0, 9) + np.random.randint(9))
        return head(self, functional.dropout(torch.relu(self.norm(self.a(x))), 0.3))


def test_a_network_and_the_random_state_are_not_touched():
    model = given.seeded(Unusual)
    model.norm.eval()
    model.b.requires_grad_(False)
    before, modes = given.state(model), [m.training for m in model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    masks = halves(structure.groups(model, images()))
    for cut in (structure.shrink, structure.mask):
        copy = cut(model, masks, images())
        assert [m.training for m in copy.modules()] == modes and copy.runs == 0 and not copy.log
        assert all(not p.isnan().any() for p in (*copy.parameters(), *copy.buffers()))
        assert {n for n, p in copy.named_parameters() if not p.requires_grad} == {"b.weight", "b.bias"}
    assert given.same_state(given.state(model), before) and not model.log
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all() and [m.training for m in model.modules()] == modes
    assert not model.b.weight.requires_grad and all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (*model.modules(), *copy.modules()))


def test_networks_with_weights_that_are_not_finite_have_groups():
    model = between(lambda net, y: y)
    model.b.weight.data[0, 0] = float("nan")
    model.a.weight.data[0, 0] = float("inf")
    assert [group.producers for group in structure.groups(model, images())] == [("a",), ("b",)]
    small = structure.shrink(model, {"a": torch.arange(8) > 0}, images().fill_(float("nan")))
    assert small.a.weight.isfinite().all()  # that filter is gone


@pytest.mark.parametrize(
    ("model", "example", "says"),
    [
        (
            nn.Sequential(nn.LazyLinear(3)),
            images(1, 4),
            "'0.weight' of Sequential is not there yet: run the model once",
        ),
        (nn.Linear(4, 3, device="meta"), images(1, 4), "'weight' of Linear is on the meta device"),
        (nn.Linear(4, 3), torch.zeros(0, 4), "the example input is empty: one sample is needed"),
        (nn.Linear(4, 3), (images(1, 4),), "the example input must be one tensor, not tuple"),
        (nn.Linear(4, 3), images(1, 5), "the graph of Linear cannot be traced"),
        (nn.Linear(4, 3), torch.zeros(1, 4, dtype=torch.long), "the graph of Linear cannot be traced"),
    ],
)
def test_what_cannot_be_traced_is_refused(model, example, says):
    with pytest.raises(ValueError, match=says):
        structure.groups(model, example)


def test_groups_are_not_found_where_gradients_cannot_be():
    with torch.inference_mode(), pytest.raises(ValueError, match=r"do not call this inside torch\.inference_mode"):
        structure.groups(nn.Linear(4, 3), torch.zeros(1, 4))
    with torch.no_grad():
        assert structure.groups(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.zeros(1, 4))


def test_parallel_networks_are_those_inside():
    model = nn.DataParallel(between(lambda net, y: y))
    assert [group.producers for group in structure.groups(model, images())] == [("module.a",), ("module.b",)]
    model.device_ids = [0, 1]
    with pytest.raises(
        ValueError, match=r"DataParallel runs on several devices: give the network inside, model\.module"
    ):
        structure.groups(model, images())


def test_groups_are_found_again_where_hooks_or_attributes_changed():
    class Soft(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.soft = nn.Linear(3, 6), nn.Linear(6, 2), False

        def forward(self, x):
            return self.b(self.a(x).softmax(1) if self.soft else self.a(x))

    model, x = Soft(), images(1, 3)
    assert len(structure.groups(model, x)) == 1
    model.soft = True
    assert not structure.groups(model, x)
    model.soft = False
    handle = model.a.register_forward_hook(lambda *given: given[2].softmax(1))
    assert not structure.groups(model, x)
    handle.remove()
    assert len(structure.groups(model, x)) == 1
