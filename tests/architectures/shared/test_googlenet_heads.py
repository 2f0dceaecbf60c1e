"""GoogLeNet's two auxiliary heads: their arithmetic, their weights, and what training with them leaves behind."""

import copy
import math
from collections import OrderedDict

import given
import pytest
import torch
from torch import nn

from lib import training
from lib.architectures.inception import Inception, Sizes
from lib.architectures.shared import googlenet_heads
from lib.architectures.shared.googlenet_heads import Head, with_heads
from lib.architectures.shared.network import Network

SMALL = Sizes(2, 3, 4, 2, 3, 1)


def two_modules(classes=2, seed=0):
    """A network with the two modules that the heads read, float32."""

    def build():
        layers = OrderedDict(inception4a=Inception(1, SMALL), inception4d=Inception(10, SMALL))
        layers |= OrderedDict(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(10, classes))
        return Network(layers, channels=1)

    return given.seeded(build, seed)


def test_a_head_averages_five_by_five_with_stride_three():
    head = given.seeded(lambda: Head(6, 3, filters=4, hidden=8)).double().eval()
    maps = torch.rand(2, 6, 14, 14, generator=given.generator(), dtype=torch.float64)
    means = torch.stack([maps[:, :, y : y + 5, x : x + 5].mean((2, 3)) for y in (0, 3, 6, 9) for x in (0, 3, 6, 9)], 2)
    torch.testing.assert_close(head(means.reshape(2, 6, 4, 4)), head(maps))
    assert head(torch.rand(2, 6, 1, 9, dtype=torch.float64)).shape == (2, 3)
    assert head.dropout.p == 0.7


def test_weights_and_types_of_heads_are_those_of_seed_and_network():
    network = two_modules()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    a, b, c = (with_heads(network, seed=seed, filters=4, hidden=8).heads for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert given.equal(a, b) and not given.equal(a, c)
    assert next(with_heads(network.bfloat16(), filters=2, hidden=2).heads.parameters()).dtype == torch.bfloat16


def test_heads_change_what_is_learned_and_are_thrown_away():
    split = given.split(16, 1, 6, 6, classes=2)
    plain, helped, again = two_modules(), two_modules(), two_modules()
    options = {"epochs": 2, "seed": 0, "learning_rate": 0.05, "batch_size": 8}
    training.fit(plain, split, **options)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    losses = googlenet_heads.fit(helped, split, filters=4, hidden=8, **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert losses == googlenet_heads.fit(again, split, filters=4, hidden=8, **options) and given.equal(helped, again)
    assert not given.equal(plain, helped) and list(given.state(plain)) == list(given.state(helped))
    assert not helped.training and not any(isinstance(module, Head) for module in helped.modules())


def test_without_weight_the_heads_change_nothing():
    split = given.split(16, 1, 6, 6, classes=2)
    plain, unhelped = two_modules(), two_modules()
    options = {"epochs": 2, "seed": 0, "learning_rate": 0.05, "batch_size": 8}
    losses = training.fit(plain, split, **options)
    assert googlenet_heads.fit(unhelped, split, weight=0.0, filters=4, hidden=8, **options) == losses
    assert given.equal(plain, unhelped)


def test_other_losses_are_those_of_the_heads_too():
    split = given.split(8, 1, 6, 6, classes=2)
    losses = [
        googlenet_heads.fit(two_modules(), split, epochs=1, seed=0, filters=4, hidden=8, batch_size=8, loss=loss)
        for loss in ("squared_hinge", training.squared_hinge, "cross_entropy")
    ]
    assert losses[0] == losses[1] != losses[2]


def test_copies_and_states_answer_the_same():
    model = with_heads(two_modules(), filters=4, hidden=8).eval()
    copied, fresh = copy.deepcopy(model).double(), with_heads(two_modules(seed=5), seed=3, filters=4, hidden=8).eval()
    fresh.load_state_dict(model.state_dict())
    images = torch.rand(2, 1, 6, 6, generator=given.generator())
    assert torch.equal(fresh(images), model(images))
    torch.testing.assert_close(copied(images.double()).float(), model(images))
    with copied.lesson(copied, given.split(2, 1, 6, 6), augmented=False) as lesson:
        labels = torch.tensor([0, 1])
        assert math.isfinite(lesson(copied(images.double()), labels, images, labels).item())


def test_bad_training_is_refused_before_anything_changes():
    network, split = two_modules(), given.split(4, 1, 6, 6, classes=2)
    before = given.state(network)
    for options, says in (
        ({"hidden": 0}, "hidden must be a whole number of 1 or more, not 0"),
        ({"epochs": -1}, "epochs must be 0 or more"),
    ):
        with pytest.raises(ValueError, match=says):
            googlenet_heads.fit(network, split, **{"epochs": 1, "seed": 0} | options)
    with pytest.raises(ValueError, match="the split is empty"):
        googlenet_heads.fit(network, split.first(0), epochs=1, seed=0)
    with pytest.raises(TypeError, match="there is no option 'rate'"):
        googlenet_heads.fit(network, split, epochs=1, seed=0, rate=1)
    assert given.same_state(before, given.state(network)) and network.training


def test_heads_need_the_modules_that_they_read():
    with pytest.raises(ValueError, match="the heads need a network with inception4a, inception4d and fc"):
        with_heads(Network(OrderedDict(fc=nn.Linear(3, 2)), channels=1))
