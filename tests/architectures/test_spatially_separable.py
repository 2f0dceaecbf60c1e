"""Separable convolutions against the full ones, also where fused, and the nearest separable filters against numpy."""

import copy

import given
import numpy as np
import pytest
import torch
from given_architectures import close, drawn
from torch import nn
from torch.nn import functional

from lib import measure, training
from lib.architectures import spatially_separable
from lib.architectures.filter_sizes import composed
from lib.architectures.shared.fused_pools import fuse, fused
from lib.architectures.shared.network import Network
from lib.architectures.spatially_separable import Separable, convnet, nearest, separate

DOUBLE = torch.float64
KINDS = ("full", "separable", "fused", "fused separable")


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 4)])
@pytest.mark.parametrize(("size", "stride", "padding"), [(5, 1, 0), (5, 1, 2), (3, 2, 1), (6, 2, 2), (1, 1, 0)])
def test_a_separable_layer_is_a_convolution_with_filters_of_rank_one(inputs, outputs, size, stride, padding):
    layer = given.seeded(lambda: Separable(inputs, outputs, size, stride=stride, padding=padding).double())
    kernel, images = layer.kernel(), drawn(2, inputs, 9, 10)
    assert kernel.shape == (outputs, inputs, size, size)
    assert (torch.linalg.matrix_rank(kernel) == 1).all()
    close(layer(images), functional.conv2d(images, kernel, layer.rows.bias, stride=stride, padding=padding))


def test_columns_and_rows_of_one_map_compose_to_the_filter():
    layer = Separable(1, 1, 5).double()
    close(composed(layer.columns.weight, layer.rows.weight), layer.kernel())


def test_a_separable_filter_costs_two_fifths_of_five_by_five():
    full, thin = nn.Conv2d(3, 4, 5, padding=2, bias=False), Separable(3, 4, 5, padding=2)
    assert sum(p.numel() for p in thin.parameters()) - 4 == 2 * 5 * 3 * 4
    adds = [measure.multiply_adds(layer, (3, 8, 8)) for layer in (full, thin)]
    assert adds == [25 * 12 * 64, 10 * 12 * 64]


def test_the_nearest_filters_are_those_of_the_largest_singular_value():
    kernel = drawn(4, 3, 5, 6)
    columns, rows, errors = nearest(kernel)
    for o in range(4):
        for i in range(3):
            left, sigma, right = np.linalg.svd(kernel[o, i].numpy())
            expected = sigma[0] * np.outer(left[:, 0], right[0])
            ours = torch.outer(columns[o, i], rows[o, i]).numpy()
            assert np.abs(ours - expected).max() < 1e-12
            missing = np.linalg.norm(kernel[o, i].numpy() - ours) / np.linalg.norm(sigma)
            assert errors[o, i].item() == pytest.approx(missing, rel=1e-10)
            assert missing == pytest.approx(np.sqrt((sigma[1:] ** 2).sum()) / np.linalg.norm(sigma), rel=1e-10)


def test_no_other_column_and_row_is_nearer():
    kernel = drawn(1, 1, 4, 4)
    columns, rows, errors = nearest(kernel)
    for seed in range(200):
        u, v = columns[0, 0] + 0.1 * drawn(4, seed=seed), rows[0, 0] + 0.1 * drawn(4, seed=seed + 1000)
        assert (kernel[0, 0] - torch.outer(u, v)).norm() / kernel.norm() > errors.item()


def test_filters_of_rank_one_zeros_and_single_rows_have_no_error():
    kernel = torch.stack([drawn(3)[:, None] * drawn(4, seed=1), torch.zeros(3, 4, dtype=DOUBLE)])[None]
    columns, rows, errors = nearest(kernel)
    assert errors[0, 0] < 1e-15 and errors[0, 1] == 0
    close(columns[..., None] * rows[..., None, :], kernel)
    assert (nearest(drawn(2, 3, 1, 5)).errors == 0).all() and (nearest(drawn(2, 3, 1, 1)).errors == 0).all()


