"""A convolution, batch norm and ReLU by hand, and He's weights against their moments and PyTorch's draws."""

import given
import pytest
import torch
from given_architectures import drawn, with_drawn_norms
from torch import nn
from torch.nn import functional

from lib.architectures.shared.convolutions import activated, draw_weights


@pytest.mark.parametrize(("batch_norm", "bias"), [(False, None), (True, None), (True, True), (False, False)])
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, None), (5, 2, None), (7, 2, 0), (2, 1, 1)])
def test_it_is_a_convolution_batch_norm_and_relu(size, stride, padding, batch_norm, bias):
    options = {"stride": stride, "padding": padding, "batch_norm": batch_norm, "bias": bias}
    layers = with_drawn_norms(given.seeded(lambda: activated(3, 4, size, **options))).double()
    images = drawn(2, 3, 9, 8)
    conv = layers.conv
    assert (conv.bias is not None) == (not batch_norm if bias is None else bias)
    expected = functional.conv2d(images, conv.weight, conv.bias, stride, size // 2 if padding is None else padding)
    if batch_norm:
        bn = layers.bn
        expected = functional.batch_norm(expected, bn.running_mean, bn.running_var, bn.weight, bn.bias)
    torch.testing.assert_close(layers(images), expected.relu())
    assert [name for name, _ in layers.named_children()] == ["conv", "bn", "relu"][:: 1 if batch_norm else 2]


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_weights_are_hes_biases_zero_and_other_layers_as_they_were(kind):
    parts = (nn.Conv2d(8, 200, 5), nn.ConvTranspose2d(200, 8, 3), nn.Conv2d(8, 100, 3, bias=False), nn.Linear(9, 4))
    model = given.seeded(lambda: nn.Sequential(*parts))
    before = given.state(model)
    given.seeded(lambda: draw_weights(model, kind))
    for i, fans in ((0, 8 * 25), (2, 8 * 9)):
        values, variance = model[i].weight.detach(), 2 / fans
        assert values.mean().abs() < 0.03 * variance**0.5
        assert float(values.var()) == pytest.approx(variance, rel=0.05)
        assert (values.abs().max() <= (3 * variance) ** 0.5) == (kind == "uniform")
    assert not model[0].bias.any()
    kept = {name: value for name, value in before.items() if name.split(".")[0] in ("1", "3")}
    assert given.same_state(kept, {name: value for name, value in given.state(model).items() if name in kept})


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_draws_follow_the_order_of_the_modules(kind):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Sequential(nn.Linear(2, 2), nn.Conv2d(3, 2, 1)))
    given.seeded(lambda: draw_weights(model, kind))
    one, two = nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 1)
    draw = getattr(nn.init, f"kaiming_{kind}_")
    given.seeded(lambda: [draw(layer.weight, nonlinearity="relu") for layer in (one, two)])
    assert torch.equal(model[0].weight, one.weight) and torch.equal(model[1][1].weight, two.weight)
