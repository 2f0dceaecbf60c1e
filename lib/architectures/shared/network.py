"""A network that says in one sentence which images and sizes it does not take."""

from collections import OrderedDict

from torch import Tensor, nn

from lib.arguments import check_sizes


class Network(nn.Sequential):
    """Layers that run one after another, on images that they can take.

    layers: name -> layer, in the order in which they run.
    channels: of the images, 1 or more.
    least: smallest height and width, in pixels, that the strides allow, 1 or more. Default 1.

    Input (n, channels, height, width).
    Raises ValueError in the forward pass for images of other channels, or smaller than ``least`` in height or width.

    >>> import torch
    >>> network = Network(OrderedDict(conv=nn.Conv2d(3, 4, 3), pool=nn.MaxPool2d(2)), channels=3, least=4)
    >>> network(torch.zeros(1, 3, 2, 8))
    Traceback (most recent call last):
    ValueError: images of (1, 3, 2, 8): this network takes (n, 3, height, width) with 4 pixels or more on each side
    """

    def __init__(self, layers: OrderedDict[str, nn.Module], *, channels: int, least: int = 1) -> None:
        check_sizes({"channels": channels, "least": least})
        super().__init__(layers)
        self.channels, self.least = channels, least

    def __getitem__(self, index: int | slice) -> nn.Module:  # a part of a network is not a Network
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[index]))
        return super().__getitem__(index)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, channels=self.channels, least=self.least)
        return super().forward(images)


def check_images(images: Tensor, *, channels: int, least: int = 1) -> None:
    """Raise ValueError for images that are not (n, channels, height, width) with ``least`` pixels on each side.

    images: what a network is given.
    channels: that the network takes.
    least: pixels that height and width must have, default 1.
    """
    if images.dim() != 4 or images.shape[1] != channels or min(images.shape[2:]) < least:
        raise ValueError(
            f"images of {tuple(images.shape)}: this network takes (n, {channels}, height, width) with {least}"
            f" pixel{'s' if least > 1 else ''} or more on each side"
        )


def scaled(channels: int, width: float, *, multiple: int = 1) -> int:
    """Return ``width`` times ``channels``, rounded to a multiple, and never below one multiple.

    channels: 1 or more.
    width: factor above 0, as the width multiplier of MobileNet (howard2017mobilenets).
    multiple: that the result is a multiple of, default 1.

    Raises ValueError for a factor that is not a finite number above 0.

    >>> scaled(32, 0.75), scaled(32, 0.01), scaled(24, 0.5, multiple=8)
    (24, 1, 16)
    """
    check_sizes({"channels": channels, "multiple": multiple})
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width < float("inf"):
        raise ValueError(f"width must be a finite number above 0, not {width!r}")
    return max(multiple, multiple * int(channels * width / multiple + 0.5))
