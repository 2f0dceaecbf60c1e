"""Functions and methods of torch, and the modules that take their places in a traced network."""

import operator

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib.quantization.shared import graph, operations


class Net(nn.Module):
    """A layer, and what a test does with its output and with the input, both (n, 4, 8, 8)."""

    def __init__(self, call):
        super().__init__()
        self.layer, self.call = nn.Conv2d(4, 4, 1), call

    def forward(self, x):
        return self.call(self.layer(x), x)


def product(pair):
    return pair[0] * pair[1]


FUNCTIONS = {name: getattr(functional, name) for name in operations.MODULES if "pool" not in name}
CALLS = {f"functional.{name}": lambda y, x, call=call: call(y) for name, call in FUNCTIONS.items()} | {
    f"method {name}": lambda y, x, name=name: getattr(y, name)()
    for name in ("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "neg")
}
CALLS |= {
    "relu by keyword": lambda y, x: functional.relu(input=y, inplace=True),
    "gelu by tanh": lambda y, x: functional.gelu(y, approximate="tanh"),
    "leaky": lambda y, x: functional.leaky_relu(y, 0.3),
    "hardtanh": lambda y, x: functional.hardtanh(y, -0.3, max_val=0.4),
    "clamp": lambda y, x: y.clamp(-0.2, 0.3),
    "clamp from below": lambda y, x: torch.clamp(y, min=0),
    "clip from above": lambda y, x: torch.clip(y, max=0.1),
    "sum": lambda y, x: y + x,
    "torch.add with alpha": lambda y, x: torch.add(y, x, alpha=3),
    "add with alpha": lambda y, x: y.add(x, alpha=-1),
    "add_ with alpha": lambda y, x: y.add_(x, alpha=0.5),
    "difference": lambda y, x: y - x,
    "torch.sub with alpha": lambda y, x: torch.sub(y, x, alpha=-2.5),
    "sub_": lambda y, x: y.sub_(x),
    "sum of three": lambda y, x: sum([y, x, y]),
    "product": lambda y, x: y * x,
    "mul_": lambda y, x: y.mul_(x),
    "square": lambda y, x: y * y,
    "gate": lambda y, x: y * y.mean((2, 3)).sigmoid()[:, :, None, None],
    "numbers": lambda y, x: 1 - (2 * y + 0.5) / 3,
    "number with alpha": lambda y, x: torch.add(y, 2, alpha=3),
    "hard-swish by hand": lambda y, x: y * functional.relu6(y + 3) / 6,
    "cat": lambda y, x: torch.cat([y, x, y], 1),
    "concat by keyword": lambda y, x: torch.concat(tensors=(y, x), dim=-1),
    "mean": lambda y, x: torch.mean(y, dim=[2, 3]),
    "mean twice": lambda y, x: y.mean(-1).mean(-1, keepdim=True),
    "average pooling": lambda y, x: functional.avg_pool2d(y, 3, 2, 1, True, False),
    "average pooling by keyword": lambda y, x: functional.avg_pool2d(y, kernel_size=2, divisor_override=3),
    "average pooling of lines": lambda y, x: functional.avg_pool1d(y.flatten(2), 3),
    "adaptive by keyword": lambda y, x: functional.adaptive_avg_pool2d(y, output_size=(3, None)),
    "max pooling": lambda y, x: functional.max_pool2d(y, 3, 2, padding=1, ceil_mode=True),
    "torch.max_pool2d": lambda y, x: torch.max_pool2d(y, 2),
    "adaptive max pooling": lambda y, x: functional.adaptive_max_pool2d(y, 3),
    "view": lambda y, x: y.view(y.size(0), -1),
    "reshape by shape": lambda y, x: y.reshape(x.shape[0], y.shape[1] // 2, 2 * x.size(2), x.shape[3:][0]),
    "channel shuffle": lambda y, x: functional.channel_shuffle(y, 2),
    "channel shuffle by hand": lambda y, x: y.view(-1, 2, 2, 8, 8).transpose(1, 2).contiguous().view(x.size()),
    "chunks": lambda y, x: product(y.chunk(2, dim=1)),
    "split": lambda y, x: torch.split(y, [1, 3], 1)[1],
    "slices": lambda y, x: y[:, 1:, ::2, None],
    "permute": lambda y, x: y.permute(0, 2, 3, 1).flatten(1, 2).unsqueeze(1).squeeze(1),
    "dropout": lambda y, x: functional.dropout(y, 0.5, training=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_module_of_a_function_does_the_same(name):
    torch.manual_seed(0)
    model, x = Net(CALLS[name]).eval(), torch.randn(3, 4, 8, 8)
    network, before = graph.traced(model), x.clone()
    assert torch.equal(network(x), model(x)) and torch.equal(x, before)
    arranging = operations.ARRANGING_CALLS | {"size", getattr, operator.floordiv, operator.mul}
    assert all(node.target in arranging for node in network.graph.nodes if node.op in ("call_function", "call_method"))


REFUSED = {
    "truediv": lambda y, x: y / x,
    "truediv by size": lambda y, x: y / x.size(0),
    "div with rounding": lambda y, x: torch.div(y, 2, rounding_mode="floor"),
    "add with out": lambda y, x: torch.add(y, x, out=x),
    "mean over all": lambda y, x: y.mean(),
    "avg_pool2d with a window of the input": lambda y, x: functional.avg_pool2d(y, x.size(2)),
    "max_pool2d with indices": lambda y, x: functional.max_pool2d(y, 2, return_indices=True)[0],
    "cat of a tuple that the network makes": lambda y, x: torch.cat(y.chunk(2, 1)),
    "clamp by a tensor": lambda y, x: torch.clamp(y, max=x),
    "dropout that never ends": lambda y, x: functional.dropout(y, 0.5),
    "view of another type": lambda y, x: y.view(torch.int32),
    "getitem by a tensor": lambda y, x: y[x > 0],
    "exp": lambda y, x: y.exp(),
    "float": lambda y, x: y.float(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_functions_without_an_integer_form_are_refused_by_name(name):
    named = f"({name.split()[0]}|max_pool2d_call|gt)"
    with pytest.raises(ValueError, match=rf"^{named}.* has no integer form here: accepted are linear"):
        graph.traced(Net(REFUSED[name]))


def test_clamps_tell_their_bounds():
    infinite = float("inf")
    for clamp, expected in ((nn.ReLU(), (0, infinite)), (nn.ReLU6(), (0, 6)), (nn.Hardtanh(-2, 3.5), (-2, 3.5))):
        assert operations.bounds(clamp) == expected
