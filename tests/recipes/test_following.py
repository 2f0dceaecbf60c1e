"""A run measures the network as given, its fair rival, and the shrunk one."""

import copy

import pytest
import torch
from torch import nn

from lib import datasets, models, training
from lib.recipes.following import GIVEN, LONGER, SHRUNK, follow, trained_on
from lib.recipes.methods import plan_for


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", first=(64, 16, 32))


def test_the_rival_trains_as_long_and_in_the_same_way(digits):
    plan = plan_for("filters", digits.train, amount=None, epochs=2, seed=1, learning_rate=0.001)
    model = models.lenet5()
    by_hand = copy.deepcopy(model)
    training.fit(by_hand, digits.train, epochs=2, seed=1, **plan.options())
    assert all(map(torch.equal, trained_on(model, plan).parameters(), by_hand.parameters()))


def test_the_rival_stands_between_the_network_and_the_shrunk_one(digits):
    result = follow(models.lenet5(), digits, method="filters", epochs=1)
    assert list(result.costs) == [GIVEN, LONGER, SHRUNK]
    assert result.costs[LONGER].multiply_adds == result.costs[GIVEN].multiply_adds
    assert result.costs[SHRUNK].multiply_adds <= 0.5 * result.costs[GIVEN].multiply_adds
    assert result.amount == 0.5


@pytest.mark.parametrize(("method", "epochs"), [("rounded", 2), ("filters", 0)])
def test_without_retraining_there_is_no_rival(method, epochs, digits):
    assert list(follow(models.lenet5(), digits, method=method, epochs=epochs).costs) == [GIVEN, SHRUNK]


@pytest.mark.parametrize("parts", [[], [nn.Dropout(0.5)]], ids=["plain", "dropout"])
def test_a_run_repeats_itself(parts, digits):
    model = nn.Sequential(models.lenet5(), *parts)
    one, two = (follow(model, digits, method="coded", epochs=2, seed=3).made.network for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_wrong_method_is_refused_before_anything_runs(digits):
    with pytest.raises(ValueError, match="method must be one of"):
        follow(models.lenet5(), digits, method="magic")
