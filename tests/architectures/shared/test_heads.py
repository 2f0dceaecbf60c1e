"""The loss of a network with heads, by hand, and what is no head of it."""

import given
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import training
from lib.architectures.shared.heads import WithHeads


def small(seed=0):
    parts = (nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    return given.seeded(lambda: nn.Sequential(*parts), seed)


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
