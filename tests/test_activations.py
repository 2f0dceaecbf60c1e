"""Peaks of chains, residual and dense blocks that were added up by hand."""

import pytest
import torch
from torch import nn

from lib import models
from lib.activations import peak_activation_bytes
from lib.pruning import magnitude
from lib.quantization import scalar_kmeans
from lib.vision import torchvision

IMAGE = (2, 4, 4)  # 32 numbers; a map has 16


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Block(nn.Module):
    """A toy block that keeps its input: ``join`` says what becomes of input and answer."""

    def __init__(self, inner, join):
        super().__init__()
        self.inner, self.join = inner, join

    def forward(self, x):
        return self.join(x, self.inner(x))


def add(x, y):
    return x + y


def beside(x, y):
    return torch.cat([x, y], 1)


@pytest.mark.parametrize(
    ("model", "maps"),
    [
        (nn.Identity(), 2),
        (nn.Flatten(), 2),  # a view
        (conv(2, 3), 2 + 3),
        (nn.Sequential(conv(2, 3), conv(3, 4)), 2 + 3 + 4),
        # the caller keeps the input of the chain, but nobody the output of the first convolution
        (nn.Sequential(conv(2, 3), conv(3, 4), conv(4, 5)), 2 + 4 + 5),
        (nn.Sequential(conv(2, 9), conv(9, 1), conv(1, 1)), 2 + 9 + 1),
        (nn.Sequential(conv(2, 3), nn.ReLU()), 2 + 3 + 3),
        (nn.Sequential(conv(2, 3), nn.ReLU(inplace=True)), 2 + 3),
        (nn.Sequential(conv(2, 3), nn.BatchNorm2d(3), nn.Dropout()), 2 + 3 + 3),
        (nn.Sequential(conv(2, 3), nn.AvgPool2d(2)), 2 + 3 + 3 / 4),
        (Block(nn.Sequential(conv(2, 5), conv(5, 2)), add), 2 + 5 + 2),
        (Block(conv(2, 2), add), 2 + 2 + 2),
        # inside a chain the block keeps its own input alive, beside that of the chain
        (nn.Sequential(conv(2, 3), Block(nn.Sequential(conv(3, 7), conv(7, 3)), add)), 2 + 3 + 7 + 3),
        (nn.Sequential(Block(conv(2, 2), beside), Block(conv(4, 2), beside)), 2 + 4 + 2 + 6),
    ],
)
def test_peaks_by_hand(model, maps):
    assert peak_activation_bytes(model, IMAGE) == 4 * 16 * maps
    if list(model.parameters()):
        assert peak_activation_bytes(model.double(), IMAGE) == 8 * 16 * maps


@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 8), (torch.float32, 4), (torch.bfloat16, 2)])
def test_places_of_a_max_pool_are_eight_bytes_of_any_type(dtype, size):
    model = nn.Sequential(conv(2, 3), nn.MaxPool2d(2)).to(dtype)
    assert peak_activation_bytes(model, IMAGE) == size * (32 + 48 + 12) + 8 * 12


def test_a_chain_of_many_layers_needs_no_more_than_three():
    layers = [conv(2, 2) for _ in range(20)]
    assert peak_activation_bytes(nn.Sequential(*layers), IMAGE) == 3 * 4 * 32


def test_dense_connections_keep_all_that_came_before():
    block = nn.Sequential(*(Block(conv(2 + 3 * i, 3), beside) for i in range(4)))
    assert peak_activation_bytes(block, IMAGE) == 4 * 16 * (2 + 11 + 3 + 14)


def test_the_weights_and_what_they_are_made_from_do_not_count():
    dense = models.lenet5()
    expected = peak_activation_bytes(dense, (1, 28, 28))
    # 28 x 28 image, 20 maps of 24 x 24, then of 12 x 12 with their places
    assert expected == 4 * (784 + 20 * 576 + 20 * 144) + 8 * 20 * 144
    assert peak_activation_bytes(scalar_kmeans.share(models.lenet5(), bits=3), (1, 28, 28)) == expected
    assert peak_activation_bytes(magnitude.prune(models.lenet5(), density=0.3), (1, 28, 28)) == expected
    assert peak_activation_bytes(nn.utils.parametrizations.weight_norm(conv(2, 3)), IMAGE) == 4 * 16 * 5


def test_a_network_we_did_not_write():
    model, image, stem = torchvision.models.resnet18(weights=None), 3 * 64**2, 64 * 32**2
    # the image, the first convolution and its batch norm (the ReLU is in place)
    assert peak_activation_bytes(model, (3, 64, 64)) == 4 * (image + 2 * stem)
    # with half the bytes the pool needs more, for the places do not shrink
    assert peak_activation_bytes(model.half(), (3, 64, 64)) == 2 * (image + stem + stem // 4) + 8 * stem // 4


def test_meta_tensors_count_the_same_and_cost_nothing():
    with torch.device("meta"):
        model = torchvision.models.vgg16(weights=None)
    # image, 64 maps of 224 x 224 twice (ReLU in place)
    assert peak_activation_bytes(model, (3, 224, 224)) == 4 * (3 + 128) * 224**2


def test_measuring_leaves_the_model_as_it_was():
    model = nn.Sequential(conv(2, 3), nn.BatchNorm2d(3), nn.Dropout()).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    first = peak_activation_bytes(model, IMAGE)
    assert peak_activation_bytes(model, IMAGE) == first
    assert [m.training for m in model] == [True, False, True] and model.training and torch.is_grad_enabled()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_network_that_keeps_an_activation_keeps_it_alive():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.rest = conv(2, 3), nn.Sequential(conv(3, 1), conv(1, 1), conv(1, 6))

        def forward(self, x):
            self.kept = self.first(x)
            return self.rest(self.kept)

    assert peak_activation_bytes(Keeps(), IMAGE) == 4 * 16 * (2 + 3 + 1 + 6)


def test_bad_shapes_are_refused():
    with pytest.raises(ValueError, match=r"does not take images of shape \(1, 3, 4, 4\)"):
        peak_activation_bytes(conv(2, 3), (3, 4, 4))
    for size in (0, -1, 2.0):
        with pytest.raises(ValueError, match=f"dimension 1 of shape must be a whole number of 1 or more, not {size}"):
            peak_activation_bytes(conv(2, 3), (2, size, 4))
