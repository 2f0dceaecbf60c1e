"""What product and residual quantization have in common: odd layers, types, the seed, weights that are not finite."""

from functools import partial

import pytest
import torch
from torch import nn

from lib import models
from lib.quantization import product_quantization, residual_quantization

pytestmark = pytest.mark.parametrize(
    "quantize",
    [partial(product_quantization.quantize, length=2), partial(residual_quantization.quantize, stages=2)],
    ids=["product", "residual"],
)
ODD = [nn.Conv2d(1, 1, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(3, 1, bias=False), nn.Linear(1, 7, bias=False)]


@pytest.mark.parametrize("layer", ODD)
@pytest.mark.parametrize("vectors", ["outputs", "inputs"])
def test_odd_layers_are_taken(quantize, layer, vectors):
    assert torch.isfinite(quantize(layer, bits=2, vectors=vectors).weight).all()


def test_a_constant_layer_is_exact_and_an_empty_one_is_passed_over(quantize):
    model = nn.Sequential(nn.Linear(9, 5), nn.Linear(0, 5))
    nn.init.constant_(model[0].weight, 0.25)
    quantize(model, bits=2)
    assert model[0].weight.unique().tolist() == [0.25] and not hasattr(model[1], "parametrizations")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types_of_float_keep_their_type(quantize, dtype):
    assert quantize(nn.Linear(6, 6).to(dtype), bits=2).weight.dtype == dtype


def test_the_seed_decides(quantize):
    one, same, other = (quantize(models.lenet_300_100(), bits={"fc2": 3}, seed=s) for s in (5, 5, 6))
    assert torch.equal(one.fc2.weight, same.fc2.weight) and not torch.equal(one.fc2.weight, other.fc2.weight)


def test_weights_that_are_not_finite_are_refused(quantize):
    layer = nn.Linear(4, 4)
    layer.weight.data[0, 0] = float("inf")
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantize(layer, bits=1)


def test_a_misspelt_argument_is_refused_before_anything_is_changed(quantize):
    model = models.lenet_300_100()
    with pytest.raises(TypeError, match="'vector'"):
        quantize(model, bits=1, vector="inputs")
    assert not any(hasattr(layer, "parametrizations") for layer in model)
