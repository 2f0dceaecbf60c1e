"""SegNet and Squeeze-SegNet: counts, torchvision's encoders, any size."""

import copy
from itertools import pairwise

import given
import pytest
import torch
from given_architectures import with_drawn_norms
from torch import nn
from torch.nn import functional

from lib import measure, training
from lib.architectures.squeeze_segnet import DFire, LightDFire, segnet, squeeze_segnet
from lib.datasets import Split
from lib.segmentation import PixelCrossEntropy, class_weights, evaluate
from lib.vision import torchvision

NETWORKS = {
    "segnet": segnet,
    "public": squeeze_segnet,
    "light": lambda *a, **k: squeeze_segnet(*a, light=True, batch_norm=True, **k),
}


def images(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=given.generator()).to(dtype)


def on_meta(build, **arguments):
    with torch.device("meta"):
        return build(**arguments)


def test_segnet_has_the_parameters_of_the_formula():
    c = [3, 64, 64, 128, 128, *[256] * 3, *[512] * 6]
    encoder = [(a, b) for a, b in pairwise(c)]
    decoder = [(b, a) for a, b in encoder[:0:-1]]
    # weights, biases, and two numbers of each batch norm
    expected = sum(9 * a * b + 3 * b for a, b in encoder + decoder) + 9 * 64 * 11 + 11
    assert measure.parameters(on_meta(segnet)) == expected == 29_449_355


def test_the_public_layout_has_its_parameters_and_multiply_adds():
    network = on_meta(squeeze_segnet)
    assert measure.parameters(network) == 7_617_939
    assert round(measure.multiply_adds(network, (3, 360, 480)) / 1e9, 2) == 23.84
    assert round(measure.multiply_adds(network, (3, 180, 240)) / 1e9, 2) == 5.64
    encoder = [*network.encoder, network.middle[0], network.middle[1]]
    assert sum(map(measure.parameters, encoder)) == 1_248_424  # SqueezeNet 1.0


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_ours_has_ten_times_fewer_parameters_than_segnet(width):
    whole = measure.parameters(on_meta(segnet, width=width))
    assert whole >= 10 * measure.parameters(on_meta(NETWORKS["light"], width=width))
    assert 3.5 < whole / measure.parameters(on_meta(squeeze_segnet, width=width)) < 4.2
    assert measure.parameters(on_meta(squeeze_segnet, light=True)) == 2_414_827


def test_the_encoder_computes_what_torchvisions_squeezenet_does():
    tv = given.seeded(torchvision.models.squeezenet1_0).eval()
    network = squeeze_segnet().eval()
    convolutions = [m for m in tv.modules() if isinstance(m, nn.Conv2d)]
    own = [m for m in [*network.encoder.modules(), *network.middle[:2].modules()] if isinstance(m, nn.Conv2d)]
    for a, b in zip(own, convolutions, strict=True):
        a.load_state_dict(b.state_dict())
    seen = []
    network.middle[1].register_forward_hook(lambda _, __, output: seen.append(output))
    x = images(1, 3, 49, 64)
    with torch.no_grad():
        network(x)
        expected = tv.classifier[:3](tv.features(x))
    torch.testing.assert_close(seen[0], expected)


def test_segnets_encoder_has_the_convolutions_of_vgg16():
    vgg = on_meta(torchvision.models.vgg16_bn)
    shapes = [m.weight.shape for m in vgg.features if isinstance(m, nn.Conv2d)]
    network = on_meta(segnet)
    assert [m.weight.shape for m in network.encoder.modules() if isinstance(m, nn.Conv2d)] == shapes
    back = [m.weight.shape for m in network.decoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(a, b) for a, b, *_ in back[:-1]] == [(b, a) for a, b, *_ in shapes[:0:-1]]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_answer_has_the_size_of_a_street_scene(name):
    network = on_meta(NETWORKS[name])
    for size in ((90, 120), (180, 240), (360, 480)):
        assert network(torch.zeros(1, 3, *size, device="meta")).shape == (1, 11, *size)


