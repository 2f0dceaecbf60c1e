"""The network as a graph: batch norm is folded, grids are where numbers change, other operations are refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import models
from lib.quantization.affine import Activation, simulate
from lib.quantization.shared import graph
from lib.vision import torchvision


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_folded_batch_norm_answers_the_same():
    torch.manual_seed(0)
    for model, side in ((torchvision.models.mobilenet_v2(), 32), (models.resnet8(), 16)):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(-2, 2)
                module.bias.data.normal_()
        x = rand(2, 3, side, side)
        folded = graph.traced(model)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        with torch.no_grad():
            expected = model.eval()(x)
            torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def test_grids_stand_behind_input_layers_and_sums_with_their_relu():
    network = simulate(models.resnet8(), bits=4, edge_bits=8)
    bits = {name: m.bits for name, m in network.named_modules() if isinstance(m, Activation)}
    assert bits["input_1_grid"] == bits["fc_grid"] == 8 and set(list(bits.values())[1:-1]) == {4}
    assert len(bits) == 1 + 9 + 3 + 1 + 1  # input; convolutions; sums; pooling; the last layer


class Odd(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.layer, self.norm, self.call = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), call

    def forward(self, x):
        return self.call(self, x)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, x: torch.sigmoid(m.layer(x)), "sigmoid.* has no integer form here"),
        (lambda m, x: m.layer(x) if x.sum() > 0 else x, "cannot be traced"),
        (lambda m, x: m.norm(functional.relu(m.layer(x))), "batch norm 'norm' cannot be folded"),
        (lambda m, x: m.norm(m.layer(x)) + m.layer(x), "batch norm 'norm' cannot be folded"),
        (lambda m, x: m.layer(x) + 1, "add.* has no integer form"),
        (lambda m, x: (m.layer(x), x), "output has no integer form"),
    ],
)
def test_networks_without_an_integer_form_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        simulate(Odd(call))
