"""Networks on tokens, (n, tokens, features), and on maps, with gates in them: the same draw wherever they are made."""

import given
import torch
from torch import Tensor, nn

from lib.datasets import Split


class Mixer(nn.Module):
    """Patches to 12 features each, a block of 16 hidden units, the mean over patches to 5 classes.

    grid: whether the tokens stand in a grid, (n, height, width, features), or in a row, (n, tokens, features).
    """

    def __init__(self, patch: int, grid: bool) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(1, 12, patch, patch), nn.LayerNorm(12)
        self.fc1, self.act, self.fc2, self.head = nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12), nn.Linear(12, 5)
        self.grid = grid

    def forward(self, images: Tensor) -> Tensor:
        maps = self.embed(images)
        tokens = maps.permute(0, 2, 3, 1) if self.grid else maps.flatten(2).transpose(1, 2)
        tokens = tokens + self.fc2(self.act(self.fc1(self.norm(tokens))))
        return self.head(tokens.flatten(1, -2).mean(1))


class AsConvolutions(nn.Module):
    """A mixer with convolutions of size 1 in place of its linear layers."""

    def __init__(self, mixer: Mixer) -> None:
        super().__init__()
        self.embed, self.norm, self.act, self.head = mixer.embed, mixer.norm, mixer.act, mixer.head
        self.fc1, self.fc2 = (self.convolution(layer) for layer in (mixer.fc1, mixer.fc2))

    @staticmethod
    def convolution(layer: nn.Linear) -> nn.Conv2d:
        same = nn.Conv2d(layer.in_features, layer.out_features, 1).to(layer.weight.dtype)
        same.weight.data, same.bias.data = layer.weight.data[:, :, None, None], layer.bias.data
        return same

    def forward(self, images: Tensor) -> Tensor:
        maps = self.embed(images)
        normed = self.norm(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head((maps + self.fc2(self.act(self.fc1(normed)))).mean((2, 3)))


def mixer(patch: int = 2, grid: bool = False) -> Mixer:
    """A mixer on images (n, 1, 16, 16), float64, whose hidden unit 3 is dead: 64 tokens, or 4 where ``patch`` is 8."""
    model = given.seeded(lambda: Mixer(patch, grid)).double().eval()
    model.fc1.weight.data[3], model.fc1.bias.data[3] = 0, -1
    return model


def patches() -> Split:
    """Images for a mixer."""
    return given.split(12, 1, 16, 16, classes=5, dtype=torch.float64)


class Gated(nn.Module):
    """Maps of 6 channels that squeeze-and-excitation scales, on images (n, 2, 5, 5), to 4 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 4, 1), nn.Linear(4, 4)
        self.squeeze, self.excite = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)

    def gate(self, maps: Tensor) -> Tensor:
        return self.excite(self.squeeze(maps.mean((2, 3), keepdim=True)).relu()).sigmoid()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(images).relu()
        return self.head(self.second(maps * self.gate(maps)).relu().mean((2, 3)))


def gated() -> Gated:
    return given.seeded(Gated).double().eval()
