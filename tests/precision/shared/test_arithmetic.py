"""Computing in an arithmetic: what is rounded on its way and what is not, errors on their way back, no hook left."""

import given
import pytest
import torch
from torch import nn

from lib import models
from lib.precision.fixed_point import FixedPoint, quantize
from lib.precision.shared.arithmetic import Arithmetic, computing
from lib.precision.shared.formats import Format, rounded
from lib.precision.shared.gradient_descent import train


class Functional(nn.Module):
    """Reads the weight of its layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return nn.functional.linear(x, self.layer.weight, self.layer.bias)


class Named(Arithmetic):
    """Keeps the names of what was rounded, in their order."""

    def __init__(self):
        self.places = []

    def rounded(self, values, place):
        self.places.append(place)
        return values


def test_a_float64_network_equals_one_of_integers():
    format, model = Format(6, 10), models.lenet_300_100(inputs=12).double()
    images = torch.rand(8, 1, 1, 12, generator=torch.Generator().manual_seed(0)).double()
    quantize(model, format)
    for layer in (model.fc1, model.fc2, model.fc3):
        layer.bias.data = rounded(layer.bias.data, format)
    with computing(model, FixedPoint(format)), torch.no_grad():
        result = model(images)
    h = rounded(images, format).flatten(1).mul(2**10).long()
    for layer in (model.fc1, model.fc2, model.fc3):
        wide = h @ layer.weight.mul(2**10).long().T + (layer.bias.mul(2**10).long() << 10)
        h = ((wide + 2**9) >> 10).clamp(-(2**15), 2**15 - 1)
        h = h.clamp(min=0) if layer is not model.fc3 else h
    assert torch.equal(result, h.double() / 2**10)


def test_an_error_is_rounded_and_stops_where_the_output_was_cut_off():
    layer, format = nn.Linear(2, 4, bias=False), Format(2, 2)
    layer.weight.data = torch.tensor([[1.0, 0], [3, 0], [-2, 0], [-3, 0]])
    for mask, expected in ((True, [0.75, 0, 0.75, 0]), (False, [0.75] * 4)):
        x = torch.tensor([[1.0, 0]])
        with computing(layer, FixedPoint(format, mask=mask)):
            output = layer(x)
            (gradient,) = torch.autograd.grad((0.7 * output).sum(), layer.weight)
        assert output.tolist() == [[1, 1.75, -2, -2]]
        assert gradient[:, 0].tolist() == expected


def test_the_numbers_have_names_and_those_that_pass_have_none():
    names, model = Named(), nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Identity(), nn.Linear(4, 2))
    with computing(model, names):
        model(torch.rand(2, 2, 2)).sum().backward()
    assert names.places[:4] == ["input", "1.output", "2.output", "4.output"]
    assert names.places[4:] == ["4.output.error", "2.output.error", "1.output.error"]


def test_floats_compute_as_they_do_without():
    model, x = models.lenet_300_100(inputs=12), torch.rand(3, 1, 3, 4)
    expected = model(x)
    with computing(model, Arithmetic()):
        assert torch.equal(model(x), expected)


def test_no_hook_is_left_even_after_an_error():
    model = nn.Linear(3, 2)
    with pytest.raises(RuntimeError), computing(model, FixedPoint(Format(8, 8))):
        model(torch.rand(1, 4))
    assert not model._forward_hooks and not model._forward_pre_hooks


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.Sequential(nn.LSTM(3, 4)), "LSTM multiplies by '0.weight_hh_l0' itself"),
        (lambda: nn.TransformerDecoderLayer(4, 2, 6), "MultiheadAttention multiplies by 'self_attn.in_proj_weight'"),
        (lambda: nn.MultiheadAttention(4, 2, kdim=3), "MultiheadAttention multiplies by 'k_proj_weight'"),
        (Functional, "Functional multiplies by 'layer' itself: only outputs of layers that are called are rounded"),
    ],
)
def test_a_network_that_multiplies_without_its_layers_is_refused_by_name(build, message):
    model = build()
    with given.refused(model, message), computing(model, Named()):
        pass
    split = given.split(4, 3, classes=2)
    with given.refused(model, message):
        train(model, split, arithmetic=FixedPoint(Format(4, 4)), epochs=1, seed=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
