"""The convolutions at the edges of a supergraph."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def normalized(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Build a convolution without a bias, then batch norm.

    inputs, outputs: channels.
    kernel: height and width, odd; the border is padded so that stride 1 keeps the size. Default 3.
    stride: default 1.

    >>> normalized(2, 4, stride=2)(torch.zeros(1, 2, 8, 8)).shape
    torch.Size([1, 4, 4, 4])
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class Neighbors(nn.Module):
    """A 3 x 3 convolution in which channel c reads the channels c - 1, c and c + 1 only (saxena2016convolutional).

    width: channels of input and output, 1 or more.
    stride: default 1.

    It is a grouped convolution with three channels per group. Beyond the first and the last channel it reads zeros, so
    18 of its 27 · ``width`` weights are never used.

    >>> layer = Neighbors(5)
    >>> image = torch.zeros(1, 5, 4, 4)
    >>> image[0, 1] = 1
    >>> layer(image)[0].abs().amax((1, 2)).gt(0).tolist()
    [True, True, True, False, False]
    """

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3 * width, width, 3, stride, padding=1, groups=width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, (0, 0, 0, 0, 1, 1))
        threes = torch.stack([padded[:, :-2], x, padded[:, 2:]], 2)
        return self.conv(threes.flatten(1, 2))


class Interleaved(nn.Module):
    """Double height and width: a zero after each pixel and each row.

    >>> Interleaved()(torch.tensor([[[[1.0, 2.0]]]])).tolist()
    [[[[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]]
    """

    def forward(self, x: Tensor) -> Tensor:
        cells = functional.pad(x[:, :, :, None, :, None], (0, 1, 0, 0, 0, 1))
        return cells.flatten(4).flatten(2, 3)
