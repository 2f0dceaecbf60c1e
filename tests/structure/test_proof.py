"""The proof finds every kind of wrong group, and nothing wrong in right ones."""

import dataclasses

import given
import pytest
import torch
from given_structure import Net, between, conv, head, images, instead
from torch import nn

from lib import structure
from lib.book.zoo import networks
from lib.pruning import optimal_threshold
from lib.structure import copies, proof

REMOVED = torch.tensor([1, 0, 0, 1, 1, 0, 0, 0]).bool()


def network():
    """Batch norms that shift and scale, a second reader, and a flatten: each number of a group matters."""

    def run(net, x):
        maps = net.norm(net.a(x)).sigmoid()
        return net.fc(torch.relu(net.b(maps)).flatten(1)) + net.side(maps.mean((2, 3)))

    net = Net(run, a=conv(3, 8), norm=nn.BatchNorm2d(8), b=conv(8, 6), fc=nn.Linear(6 * 64, 4), side=nn.Linear(8, 4))
    for values in (net.norm.weight.data, net.norm.bias.data, net.norm.running_mean):
        values.normal_()
    net.norm.running_var.uniform_(0.5, 2)
    return net


def reason(model, group, removed=REMOVED):
    cuts = [(group, removed)]
    try:
        small = copies.smaller(model, cuts)
    except RuntimeError as error:
        return f"it cannot be made: {error}"
    return proof.difference(model, small, cuts, images())


def test_the_right_group_is_right():
    model = given.seeded(network)
    first, second = structure.groups(model, images())
    assert reason(model, first) == "" and reason(model, second, REMOVED[:6]) == ""
    cuts = [(first, REMOVED), (second, REMOVED[:6])]
    masked = copies.masked(model, cuts)
    assert proof.difference(model, copies.smaller(model, cuts), cuts, images(), masked=masked) == ""
    masked.side.weight.data[0, 1] += 0.1
    assert "computes something else" in proof.difference(
        model, copies.smaller(model, cuts), cuts, images(), masked=masked
    )


def changed(group, field, name, change):
    return dataclasses.replace(group, **{field: {**getattr(group, field), name: change(getattr(group, field)[name])}})


WRONG = {
    "other columns": lambda g: changed(g, "consumers", "b", lambda n: n.roll(1, 0)),
    "other columns of the second reader": lambda g: changed(g, "consumers", "side", lambda n: n.flip(0)),
    "columns of another channel as well": lambda g: changed(
        g, "consumers", "b", lambda n: torch.cat([n, n.roll(1, 0)], 1)
    ),
    "a reader is missing": lambda g: dataclasses.replace(g, consumers={"b": g.consumers["b"]}),
    "a carrier is missing": lambda g: dataclasses.replace(g, carriers={}),
    "another channel of the batch norm": lambda g: changed(g, "carriers", "norm", lambda n: n.roll(1, 0)),
    "a reader too many": lambda g: dataclasses.replace(
        g, consumers={**g.consumers, "fc": torch.arange(384).reshape(8, 48)}
    ),
    "no reader": lambda g: dataclasses.replace(g, consumers={}),
}


@pytest.mark.parametrize("name", WRONG)
def test_every_wrong_number_is_found(name):
    model = given.seeded(network)
    assert reason(model, WRONG[name](structure.groups(model, images())[0]))


def test_a_wrong_order_after_a_flatten_is_found():
    model = given.seeded(network)
    group = structure.groups(model, images())[1]
    wrong = changed(group, "consumers", "fc", lambda n: torch.arange(384).reshape(64, 6).T)
    assert reason(model, wrong, REMOVED[:6]) == "other things that layer 'fc' reads depend on them"


@pytest.mark.parametrize("change", [lambda n: n.roll(1, 0), lambda n: torch.cat([n, n.roll(1, 0)], 1)])
def test_wrong_columns_of_a_layer_that_only_trains_are_found(change):
    def run(net, x):
        maps = net.a(x).relu()
        return head(net, maps) + (net.side(maps.mean((2, 3))) if net.training else 0)

    model = given.seeded(lambda: instead(run, side=nn.Linear(8, 4)))
    group = structure.groups(model, images())[0]
    assert reason(model, group) == "" and "in training mode" in reason(
        model, changed(group, "consumers", "side", change)
    )


def test_differences_behind_zeros_are_found():
    """A last layer of zeros, as in fresh networks: what the layers before it read is compared as well."""
    model = given.seeded(lambda: between(lambda net, maps: maps / maps.shape[1]))
    nn.init.zeros_(model.fc.weight)
    assert structure.groups(model, images())[0].producers == ("b",)


def test_networks_of_one_type_alone_and_of_half_precision_agree():
    model = given.seeded(lambda: between(lambda net, maps: maps.float()))
    assert [group.producers for group in structure.groups(model, images())] == [("a",), ("b",)]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        other, x = given.seeded(network).to(dtype), images().to(dtype)
        small = structure.shrink(other, {"a": ~REMOVED, "b": ~REMOVED[:6]}, x)
        assert {p.dtype for p in small.parameters()} == {dtype} and small.norm.running_var.dtype == dtype


@pytest.mark.parametrize("layers", [12, 3])
def test_small_statistics_do_not_make_a_difference(layers):
    """Batch norm of few, nearly equal values magnifies rounding in training mode: float64 decides, where it can run."""

    def build():
        blocks = [nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh()) for _ in range(layers)]
        return Net(
            lambda net, x: net.fc(net.blocks(x if layers > 3 else x.float())),
            **{"blocks": nn.Sequential(*blocks), "fc": nn.Linear(8, 3)},
        )

    model, x = given.seeded(build), 1 + 1e-4 * images(2, 8)
    assert len(structure.groups(model, x)) == layers


class Own(nn.Module):
    """A network with a training mode of its own, which changes weights: it is not called."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def train(self, mode=True):
        self.first.weight.data.mul_(2)
        return super().train(mode)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))


def test_changes_of_mode_that_change_weights_are_not_made():
    model = given.seeded(Own)
    before = given.state(model)
    small = structure.shrink(model, {"first": torch.arange(6) < 4}, images(1, 4))
    assert given.same_state(given.state(model), before)
    assert torch.equal(small.first.weight, model.first.weight[:4])


def test_rounding_that_batch_norm_magnifies_is_no_difference():
    """At one place a map, batch norm makes +1 and -1 of two inputs, in layer after layer: rounding decided the rest."""
    model, split = networks.build("regnet_y_400mf")
    example = split.images[:1]
    groups = structure.groups(model, example)
    masks = structure.keep(optimal_threshold.scores(model, split), fraction=0.3, groups=groups, scope="layer")
    small = structure.shrink(model, masks, example)
    assert small.get_submodule("stem.0").out_channels == 23
