"""A convolution with batch norm or a bias, and ReLU after it; and He's weights, with which such networks begin."""

from collections import OrderedDict
from typing import Literal

from torch import nn


def activated(
    inputs: int,
    outputs: int,
    size: int,
    *,
    stride: int = 1,
    padding: int | None = None,
    batch_norm: bool = False,
    bias: bool | None = None,
) -> nn.Sequential:
    """Build a convolution, batch norm if there is any, and ReLU: the layers ``conv``, ``bn`` and ``relu``.

    inputs, outputs: channels, 1 or more.
    size: of the filters, size x size.
    stride: of both directions, default 1.
    padding: pixels of zeros on each side; default half of the size, which keeps height and width where it is odd.
    batch_norm: whether there is batch norm, default False.
    bias: whether the convolution has one; default where there is no batch norm.

    >>> activated(3, 8, 5, batch_norm=True).conv
    Conv2d(3, 8, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), bias=False)
    """
    padding, bias = size // 2 if padding is None else padding, not batch_norm if bias is None else bias
    layers = OrderedDict[str, nn.Module](conv=nn.Conv2d(inputs, outputs, size, stride, padding, bias=bias))
    layers |= {"bn": nn.BatchNorm2d(outputs)} if batch_norm else {}
    return nn.Sequential(layers | OrderedDict(relu=nn.ReLU()))


def draw_weights(model: nn.Module, kind: Literal["normal", "uniform"]) -> None:
    r"""Draw He's weights for all convolutions (``nn.Conv2d``), and set their biases to zero.

    Weights have the mean 0 and the variance :math:`2 / (c k^2)` for c input channels and k x k filters, with which
    signals neither die nor explode in a network of ReLUs.

    model: its convolutions are changed in place, in the order of its modules; other layers are not changed.
    kind: of the distribution.

    >>> layer = nn.Conv2d(1, 1000, 3)
    >>> draw_weights(layer, "uniform")
    >>> bool(layer.weight.abs().max() <= (6 / 9) ** 0.5), layer.bias.count_nonzero().item()
    (True, 0)
    """
    draw = {"normal": nn.init.kaiming_normal_, "uniform": nn.init.kaiming_uniform_}[kind]
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
