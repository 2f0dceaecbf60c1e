"""The tiny space: its candidates, their costs by formula and by count, and their networks."""

import pickle
from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from lib import measure
from lib.search.chains import OPERATIONS, Chain, Chains

SPACES = [
    Chains(),
    Chains(positions=1, pools=0, width=1, size=1, classes=2),
    Chains(positions=5, operations=("separable3", "skip"), width=3, pools=3, size=17, channels=3, classes=7),
]


def some(space: Chains, n: int = 12) -> list[Chain]:
    random = np.random.default_rng(0)
    return [space.sample(random) for _ in range(n)]


def test_the_space_lists_all_candidates_once():
    assert list(Chains()) == [Chain(operations) for operations in product(OPERATIONS, repeat=4)]
    assert len(set(Chains())) == len(Chains()) == 256


@pytest.mark.parametrize("space", SPACES)
def test_parameters_by_formula_are_those_that_are_counted(space):
    for candidate in some(space):
        assert space.parameters(candidate) == measure.parameters(space.build(candidate, 0))


@pytest.mark.parametrize("space", SPACES)
def test_multiply_adds_by_formula_are_those_that_are_counted(space):
    for candidate in some(space, 6):
        shape = (space.channels, space.size, space.size)
        assert space.multiply_adds(candidate) == measure.multiply_adds(space.build(candidate, 0), shape)


def test_every_operation_counts_as_its_module_does():
    for operation in Chains().every_operation():
        assert operation.parameters == measure.parameters(operation.module()), operation.name


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_network_answers_with_a_logit_for_each_class(space, dtype):
    for candidate in some(space, 5):
        images = torch.rand(3, space.channels, space.size, space.size, dtype=dtype)
        logits = space.build(candidate, 0).to(dtype).eval()(images)
        assert logits.shape == (3, space.classes) and logits.dtype == dtype and logits.isfinite().all()


def test_a_network_is_its_operations_one_after_another():
    space, candidate = Chains(), Chain(("conv3", "skip", "separable3", "skip"))
    kinds = [operation.kind for operation in space.operations_of(candidate)]
    assert kinds == ["stem", "conv3", "skip", "pool", "separable3", "pool", "skip", "classifier"]
    names = [name.split("_", 1)[1] for name, _ in space.build(candidate, 0).named_children()]
    assert names == kinds


def test_a_skip_adds_zeros_for_the_channels_that_are_missing():
    network = Chains().build(Chain(("conv1", "conv1", "skip", "conv1")), 0)
    images = torch.rand(2, 8, 7, 7)
    widened = network[4](images)
    assert torch.equal(widened[:, :8], images) and torch.equal(widened[:, 8:], torch.zeros(2, 8, 7, 7))


def test_pools_are_spread_over_the_positions():
    chain = Chain(("conv1",) * 5)
    for pools, sizes in ((0, [16] * 5), (1, [16, 16, 16, 8, 8]), (4, [16, 8, 4, 2, 1])):
        operations = Chains(positions=5, pools=pools, size=16).operations_of(chain)
        assert [operation.size for operation in operations if operation.kind == "conv1"] == sizes


def test_the_256_candidates_are_208_networks():
    # Two positions of the first stage: 16 pairs, of which a skip and another operation are the same in both orders.
    assert len({Chains().network(candidate) for candidate in Chains()}) == (16 - 3) * 16 == 208


def test_a_skip_before_or_after_is_the_same_network():
    images = torch.rand(2, 1, 14, 14)
    one, other = (Chain((*pair, "conv3", "conv1")) for pair in (("conv3", "skip"), ("skip", "conv3")))
    assert Chains().network(one) == Chains().network(other)
    assert torch.equal(Chains().build(one, 5)(images), Chains().build(other, 5)(images))


def test_weights_depend_on_the_seed_alone():
    candidate, state = some(Chains(), 1)[0], torch.get_rng_state()
    first, again, other = (nn.utils.parameters_to_vector(Chains().build(candidate, s).parameters()) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_neighbor_differs_in_one_operation_and_all_are_drawn():
    space, random = Chains(positions=3, pools=1), np.random.default_rng(0)
    start = Chain(("conv3", "skip", "conv1"))
    drawn = Counter(space.mutated(start, random) for _ in range(1800))
    assert all(sum(a != b for a, b in zip(c.operations, start.operations, strict=True)) == 1 for c in drawn)
    assert len(drawn) == 3 * 3 and min(drawn.values()) > 140  # 200 are expected of each


def test_samples_are_uniform():
    space, random = Chains(positions=2, pools=0, operations=("conv3", "skip")), np.random.default_rng(0)
    drawn = Counter(space.sample(random) for _ in range(1000))
    assert set(drawn) == set(space) and min(drawn.values()) > 200  # 250 are expected of each


def test_candidates_are_values():
    candidate = Chain(("conv3", "skip"))
    assert pickle.loads(pickle.dumps(candidate)) == candidate == Chain(("conv3", "skip"))
    assert hash(candidate) == hash(Chain(("conv3", "skip"))) and str(candidate) == "conv3 skip"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"positions": 2}, "positions must be a whole number of 3 or more, not 2"),
        ({"size": 3}, "size must be a whole number of 4 or more, not 3"),
        ({"width": 0}, "width must be a whole number of 1 or more, not 0"),
        ({"classes": 1}, "classes must be a whole number of 2 or more, not 1"),
        ({"pools": -1}, "pools must be a whole number of 0 or more, not -1"),
        ({"pools": 1.5}, "pools must be a whole number of 0 or more, not 1.5"),
        ({"channels": True}, "channels must be a whole number of 1 or more, not True"),
        ({"operations": ()}, "operations must be one or more different names"),
        ({"operations": ("skip", "skip")}, "operations must be one or more different names"),
        ({"operations": ("conv5",)}, "there is no operation 'conv5': accepted are conv3"),
    ],
)
def test_spaces_without_a_network_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        Chains(**sizes)


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (Chain(("conv3",) * 3), "'conv3 conv3 conv3' has 3 operations, not 4"),
        (Chain(("conv3", "conv3", "conv3", "conv1")), "'conv1' is not in this space: accepted are conv3, skip"),
        (Chain(()), "has 0 operations, not 4"),
    ],
)
def test_candidates_of_another_space_are_refused(candidate, message):
    space = Chains(operations=("conv3", "skip"))
    for ask in (
        space.parameters,
        space.multiply_adds,
        lambda c: space.build(c, 0),
        lambda c: space.mutated(c, np.random.default_rng(0)),
    ):
        with pytest.raises(ValueError, match=message):
            ask(candidate)


def test_one_operation_leaves_no_neighbor():
    space = Chains(operations=("conv3",))
    with pytest.raises(ValueError, match="conv3 is the only operation"):
        space.mutated(Chain(("conv3",) * 4), np.random.default_rng(0))
