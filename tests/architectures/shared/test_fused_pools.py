"""A convolution and an average pool as one convolution, alone and within networks."""

import copy
from collections import OrderedDict

import given
import pytest
import torch
from given_architectures import close, drawn
from torch import nn

from lib.architectures.filter_sizes import composed
from lib.architectures.shared.fused_pools import fuse, fused
from lib.architectures.spatially_separable import convnet
from lib.pruning import magnitude
from lib.quantization import scalar_kmeans
from lib.vision import torchvision

DOUBLE = torch.float64


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_layer_has_the_type_and_mode_of_the_convolution(dtype):
    convolution = nn.Conv2d(3, 4, 5).to(dtype).eval()
    one = fused(convolution, nn.AvgPool2d(2))
    assert one.weight.dtype == one.bias.dtype == dtype and not one.training
    exact = fused(copy.deepcopy(convolution).double(), nn.AvgPool2d(2))
    assert torch.equal(one.weight, exact.weight.to(dtype))


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
    with pytest.raises(ValueError, match="weights of the convolution hold NaN or infinity"):
        fuse(model)
