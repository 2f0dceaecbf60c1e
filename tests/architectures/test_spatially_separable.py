"""Separable and fused convolutions against the full ones, and the nearest separable filters against numpy."""

import copy
from collections import OrderedDict

import given
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import measure, training
from lib.architectures import spatially_separable
from lib.architectures.filter_sizes import composed
from lib.architectures.shared.network import Network
from lib.architectures.spatially_separable import Separable, convnet, fuse, fused, nearest, separate
from lib.pruning import magnitude
from lib.quantization import scalar_kmeans
from lib.vision import torchvision

DOUBLE = torch.float64
KINDS = ("full", "separable", "fused", "fused separable")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=given.generator(seed), dtype=DOUBLE)


def close(ours, expected):
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= 1e-12 * expected.abs().max()


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


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(3, 4, 5, padding=2),
        nn.Conv2d(3, 4, (2, 5), bias=False),
        nn.Conv2d(4, 6, 3, stride=(2, 1), padding=(0, 1), groups=2),
        nn.Conv2d(4, 4, 3, dilation=(2, 1), groups=4, padding="same"),
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(3, 4, 3, padding="valid"),
        nn.Conv2d(3, 4, 1),
    ],
)
@pytest.mark.parametrize(
    "pool",
    [nn.AvgPool2d(2), nn.AvgPool2d((3, 2)), nn.AvgPool2d(3, 2), nn.AvgPool2d(2, divisor_override=3), nn.AvgPool2d(1)],
)
def test_a_convolution_and_an_average_are_one_convolution(convolution, pool):
    convolution = copy.deepcopy(convolution).double()
    one = fused(convolution, pool)
    for side in (13, 14):
        images = drawn(2, convolution.in_channels, side, side + 2)
        close(one(images), pool(convolution(images)))


def test_the_fused_filters_are_those_of_the_equation():
    convolution = nn.Conv2d(2, 3, 5).double()
    window = torch.eye(3, dtype=DOUBLE)[:, :, None, None] * torch.full((2, 2), 0.25, dtype=DOUBLE)
    close(fused(convolution, nn.AvgPool2d(2)).weight, composed(convolution.weight, window))
    strided = nn.Conv2d(2, 3, 3, stride=2).double()
    close(fused(strided, nn.AvgPool2d(2)).weight, composed(strided.weight, window, stride=2))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_layer_has_the_type_and_mode_of_the_convolution(dtype):
    convolution = nn.Conv2d(3, 4, 5).to(dtype).eval()
    one = fused(convolution, nn.AvgPool2d(2))
    assert one.weight.dtype == one.bias.dtype == dtype and not one.training
    exact = fused(copy.deepcopy(convolution).double(), nn.AvgPool2d(2))
    assert torch.equal(one.weight, exact.weight.to(dtype))


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


def test_gradients_of_a_fused_network_are_those_of_its_images():
    model = convnet(channels=1, classes=3, side=8).double()
    images = drawn(2, 1, 8, 8).requires_grad_()
    gradients = [torch.autograd.grad(net(images).square().sum(), images)[0] for net in (model, fuse(model))]
    close(*gradients)


def test_transitions_of_a_network_we_did_not_write_are_fused():
    net = torchvision.models.DenseNet(growth_rate=4, block_config=(2, 2, 2), num_init_features=8, num_classes=3)
    features = given.seeded(lambda: net.features.double().eval())
    small, images = fuse(features), drawn(2, 3, 40, 32)
    close(small(images), features(images))
    assert small.transition1.conv.kernel_size == small.transition1.conv.stride == (2, 2)
    assert isinstance(small.transition2.pool, nn.Identity)


def test_pools_are_chosen_by_name_and_found_within():
    within = nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 3, 3), pool=nn.AvgPool2d(2)))
    model = nn.Sequential(
        nn.AvgPool2d(1), nn.Conv2d(1, 2, 3), nn.Sequential(nn.AvgPool2d(2)), nn.Tanh(), within
    ).double()
    images = drawn(1, 1, 17, 17)
    for pools, sizes in (
        (["2.0"], [(4, 4), (3, 3)]),
        (["4.pool"], [(3, 3), (4, 4)]),
        (["4.pool", "2.0"], [(4, 4)] * 2),
    ):
        small = fuse(model, pools=pools)
        assert [small[1].kernel_size, small[4].conv.kernel_size] == sizes
        close(small(images), model(images))
    with pytest.raises(ValueError, match="average pool '0' follows nothing, not a convolution"):
        fuse(model)


