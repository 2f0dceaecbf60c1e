"""Residual quantization: stages that leave ever less, the sum of codewords, the file, the formula."""

import given
import numpy as np
import pytest
import torch
from torch import nn

from lib import models, storage
from lib.quantization import product_quantization
from lib.quantization.product_quantization import kmeans, matrix
from lib.quantization.residual_quantization import ResidualWeight, compression_rate, quantize
from lib.weights import layers


def weight_of(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("vectors", ["outputs", "inputs"])
@pytest.mark.parametrize("shape", [(12, 8), (8, 1, 4), (8, 2, 2, 4), (1, 1), (4, 1, 1, 1)])
@pytest.mark.parametrize(("bits", "stages"), [(1, 1), (2, 3), (16, 2)])
def test_a_row_sums_its_codewords_and_the_file_says_it(shape, bits, stages, vectors):
    weight = weight_of(*shape)
    form = ResidualWeight(bits, stages=stages, vectors=vectors)
    stored = form.right_inverse(weight)
    weights = form(stored)
    rows = matrix(weights, vectors)
    for z in range(len(rows)):
        expected = stored[0][form.codes[0, z]]
        for stage in range(1, stages):
            expected = expected + stored[stage][form.codes[stage, z]]
        assert torch.equal(rows[z], expected)
    assert weights.shape == weight.shape
    assert torch.equal(ResidualWeight.decode(form.encode(stored), weight.shape), weights)


def test_each_stage_clusters_what_the_stages_before_have_left():
    weight = weight_of(50, 6).double()
    form = ResidualWeight(2, stages=3)
    stored = form.right_inverse(weight)
    left, norms = weight.numpy(), [float(weight.norm())]
    for stage in range(3):
        book = kmeans(left, 4, seed=stage)
        np.testing.assert_array_equal(stored[stage].numpy(), book.codewords)
        left = left - book.codewords[book.codes]
        norms.append(np.linalg.norm(left))
    assert norms == sorted(norms, reverse=True)
    np.testing.assert_allclose((weight - form(stored)).numpy(), left, atol=1e-12)


@pytest.mark.parametrize("vectors", ["outputs", "inputs"])
def test_one_stage_is_product_quantization_with_one_segment(vectors):
    ours = quantize(models.lenet_300_100(), bits=3, stages=1, vectors=vectors, seed=2)
    other = product_quantization.quantize(models.lenet_300_100(), bits=3, length=10**6, vectors=vectors, seed=2)
    for (_, a), (_, b) in zip(layers(ours), layers(other), strict=True):
        assert torch.equal(a.weight, b.weight)


def test_as_many_codewords_as_rows_lose_nothing():
    assert torch.equal(
        quantize(models.lenet_300_100(), bits={"fc2": 7}, stages=1).fc2.weight, models.lenet_300_100().fc2.weight
    )
    layer = nn.Linear(6, 5)
    before = layer.weight.detach().clone()
    torch.testing.assert_close(quantize(layer, bits=3, stages=4).weight, before)


def test_gradient_of_a_codeword_is_the_sum_over_its_rows():
    weight, dense = weight_of(20, 6), weight_of(20, 6, seed=1)
    form = ResidualWeight(2, stages=2)
    stored = form.right_inverse(weight).requires_grad_()
    (form(stored) * dense).sum().backward()
    expected = torch.zeros(2, 4, 6)
    for stage, row in np.ndindex(2, 20):
        expected[stage, form.codes[stage, row]] += dense[row]
    torch.testing.assert_close(stored.grad, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("vectors", ["outputs", "inputs"])
def test_a_network_of_torchvision_is_written_and_read_back(tmp_path, vectors):
    assert given.reads_back_alike(
        lambda net, names: quantize(net, bits=dict.fromkeys(names, 2), stages=2, vectors=vectors), tmp_path
    )


@pytest.mark.parametrize("vectors", ["outputs", "inputs"])
def test_the_file_is_as_large_as_the_formula_says(vectors):
    layer = nn.Linear(96, 64, bias=False)
    quantize(layer, bits=3, stages=3, vectors=vectors)
    size = len(storage.dumps(layer, coder="fixed"))
    rows, columns = matrix(layer.weight, vectors).shape
    assert 0 <= size - 4 * 96 * 64 / compression_rate(rows, columns, bits=3, stages=3) < 130


def test_the_rate_is_the_formula_and_long_codebooks_outweigh_the_layer():
    assert compression_rate(784, 300, bits=4, stages=2) == 32 * 784 * 300 / (2 * (32 * 16 * 300 + 4 * 784))
    assert compression_rate(300, 784, bits=8, stages=2) < 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bits": 0, "stages": 2}, "1..16, not 0"),
        ({"bits": {"fc9": 2}, "stages": 2}, "has no layer 'fc9' with a weight: it has fc1, fc2, fc3"),
        ({"bits": 2, "stages": 0}, r"stages must be in 1..255, not 0"),
        ({"bits": 2, "stages": 256}, r"stages must be in 1..255, not 256"),
        ({"bits": 2, "stages": 1, "vectors": "rows"}, "one of outputs, inputs, not 'rows'"),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(options, says):
    model = models.lenet_300_100()
    with pytest.raises(ValueError, match=says):
        quantize(model, **options)
    assert not any(hasattr(layer, "parametrizations") for layer in model)
