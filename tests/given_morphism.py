"""Networks that morphs are tried on, with statistics that are not those of a fresh batch norm."""

from functools import cache

import torch
from given import generator, seeded
from torch import Tensor, nn

from lib.morphism.shared.checks import largest_difference
from lib.morphism.shared.edit_distance import Description
from lib.vision import torchvision


def difference(model: nn.Module, morphed: nn.Module, inputs: Tensor) -> float:
    """The largest difference of the outputs in evaluation and in training mode; not finite where one of them is not."""
    modes = [largest_difference(model, morphed, inputs, training=mode) for mode in (False, True)]
    return float(torch.tensor(modes, dtype=torch.float64).max())


def described(space, chain) -> Description:
    """A chain of a space by the parameters of each layer: two operations of one position have two widths."""
    return Description(tuple(layer.parameters for layer in space.operations_of(chain) if layer.parameters))


class Crossing(nn.Module):
    """Images (n, 2, 8, 8) to 3 outputs: a residual sum in place, depthwise and grouped ones, a concatenation."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.a = nn.Conv2d(4, 6, 3, padding=1)
        self.a_norm = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 4, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4)
        self.grouped = nn.Conv2d(4, 6, 3, padding=1, groups=2)
        self.joined_norm = nn.BatchNorm2d(10)
        self.hidden = nn.Linear(10 * 4, 5)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem_norm(self.stem(x)))
        y = self.b(torch.relu(self.a_norm(self.a(x))))
        y += x
        y = nn.functional.relu6(self.depthwise(y))
        y = self.joined_norm(torch.cat([y, nn.functional.leaky_relu(self.grouped(y))], 1))
        y = nn.functional.max_pool2d(y, 2).flatten(1)
        return self.head(self.dropout(nn.functional.relu(self.hidden(y))))


def crossing(dtype=torch.float64) -> nn.Module:
    """The network above, in evaluation mode."""
    return used(seeded(Crossing).to(dtype), images(8, dtype=dtype))


def chain(dtype=torch.float64) -> nn.Sequential:
    """Images (n, 2, 8, 8) to 3 outputs: two convolutions, the first with batch norm, and two linear layers."""

    def build() -> nn.Sequential:
        first = [nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(
            *first, nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 6), nn.ReLU(), nn.Linear(6, 3)
        )

    return used(seeded(build).to(dtype), images(8, dtype=dtype))


def images(n: int, *, side: int = 8, channels: int = 2, seed: int = 0, dtype=torch.float64) -> Tensor:
    """Normal noise, (n, channels, side, side)."""
    return torch.randn(n, channels, side, side, generator=generator(seed), dtype=torch.float64).to(dtype)


def used(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Give batch norms scales, offsets and statistics as after some training; evaluation mode."""
    random = generator(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(torch.rand(len(module.weight), generator=random) + 0.5)
                module.bias.copy_(torch.randn(len(module.bias), generator=random) / 2)
        with torch.random.fork_rng(devices=[]):
            model.train()(inputs)
    return model.eval()


@cache
def of_torchvision(name: str) -> tuple[nn.Module, Tensor]:
    """A network of 4 outputs that we did not write, in float64, and four images for it."""
    sizes = {"width_mult": 0.5} if name == "mobilenet_v2" else {}
    model = seeded(lambda: getattr(torchvision.models, name)(num_classes=4, **sizes)).double()
    inputs = images(4, side=32, channels=3)
    return used(model, inputs), inputs