def test_the_error_of_a_unit_matrix_is_known():
    for n in (2, 3, 5):
        assert nearest(torch.eye(n, dtype=DOUBLE)[None, None]).errors.item() == pytest.approx(((n - 1) / n) ** 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nearest_filters_of_other_types_and_strides(dtype):
    kernel = drawn(3, 2, 8, 5).transpose(0, 1)[:, :, ::2]
    ours, expected = nearest(kernel.to(dtype)), nearest(kernel.contiguous())
    assert all(part.dtype == dtype for part in ours)
    assert (ours.errors.double() - expected.errors).abs().max() < 8 * torch.finfo(dtype).eps


def test_separating_a_convolution_keeps_its_place_and_bias():
    convolution = given.seeded(lambda: nn.Conv2d(3, 4, 5, stride=2, padding=1).double()).eval()
    layer, errors = separate(convolution)
    close(
        layer.kernel(), (nearest(convolution.weight).columns[..., None] * nearest(convolution.weight).rows[:, :, None])
    )
    images = drawn(2, 3, 9, 9)
    close(layer(images), functional.conv2d(images, layer.kernel(), convolution.bias, stride=2, padding=1))
    gap = (convolution.weight - layer.kernel()).flatten(2).norm(dim=2) / convolution.weight.flatten(2).norm(dim=2)
    torch.testing.assert_close(errors, gap.detach())
    assert not layer.training and (errors > 0.1).all()


def test_separating_what_is_separable_changes_no_answer():
    layer = given.seeded(lambda: Separable(3, 4, 5, padding=2).double())
    convolution = nn.Conv2d(3, 4, 5, padding="same", bias=False).double()
    convolution.weight.data = layer.kernel().detach()
    again, errors = separate(convolution)
    images = drawn(2, 3, 7, 7)
    assert errors.max() < 1e-14
    close(again(images), convolution(images))


def test_a_fused_place_costs_36_in_place_of_100():
    convolution, pool = nn.Conv2d(3, 4, 5, padding=2), nn.AvgPool2d(2)
    both = measure.multiply_adds(nn.Sequential(convolution, pool), (3, 8, 8))
    one = measure.multiply_adds(fused(convolution, pool), (3, 8, 8))
    thin = measure.multiply_adds(separate(fused(convolution, pool))[0], (3, 8, 8))
    places = 12 * 16
    assert (both, one, thin) == (100 * places, 36 * places, 18 * places)


def test_a_separable_filter_stays_separable_when_fused():
    layer = given.seeded(lambda: Separable(2, 3, 5, padding=2).double())
    convolution = nn.Conv2d(2, 3, 5, padding=2).double()
    convolution.weight.data, convolution.bias.data = layer.kernel().detach(), layer.rows.bias.detach()
    thin, errors = separate(fused(convolution, nn.AvgPool2d(2)))
    images = drawn(2, 2, 8, 8)
    assert errors.max() < 1e-14
    close(thin(images), functional.avg_pool2d(layer(images), 2))


def test_fusing_a_network_gives_the_same_answers():
    model = convnet(channels=2, classes=5, side=12).double().eval()
    before, images = given.state(model), drawn(3, 2, 12, 12)
    small = fuse(model)
    close(small(images), model(images))
    assert given.same_state(before, given.state(model)) and isinstance(model.pool1, nn.AvgPool2d)
    assert isinstance(small, Network) and isinstance(small.pool2, nn.Identity) and not small.training
    same = convnet(channels=2, classes=5, side=12, filters="fused").double().eval()
    same.load_state_dict(small.state_dict())  # the network of the paper has the same parts
    assert torch.equal(same(images), small(images))


@pytest.mark.parametrize(
    ("kernel", "says"),
    [
        (torch.ones(3, 3), "kernel must be floats"),
        (torch.ones(1, 0, 3, 3), "none of them 0"),
        (torch.ones(1, 1, 3, 3, dtype=torch.long), "kernel must be floats"),
        (torch.full((1, 1, 3, 3), float("nan")), "the kernel holds NaN or infinity"),
    ],
)
def test_kernels_that_have_no_nearest_filters_are_refused(kernel, says):
    with pytest.raises(ValueError, match=says):
        nearest(kernel)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(2, 2, 3, groups=2),
        nn.Conv2d(2, 2, (3, 5)),
        nn.Conv2d(2, 2, 3, padding=(1, 2)),
        nn.Conv2d(2, 2, 3, stride=(1, 2)),
        nn.Conv2d(2, 2, 3, dilation=2),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
    ],
)
def test_convolutions_that_a_separable_layer_cannot_be_are_refused(convolution):
    with pytest.raises(ValueError, match="a separable layer has square filters, one stride, one padding"):
        separate(convolution)


