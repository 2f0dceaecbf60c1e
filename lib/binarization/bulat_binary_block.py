r"""A block for binary networks: hierarchical, parallel, multi-scale, without 1 x 1 convolutions.

A bottleneck squeezes all features through few channels with 1 x 1 filters, and with one bit per weight these can do
little. Here three 3 x 3 convolutions follow one another instead. The outputs of all three, with receptive fields of 3,
5 and 7 pixels, are concatenated and added to the input (bulat2017binarized):

.. math:: a = f_1(x), \quad b = f_2(a), \quad c = f_3(b), \qquad y = [a, b, c] + x, \qquad
   f(x) = \alpha \big(\operatorname{sign}(W) \circledast \operatorname{sign}(\mathrm{BatchNorm}(x))\big)

with C / 2, C / 4 and C / 4 channels. Where the widths of input and output differ, f with a 1 x 1 filter replaces x. A
gradient passes through three signs, two, one, or none. The first and the last layer of a network stay real. The task
here is to find the four ends of a digit's stroke, in place of the paper's joints and landmarks. Left out: the hourglass
around the blocks, and stacks of it.
"""

import math

import torch
from torch import Tensor, nn

from lib import training
from lib.binarization.bwn import BinaryWeight
from lib.binarization.shared.conversion import norm_before
from lib.binarization.shared.signs import Binarized, SignActivation
from lib.datasets import Split
from lib.weights import compress


def unit(inputs: int, outputs: int, size: int, *, binary: bool = True) -> nn.Module:
    """f: batch norm, sign and a binary convolution; or batch norm, ReLU and a real one.

    inputs: channels of the input.
    outputs: channels of the output.
    size: of the filter, size x size, odd.
    binary: whether it is the binary unit (default) or the real one.
    """
    # method
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    if not binary:
        return nn.Sequential(norm_before(layer), nn.ReLU(), layer)
    return Binarized(compress(layer, lambda *_: BinaryWeight()), SignActivation(), norm_before(layer))
    # end of method


class BinaryBlock(nn.Module):
    """The block: images (n, inputs, height, width) -> (n, outputs, height, width).

    inputs: channels of the input, from 1.
    outputs: channels of the output, 4, 8, 12, ... ValueError for another number.
    binary: whether it is the binary block (default) or the real one, with ReLU in place of the sign.

    >>> BinaryBlock(4, 8)(torch.zeros(1, 4, 6, 6)).shape
    torch.Size([1, 8, 6, 6])
    """

    def __init__(self, inputs: int, outputs: int, *, binary: bool = True) -> None:
        super().__init__()
        if inputs < 1 or outputs < 4 or outputs % 4:
            raise ValueError(f"a block needs 1 input and 4, 8, 12, ... outputs, not {inputs} and {outputs}")
        self.unit1 = unit(inputs, outputs // 2, 3, binary=binary)
        self.unit2 = unit(outputs // 2, outputs // 4, 3, binary=binary)
        self.unit3 = unit(outputs // 4, outputs // 4, 3, binary=binary)
        self.skip = nn.Identity() if inputs == outputs else unit(inputs, outputs, 1, binary=binary)

    # method
    def forward(self, x: Tensor) -> Tensor:
        a = self.unit1(x)
        b = self.unit2(a)
        return torch.cat([a, b, self.unit3(b)], 1) + self.skip(x)

    # end of method


class Bottleneck(nn.Module):
    """What the block replaces: units of 1 x 1, 3 x 3 and 1 x 1, plus the input.

    channels: of input and output.
    width: channels of the 3 x 3 unit.
    binary: whether it is the binary bottleneck (default) or the real one.
    """

    def __init__(self, channels: int, width: int, *, binary: bool = True) -> None:
        super().__init__()
        sizes = [(channels, width, 1), (width, width, 3), (width, channels, 1)]
        self.units = nn.Sequential(*[unit(*size, binary=binary) for size in sizes])

    def forward(self, x: Tensor) -> Tensor:
        return self.units(x) + x


def equal_width(channels: int) -> int:
    """The width that gives a bottleneck nearly as many weights as the block with this number of channels.

    >>> equal_width(256)
    186
    """
    return round(channels * (math.sqrt(1 + 9 * 99 / 16) - 1) / 9)  # 2 C w + 9 w² = 99 / 16 C²


def keypoints(images: Tensor, *, sigma: float = 1.0, threshold: float = 0.5) -> Tensor:
    """Heat maps of a stroke's topmost, bottommost, leftmost and rightmost pixel.

    A map is a Gaussian that is 1 at its pixel: the first in reading order if there are several. The maps of an image
    without a stroke are 0.

    images: (n, 1, height, width).
    sigma: of the Gaussian, in pixels, above 0; 1 by default.
    threshold: pixels above it are the stroke; 0.5 by default.
    Returns (n, 4, height, width). Raises ValueError for images of another shape and another sigma.
    """
    if images.dim() != 4 or images.shape[1] != 1 or not sigma > 0:
        raise ValueError(f"keypoints needs images (n, 1, h, w) and sigma > 0, not {tuple(images.shape)} and {sigma}")
    height, width = images.shape[2:]
    y, x = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    stroke = images.flatten(1) > threshold
    outward = torch.stack([-y, y, -x, x]).float().masked_fill(~stroke[:, None], -torch.inf)
    place = outward.argmax(2, keepdim=True)  # the first of the largest
    squared = (y - y[place]).square() + (x - x[place]).square()
    return (torch.exp(-squared / (2 * sigma**2)) * stroke.any(1)[:, None, None]).unflatten(2, (height, width))


def positions(heatmaps: Tensor) -> Tensor:
    """Row and column of the largest value of each map; the first in reading order if there are several.

    heatmaps: (n, maps, height, width).
    Returns (n, maps, 2), floats.
    """
    place = heatmaps.flatten(2).argmax(2)
    return torch.stack([place // heatmaps.shape[3], place % heatmaps.shape[3]], 2).float()


def heatmap_error(predicted: Tensor, targets: Tensor) -> float:
    """Mean distance in pixels between the peaks of predicted and target maps; targets of zeros do not count.

    predicted: (n, maps, height, width).
    targets: of the same shape, not all 0; ValueError otherwise.
    """
    there = targets.flatten(2).any(2)
    if predicted.shape != targets.shape or not there.any():
        shapes = f"{tuple(predicted.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"predicted and targets must be maps of one shape, and targets not all 0: they are {shapes}")
    return (positions(predicted) - positions(targets)).norm(dim=2)[there].mean().item()


def fit_heatmaps(
    model: nn.Module, images: Tensor, targets: Tensor, *, epochs: int, seed: int, learning_rate: float, batch_size: int
) -> list[float]:
    """Minimize the mean squared error of the maps by Adam. In place.

    model: images -> maps.
    images: (n, channels, height, width).
    targets: (n, maps, height, width).
    epochs: how often to go through the images.
    seed: of their order.
    learning_rate: of Adam.
    batch_size: images in a step.
    Returns each epoch's mean loss. Raises ValueError unless there is one target for each image, for no images, and for
    a loss that is not finite.
    """
    if len(images) != len(targets):
        raise ValueError(f"one target for each image is needed, not {len(targets)} for {len(images)}")
    return training.fit(
        model,
        Split(images, targets),
        epochs=epochs,
        seed=seed,
        learning_rate=learning_rate,
        batch_size=batch_size,
        weight_decay=0.0,
        optimizer="adam",
        loss="squared_error",
    )
