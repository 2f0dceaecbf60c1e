"""The baseline networks that every chapter compresses. Their initial weights depend on the seed alone."""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

from lib.seeding import seeded


def lenet_300_100(seed: int = 0, *, inputs: int = 784, classes: int = 10) -> nn.Sequential:
    """Build LeNet-300-100: hidden layers of 300 and 100 ReLU units (lecun1998gradient; han2016deep).

    With 28 x 28 inputs it has 266,610 parameters.

    seed: of the initial weights, default 0.
    inputs: values per sample, default 784.
    classes: number of outputs, default 10.

    Input (n, ...) with ``inputs`` values per sample, output (n, classes) logits.

    >>> tuple(lenet_300_100(inputs=17, classes=2)(torch.zeros(5, 17)).shape)
    (5, 2)
    """
    return mlp(seed, inputs=inputs, hidden=(300, 100), classes=classes, batch_norm=False)


def lenet5(seed: int = 0, *, channels: int = 1, classes: int = 10) -> nn.Sequential:
    """Build LeNet-5 as Caffe ships it (lecun1998gradient; han2016deep, Table 3).

    With one channel it has 431,080 parameters: two 5 x 5 convolutions, each with a pool, and two linear layers.

    seed: of the initial weights, default 0.
    channels: of the images, default 1.
    classes: number of outputs, default 10.

    Input (n, channels, 28, 28), output (n, classes) logits.

    >>> sum(p.numel() for p in lenet5().parameters())
    431080
    """
    with seeded(seed):
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
    seed: int = 0,
    *,
    inputs: int = 784,
    hidden: tuple[int, ...] = (512, 512, 512),
    classes: int = 10,
    batch_norm: bool = True,
) -> nn.Sequential:
    """Build a network of linear layers, each with batch norm (courbariaux2015binaryconnect) or with a bias.

    ReLU follows every layer except the last; batch norm, where there is any, normalizes the outputs too.

    seed: of the initial weights, default 0.
    inputs: values per sample, default 784.
    hidden: units of each hidden layer, default three layers of 512; () for none.
    classes: number of outputs, default 10.
    batch_norm: whether each layer has batch norm in place of a bias. Default True.

    Input (n, ...) with ``inputs`` values per sample, output (n, classes).

    >>> list(dict(mlp(hidden=(20,)).named_children()))
    ['flatten', 'fc1', 'bn1', 'relu1', 'fc2', 'bn2']
    >>> list(dict(mlp(hidden=(20,), batch_norm=False).named_children()))
    ['flatten', 'fc1', 'relu1', 'fc2']
    """
    with seeded(seed):
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        sizes = (inputs, *hidden, classes)
        for i, (n, m) in enumerate(pairwise(sizes), 1):
            layers[f"fc{i}"] = nn.Linear(n, m, bias=not batch_norm)
            layers |= {f"bn{i}": nn.BatchNorm1d(m)} if batch_norm else {}
            layers |= {f"relu{i}": nn.ReLU()} if i < len(sizes) - 1 else {}
        return nn.Sequential(layers)


def cnn(seed: int = 0, *, channels: int = 3, classes: int = 10, width: int = 32, side: int = 32) -> nn.Sequential:
    """Build three 3 x 3 convolutions and a linear layer: a small teacher, or with a small width a student.

    The convolutions have ``width``, 2 ``width`` and 4 ``width`` filters; a pool, batch norm and ReLU follow each.
    With the defaults it has 113,962 parameters, with a width of 8 it has 11,218.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, default 10.
    width: filters of the first convolution, default 32.
    side: pixels, height and width of the images, 8 or more, default 32.

    Input (n, channels, side, side), output (n, classes) logits.

    >>> [sum(p.numel() for p in cnn(width=width).parameters()) for width in (32, 8)]
    [113962, 11218]
    """
    with seeded(seed):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, outputs in enumerate((width, 2 * width, 4 * width), 1):
            layers |= {f"conv{i}": nn.Conv2d(channels, outputs, 3, padding=1, bias=False), f"pool{i}": nn.MaxPool2d(2)}
            layers |= {f"bn{i}": nn.BatchNorm2d(outputs), f"relu{i}": nn.ReLU()}
            channels = outputs
        layers |= {"flatten": nn.Flatten(), "fc": nn.Linear(channels * (side // 8) ** 2, classes)}
        return nn.Sequential(layers)


def vgg_small(seed: int = 0, *, channels: int = 3, classes: int = 10, width: int = 128) -> nn.Sequential:
    """Build VGG-small, on which binary methods report CIFAR-10: six 3 x 3 convolutions and a linear layer.

    There are two convolutions each of ``width``, 2 ``width`` and 4 ``width`` filters, with a pool after each pair.
    Batch norm and ReLU follow each convolution, after the pool where there is one.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, default 10.
    width: filters of the first convolution, default 128.

    Input (n, channels, 32, 32), output (n, classes) logits.

    >>> tuple(vgg_small(width=8)(torch.zeros(2, 3, 32, 32)).shape)
    (2, 10)
    """
    with seeded(seed):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, outputs in enumerate((width, width, 2 * width, 2 * width, 4 * width, 4 * width), 1):
            layers |= {f"conv{i}": nn.Conv2d(channels, outputs, 3, padding=1, bias=False)}
            layers |= {f"pool{i // 2}": nn.MaxPool2d(2)} if i % 2 == 0 else {}
            layers |= {f"bn{i}": nn.BatchNorm2d(outputs), f"relu{i}": nn.ReLU()}
            channels = outputs
        layers |= {"flatten": nn.Flatten(), "fc": nn.Linear(64 * width, classes)}
        return nn.Sequential(layers)


def resnet8(seed: int = 0, *, channels: int = 3, classes: int = 10, width: int = 16) -> nn.Sequential:
    """Build ResNet-8: three stages of one residual block each (he2016deep, section 4.2).

    With the defaults it has 78,042 parameters. Where the shape changes, the shortcut is a 1 x 1 convolution.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, default 10.
    width: channels of the first stage, doubled in the next two; default 16.

    Input (n, channels, height, width) of 32 x 32 pixels or any other size, output (n, classes) logits.

    >>> sum(p.numel() for p in resnet8().parameters())
    78042
    """
    return _resnet(seed, 1, channels, classes, width)


def resnet20(seed: int = 0, *, channels: int = 3, classes: int = 10, width: int = 16) -> nn.Sequential:
    """Build ResNet-20: three stages of three residual blocks each (he2016deep, section 4.2).

    With the defaults it has 272,474 parameters. Where the shape changes, the shortcut is a 1 x 1 convolution.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, default 10.
    width: channels of the first stage, doubled in the next two; default 16.

    Input (n, channels, height, width) of 32 x 32 pixels or any other size, output (n, classes) logits.

    >>> [name for name, _ in resnet20().named_children() if name.startswith("stage1")]
    ['stage1_1', 'stage1_2', 'stage1_3']
    """
    return _resnet(seed, 3, channels, classes, width)


class ResidualBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), with two 3 x 3 convolutions (he2016deep, equation 1).

    inputs: channels of x.
    outputs: channels of the result. Where they differ from the inputs, the shortcut is a 1 x 1 convolution.
    stride: of the first convolution; above 1 the shortcut is a 1 x 1 convolution too.
    """

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
    with seeded(seed):
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
