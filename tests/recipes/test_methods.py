"""The recipes do what they name, leave the network as it was, and refuse what does not fit."""

import copy

import pytest
import torch
from torch import nn

from lib import datasets, measure, models, storage, weights
from lib.recipes.methods import METHODS, plan_for
from lib.vision import torchvision


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", first=(96, 16, 32))


def plan(name, split, amount=None, epochs=0):
    return plan_for(name, split, amount=amount, epochs=epochs, seed=0, learning_rate=0.001)


@pytest.mark.parametrize("epochs", [0, 1])
@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_leaves_the_network_as_it_was(name, epochs, digits):
    model = models.lenet5()
    before = copy.deepcopy(model.state_dict())
    made = METHODS[name].apply(model, plan(name, digits.train, epochs=epochs))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert len(storage.dumps(made.stored)) < len(storage.dumps(model))
    assert made.network(digits.test.images).shape == (32, 10)


def test_filters_leave_the_share_of_multiply_adds(digits):
    model = models.lenet5()
    made = METHODS["filters"].apply(model, plan("filters", digits.train, amount=0.4))
    share = measure.multiply_adds(made.counted, (1, 28, 28)) / measure.multiply_adds(model, (1, 28, 28))
    assert 0.3 < share <= 0.4


def test_coded_weights_are_pruned_and_shared(digits):
    made = METHODS["coded"].apply(models.lenet5(), plan("coded", digits.train, amount=0.1, epochs=2))
    assert made.network.conv1.weight.count_nonzero() == 500  # a small layer stays whole
    for layer in (made.network.conv2, made.network.fc1):
        assert layer.weight.count_nonzero() <= 0.1 * layer.weight.numel() + 1
        assert len(layer.weight.unique()) <= 32
    assert not list(weights.compressed(made.network))  # computes with plain weights


def test_integers_answer_like_the_simulated_network(digits):
    made = METHODS["int8"].apply(models.lenet5(), plan("int8", digits.train))
    answers, wanted = made.network(digits.test.images), made.simulated(digits.test.images)
    assert (answers - wanted).abs().max() <= 0.02 * wanted.abs().max()
    assert made.value_bytes == 1


def test_a_network_of_small_layers_is_not_coded(digits):
    with pytest.raises(ValueError, match="no layer has 2000 weights: the file would gain little, use rounded"):
        METHODS["coded"].apply(nn.Sequential(nn.Flatten(), nn.Linear(784, 2)), plan("coded", digits.train))


def test_factors_that_save_nothing_are_refused(digits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(ValueError, match="no layer has fewer parameters as two at 1: lower the amount"):
        METHODS["factors"].apply(model, plan("factors", digits.train, amount=1))


@pytest.mark.parametrize("name", METHODS)
def test_a_network_of_torchvision_is_shrunk(name):
    split = datasets.Split(torch.rand(8, 3, 32, 32), torch.arange(8) % 4)
    model = torchvision.models.mobilenet_v2(num_classes=4, width_mult=0.25).eval()
    made = METHODS[name].apply(model, plan(name, split, epochs=1))
    assert torch.isfinite(made.network(split.images)).all()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"name": "magic"}, "method must be one of filters, factors, int8, coded, rounded, not 'magic'"),
        ({"amount": 2}, "amount of filters, the share of the multiply-adds left, must be 0.01 to 1, not 2"),
        ({"amount": True}, "not True"),
        ({"epochs": -1}, "epochs must be a whole number of 0 or more, not -1"),
        ({"seed": 0.5}, "seed must be a whole number of 0 or more, not 0.5"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0, not 0.0"),
    ],
)
def test_a_wrong_value_is_one_sentence(changed, says, digits):
    given = {"name": "filters", "train": digits.train, "amount": None, "epochs": 1, "seed": 0, "learning_rate": 0.1}
    with pytest.raises(ValueError) as error:
        plan_for(**given | changed)
    assert says in str(error.value)


def test_an_empty_split_trains_nothing(digits):
    with pytest.raises(ValueError, match="the split is empty"):
        plan("filters", digits.train.first(0))
