"""Networks that nobody here wrote, on both sorts of integers, against their simulation."""

import given
import pytest
import torch
from given_kernels import steps_apart
from given_quantization import on_grids
from torch import nn
from torch.nn import functional

from lib.quantization.shared import lowering
from lib.quantization.shared.activation import Activation
from lib.quantization.shared.integer_network import convert
from lib.quantization.shared.torch_kernels import convert_to_kernels, kernels_available


class Net(nn.Module):
    """Layers that a test combines; images are (n, 4, 8, 8)."""

    def __init__(self, call):
        super().__init__()
        self.c, self.d, self.call = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), call
        self.bn, self.drop, self.fc = nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Linear(4, 3)
        self.squeeze, self.excite, self.act = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.ReLU(inplace=True)
        self.mlp = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3))

    def forward(self, x):
        return self.fc(self.call(self, x).mean((2, 3)))


class Whole(Net):
    """The same, without the mean and the layer after it."""

    def forward(self, x):
        return self.call(self, x)


def overwritten(m, x):
    y = m.c(x)
    z = m.act(y)
    return y - m.d(z)


def gates(m, x):
    y = m.c(x)
    small = functional.relu(m.squeeze(functional.adaptive_avg_pool2d(y, 1)))
    return y * functional.hardsigmoid(m.excite(small))


def shuffled(m, x):
    y = m.c(x)
    n, channels, height, width = y.size()
    y = y.view(n, 2, channels // 2, height, width).transpose(1, 2).contiguous().view(n, -1, height, width)
    left, right = y.chunk(2, dim=1)
    return m.d(torch.cat((left, functional.relu(right)), dim=1))


def clamped_and_read(m, x):
    y = m.c(x)
    return functional.hardtanh(y, -0.2, 0.3) + functional.relu6(20 * y)


NETWORKS = {
    "difference": lambda m, x: m.c(x) - m.d(x),
    "weighed sum": lambda m, x: functional.relu(torch.add(m.c(x), m.d(x), alpha=-3)),
    "sum with the input": lambda m, x: x + m.c(x),
    "overwritten": overwritten,
    "gates": gates,
    "shuffled": shuffled,
    "hard-swish by hand": lambda m, x: m.c(x) * functional.relu6(m.c(x) + 3) / 6,
    "numbers": lambda m, x: 1 - torch.sigmoid(2 * m.c(x)),
    "clamped and read": clamped_and_read,
    "clamp off zero": lambda m, x: functional.hardtanh(m.c(x), 0.1, 0.4),
    "clamp below zero": lambda m, x: m.c(x).clamp(-0.4, -0.1),
    "batch norm first": lambda m, x: m.c(functional.relu(m.bn(x))),
    "concatenation of unlike ranges": lambda m, x: torch.cat([m.c(x), 9 * m.d(x), functional.silu(x)], 2),
    "windows": lambda m, x: m.d(functional.avg_pool2d(m.c(x), 3, 2, 1, True, False)),
    "more windows than pixels": lambda m, x: m.d(functional.adaptive_avg_pool2d(m.c(x), 11)),
    "pooling": lambda m, x: functional.adaptive_max_pool2d(functional.max_pool2d(m.c(x), 3, 2, 1, 1, True), 3),
    "dropout": lambda m, x: functional.dropout(m.drop(m.c(x)), 0.5, training=m.training),
    "one layer three times": lambda m, x: m.d(functional.relu(m.d(functional.relu(m.d(x))))),
    "rows": lambda m, x: m.mlp(functional.gelu(m.c(x)).mean((2, 3))),
    "tokens": lambda m, x: m.fc(m.c(x).flatten(2).transpose(1, 2)).mean(1),
    "numbers of one": lambda m, x: m.c(x) - m.c(x),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_integers_and_kernels_follow_the_simulated_network(name):
    model = given.seeded(lambda: (Whole if name in ("rows", "tokens") else Net)(NETWORKS[name]))
    images = torch.randn(8, 4, 8, 8, generator=given.generator())
    for norm in (model.bn, model.mlp[1], model.mlp[3]):
        norm.running_mean.normal_(generator=given.generator())
        norm.running_var.uniform_(0.5, 2, generator=given.generator())
    simulated = on_grids(model, images)
    with torch.no_grad():
        real = model(images)
        assert (simulated(images) - real).norm() <= 0.05 * real.norm() + 1e-6
    assert steps_apart(simulated, convert(simulated), images) <= 2
    if kernels_available():
        assert steps_apart(simulated, convert_to_kernels(simulated), images) <= 1


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Hardtanh(-1, 2), nn.MaxPool2d(2), nn.Flatten(), nn.SiLU()])
def test_what_ends_a_network_keeps_its_grid(layer):
    model = given.seeded(lambda: Whole(lambda m, x: m.last(m.c(x) + 0 * m.d(x))))
    model.last = layer
    images = torch.randn(4, 4, 8, 8, generator=given.generator())
    simulated = on_grids(model, images)
    assert steps_apart(simulated, convert(simulated), images) <= 2


def test_each_part_is_asked_for_with_its_grids():
    asked = []

    def part(kind):
        def make(name, module, before, after):
            asked.append((kind, name, type(module).__name__, len(before)))
            return nn.Identity()

        return make

    kinds = ("layer", "sum", "product", "mean", "concatenation", "table", "pool", "clamp", "fused_clamp")
    parts = {kind: part(kind) for kind in kinds}
    parts |= {"quantize": lambda after: nn.Identity(), "dequantize": lambda before, dtype: nn.Identity()}
    model = Whole(lambda m, x: functional.relu6(torch.cat([m.c(x), gates(m, x), m.d(x) + x], 1)).relu().flatten(1))
    simulated = on_grids(model, torch.randn(2, 4, 8, 8, generator=given.generator()))
    network = lowering.lowered(simulated, parts)
    assert [kind for kind, *_ in asked] == [
        *("layer", "layer", "mean", "layer", "fused_clamp", "layer", "table", "product", "layer", "sum"),
        *("concatenation", "fused_clamp", "clamp"),
    ]
    assert [count for kind, *_, count in asked if kind in ("product", "sum", "concatenation")] == [2, 2, 3]
    assert not any(isinstance(module, Activation) for module in network.modules())
    with pytest.raises(ValueError, match="Linear has no grids: accepted is what simulate returns, calibrated"):
        lowering.lowered(nn.Linear(2, 2), parts)
