"""Signs in and signs out: the gate of the gradient, thresholds that are exact, and a network of whole numbers."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from lib import datasets, models, training
from lib.binarization import binaryconnect, bnn
from lib.binarization.binaryconnect import BinaryConnectWeight
from lib.binarization.shared import kernels
from lib.binarization.shared.conversion import EPSILON
from lib.binarization.shared.signs import Binarized, SignActivation
from lib.datasets import Split
from lib.weights import compress, compressed_form, layers

LARGEST = torch.finfo(torch.float32).max / 4


@pytest.fixture(scope="module")
def digits():
    """Real digits as 8-bit images, whole numbers 0 ... 255, for training and for test."""
    whole = datasets.load("digits")
    return tuple(Split((255 * s.images).round(), s.labels) for s in (whole.train.first(300), whole.test))


# -- the network -------------------------------------------------------------------------------------------------------


def test_relu_goes_and_the_networks_own_batch_norm_stays():
    model = bnn.binarize(models.mlp(hidden=(9, 8)))
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())
    assert isinstance(model.fc1, nn.Linear) and type(model.bn3) is nn.BatchNorm1d
    for layer in (model.fc2, model.fc3):
        assert isinstance(layer, Binarized) and type(layer.norm) is nn.Identity and layer.input_scale is None
    assert all(isinstance(compressed_form(layer)[0], BinaryConnectWeight) for _, layer in layers(model))
    dense = models.mlp(hidden=(9, 8))
    assert torch.equal(model.fc2.layer.weight, torch.where(dense.fc2.weight >= 0, 1.0, -1.0))


def test_a_network_without_batch_norm_gets_it_before_signs_and_last():
    model = bnn.binarize(models.lenet5(), classes=10)
    net, last = model
    assert type(last) is nn.BatchNorm1d and (last.num_features, last.eps) == (10, EPSILON)
    for layer, kind, width in ((net.conv2, nn.BatchNorm2d, 20), (net.fc1, nn.BatchNorm1d, 800)):
        assert type(layer.norm) is kind and (layer.norm.num_features, layer.norm.eps) == (width, EPSILON)
    assert type(net.conv1.weight) is torch.Tensor and set(net.conv1.weight.flatten().tolist()) == {-1, 1}
    assert isinstance(bnn.binarize(models.lenet5()).fc2, Binarized)  # no norm behind it unless classes are given
    assert model(torch.rand(4, 1, 28, 28)).shape == (4, 10)


def test_only_the_named_layers_read_signs_while_every_weight_is_one():
    model = bnn.binarize(models.lenet5(), names=["fc1"])
    assert [name for name, module in model.named_modules() if isinstance(module, Binarized)] == ["fc1"]
    assert all(set(layer.weight.flatten().tolist()) == {-1, 1} for _, layer in layers(model))
    alone = bnn.binarize(nn.Linear(4, 3), names=[""])
    assert isinstance(alone, Binarized) and alone(torch.rand(5, 4)).shape == (5, 3)


@pytest.mark.parametrize(
    ("build", "names", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU()),
            None,
            "Sequential has 1 linear and 2-d layers: at least two",
        ),
        (nn.ReLU, None, "ReLU has 0 linear and 2-d layers: at least two are needed"),
        (models.lenet5, ["fc3"], "no layer 'fc3' to binarize: accepted are conv1, conv2, fc1, fc2$"),
        (models.lenet5, [], "Sequential has no layer to binarize"),
    ],
)
def test_too_few_layers_and_unknown_names_are_refused_and_relu_stays(build, names, message):
    model = build()
    before = str(model)
    with pytest.raises(ValueError, match=message):
        bnn.binarize(model, names=names)
    assert str(model) == before


@pytest.mark.parametrize("classes", [0, -3])
def test_an_output_without_width_is_refused_and_relu_stays(classes):
    model = models.mlp()
    with pytest.raises(ValueError, match=f"classes, the width of the output, must be 1 or more, not {classes}$"):
        bnn.binarize(model, classes=classes)
    assert str(model) == str(models.mlp())


def test_weights_that_are_not_finite_are_refused_and_relu_stays():
    model = models.lenet5()
    model.fc2.weight.data[3, 3] = -torch.inf
    with pytest.raises(ValueError, match="weights of layer 'fc2' hold NaN or infinity"):
        bnn.binarize(model, classes=10)
    assert str(model) == str(models.lenet5())


# -- the gradient ------------------------------------------------------------------------------------------------------


def test_the_gradient_passes_where_what_the_sign_reads_is_at_most_one():
    generator = torch.Generator().manual_seed(0)
    layer = compress(nn.Linear(6, 3, bias=False), lambda *_: BinaryConnectWeight())
    x = 2 * torch.randn(5, 6, generator=generator)
    x[0] = torch.tensor([1.0, -1.0, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)), -1.0000001, 0.0, -0.0])
    x.requires_grad_()
    gradient = torch.randint(-9, 9, (5, 3), generator=generator).float()
    Binarized(layer, SignActivation())(x).backward(gradient)
    assert torch.equal(x.grad, (gradient @ layer.weight) * (x.abs() <= 1))
    assert (x.grad[0] != 0).tolist() == [g != 0 and i not in (2, 3) for i, g in enumerate((gradient @ layer.weight)[0])]


def test_the_gradient_of_a_network_is_that_of_one_written_out():
    torch.manual_seed(0)
    model = bnn.binarize(models.mlp(inputs=16, hidden=(8, 8), classes=3)).train()
    plain = copy.deepcopy(model)
    x, labels = torch.rand(12, 16), torch.arange(12) % 3
    training.LOSSES["squared_hinge"](model(x), labels).backward()
    values, outputs, signs = [], x, []
    for i in (1, 2, 3):
        layer = getattr(plain, f"fc{i}")
        stored = compressed_form(layer if i == 1 else layer.layer)[1][0]
        weight = torch.where(stored.detach() >= 0, 1.0, -1.0).requires_grad_()
        values.append((stored, weight))
        outputs = getattr(plain, f"bn{i}")(outputs @ weight.T)
        signs.append(outputs)
        if i < 3:  # hard tanh has the gradient that the sign takes; its value is the sign's
            gate = functional.hardtanh(outputs)
            outputs = gate + (torch.where(outputs >= 0, 1.0, -1.0) - gate).detach()
    training.LOSSES["squared_hinge"](outputs, labels).backward()
    for i, (_, weight) in enumerate(values, 1):
        layer = getattr(model, f"fc{i}")
        ours = compressed_form(layer if i == 1 else layer.layer)[1][0].grad
        torch.testing.assert_close(ours, weight.grad, rtol=1e-4, atol=1e-6)
    assert any((z.abs() > 1).any() for z in signs)


# -- the first layer ---------------------------------------------------------------------------------------------------


def test_a_first_layer_of_8_bits_is_a_sum_over_planes(digits):
    images = digits[1].images[:20].flatten(1).long()
    layer = compress(nn.Linear(784, 33, bias=False), lambda *_: BinaryConnectWeight())
    weight = layer.weight.detach().long()
    total = torch.zeros(20, 33, dtype=torch.int64)
    by_bits = torch.zeros(20, 33, dtype=torch.int64)
    filters = kernels.arrange(layer.weight.detach())
    for n in range(1, 9):
        plane = images >> (n - 1) & 1  # x^n
        total += 2 ** (n - 1) * (plane @ weight.T)
        signs = kernels.product(kernels.pack(2 * plane.float() - 1), filters).long()
        by_bits += 2 ** (n - 1) * (signs + weight.sum(1)) // 2  # 0 and 1 from -1 and +1
    assert torch.equal(total, images @ weight.T) and torch.equal(by_bits, total)
    assert torch.equal(layer(images.float()), total.float())


# -- thresholds --------------------------------------------------------------------------------------------------------


def signed(low, high):
    """Zero, and numbers of both signs from 10^low to 10^high."""
    size = st.floats(low, high).map(lambda e: 10.0**e)
    return st.one_of(st.just(0.0), size, size.map(lambda v: -v))


CHANNEL = st.tuples(signed(-42, 4), signed(-6, 4), signed(-6, 9), st.one_of(st.just(0.0), st.floats(-12, 12)))


def norm_of(channels, kind, eps):
    norm = kind(len(channels), eps=eps).eval()
    with torch.no_grad():
        for tensor, values in zip(
            (norm.weight, norm.bias, norm.running_mean, norm.running_var), zip(*channels, strict=True), strict=True
        ):
            tensor.copy_(torch.tensor(values, dtype=torch.float64))
        norm.running_var.copy_(10**norm.running_var)
    return norm


def tried(t, mean, generator):
    """Values (n, channels): around the threshold float by float, around the mean, whole numbers, and the ends."""
    finite = t.clamp(-LARGEST, LARGEST)
    up = down = finite
    near = [finite]
    for _ in range(4):
        up, down = torch.nextafter(up, torch.tensor(torch.inf)), torch.nextafter(down, torch.tensor(-torch.inf))
        near += [up.clamp(max=LARGEST), down.clamp(min=-LARGEST)]
    around = [mean + torch.randn(len(t), generator=generator) * 10.0**e for e in range(-3, 6)]
    counts = [torch.randint(-900, 900, (len(t),), generator=generator).float() for _ in range(5)]
    ends = [torch.full_like(t, value) for value in (0.0, -0.0, LARGEST, -LARGEST)]
    return torch.stack([*near, *around, *counts, *ends])


def as_rows(x):
    return x, lambda y: y


def as_maps(x):  # (n, channels, 3, 5), every place the same
    return x[:, :, None, None].expand(-1, -1, 3, 5).contiguous(), lambda y: y[:, :, 1, 3]


def as_one_image(x):  # (1, channels, n, 1)
    return x.T.reshape(1, x.shape[1], -1, 1).contiguous(), lambda y: y[0, :, :, 0].T


def as_one_image_channels_last(x):
    image, back = as_one_image(x)
    return image.contiguous(memory_format=torch.channels_last), back


def as_steps(x):  # (1, channels, n)
    return x.T[None].contiguous(), lambda y: y[0].T


LAYOUTS = {nn.BatchNorm1d: (as_rows, as_steps), nn.BatchNorm2d: (as_maps, as_one_image, as_one_image_channels_last)}


@settings(max_examples=150)
@given(
    channels=st.lists(CHANNEL, min_size=1, max_size=20),
    kind=st.sampled_from([nn.BatchNorm1d, nn.BatchNorm2d]),
    eps=st.sampled_from([1e-5, EPSILON]),
    target=st.sampled_from([0.0, 1.0, -0.5, 1e-3]),
)
def test_the_comparison_with_the_threshold_answers_as_batch_norm_does(channels, kind, eps, target):
    norm = norm_of(channels, kind, eps)
    t, below = bnn.threshold(norm, len(channels), target=target)
    assert t.shape == below.shape == (len(channels),) and t.dtype == torch.float32 and below.dtype == torch.bool
    assert not (below & (norm.weight >= 0)).any()
    x = tried(t, norm.running_mean, torch.Generator().manual_seed(0))
    found = torch.where(below, x <= t, x >= t)
    with torch.no_grad():
        for layout in LAYOUTS[kind]:
            shaped, back = layout(x)
            assert torch.equal(found, back(norm(shaped)) >= target)


def test_the_threshold_of_no_norm_is_the_target():
    for target in (0.0, 0.25, -3.0):
        t, below = bnn.threshold(nn.Identity(), 3, target=target)
        assert t.tolist() == [target] * 3 and not below.any()
        x = tried(t, t, torch.Generator().manual_seed(0))
        assert torch.equal(x >= t, x >= target)


def test_a_norm_that_is_constant_has_its_threshold_beyond_all_floats():
    norm = nn.BatchNorm1d(4).eval()
    norm.weight.data.zero_()
    norm.bias.data = torch.tensor([1.0, 0.0, -0.0, -1e-9])
    t, below = bnn.threshold(norm, 4)
    assert t.tolist() == [-torch.inf, -torch.inf, -torch.inf, torch.inf] and not below.any()
    t, _ = bnn.threshold(norm, 4, target=1.0)
    assert t.tolist() == [-torch.inf, torch.inf, torch.inf, torch.inf]


def test_a_negative_gamma_turns_the_comparison():
    norm = nn.BatchNorm1d(2, eps=0).eval()
    norm.weight.data, norm.running_mean = torch.tensor([-2.0, 2.0]), torch.tensor([5.0, 5.0])
    t, below = bnn.threshold(norm, 2)
    assert t.tolist() == [5, 5] and below.tolist() == [True, False]


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(3),
        nn.BatchNorm2d(3).train(),
        nn.BatchNorm1d(3, track_running_stats=False).eval(),
        nn.LayerNorm(3).eval(),
        nn.Sequential(nn.BatchNorm1d(3)).eval(),
    ],
)
def test_what_has_no_threshold_for_each_channel_is_refused(norm):
    with pytest.raises(ValueError, match="only batch norm with fixed statistics, in evaluation mode, has a threshold"):
        bnn.threshold(norm, 3)


# -- a network of whole numbers ----------------------------------------------------------------------------------------


def bits_of(layer):
    return compressed_form(layer)[1][0].detach().numpy().reshape(len(layer.weight), -1) >= 0


def reached(sums, norm):
    """Which whole sums (n, channels, ...) have a norm of at least 0, by one comparison each."""
    t, below = (each.numpy().reshape(-1, *[1] * (sums.ndim - 2)) for each in bnn.threshold(norm, sums.shape[1]))
    return np.where(below, sums <= t, sums >= t)


def counted(bits, weights):
    """K - 2 popcount(a xor b) for rows of bits."""
    a, b = (np.packbits(each, axis=-1) for each in (bits, weights))
    different = np.bitwise_count(a[:, None] ^ b[None]).astype(np.int64).sum(-1)
    return bits.shape[1] - 2 * different


def turn_some(model):
    """Let every third channel of a norm have a negative gamma, and every seventh none."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, bnn.NORMS):
                module.weight[::3] *= -1
                module.weight[3::7] = 0


