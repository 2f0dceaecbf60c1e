"""Dense blocks against exact counts, torchvision's networks, the equation written out, and what training keeps."""

import given
import pytest
import torch
from given_architectures import check_seed_and_copies, drawn, with_drawn_norms, with_weights_of
from torch import nn

from lib import measure
from lib.architectures.dense_block import (
    DenseBlock,
    DenseLayer,
    Transition,
    cifar_densenet,
    imagenet_densenet,
    unit,
)
from lib.vision import torchvision

BC = {"bottleneck": True, "compression": 0.5}


@pytest.mark.parametrize(
    ("options", "parameters", "multiply_adds"),
    [({"depth": 40, "growth": 12}, 1_019_722, 264.8), ({"depth": 100, "growth": 12, **BC}, 769_162, 287.9)],
)
def test_networks_for_small_images_have_the_known_counts(options, parameters, multiply_adds):
    with torch.device("meta"):
        network = cifar_densenet(**options)
    assert measure.parameters(network) == parameters
    assert round(measure.multiply_adds(network, (3, 32, 32)) / 1e6, 1) == multiply_adds
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in network.modules()) == options["depth"]


@pytest.mark.parametrize(("depth", "growth"), [(121, 32), (161, 48), (169, 32), (201, 32)])
def test_networks_for_large_images_have_torchvisions_counts(depth, growth):
    with torch.device("meta"):
        ours, theirs = imagenet_densenet(depth=depth, growth=growth), getattr(torchvision.models, f"densenet{depth}")()
    assert measure.parameters(ours) == measure.parameters(theirs)
    if depth == 121:  # the deeper ones repeat its layers
        assert measure.multiply_adds(ours, (3, 224, 224)) == measure.multiply_adds(theirs, (3, 224, 224))


def test_densenet_121_gives_torchvisions_answers():
    theirs = with_drawn_norms(given.seeded(lambda: torchvision.models.densenet121(num_classes=7)))
    with torch.device("meta"):
        ours = imagenet_densenet(classes=7)
    ours = with_weights_of(theirs, ours.to_empty(device="cpu"))
    images = given.split(2, 3, 40, 64).images
    with torch.no_grad():
        for training in (False, True):
            torch.testing.assert_close(ours.train(training)(images), theirs.train(training)(images))


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_layer_sees_the_maps_of_all_layers_before(bottleneck, dtype):
    block = with_drawn_norms(given.seeded(lambda: DenseBlock(3, 4, 2, bottleneck=bottleneck))).to(dtype)
    x = torch.randn(2, 3, 5, 4, generator=given.generator()).to(dtype)
    maps = [x]
    for layer in block:
        assert layer.inputs == sum(part.shape[1] for part in maps)
        maps.append(layer.h(torch.cat(maps, 1)))
    assert torch.equal(block(x), torch.cat(maps, 1))
    assert torch.equal(block(x)[:, :3], x)
    assert block(x).shape[1] == block.outputs == 3 + 4 * 2


def test_the_first_maps_reach_the_last_layer_directly():
    block = with_drawn_norms(given.seeded(lambda: DenseBlock(2, 3, 2)))
    for layer in list(block)[:-1]:
        nn.init.zeros_(layer.h[0].conv.weight)  # no path through a layer in between
    x = (given.split(1, 2, 4, 4).images + 2).requires_grad_()  # above each mean, so that every ReLU passes it
    block(x)[:, -2:].square().sum().backward()
    assert (x.grad != 0).all()


def test_a_layer_with_bottleneck_has_few_weights():
    plain, narrow = (measure.parameters(DenseLayer(100, 12, bottleneck=b)) for b in (False, True))
    assert plain == 2 * 100 + 9 * 100 * 12
    assert narrow == (2 * 100 + 100 * 48) + (2 * 48 + 9 * 48 * 12)