@pytest.mark.parametrize("size", [(32, 33), (47, 62)])
@pytest.mark.parametrize("name", NETWORKS)
def test_any_size_keeps_its_size_and_its_answers_are_finite(name, size):
    network = NETWORKS[name](channels=1, classes=2, width=1 / 16).eval()
    answers = network(images(2, 1, *size))
    assert answers.shape == (2, 2, *size) and answers.isfinite().all() and answers.std() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_too_small_images_and_other_channels_are_refused(name):
    network = NETWORKS[name](width=1 / 16).eval()
    least = {"segnet": 32}.get(name, 21)
    assert network(torch.zeros(1, 3, least, least)).shape[2:] == (least, least)
    for shape in ((1, 3, least - 1, 40), (1, 3, 40, least - 1), (1, 1, 40, 40), (3, 40, 40)):
        with pytest.raises(ValueError, match=rf"takes \(n, 3, height, width\) with {least} pixels or more"):
            network(torch.zeros(shape))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_mirrored_fire_module_is_its_equation(batch_norm):
    x = images(2, 16, 4, 5, dtype=torch.float64)
    block = with_drawn_norms(given.seeded(lambda: DFire(16, 6, 5, 7, batch_norm=batch_norm))).double()

    def unit(layers, patches):  # relu(W x + b), or with batch norm for b; patches of a place in a column
        y = layers.conv.weight.flatten(1) @ patches
        if not batch_norm:
            return (y + layers.conv.bias[:, None]).clamp(min=0)
        bn = layers.bn
        mean, var, weight, bias = (v[:, None] for v in (bn.running_mean, bn.running_var, bn.weight, bn.bias))
        return (weight * (y - mean) / (var + bn.eps).sqrt() + bias).clamp(min=0)

    wide = [unit(block.expand1x1, x.flatten(2)), unit(block.expand3x3, functional.unfold(x, 3, padding=1))]
    y = unit(block.squeeze, torch.cat(wide, 1)).unflatten(2, (4, 5))
    assert y.shape == (2, 7, 4, 5) and y.any()
    torch.testing.assert_close(block(x), y)


def test_counts_of_both_mirrored_fire_modules_are_their_formulas():
    i, a, b, o = 48, 10, 12, 30
    assert measure.parameters(DFire(i, a, b, o)) == (i + 1) * a + (9 * i + 1) * b + (a + b + 1) * o
    s = i // 8
    assert measure.parameters(LightDFire(i, a, b, o)) == (i + 1) * s + (s + 1) * a + (9 * s + 1) * b + (a + b + 1) * o


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_reaches_every_parameter_and_copies_agree(name):
    network = NETWORKS[name](3, channels=1, classes=3, width=1 / 8).double()
    x = images(2, 1, 64, 64, dtype=torch.float64)
    network(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(p.grad.any() for p in network.parameters() if p.dim() > 1)
    other = NETWORKS[name](4, channels=1, classes=3, width=1 / 8).double()
    assert not given.equal(network, other)
    other.load_state_dict(network.state_dict())
    expected = network.eval()(x)
    assert torch.equal(other.eval()(x), expected) and torch.equal(copy.deepcopy(network)(x), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b = (NETWORKS[name](1, width=1 / 16) for _ in range(2))
    assert given.equal(a, b) and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["segnet", "light"])
def test_bright_squares_are_learned_where_they_are(name):
    random = given.generator()
    x, labels = torch.rand(16, 1, 32, 32, generator=random) / 4, torch.zeros(16, 32, 32, dtype=torch.long)
    for i, (r, c) in enumerate(torch.randint(0, 20, (16, 2), generator=random).tolist()):
        x[i, 0, r : r + 12, c : c + 12] += 0.7
        labels[i, r : r + 12, c : c + 12] = 1
    labels[:, :2] = 11
    split = Split(x, labels)
    network = NETWORKS[name](channels=1, classes=2, width=1 / 16)
    options = {"seed": 0, "batch_size": 4, "optimizer": "adam", "learning_rate": 0.03}
    loss = PixelCrossEntropy(classes=2, void=11, weights=class_weights(labels, classes=2, void=11))
    training.fit(network, split, epochs=10, **options, loss=loss)
    assert evaluate(network, split, classes=2, void=11).mean_iou_pct > 50  # background everywhere: 43


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 1}, "classes must be a whole number of 2 or more, not 1"),
        ({"channels": 0}, "channels must be a whole number of 1 or more, not 0"),
        ({"width": 0}, "width must be a finite number above 0, not 0"),
        ({"width": float("nan")}, "width must be a finite number above 0, not nan"),
    ],
)
@pytest.mark.parametrize("build", [segnet, squeeze_segnet])
def test_sizes_that_no_network_has_are_refused(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_modules_that_no_network_has_are_refused():
    with pytest.raises(ValueError, match=r"a filter of each kind in every fire module, and 0.005 leaves none"):
        squeeze_segnet(width=0.005)
    for kind in (DFire, LightDFire):
        with pytest.raises(ValueError, match="expand3x3 must be a whole number of 1 or more, not 0"):
            kind(8, 4, 0, 4)
