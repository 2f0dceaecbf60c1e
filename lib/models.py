"""The baseline networks that every chapter compresses. Weights depend on the seed alone."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn


def lenet_300_100(seed: int = 0, *, inputs: int = 784, classes: int = 10) -> nn.Sequential:
    """LeNet-300-100: two hidden layers, 266,610 parameters for 28 x 28 inputs (lecun1998gradient; han2016deep).

    Input (n, ...) with ``inputs`` values per sample, output (n, classes) logits.
    """
    with _seeded(seed):
        return nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                fc1=nn.Linear(inputs, 300),
                relu1=nn.ReLU(),
                fc2=nn.Linear(300, 100),
                relu2=nn.ReLU(),
                fc3=nn.Linear(100, classes),
            )
        )


def lenet5(seed: int = 0, *, channels: int = 1, classes: int = 10) -> nn.Sequential:
    """LeNet-5 as Caffe ships it: 431,080 parameters for one channel (lecun1998gradient; han2016deep, Table 3).

    Input (n, channels, 28, 28), output (n, classes) logits.
    """
    with _seeded(seed):
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 20, 5),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(20, 50, 5),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(800, 500),
                relu1=nn.ReLU(),
                fc2=nn.Linear(500, classes),
            )
        )


def mlp(
    seed: int = 0, *, inputs: int = 784, hidden: tuple[int, ...] = (512, 512, 512), classes: int = 10
) -> nn.Sequential:
    """Layers of ``hidden`` ReLU units with batch norm, and batch norm behind the output (courbariaux2015binaryconnect).

    Input (n, ...) with ``inputs`` values per sample, output (n, classes).
    """
    with _seeded(seed):
        layers = OrderedDict(flatten=nn.Flatten())
        for i, (n, m) in enumerate(pairwise((inputs, *hidden)), 1):
            layers |= {f"fc{i}": nn.Linear(n, m, bias=False), f"bn{i}": nn.BatchNorm1d(m), f"relu{i}": nn.ReLU()}
        last = len(hidden) + 1
        layers |= {
            f"fc{last}": nn.Linear((inputs, *hidden)[-1], classes, bias=False),
            f"bn{last}": nn.BatchNorm1d(classes),
        }
        return nn.Sequential(layers)


def vgg_small(seed: int = 0, *, channels: int = 3, classes: int = 10, width: int = 128) -> nn.Sequential:
    """Six 3 x 3 convolutions, two each of ``width``, 2 and 4 times that, a pool behind each pair, and a linear layer.

    With width 128 the network on which binary methods report CIFAR-10 (VGG-small). Batch norm and ReLU follow each
    convolution, behind the pool where there is one. Input (n, channels, 32, 32), output (n, classes) logits.
    """
    with _seeded(seed):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, outputs in enumerate((width, width, 2 * width, 2 * width, 4 * width, 4 * width), 1):
            layers |= {f"conv{i}": nn.Conv2d(channels, outputs, 3, padding=1, bias=False)}
            layers |= {f"pool{i // 2}": nn.MaxPool2d(2)} if i % 2 == 0 else {}
            layers |= {f"bn{i}": nn.BatchNorm2d(outputs), f"relu{i}": nn.ReLU()}
            channels = outputs
        layers |= {"flatten": nn.Flatten(), "fc": nn.Linear(64 * width, classes)}
        return nn.Sequential(layers)


def resnet8(seed: int = 0, *, channels: int = 3, classes: int = 10, width: int = 16) -> nn.Sequential:
    """ResNet-8: three stages of one residual block, 78,042 parameters for 32 x 32 colour images (he2016deep).

    ``width`` channels in the first stage, doubled in the next two. Where the shape changes, the shortcut is a 1 x 1
    convolution. Input (n, channels, height, width), output (n, classes) logits.
    """
    return _resnet(seed, 1, channels, classes, width)


def resnet20(seed: int = 0, *, channels: int = 3, classes: int = 10, width: int = 16) -> nn.Sequential:
    """ResNet-20: like :func:`resnet8`, with three blocks a stage, 272,474 parameters (he2016deep, section 4.2)."""
    return _resnet(seed, 3, channels, classes, width)


class ResidualBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), two 3 x 3 convolutions (he2016deep, equation 1)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


def _resnet(seed: int, blocks: int, channels: int, classes: int, width: int) -> nn.Sequential:
    with _seeded(seed):
        layers = OrderedDict(
            conv=nn.Conv2d(channels, width, 3, padding=1, bias=False), bn=nn.BatchNorm2d(width), relu=nn.ReLU()
        )
        inputs = width
        for stage in range(3):
            for block in range(blocks):
                outputs = width * 2**stage
                layers[f"stage{stage + 1}_{block + 1}"] = ResidualBlock(
                    inputs, outputs, 2 if stage and not block else 1
                )
                inputs = outputs
        layers |= OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(inputs, classes))
        return nn.Sequential(layers)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from their own seed and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
