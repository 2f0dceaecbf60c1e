"""Depthwise separable convolutions: one dense kernel, the best separable one, the ratio of costs, Xception."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from given import generator
from given_architectures import check_least_images, check_seed_and_copies
from torch import nn
from torch.nn.functional import conv2d

from lib import measure
from lib.architectures.depthwise_separable import (
    DepthwiseSeparable,
    XceptionBlock,
    cost_ratio,
    dense_kernel,
    separable,
    xception,
)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(), dtype=torch.float64)


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (1, 3), (7, 2)])
def test_depthwise_then_pointwise_is_one_dense_convolution(kernel, stride):
    block = DepthwiseSeparable(4, 6, kernel=kernel, stride=stride).double()
    images = normal(2, 4, 11, 9)
    weight = dense_kernel(block.depthwise.weight, block.pointwise.weight)
    expected = conv2d(images, weight, stride=stride, padding=kernel // 2)
    torch.testing.assert_close(block(images), expected, rtol=0, atol=1e-12)


def test_each_kernel_is_a_multiple_of_its_channels_filter():
    depthwise, pointwise = normal(3, 1, 3, 3), normal(5, 3, 1, 1)
    weight = dense_kernel(depthwise, pointwise)
    for o in range(5):
        for i in range(3):
            torch.testing.assert_close(weight[o, i], pointwise[o, i, 0, 0] * depthwise[i, 0], rtol=0, atol=0)
    ranks = [torch.linalg.matrix_rank(weight[:, i].flatten(1)).item() for i in range(3)]
    assert ranks == [1, 1, 1]


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_more_filters_for_each_channel_are_one_dense_convolution_too(rank):
    depthwise, pointwise = normal(3 * rank, 1, 3, 3), normal(5, 3 * rank, 1, 1)
    images = normal(1, 3, 8, 8)
    expected = conv2d(conv2d(images, depthwise, groups=3), pointwise)
    torch.testing.assert_close(
        conv2d(images, dense_kernel(depthwise, pointwise, rank=rank)), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (2, 5, 3, 3), (1, 1, 1, 1), (7, 2, 3, 5)])
@pytest.mark.parametrize("rank", [1, 2, 7])
def test_the_error_is_the_tail_of_the_singular_values(shape, rank):
    weight = normal(*shape)
    full = min(shape[0], shape[2] * shape[3])
    rank = min(rank, full)
    error = (dense_kernel(*separable(weight, rank=rank), rank=rank) - weight).square().sum()
    tail = sum(
        (np.linalg.svd(weight[:, i].flatten(1).numpy(), compute_uv=False)[rank:] ** 2).sum() for i in range(shape[1])
    )
    np.testing.assert_allclose(error, tail, rtol=1e-9, atol=1e-24)
    assert error < 1e-24 or rank < full


def test_alternating_least_squares_finds_nothing_better():
    weight = normal(5, 3, 3, 3)
    best = (dense_kernel(*separable(weight)) - weight).square().sum()
    errors = []
    for seed in range(5):
        filters = torch.randn(3, 9, generator=generator(seed), dtype=torch.float64)
        rows = weight.transpose(0, 1).flatten(2)  # (inputs, outputs, 9)
        for _ in range(200):
            mixed = (rows * filters[:, None]).sum(2) / filters.square().sum(1, keepdim=True)
            filters = (rows * mixed[:, :, None]).sum(1) / mixed.square().sum(1, keepdim=True)
        errors.append((mixed[:, :, None] * filters[:, None] - rows).square().sum())
    torch.testing.assert_close(min(errors), best, rtol=1e-6, atol=0)
    assert all(error >= best - 1e-12 for error in errors)


def test_a_kernel_that_is_separable_is_found_again():
    weight = dense_kernel(normal(3, 1, 5, 5), normal(4, 3, 1, 1))
    torch.testing.assert_close(dense_kernel(*separable(weight)), weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_floats_and_transposed_weights_are_approximated_alike(dtype):
    weight = normal(4, 6, 3, 3).to(dtype).transpose(0, 1)
    for part, expected in zip(separable(weight), separable(weight.double().contiguous()), strict=True):
        assert part.dtype == dtype
        torch.testing.assert_close(part, expected.to(dtype))


@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(512, 512, 3), (3, 7, 5), (1, 1, 1), (32, 64, 7)])
def test_the_ratio_of_costs_is_that_of_the_counts(inputs, outputs, kernel):
    dense = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    block = DepthwiseSeparable(inputs, outputs, kernel=kernel)
    ratio = cost_ratio(outputs, kernel=kernel)
    adds = [measure.multiply_adds(layer, (inputs, 8, 8)) for layer in (block, dense)]
    assert Fraction(*adds) == ratio == Fraction(1, outputs) + Fraction(1, kernel**2)
    assert Fraction(measure.parameters(block), measure.parameters(dense)) == ratio


@pytest.mark.parametrize("between", ["none", "relu", "elu"])
def test_xception_has_the_parameters_of_the_paper(between):
    with torch.device("meta"):
        network = xception(between=between)
    assert measure.parameters(network) == 22_855_952
    blocks = [m for m in network.modules() if isinstance(m, DepthwiseSeparable)]
    assert len(blocks) + 2 == 36  # convolutional layers
    assert sum(isinstance(m, XceptionBlock) for m in network.modules()) + 2 == 14  # modules
    assert all(hasattr(block, "between") == (between != "none") for block in blocks)


def test_the_middle_flow_of_xception_is_19_pixels_wide():
    with torch.device("meta"):
        network, images = xception().eval(), torch.zeros(1, 3, 299, 299)
    sides = {name: images.shape[-1] for name, layer in network.named_children() if (images := layer(images)).dim() == 4}
    assert (sides["conv1"], sides["conv2"], sides["block4"], sides["block12"], sides["conv4"]) == (149, 147, 19, 19, 10)


def test_a_small_xception_learns_on_small_images_with_and_without_activation():
    images, answers = torch.rand(2, 1, 28, 28, generator=generator()), {}
    for between in ("none", "relu", "elu"):
        network = xception(channels=1, classes=3, width=0.02, middle=1, strides=(1, 1, 2, 2, 2), between=between)
        answers[between] = network(images)
        answers[between].square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert answers["none"].shape == (2, 3)
    assert not torch.equal(answers["none"], answers["relu"]) and not torch.equal(answers["relu"], answers["elu"])


@pytest.mark.parametrize("strides", [(2, 2, 2, 2, 2), (1, 1, 2, 2, 2), (1, 1, 1, 1, 1), (2, 1, 1, 1, 1)])
def test_xception_takes_its_least_images_and_no_smaller_ones(strides):
    check_least_images(xception(channels=1, classes=2, width=0.02, middle=0, strides=strides), (1, 2))


def test_xception_depends_on_its_seed_alone_and_can_be_copied():
    images = torch.rand(1, 3, 32, 32, generator=generator(), dtype=torch.float64)
    check_seed_and_copies(lambda seed: xception(seed, classes=2, width=0.02, middle=1), images)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DepthwiseSeparable(3, 4, kernel=2), "kernel must be odd.* not 2"),
        (lambda: DepthwiseSeparable(0, 4), "inputs must be a whole number of 1 or more, not 0"),
        (lambda: dense_kernel(torch.ones(4, 1, 3, 3), torch.ones(2, 3, 1, 1)), "weights of .* with rank 1"),
        (lambda: dense_kernel(torch.ones(4, 1, 3, 3), torch.ones(2, 4, 1, 1), rank=3), "with rank 3"),
        (lambda: dense_kernel(torch.ones(4, 2, 3, 3), torch.ones(2, 4, 1, 1)), "depthwise one must be"),
        (lambda: dense_kernel(torch.ones(0, 1, 3, 3), torch.ones(2, 0, 1, 1)), "depthwise one must be"),
        (lambda: dense_kernel(torch.full((1, 1, 1, 1), float("nan")), torch.ones(1, 1, 1, 1)), "NaN or infinity"),
        (lambda: separable(torch.full((1, 1, 1, 1), float("inf"))), "NaN or infinity"),
        (lambda: separable(torch.ones(4, 3)), "must be .outputs, inputs, height, width."),
        (lambda: separable(torch.ones(0, 3, 3, 3)), "none of them 0"),
        (lambda: separable(torch.ones(4, 3, 3, 3), rank=5), "rank must be 1 to 4 .* not 5"),
        (lambda: separable(torch.ones(4, 3, 3, 3), rank=0), "rank must be a whole number of 1 or more, not 0"),
        (lambda: cost_ratio(0), "outputs must be"),
        (lambda: XceptionBlock((3,)), "channels must be those of the input and of one output"),
        (lambda: XceptionBlock((3, 4), stride=3), "strides must be one number, 1 or 2"),
        (lambda: xception(between="gelu"), "between must be one of none, relu, elu, not 'gelu'"),
        (lambda: xception(middle=-1), "middle must be a whole number of 0 or more, not -1"),
        (lambda: xception(width=0), "width must be a finite number above 0, not 0"),
        (lambda: xception(classes=1), "classes must be a whole number of 2 or more, not 1"),
        (lambda: xception(strides=(2, 2)), "strides must be 5 numbers"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