def test_one_pool_and_one_convolution_used_twice_are_fused_apart():
    pool, convolution = nn.AvgPool2d(2), nn.Conv2d(2, 2, 3)
    model = nn.Sequential(convolution, pool, nn.Tanh(), convolution, nn.Tanh(), nn.Conv2d(2, 2, 3), pool).double()
    small, images = fuse(model), drawn(1, 2, 20, 20)
    close(small(images), model(images))
    assert [small[i].kernel_size[0] for i in (0, 3, 5)] == [4, 3, 4]


def test_layers_that_run_at_several_places_are_refused_where_that_matters():
    part = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(2, 2, 3))
    with pytest.raises(ValueError, match=r"belongs to layers that run at several places"):
        fuse(nn.Sequential(nn.Conv2d(2, 2, 3), part, part))
    with pytest.raises(ValueError, match=r"'2.0' belongs to layers that run at several places"):
        fuse(nn.Sequential(nn.Conv2d(2, 2, 3), part, part), pools=["1.0"])


def test_compressed_weights_are_fused_as_they_are_used():
    images = drawn(1, 1, 28, 28)
    for compress in (lambda m: magnitude.prune(m, density=0.5), lambda m: scalar_kmeans.share(m, bits=2)):
        model = compress(convnet(channels=1, classes=10)).double().eval()
        close(fuse(model)(images), model(images))


@pytest.mark.parametrize("between", [nn.ReLU(), nn.Tanh(), nn.BatchNorm2d(3), nn.Dropout(), nn.MaxPool2d(2)])
def test_what_stands_between_convolution_and_pool_is_refused(between):
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 3, 3), between=between, pool=nn.AvgPool2d(2)))
    before = given.state(model)
    with pytest.raises(
        ValueError, match=r"average pool 'pool' follows 'between' \(\w+\), not a convolution: only a pool"
    ):
        fuse(model)
    assert given.same_state(before, given.state(model))


class Own(nn.Sequential):
    def forward(self, x):
        return super().forward(x).relu()


class Binary(nn.Conv2d):
    def forward(self, x):
        return super().forward(x.sign())


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        (nn.Conv2d(1, 1, 3), {}, r"layers one after another \(nn.Sequential\) are needed, not Conv2d"),
        (Own(nn.Conv2d(1, 1, 3), nn.AvgPool2d(2)), {}, "are needed, not Own"),
        (nn.Sequential(Own(nn.Conv2d(1, 1, 3)), nn.AvgPool2d(2)), {}, r"pool '1' follows '0' \(Own\)"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.MaxPool2d(2)), {}, r"names of average pools, from \[\], not \[\]"),
        (convnet(classes=2, side=4), {"pools": ["conv1"]}, r"from \['pool1', 'pool2'\], not \['conv1'\]"),
        (convnet(classes=2, side=4), {"pools": []}, r"not \[\]"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.AvgPool2d(2, padding=1)), {}, "without padding and ceil_mode"),
        (nn.Sequential(nn.Conv2d(1, 1, 3), nn.AvgPool2d(2, ceil_mode=True)), {}, "without padding and ceil_mode"),
        (nn.Sequential(nn.Conv2d(1, 1, 2, padding="same"), nn.AvgPool2d(2)), {}, "the same on both sides"),
        (nn.Sequential(nn.ConvTranspose2d(1, 1, 3), nn.AvgPool2d(2)), {}, r"follows '0' \(ConvTranspose2d\)"),
        (nn.Sequential(Binary(1, 1, 3), nn.AvgPool2d(2)), {}, "an nn.Conv2d is needed, not Binary"),
    ],
)
def test_networks_that_cannot_be_fused_are_refused(model, options, says):
    with pytest.raises(ValueError, match=says):
        fuse(model, **options)


def test_hooks_and_weights_that_are_not_finite_are_refused():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.AvgPool2d(2))
    hook = model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="'0' or '1' has hooks"):
        fuse(model)
    hook.remove()
    model[0].weight.data[0, 0, 0, 0] = float("inf")
    for function in (fuse, lambda model: separate(model[0])):
        with pytest.raises(ValueError, match="weights of the convolution hold NaN or infinity"):
            function(model)


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
    losses = training.fit(model, split, epochs=8, seed=0, learning_rate=0.1, batch_size=20)
    assert losses[-1] < losses[0]


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
