"""Computing in place, resolved: a traced network answers as the network does, whatever its tensors share."""

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from lib.quantization.shared import in_place


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call, self.act = call, nn.ReLU(inplace=True)
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.call(self, self.layer(x))


def aliased(net, y):
    z = y
    y += 1
    y *= 2
    y -= 0.5
    y /= 3
    return z + y


def read_before_and_after(net, y):
    before = 3 * y
    z = functional.relu_(y)
    return before + y + z


def module_in_place(net, y):
    before = net.layer(y)
    z = net.act(y)
    return before + y - z


def twice(net, y):
    functional.relu(y, True)
    y.mul_(2)
    return y


def sizes_are_no_tensors(net, y):
    n = y.size(1)
    half = n
    half //= 2
    m = n
    m *= 2
    return y.reshape(-1, n, 1).expand(-1, n, m // half)


@pytest.mark.parametrize("call", [aliased, read_before_and_after, module_in_place, twice])
def test_whoever_reads_later_reads_what_was_written(call):
    torch.manual_seed(0)
    model, x = Net(call), torch.randn(5, 4)
    network = fx.GraphModule(model, in_place.Tracer().trace(model))
    expected = model(x)
    in_place.resolve(network)
    in_place.switch_off(network)
    for node in network.graph.nodes:  # nothing is left of computing in place
        if node.op == "call_method":
            node.target = node.target.rstrip("_")
    network.recompile()
    assert torch.equal(network(x), expected)


def view_is_written(net, y):
    y.view(-1).relu_()
    return y


def view_is_read(net, y):
    v = y.flatten()
    y += 1
    return v


def part_is_written(net, y):
    y[:, 0].mul_(2)
    return net.layer(y)


@pytest.mark.parametrize("call", [view_is_written, view_is_read, part_is_written])
def test_views_of_what_is_overwritten_are_refused(call):
    model = Net(call)
    network = fx.GraphModule(model, in_place.Tracer().trace(model))
    with pytest.raises(ValueError, match=r"computes in place, and .*, which shares its memory, is read later"):
        in_place.resolve(network)


def test_a_view_that_nobody_reads_again_does_no_harm():
    model = Net(lambda net, y: y.view(-1).relu_() + 1)
    in_place.resolve(fx.GraphModule(model, in_place.Tracer().trace(model)))
