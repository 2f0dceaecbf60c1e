"""Layers whose sums are as large as 8 bits allow, for tests of kernels in this process and in another.

``python tests/given_kernels.py`` prints what the kernels of this torch make of them, as JSON.
"""

import copy
import json

import torch
from torch import Tensor, fx, nn

from lib.quantization.affine import calibrate, simulate
from lib.quantization.shared import torch_kernels
from lib.quantization.shared.activation import activations

KINDS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {  # a layer, and the shape of what it reads
    "linear": (nn.Linear(60, 5), (60,)),
    "one output": (nn.Linear(2, 1), (2,)),
    "convolution": (nn.Conv2d(16, 12, 3, padding=1), (16, 5, 5)),
    "few channels": (nn.Conv2d(3, 8, 3), (3, 6, 6)),
    "one pixel": (nn.Conv2d(64, 8, 1), (64, 3, 3)),
    "depthwise": (nn.Conv2d(16, 16, 3, groups=16), (16, 5, 5)),
    "depthwise with a border": (nn.Conv2d(16, 16, 3, padding=1, groups=16), (16, 5, 5)),
    "many channels": (nn.Conv2d(120, 120, 3, padding=1, groups=120), (120, 4, 4)),
    "many channels and a stride": (nn.Conv2d(144, 144, 5, stride=2, padding=2, groups=144), (144, 5, 5)),
    "two groups": (nn.Conv2d(16, 8, 3, groups=2), (16, 5, 5)),
    "many groups": (nn.Conv2d(128, 128, 3, padding=1, groups=32), (128, 4, 4)),
    "lines": (nn.Conv1d(16, 8, 3, padding=1), (16, 9)),
    "holes": (nn.Conv2d(8, 8, 3, padding="same", dilation=2), (8, 7, 7)),
}
SIGNS = {"ones": -1.0, "random": 0.5, "mostly ones": 0.1}  # the share of weights that are negative


def extreme(kind: str, signs: str) -> tuple[fx.GraphModule, Tensor]:
    """A simulated layer whose weights are 127 or -127, and images near 255: two products do not fit into 16 bits."""
    layer, shape = copy.deepcopy(KINDS[kind][0]), KINDS[kind][1]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(layer.weight.shape, generator=generator)
    layer.weight.data = torch.where(drawn < SIGNS[signs], -0.1, 0.1)
    x = 0.8 + 0.2 * torch.rand(6, *shape, generator=generator)
    return calibrate(simulate(layer), x), x


def steps_apart(simulated: fx.GraphModule, converted: nn.Module, images: Tensor) -> int:
    """How many steps of the outputs' grid a converted network is from the simulated one, at most."""
    with torch.no_grad():
        gap = (simulated(images) - converted(images)) / activations(simulated)[-1].grid().scale
    return int(gap.abs().max().round())


def two_layers() -> tuple[fx.GraphModule, Tensor]:
    """A depthwise convolution, as mobile networks have it, between two of one pixel."""
    torch.manual_seed(0)
    middle = nn.Conv2d(120, 120, 3, padding=1, groups=120)
    model = nn.Sequential(nn.Conv2d(8, 120, 1), nn.ReLU6(), middle, nn.ReLU6(), nn.Conv2d(120, 4, 1)).eval()
    x = torch.rand(4, 8, 6, 6)
    return calibrate(simulate(model), x), x


def report() -> dict:
    """Which engines add exactly, and how far the kernels are from the simulated network."""
    cases = {f"{kind}, {signs}": extreme(kind, signs) for kind in KINDS for signs in ("ones", "random")}
    cases["two layers"] = two_layers()
    steps = {name: steps_apart(s, torch_kernels.convert_to_kernels(s), x) for name, (s, x) in cases.items()}
    supported = torch.backends.quantized.supported_engines
    return {"exact": {name: torch_kernels.adds_exactly(name) for name in supported if name != "none"}, "steps": steps}


if __name__ == "__main__":
    print(json.dumps(report()))
