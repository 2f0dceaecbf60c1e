"""The linear network: against magnitudes by hand, functions against modules, and a sentence for what is not linear."""

import given
import pytest
import torch
from torch import nn
from torch.nn import functional

from lib.pruning.shared.linear import linear_run
from lib.pruning.shared.products import products


class Net(nn.Module):
    """Two layers, with a function of the first one's output in between."""

    def __init__(self, function, read):
        super().__init__()
        self.first, self.last, self.function = nn.Conv2d(2, 4, 3), nn.Conv2d(read, 2, 1), function

    def forward(self, images):
        return self.last(self.function(self.first(images)))


def slopes(function, read=4, size=8):
    """What each place of the first layer's output passes on to the sum of what the last layer reads."""
    model = given.seeded(lambda: Net(function, read)).double().eval()
    images = given.split(3, 2, size, size, dtype=torch.float64).images
    run = linear_run(model, images[:1], ["first", "last"], products(model, images, ["first", "last"]), gated=False)
    return torch.autograd.grad(run.response.sum(), run.outputs[0][1])[0]


ONES = torch.ones(1, 4, 6, 6, dtype=torch.float64)
VECTOR = torch.ones(4, dtype=torch.float64)
KERNEL = torch.linspace(-1, 1, 12).double().reshape(3, 4, 1, 1)


@pytest.mark.parametrize(
    "function",
    [
        functional.relu,
        torch.relu_,
        functional.gelu,
        lambda x: functional.hardswish(x, inplace=True),
        torch.sigmoid,
        lambda x: x.tanh(),
        lambda x: functional.silu(x).clamp(0, 6),
        lambda x: functional.leaky_relu(x, 0.3),
        nn.PReLU().double(),
        lambda x: -x,
        lambda x: x + 3 - torch.ones(6),
        lambda x: 1 - x,
        lambda x: torch.arange(6) + x,
        lambda x: functional.dropout(x, training=False),
    ],
)
def test_activations_and_constants_pass_everything_on(function):
    assert torch.equal(slopes(function), ONES)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x - 2 * x, 3 * ONES),
        (lambda x: x * -2 / 4, ONES / 2),
        (lambda x: torch.linspace(-1, 1, 6) * x, torch.linspace(-1, 1, 6).abs() * ONES),
        (lambda x: torch.sub(x, x, alpha=-3), 4 * ONES),
        (lambda x: x @ -torch.eye(6).double(), ONES),
        (lambda x: torch.einsum("nchw,wv->nchv", x, -torch.eye(6).double()), ONES),
        (lambda x: functional.batch_norm(x, VECTOR, 3 * VECTOR, -VECTOR, eps=1.0), ONES / 2),
    ],
)
def test_constants_scale_by_their_magnitude_and_differences_add(function, expected):
    torch.testing.assert_close(slopes(function), expected.double())


def test_what_is_joined_to_a_constant_or_convolved_with_a_function():
    assert torch.equal(slopes(lambda x: torch.cat([x, torch.ones(len(x), 3, 6, 6)], 1), read=7), ONES)
    expected = KERNEL.abs().sum(0).reshape(1, 4, 1, 1).expand(1, 4, 6, 6)
    torch.testing.assert_close(slopes(lambda x: functional.conv2d(x, KERNEL, VECTOR[:3]), read=3), expected)


@pytest.mark.parametrize(
    ("size", "stride", "padding", "ceil"), [(2, None, 0, False), (3, 2, 1, False), (3, 2, 0, True)]
)
def test_a_maximum_of_a_function_or_a_module_is_a_sum(size, stride, padding, ceil):
    module = nn.MaxPool2d(size, stride, padding, ceil_mode=ceil)
    places = torch.eye(36, dtype=torch.float64).reshape(36, 1, 6, 6)
    counts = module(places).sum((1, 2, 3)).reshape(6, 6)  # the windows with this place
    for function in (module, lambda x: functional.max_pool2d(x, size, stride, padding, ceil_mode=ceil)):
        assert torch.equal(slopes(function), counts.expand(1, 4, 6, 6))


def test_other_maxima_are_sums_or_refused():
    assert torch.equal(slopes(lambda x: functional.max_pool1d(x.flatten(2), 4).unsqueeze(3)), ONES)
    assert torch.equal(slopes(nn.AdaptiveMaxPool2d((None, 3))), ONES)
    assert torch.equal(slopes(lambda x: functional.max_pool3d(x[None], (1, 2, 2))[0]), ONES)
    for function in (nn.AdaptiveMaxPool2d(4), nn.MaxPool2d(2, dilation=2)):
        with pytest.raises(
            ValueError, match=f"propagated through layer 'function', of type {type(function).__name__}: "
        ):
            slopes(function)


def test_a_function_that_works_in_place_changes_nothing_that_is_read_elsewhere():
    def function(x):
        y = functional.relu(x)
        y += x
        y *= 2
        return y + x

    assert torch.equal(slopes(function), 5 * ONES)


def test_a_norm_divides_by_the_mean_deviation_of_the_samples():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(6, eps=0.5)
            nn.init.uniform_(self.norm.weight, -1, 1)

        def forward(self, x):
            return self.norm(x)

    norm = given.seeded(Normed).double()
    model = given.seeded(lambda: Net(norm, 4)).double()
    maps = model.first(given.split(3, 2, 8, 8, dtype=torch.float64).images)
    scale = (maps.var(3, correction=0, keepdim=True) + 0.5).rsqrt().mean(0, keepdim=True)
    torch.testing.assert_close(slopes(norm), (scale * norm.norm.weight.abs()).detach())


STEEP = 10.0 ** torch.arange(4, 8, dtype=torch.float64).reshape(4, 1, 1)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x.softmax(1), "Net: "),
        (lambda x: x / x.sum(1, keepdim=True), "Net: "),
        (lambda x: x @ x, "Net: "),
        (lambda x: x.amax(1, keepdim=True).expand_as(x), "Net: "),
        (nn.InstanceNorm2d(4), "layer 'function', of type InstanceNorm2d: "),
        (nn.BatchNorm2d(4, track_running_stats=False), "layer 'function', of type BatchNorm2d: "),
        (nn.Sequential(nn.ReLU(), nn.Softmax(1)), "layer 'function.1', of type Softmax: "),
        # so steep that one share is 1: the answer adds up
        (lambda x: torch.einsum("nchw,nchw->nchw", (STEEP * x).softmax(1), x), "Net: "),
    ],
)
def test_what_is_not_linear_is_refused_by_name(function, name):
    with pytest.raises(ValueError, match=f"importance cannot be propagated through {name}accepted are weighted layers"):
        slopes(function)
