"""What a run wrote gives the shrunk network back, bit for bit."""

import json

import pytest
import torch

from lib import datasets, models
from lib.recipes import results
from lib.recipes.following import follow
from lib.recipes.methods import METHODS
from lib.recipes.rebuilding import rebuild


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits", first=(64, 16, 32))


@pytest.mark.parametrize("method", METHODS)
def test_every_recipe_can_be_read_back(method, digits, tmp_path):
    result = follow(models.lenet5(), digits, method=method, epochs=1)
    results.write(result, digits, tmp_path, title="LeNet-5", onnx=False)
    again = rebuild(models.lenet5(seed=9), tmp_path)
    wanted = result.made.simulated if method == "int8" else result.made.network
    with torch.no_grad():
        assert torch.equal(again(digits.test.images), wanted(digits.test.images))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:40], "is damaged, or not written by shrink"),
        (lambda text: "{}", "is damaged, or not written by shrink"),
        (lambda text: text.replace('"conv1"', '"other"'), "is of another network: this one has no layer 'other'"),
    ],
)
def test_a_damaged_record_is_one_sentence(change, says, digits, tmp_path):
    results.write(follow(models.lenet5(), digits, method="filters", epochs=0), digits, tmp_path, title="", onnx=False)
    file = tmp_path / "costs.json"
    assert set(json.loads(file.read_text())["kept"]) == {"conv1", "conv2", "fc1"}
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError) as error:
        rebuild(models.lenet5(), tmp_path)
    assert says in str(error.value)