def kept_for_training(block: DenseBlock) -> int:
    """Numbers that one forward pass keeps for the backward pass, each storage once."""
    weights = {p.data_ptr() for p in block.parameters()}
    stored: dict[int, int] = {}

    def pack(tensor):
        stored[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = block(torch.ones(1, block.inputs, 8, 8, requires_grad=True))
    assert output.requires_grad
    return sum(n for place, n in stored.items() if place not in weights)


def test_what_training_keeps_grows_with_the_square_of_layers():
    kept = torch.tensor([kept_for_training(DenseBlock(4, layers, 3)) for layers in range(2, 8)])
    second = kept.diff().diff()
    # each layer keeps all maps before it, at least once: k more of 8 x 8 pixels than the layer before
    assert (second == second[0]).all() and second[0] >= 3 * 64


def test_a_transition_keeps_a_share_and_averages_pixels():
    assert [Transition(m, compression=c).outputs for m, c in ((100, 0.29), (7, 0.5), (9, 1))] == [29, 3, 9]
    transition = with_drawn_norms(given.seeded(lambda: Transition(6))).double()
    x = torch.randn(2, 6, 5, 8, generator=given.generator(), dtype=torch.float64)
    maps = transition[0].conv(transition[0].bn(x).relu())[:, :, :4]
    torch.testing.assert_close(transition(x), maps.reshape(2, 3, 2, 2, 4, 2).mean((3, 5)))


def test_dropout_follows_each_convolution_except_the_first():
    network = cifar_densenet(depth=10, growth=4, **BC, dropout=0.2)
    names = [name for name, layer in network.named_modules() if isinstance(layer, nn.Dropout)]
    convolutions = [name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
    assert [name.removesuffix("dropout") for name in names] == [name.removesuffix("conv") for name in convolutions[1:]]
    without = cifar_densenet(depth=10, growth=4, **BC)
    assert given.same_state(given.state(network), given.state(without))


@pytest.mark.parametrize(
    ("options", "first"), [({}, 16), ({"bottleneck": True}, 16), ({"compression": 0.5}, 16), (BC, 10)]
)
def test_only_the_compressed_bottlenecks_start_with_two_growths(options, first):
    assert cifar_densenet(depth=10, growth=5, **options).conv.out_channels == first


@pytest.mark.parametrize(
    "build", [lambda: cifar_densenet(depth=10, growth=2, **BC), lambda: imagenet_densenet(growth=2, classes=3)]
)
def test_the_smallest_image_is_the_smallest_that_works(build):
    network = build().eval()
    least = network.least
    assert network(torch.zeros(1, 3, least, least + 1)).isfinite().all()
    with pytest.raises(ValueError, match=f"with {least} pixels or more"):
        network(torch.zeros(1, 3, least, least - 1))
    with pytest.raises(RuntimeError, match="too small"):
        nn.Sequential.forward(network, torch.zeros(1, 3, least, least - 1))


def test_it_depends_on_its_seed_alone_with_weights_of_hes_spread():
    check_seed_and_copies(lambda seed: cifar_densenet(seed, depth=10, growth=24), drawn(2, 3, 9, 7))
    network = cifar_densenet(1, depth=10, growth=24)
    weight = network.block3.layer1.h[0].conv.weight
    assert float(weight.std()) == pytest.approx((2 / (9 * weight.shape[1])) ** 0.5, rel=0.03)
    assert not network.fc.bias.any()


def test_all_weights_learn():
    network = cifar_densenet(channels=1, classes=2, depth=16, growth=3, **BC).double()
    network(drawn(3, 1, 9, 7)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: DenseLayer(4, 0), "growth must be a whole number of 1 or more, not 0"),
        (lambda: DenseLayer(0, 4), "inputs must be a whole number of 1 or more, not 0"),
        (lambda: DenseBlock(4, 0, 4), "layers must be a whole number of 1 or more, not 0"),
        (lambda: DenseBlock(4, 2, 4, dropout=1), r"dropout must be in \[0, 1\), not 1"),
        (lambda: unit(4, 4, 2), "size of a filter must be odd, not 2"),
        (lambda: Transition(4, compression=0), r"compression must be in \(0, 1\], not 0"),
        (lambda: Transition(4, compression=1.5), r"compression must be in \(0, 1\], not 1.5"),
        (lambda: Transition(4, compression=0.1), "compression 0.1 of 4 channels leaves none"),
        (lambda: cifar_densenet(depth=41), r"depth must be 3 n \+ 4 \(7, 10, 13, ...\), not 41"),
        (lambda: cifar_densenet(depth=43, bottleneck=True), r"6 n \+ 4 with bottlenecks \(10, 16, 22, ...\), not 43"),
        (lambda: cifar_densenet(depth=4), "not 4"),
        (lambda: cifar_densenet(classes=1), "classes must be a whole number of 2 or more, not 1"),
        (lambda: cifar_densenet(dropout=float("nan")), r"dropout must be in \[0, 1\), not nan"),
        (lambda: imagenet_densenet(depth=40), "depth must be one of 121, 161, 169, 201, not 40"),
        (lambda: imagenet_densenet(growth=-1), "growth must be a whole number of 1 or more, not -1"),
        (lambda: imagenet_densenet(compression=True), r"compression must be in \(0, 1\], not True"),
    ],
)
def test_what_no_block_can_be_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
