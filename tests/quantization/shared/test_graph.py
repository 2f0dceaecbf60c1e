"""The network as a graph: the same answers, grids where numbers change, other operations refused by name."""

import copy

import given
import given_quantization
import pytest
import torch
from torch import ao, nn
from torch.nn import functional

from lib import models
from lib.quantization.affine import simulate
from lib.quantization.shared import graph
from lib.quantization.shared.activation import Activation
from lib.vision import torchvision


@pytest.mark.parametrize("name", ["mobilenet_v2", "densenet"])
def test_traced_networks_of_torchvision_answer_the_same(name):
    model, x = given_quantization.of_torchvision(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(-2, 2)
            module.bias.data.normal_()
    before = given.state(model)
    traced = graph.traced(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in traced.modules())
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(traced(x), expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    assert given.same_state(given.state(model), before)


def test_grids_are_after_the_input_layers_and_sums_with_their_relu():
    network = simulate(models.resnet8(), bits=4, edge_bits=8)
    bits = {name: m.bits for name, m in network.named_modules() if isinstance(m, Activation)}
    assert bits["input_1_grid"] == bits["fc_grid"] == 8 and set(list(bits.values())[1:-1]) == {4}
    assert len(bits) == 1 + 9 + 3 + 1 + 1  # input; convolutions; sums; pooling; the last layer


def ends(call) -> list[str]:
    network = graph.traced(Odd(call))
    graph.insert(network, lambda edge: nn.Identity())
    return [node.name.removesuffix("_grid") for node in network.graph.nodes if node.name.endswith("_grid")]


class Odd(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.layer, self.norm, self.act = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU6()
        self.softmax, self.group, self.call = nn.Softmax(1), nn.GroupNorm(1, 2), call

    def forward(self, x):
        return self.call(self, x)


def shared_by_a_relu(m, x):
    y = m.layer(x)
    return m.act(y) + y


def relu_after_pooling(m, x):
    return functional.relu(functional.max_pool2d(m.layer(x), 2))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda m, x: m.act(m.layer(x)), ["x", "act"]),
        (shared_by_a_relu, ["x", "layer", "act", "add_call"]),  # what ReLU6 cuts off may lie between two integers
        (relu_after_pooling, ["x", "layer"]),  # zero is on the grid of the layer
        (lambda m, x: functional.silu(m.layer(x)).flatten(1), ["x", "layer", "silu_call"]),
        (lambda m, x: torch.cat([m.layer(x), m.layer(2 * x)]), ["x", "layer", "mul_call", "layer_1", "cat_call"]),
    ],
)
def test_each_new_value_has_a_grid_and_no_other(call, expected):
    assert ends(call) == expected


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(Odd(lambda m, x: torch.softmax(m.layer(x), 1)))

    def forward(self, x):
        return self.block(x)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model[0].register_forward_hook(lambda layer, inputs, output: 2 * output)
    return model


class Called(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.fc, self.name = nn.Linear(2, 2), name
        self.add_module(name, nn.Softmax(1))

    def forward(self, x):
        return getattr(self, self.name)(self.fc(x))


def two_inputs() -> nn.Module:
    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    return Two()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            Odd(lambda m, x: m.softmax(m.layer(x))),
            r"^softmax \(Softmax\) has no integer form here: accepted",
        ),
        (Odd(lambda m, x: m.group(m.layer(x))), r"^group \(GroupNorm\) has no integer form"),
        (Nested(), r"^softmax in layer 'block.0' has no integer form"),
        (Odd(lambda m, x: m.layer(x) if x.sum() > 0 else x), "^Odd cannot be traced"),
        (Odd(lambda m, x: (m.layer(x), x)), "^output has no integer form"),
        (Odd(lambda m, x: {"logits": m.layer(x)}), "^output has no integer form"),
        (Odd(lambda m, x: m.layer(x).size(1)), "^output has no integer form"),
        (
            Odd(lambda m, x: m.layer(x) * m.norm.weight[0]),
            r"^the tensor 'norm.weight', which the network itself holds and getitem reads, has no",
        ),
        (nn.Sequential(nn.Linear(2, 2), nn.PReLU(2)), r"^1 \(PReLU\) has no integer form"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, return_indices=True)), r"^1 \(MaxPool2d\) has no"),
        (nn.LSTM(2, 3), r"LSTM\) has no integer form"),
        (
            Called("squeeze"),
            r"^squeeze \(Softmax\) has no integer form",
        ),  # the name of a module may be that of a method
        (Called("view"), r"^view \(Softmax\) has no integer form"),
        (Called("dropout"), r"^dropout \(Softmax\) has no integer form"),
        (ao.nn.qat.Linear(2, 2, qconfig=ao.quantization.default_qat_qconfig), r"^0 \(Linear\) has no integer form"),
        (hooked(), r"^layer '0' \(Linear\) has a forward hook"),
        (two_inputs(), r"reads 2 inputs \(x, y\): accepted is one tensor"),
    ],
)
def test_networks_without_an_integer_form_are_refused(model, says):
    with pytest.raises(ValueError, match=says) as refused:
        simulate(model)
    assert "\n" not in str(refused.value)


def test_vision_transformers_are_refused_by_name():
    says = "the tensor 'class_token', which the network itself holds and expand reads, has no"
    with pytest.raises(ValueError, match=says):
        simulate(torchvision.models.VisionTransformer(32, 16, 1, 2, 16, 16, num_classes=2))


def test_the_network_that_is_traced_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Dropout()).train()
    twin = copy.deepcopy(model)
    simulate(model)
    assert given.same_state(given.state(model), given.state(twin)) and str(model) == str(twin)
    assert all(module.training for module in model.modules())
