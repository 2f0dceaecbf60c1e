"""A run measures the network as given, its fair rival, and the shrunk one."""

import pytest
import torch

from lib import datasets, models
from lib.recipes.following import GIVEN, LONGER, SHRUNK, follow


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", first=(64, 16, 32))


def test_the_rival_trains_as_long_as_the_recipe(digits):
    result = follow(models.lenet5(), digits, method="filters", epochs=1)
    assert list(result.costs) == [GIVEN, LONGER, SHRUNK]
    assert result.costs[LONGER].multiply_adds == result.costs[GIVEN].multiply_adds
    assert result.costs[SHRUNK].multiply_adds <= 0.5 * result.costs[GIVEN].multiply_adds
    assert result.amount == 0.5


@pytest.mark.parametrize(("method", "epochs"), [("rounded", 2), ("filters", 0)])
def test_without_retraining_there_is_no_rival(method, epochs, digits):
    assert list(follow(models.lenet5(), digits, method=method, epochs=epochs).costs) == [GIVEN, SHRUNK]


def test_a_run_repeats_itself(digits):
    one, two = (follow(models.lenet5(), digits, method="coded", epochs=2, seed=3).made.network for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_a_wrong_method_is_refused_before_anything_runs(digits):
    with pytest.raises(ValueError, match="method must be one of"):
        follow(models.lenet5(), digits, method="magic")
