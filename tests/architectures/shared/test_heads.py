"""The loss of a network with heads, by hand, what is no head of it, and GoogLeNet's two, which training drops."""

import copy
import math
from collections import OrderedDict

import given
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import training
from lib.architectures.inception import Inception, Sizes
from lib.architectures.shared import heads
from lib.architectures.shared.heads import Head, WithHeads, with_heads
from lib.architectures.shared.network import Network

SMALL = Sizes(2, 3, 4, 2, 3, 1)


def small(seed=0):
    parts = (nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    return given.seeded(lambda: nn.Sequential(*parts), seed)


def two_modules(classes=2, seed=0):
    """A network with the two modules that the heads read, float32."""

    def build():
        layers = OrderedDict(inception4a=Inception(1, SMALL), inception4d=Inception(10, SMALL))
        layers |= OrderedDict(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(10, classes))
        return Network(layers, channels=1)

    return given.seeded(build, seed)


def two_heads():
    return {
        name: given.seeded(lambda n=inputs: nn.Sequential(nn.Flatten(), nn.Linear(n, 2)))
        for name, inputs in (("1", 48), ("2", 8))
    }


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_hinge"])
@pytest.mark.parametrize("weight", [0.3, 0, 2])
def test_the_loss_is_that_of_the_network_and_of_its_heads(weight, loss):
    model = WithHeads(small(), two_heads(), weight=weight, loss=loss).double()
    split = given.split(5, 1, 6, 6, classes=2, dtype=torch.float64)
    with model.lesson(model, split, augmented=False) as lesson:
        total = lesson(model(split.images), split.labels, split.images, torch.arange(5))
    network, cost = model.network, {"cross_entropy": functional.cross_entropy}.get(loss, training.squared_hinge)
    by_heads = [cost(model.heads[name](network[: int(name) + 1](split.images)), split.labels) for name in ("1", "2")]
    expected = cost(network(split.images), split.labels) + weight * sum(by_heads)
    torch.testing.assert_close(total, expected)
    parameters = list(model.parameters())
    torch.testing.assert_close(torch.autograd.grad(total, parameters), torch.autograd.grad(expected, parameters))
    assert not any(module._forward_hooks for module in model.modules())


def test_training_moves_network_and_heads_and_the_network_answers():
    model, split = WithHeads(small(), two_heads()), given.split(8, 1, 6, 6, classes=2)
    before = {name: value.clone() for name, value in model.named_parameters()}
    training.fit(model, split, epochs=1, seed=0, batch_size=4, teaching=model)
    assert all(not torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert torch.equal(model(split.images), model.network(split.images))
    assert list(given.state(model.network)) == list(given.state(small()))


def test_heads_teach_their_own_network_only():
    model, split = WithHeads(small(), two_heads()), given.split(4, 1, 6, 6)
    with (
        pytest.raises(ValueError, match="these heads teach their own network, not another Sequential"),
        model.lesson(model.network, split, augmented=False),
    ):
        pass


@pytest.mark.parametrize(
    ("on", "options", "says"),
    [
        ([], {}, r"heads must be on parts of the network, one or more of \['0', '1', '2', '3', '4'\], not \[\]"),
        (["1", "5"], {}, r"heads must be on parts of the network, .*, not \['1', '5'\]"),
        (["1"], {"weight": -1}, "weight must be a finite number of 0 or more, not -1"),
        (["1"], {"weight": float("nan")}, "weight must be a finite number of 0 or more, not nan"),
        (["1"], {"weight": True}, "weight must be a finite number of 0 or more, not True"),
        (["1"], {"loss": "no"}, "loss must be one of cross_entropy, .* or a function, not 'no'"),
    ],
)
def test_what_is_no_head_is_refused(on, options, says):
    with pytest.raises(ValueError, match=says):
        WithHeads(small(), {name: nn.Flatten() for name in on}, **options)


def test_a_head_on_a_part_that_does_not_run_is_refused():
    network = nn.ModuleDict({"spare": nn.Linear(2, 2)})
    network.forward = lambda images: images.flatten(1)[:, :2]
    model, split = WithHeads(network, {"spare": nn.Linear(2, 2)}), given.split(4, 1, 6, 6, classes=2)
    with (
        pytest.raises(ValueError, match="layer 'spare' did not run"),
        model.lesson(model, split, augmented=False) as lesson,
    ):
        lesson(model(split.images), split.labels, split.images, torch.arange(4))


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


def test_heads_help_the_first_module_and_are_thrown_away():
    split = given.split(16, 1, 6, 6, classes=2)
    plain, helped, again = two_modules(), two_modules(), two_modules()
    options = {"epochs": 2, "seed": 0, "learning_rate": 0.05, "batch_size": 8}
    training.fit(plain, split, **options)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    losses = heads.fit(helped, split, filters=4, hidden=8, **options)
    assert torch.equal(torch.get_rng_state(), before)
    assert losses == heads.fit(again, split, filters=4, hidden=8, **options) and given.equal(helped, again)
    assert not given.equal(plain, helped) and list(given.state(plain)) == list(given.state(helped))
    assert not helped.training and not any(isinstance(module, Head) for module in helped.modules())


def test_without_weight_the_heads_change_nothing():
    split = given.split(16, 1, 6, 6, classes=2)
    plain, unhelped = two_modules(), two_modules()
    options = {"epochs": 2, "seed": 0, "learning_rate": 0.05, "batch_size": 8}
    losses = training.fit(plain, split, **options)
    assert heads.fit(unhelped, split, weight=0.0, filters=4, hidden=8, **options) == losses
    assert given.equal(plain, unhelped)


def test_other_losses_are_those_of_the_heads_too():
    split = given.split(8, 1, 6, 6, classes=2)
    losses = [
        heads.fit(two_modules(), split, epochs=1, seed=0, filters=4, hidden=8, batch_size=8, loss=loss)
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
            heads.fit(network, split, **{"epochs": 1, "seed": 0} | options)
    with pytest.raises(ValueError, match="the split is empty"):
        heads.fit(network, split.first(0), epochs=1, seed=0)
    with pytest.raises(TypeError, match="there is no option 'rate'"):
        heads.fit(network, split, epochs=1, seed=0, rate=1)
    assert given.same_state(before, given.state(network)) and network.training


def test_heads_need_the_modules_that_they_read():
    with pytest.raises(ValueError, match="the heads need a network with inception4a, inception4d and fc"):
        with_heads(Network(OrderedDict(fc=nn.Linear(3, 2)), channels=1))
