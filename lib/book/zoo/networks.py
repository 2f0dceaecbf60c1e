"""The networks of the zoo: torchvision's classifiers, and small ones with parts that those lack.

All weights are random, drawn from one seed, and all networks tell ten classes apart. Inputs are small, so that a trial
takes seconds, but the networks have their full size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lib.datasets import Split
from lib.vision import torchvision

CLASSES = 10
NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@dataclass(frozen=True)
class Network:
    """One network of the zoo.

    make: builds it, its weights drawn from torch's global random state.
    shape: of one input, without the batch.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


class UNet(nn.Module):
    """Two steps down and up, joined by concatenation; the mean of the map is the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.bottom = _block(3, 8), _block(8, 16), _block(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.third, self.fourth = _block(32, 16), _block(16, 8)
        self.head = nn.Conv2d(8, CLASSES, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, classes)."""
        first = self.first(x)
        second = self.second(self.pool(first))
        x = self.up2(self.bottom(self.pool(second)))
        x = self.third(torch.cat([x, second], 1))
        x = self.fourth(torch.cat([self.up1(x), first], 1))
        return self.head(x).mean((2, 3))


class CSP(nn.Module):
    """A cross-stage partial block: half of the channels pass by, the other half goes through a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = _block(3, 16), _block(8, 8), _block(8, 8)
        self.merge, self.head = _block(16, 24), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, classes)."""
        by, through = self.stem(x).chunk(2, 1)
        through = through + self.b(self.a(through))
        return self.head(self.merge(torch.cat([by, through], 1)).mean((2, 3)))


class Mixer(nn.Module):
    """An MLP-mixer: linear layers over the tokens and over the channels in turn, on 4 x 4 patches."""

    def __init__(self, tokens: int = 16, width: int = 24) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "tokens": nn.Sequential(nn.Linear(tokens, 32), nn.GELU(), nn.Linear(32, tokens)),
                    "norm2": nn.LayerNorm(width),
                    "channels": nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width)),
                }
            )
            for _ in range(2)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, classes)."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            parts: Any = block
            x = x + parts["tokens"](parts["norm1"](x).transpose(1, 2)).transpose(1, 2)
            x = x + parts["channels"](parts["norm2"](x))
        return self.head(self.norm(x).mean(1))


class Recurrent(nn.Module):
    """Two LSTM layers in both directions over a sequence; the last state is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 16)
        self.lstm = nn.LSTM(16, 20, num_layers=2, bidirectional=True, batch_first=True)
        self.hidden, self.head = nn.Linear(40, 24), nn.Linear(24, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, classes) for (n, steps, 12)."""
        states, _ = self.lstm(torch.relu(self.embed(x)))
        return self.head(torch.relu(self.hidden(states[:, -1])))


def volumes() -> nn.Module:
    """Three convolutions over volumes, with batch norm."""
    layers = [
        *(nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2)),
        *(nn.Conv3d(8, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU()),
        *(nn.Conv3d(16, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(16, CLASSES)),
    ]
    return nn.Sequential(*layers)


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def _of_torchvision(name: str, size: int, **arguments: Any) -> Network:
    return Network(lambda: getattr(torchvision.models, name)(num_classes=CLASSES, **arguments), (3, size, size))


ZOO = {
    "resnet18": _of_torchvision("resnet18", 32),
    "densenet121": _of_torchvision("densenet121", 32),
    "mobilenet_v2": _of_torchvision("mobilenet_v2", 32),
    "mobilenet_v3_small": _of_torchvision("mobilenet_v3_small", 32),
    "efficientnet_b0": _of_torchvision("efficientnet_b0", 32),
    "shufflenet_v2_x0_5": _of_torchvision("shufflenet_v2_x0_5", 32),
    "squeezenet1_1": _of_torchvision("squeezenet1_1", 64),
    "googlenet": _of_torchvision("googlenet", 64, init_weights=False),  # with its two heads for training
    "convnext_tiny": _of_torchvision("convnext_tiny", 32),
    "regnet_y_400mf": _of_torchvision("regnet_y_400mf", 32),
    "vit_b_16": _of_torchvision("vit_b_16", 32, image_size=32),
    "swin_t": _of_torchvision("swin_t", 64),
    "U-Net": Network(UNet, (3, 16, 16)),
    "CSP block": Network(CSP, (3, 8, 8)),
    "mixer": Network(Mixer, (3, 16, 16)),
    "LSTM": Network(Recurrent, (9, 12)),
    "Conv3d": Network(volumes, (2, 4, 6, 6)),
}


def build(name: str) -> tuple[nn.Module, Split]:
    """Build a network of the zoo, and a split of 12 samples for it.

    Its batch norms have the statistics of the split. With those of a fresh network the signal fades on its way through
    a deep one, and all answers look alike, whatever a technique does.

    name: a key of ``ZOO``.

    Returns the network in evaluation mode and the split: noise, with labels in turn.
    Raises ValueError for an unknown name.

    >>> model, split = build("CSP block")
    >>> tuple(model(split.images).shape), len(split)
    ((12, 10), 12)
    """
    if name not in ZOO:
        raise ValueError(f"the network must be one of {', '.join(ZOO)}, not {name!r}")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = ZOO[name].make()
        split = Split(torch.randn(12, *ZOO[name].shape), torch.arange(12) % CLASSES)
        for weight in model.parameters():
            if weight.dim() > 1 and not weight.any():  # torchvision's transformers answer 0 before they are trained
                nn.init.normal_(weight, std=0.02)
        settle(model, split)
    return model, split


@torch.no_grad()
def settle(model: nn.Module, split: Split) -> None:
    """Give the batch norms of a network the statistics of a split, and leave the network in evaluation mode.

    model: changed in place.
    split: its images run through the network once.
    """
    norms = [(module, module.momentum) for module in model.modules() if isinstance(module, NORMS)]
    for norm, _ in norms:
        norm.momentum = 1.0
    model.train()(split.images)
    for norm, momentum in norms:
        norm.momentum = momentum
    model.eval()