def test_counts_and_thresholds_give_the_very_same_answers(digits):
    train, test = digits
    model = bnn.binarize(models.mlp(hidden=(70, 40)))
    binaryconnect.fit(model, train, epochs=3, seed=0, learning_rate=3e-3)
    turn_some(model)
    with torch.no_grad():
        expected = model(test.images)
    pixels = test.images.flatten(1).numpy().astype(np.int64)
    sums = pixels @ np.where(bits_of(model.fc1), 1, -1).T
    sums = counted(reached(sums, model.bn1), bits_of(model.fc2.layer))
    sums = counted(reached(sums, model.bn2), bits_of(model.fc3.layer))
    with torch.no_grad():
        found = model.bn3(torch.from_numpy(sums).float())
    assert torch.equal(found, expected) and torch.equal(found.argmax(1), expected.argmax(1))
    assert expected.argmax(1).unique().numel() > 1


def test_a_convolutional_network_of_whole_numbers_gives_the_very_same_answers(digits):
    train, test = (Split(s.images[:100], s.labels[:100]) for s in digits)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 8, 5, stride=2, bias=False), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.Flatten(), nn.ReLU()),
            nn.Linear(12 * 9, 10, bias=False),
        )
    net, last = model = bnn.binarize(model, classes=10)
    binaryconnect.fit(model, train, epochs=2, seed=0, learning_rate=3e-3)
    turn_some(model)
    with torch.no_grad():
        expected = model(test.images)
    sums = convolved(test.images.numpy().astype(np.int64), net[0], stride=2, border=0)
    signs = np.where(reached(pooled(sums), net[3].norm), 1, -1)
    sums = pooled(convolved(signs, net[3].layer, stride=1, border=1)).reshape(100, -1)
    sums = counted(reached(sums, net[7].norm), bits_of(net[7].layer))
    with torch.no_grad():
        assert torch.equal(last(torch.from_numpy(sums).float()), expected)


def convolved(values, layer, stride, border):
    """Whole numbers (n, channels, h, w) under each place of the filters; 0, which is no sign, beyond the border."""
    size = layer.kernel_size[0]
    padded = np.pad(values, ((0, 0), (0, 0), (border, border), (border, border)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    weight = np.where(bits_of(layer), 1, -1).reshape(layer.weight.shape)
    return np.einsum("nchwij,fcij->nfhw", windows, weight, optimize=True)


def pooled(values):
    n, c, h, w = values.shape
    return values[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


def test_answers_depend_on_the_signs_alone(digits):
    model = bnn.binarize(models.mlp(hidden=(20, 20))).eval()
    images = digits[1].images[:50]
    before = model(images)
    with torch.no_grad():
        for _, layer in layers(model):
            compressed_form(layer)[1][0].mul_(0.5)
    assert torch.equal(model(images), before)
