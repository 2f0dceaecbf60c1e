"""How far an integer network is from the simulated one, part by part.

A difference of one step in one part changes all those after it, so whole networks may differ by more although each
part is right.
"""

from typing import Any

import torch
from torch import Tensor, fx

from lib.quantization.shared.activation import Activation
from lib.quantization.shared.graph import module_of
from lib.quantization.shared.operations import CLAMPS, MAKING


class Values(fx.Interpreter):
    """Runs a network and keeps the value of each node in ``values``, by its name."""

    def __init__(self, network: fx.GraphModule, images: Tensor) -> None:
        super().__init__(network)
        self.values: dict[str, Tensor] = {}
        self.run(images)

    def run_node(self, n: fx.Node) -> Tensor:
        self.values[n.name] = super().run_node(n)
        return self.values[n.name]


class Apart(Values):
    """Runs a converted network part by part on the simulated network's values, and counts the steps between the two.

    converted: the integer network.
    simulated: the network that it was made from.
    images: input for both networks.

    ``steps`` holds node name -> by how many steps of its grid each of its values is off.

    >>> from lib.quantization import affine
    >>> from lib.quantization.shared import integer_network
    >>> images = torch.rand(4, 3)
    >>> simulated = affine.calibrate(affine.simulate(nn.Sequential(nn.Linear(3, 2), nn.ReLU())), images)
    >>> int(max(steps.max() for steps in Apart(integer_network.convert(simulated), simulated, images).steps.values()))
    0
    """

    def __init__(self, converted: fx.GraphModule, simulated: fx.GraphModule, images: Tensor) -> None:
        self.expected: dict[str, Tensor] = {}
        self.grids: dict[str, Any] = {}
        self.steps: dict[str, Tensor] = {}
        found = Values(simulated, images).values
        for node in simulated.graph.nodes:
            end = rounded(simulated, node)
            self.expected[node.name] = found[end.name]
            if isinstance(module := module_of(simulated, end), Activation):
                self.grids[node.name] = module.grid()
            elif end.all_input_nodes:
                self.grids[node.name] = self.grids.get(end.all_input_nodes[0].name)
        super().__init__(converted, images)

    def run_node(self, n: fx.Node) -> Tensor:
        value = super().run_node(n)
        grid = self.grids.get(n.name)
        if not isinstance(value, Tensor) or n.op == "placeholder" or grid is None:
            return value
        codes = grid.quantize(self.expected[n.name])
        if value.is_quantized:
            self.steps[n.name] = (value.int_repr().long() + grid.low - codes).abs()
            return torch.quantize_per_tensor(self.expected[n.name], value.q_scale(), value.q_zero_point(), torch.quint8)
        if value.dtype == torch.int32:
            self.steps[n.name] = (value - codes).abs()
            return codes.int()
        return value


def rounded(simulated: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The node that rounds a node's value: the activation after it, or after a clamp read by it alone; else itself."""
    end, module = node, module_of(simulated, node)
    if not isinstance(module, MAKING | CLAMPS):
        return node
    for _ in range(2):
        if len(end.users) != 1:
            return node
        end = next(iter(end.users))
        if isinstance(module_of(simulated, end), Activation):
            return end
        if not isinstance(module_of(simulated, end), CLAMPS) or isinstance(module, CLAMPS):
            return node
    return node
