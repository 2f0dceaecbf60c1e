"""What a place of the output sees, against brute force: pixels that are NaN."""

import copy

import given
import pytest
import torch
from torch import nn

from lib.architectures.shared.receptive_field import receptive_field
from lib.pruning import magnitude
from lib.vision import torchvision


def seen_by_brute_force(model, shape):
    """Which rows and columns of the input make the place in the middle of the output NaN, when they are NaN."""
    spans = []
    for axis in (1, 2):
        images = torch.rand(shape[axis], *shape, generator=given.generator(), dtype=torch.float64)
        for i, image in enumerate(images):
            image.select(axis, i).fill_(float("nan"))
        with torch.no_grad():
            answers = model.double().eval()(images)
        hit = answers[:, :, answers.shape[2] // 2, answers.shape[3] // 2].isnan().any(1).nonzero().flatten()
        spans.append(int(hit[-1] - hit[0]) + 1)
    return tuple(spans)


class Own(nn.Module):
    """Max pools as functions and as layers, beside each other."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 2, (3, 1), stride=(1, 2)), nn.MaxPool2d(3, 1, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return torch.cat([nn.functional.max_pool2d(x, 3, 2, padding=1), self.pool(x)[..., ::2, ::2]], 1)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3, 2), nn.ReLU(), nn.Conv2d(2, 2, 3)), (1, 15, 16)),
        (lambda: nn.Sequential(nn.Conv2d(2, 2, 3, dilation=2), nn.MaxPool2d(2), nn.Conv2d(2, 1, 2)), (2, 16, 16)),
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU6(), nn.AvgPool2d(3, 2)), (1, 11, 11)),
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.LocalResponseNorm(2), nn.Tanh()), (1, 9, 9)),
        (lambda: nn.ConvTranspose2d(1, 2, 4, stride=2), (1, 9, 9)),
        (lambda: nn.MaxPool2d(3, 2, ceil_mode=True), (1, 11, 12)),
        (lambda: nn.Identity(), (2, 3, 3)),
        (Own, (1, 12, 13)),
    ],
)
def test_what_a_place_sees_against_brute_force(build, shape):
    model = given.seeded(build)
    assert receptive_field(model, shape) == seen_by_brute_force(copy.deepcopy(model), shape)


def test_fields_of_networks_we_did_not_write():
    vgg = torchvision.models.vgg.make_layers([8, "M", 8, "M"])  # 3, 4, 8, 10
    assert receptive_field(vgg, (3, 32, 32)) == (10, 10)
    residual = torchvision.models.resnet.BasicBlock
    stem = [nn.Conv2d(3, 8, 7, 2, padding=3), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    # 7, 11, and four 3 x 3 at stride 4
    assert receptive_field(nn.Sequential(*stem, residual(8, 8), residual(8, 8)), (3, 96, 96)) == (
        11 + 4 * 8,
        11 + 4 * 8,
    )
    mobile = torchvision.models.mobilenet_v2(weights=None, width_mult=0.1).features[:3]
    assert receptive_field(mobile, (3, 32, 32)) == seen_by_brute_force(mobile, (3, 32, 32))


def test_dead_units_and_pruned_weights_do_not_hide_pixels():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 3)).double()
    nn.init.constant_(model[0].bias, -100)
    nn.init.zeros_(model[2].weight)
    before = given.state(model)
    assert receptive_field(model, (1, 9, 9)) == (5, 5)
    assert given.same_state(before, given.state(model)) and model.training
    assert receptive_field(magnitude.prune(model.float(), density=0.1), (1, 9, 9)) == (5, 5)


class Calls(nn.Module):
    """A network that is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


PLACES = {"return_indices": True}
INDICES = "max_pool2d_with_indices: of max pools, only max_pool2d without indices can be measured"


@pytest.mark.parametrize(
    ("model", "shape", "says"),
    [
        (nn.Conv2d(1, 1, 3, padding=1), (1, 3, 9), "the field reaches the border of an input of"),
        (nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d(1)), (1, 9, 9), "the field reaches the border"),
        (nn.Flatten(), (1, 3, 3), r"the output must be a map .* not \(1, 9\)"),
        (nn.MaxPool2d(2, dilation=2), (1, 9, 9), "a max pool has dilation 2: accepted is 1"),
        (Calls(lambda x: nn.functional.max_pool2d(x, 3, **PLACES)[0]), (1, 9, 9), f"a layer calls {INDICES}"),
        (nn.MaxPool2d(3, **PLACES), (1, 9, 9), f"a layer calls {INDICES}"),
        (nn.AdaptiveMaxPool2d(3), (1, 9, 9), "a layer calls adaptive_max_pool2d: "),
        (nn.AdaptiveMaxPool2d(3, **PLACES), (1, 9, 9), f"a layer calls adaptive_{INDICES}"),
        (nn.FractionalMaxPool2d(2, output_size=3), (1, 9, 9), "a layer calls fractional_max_pool2d: "),
        (nn.FractionalMaxPool2d(2, output_size=3, **PLACES), (1, 9, 9), f"a layer calls fractional_{INDICES}"),
        (nn.Hardshrink(), (1, 9, 9), "no pixel has a gradient"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Softshrink()), (1, 9, 9), "no pixel has a gradient"),
        (Calls(torch.sign), (1, 9, 9), "no pixel has a gradient"),
        (Calls(lambda x: torch.ones(1, 1, 3, 3)), (1, 9, 9), "no pixel has a gradient"),
        (Calls(lambda x: torch.ones(1, 1, 3, 3, requires_grad=True)), (1, 9, 9), "no pixel has a gradient"),
        (nn.Identity(), (1, 0, 9), "height must be a whole number of 1 or more, not 0"),
        (nn.Conv2d(1, 1, 3), (2, 9, 9), r"does not take images of shape \(1, 2, 9, 9\)"),
    ],
)
def test_what_cannot_be_measured_is_refused(model, shape, says):
    with pytest.raises(ValueError, match=says):
        receptive_field(model, shape)