def test_weights_that_are_not_finite_are_refused():
    convolution = nn.Conv2d(1, 1, 3)
    convolution.weight.data[0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="weights of the convolution hold NaN or infinity"):
        separate(convolution)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"inputs": 0}, "inputs must be a whole number of 1 or more, not 0"),
        ({"size": 0}, "size must be a whole number of 1 or more, not 0"),
        ({"stride": 0}, "stride must be a whole number of 1 or more, not 0"),
        ({"padding": -1}, "padding must be a whole number of 0 or more, not -1"),
        ({"padding": True}, "padding must be a whole number of 0 or more, not True"),
    ],
)
def test_separable_layers_of_bad_sizes_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Separable(**{"inputs": 1, "outputs": 1, "size": 3} | options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"filters": "thin"}, "filters must be one of full, separable, fused, fused separable, not 'thin'"),
        ({"side": 3}, "side must be 4 or more, so that two pools leave a pixel, not 3"),
        ({"side": 4.0}, "side must be a whole number of 1 or more"),
        ({"channels": 0}, "channels must be a whole number of 1 or more, not 0"),
        ({"classes": 1}, "classes must be a whole number of 2 or more, not 1"),
        ({"width": float("inf")}, "width must be a finite number above 0, not inf"),
    ],
)
def test_networks_of_bad_sizes_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        convnet(**options)


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_every_kind_run_and_learn(kind):
    model = convnet(channels=1, classes=2, width=0.5, filters=kind, side=9)
    assert model(torch.rand(2, 1, 12, 9)).shape == (2, 2)
    with pytest.raises(ValueError, match="with 9 pixels or more"):
        model(torch.rand(2, 1, 8, 9))
    assert given.equal(model, convnet(channels=1, classes=2, width=0.5, filters=kind, side=9))
    split = given.split(20, 1, 9, 9, classes=2)
    split.images[split.labels == 1] += 0.5
    options = {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 20}
    losses = training.fit(model, split, epochs=30, seed=0, **options)
    assert losses[-1] < 0.7 * losses[0]


def test_work_of_the_four_kinds_by_hand():
    pairs, places = (1 * 6, 6 * 16), (28 * 28, 14 * 14)
    work = {}
    for kind in KINDS:
        model = convnet(channels=1, classes=10, filters=kind)
        adds = measure.multiply_adds_by_layer(model, (1, 28, 28))
        work[kind] = sum(value for name, value in adds.items() if name.startswith("conv"))
    expected = {"full": 25, "separable": 10, "fused": 36 / 4, "fused separable": 6 / 2 + 6 / 4}
    assert work == {k: v * sum(a * b for a, b in zip(pairs, places, strict=True)) for k, v in expected.items()}


def test_copies_and_states_answer_the_same():
    model = convnet(1, channels=1, classes=3, filters="fused separable", side=8).eval()
    fresh = convnet(2, channels=1, classes=3, filters="fused separable", side=8).eval()
    fresh.load_state_dict(model.state_dict())
    images = torch.rand(2, 1, 8, 8, generator=given.generator())
    assert torch.equal(fresh(images), model(images)) and torch.equal(copy.deepcopy(model)(images), model(images))
    assert spatially_separable.nearest(model.conv1.kernel()).errors.max() < 1e-6
