r"""A block for binary networks: hierarchical, parallel, multi-scale, without 1 x 1 convolutions.

A bottleneck squeezes all features through few channels by 1 x 1 filters, which have little to say in one bit for each
weight. Instead three 3 x 3 convolutions follow one another, and the outputs of all three, with receptive fields of 3, 5
and 7 pixels, stand side by side and are added to the input (bulat2017binarized):

.. math:: a = f_1(x), \quad b = f_2(a), \quad c = f_3(b), \qquad y = [a, b, c] + x, \qquad
   f(x) = \alpha \big(\operatorname{sign}(W) \circledast \operatorname{sign}(\mathrm{BatchNorm}(x))\big)

with C / 2, C / 4 and C / 4 channels. Where the widths differ, f with a 1 x 1 filter takes the place of x. Gradients pass
one, two or three signs, or none. The network's first and last layers stay real.

The task here, in place of the paper's joints and landmarks: the four ends of a digit's stroke, as heat maps.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.binarization._signs import Binarized, SignActivation, norm_before
from lib.binarization.bwn import BinaryWeight
from lib.training import layout, logits
from lib.weights import compress


def unit(inputs: int, outputs: int, size: int, *, binary: bool = True) -> nn.Module:
    """f: batch norm, sign and a binary convolution of size x size; or, not binary, batch norm, ReLU and a real one."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    if not binary:
        return nn.Sequential(norm_before(layer), nn.ReLU(), layer)
    return Binarized(compress(layer, lambda *_: BinaryWeight()), SignActivation(), norm_before(layer))


class BinaryBlock(nn.Module):
    """(n, inputs, h, w) -> (n, outputs, h, w). ``binary=False``: the real block, with ReLU in the place of the sign."""

    def __init__(self, inputs: int, outputs: int, *, binary: bool = True):
        super().__init__()
        if inputs < 1 or outputs < 4 or outputs % 4:
            raise ValueError(f"a block needs 1 input and 4, 8, 12, ... outputs, not {inputs} and {outputs}")
        self.unit1 = unit(inputs, outputs // 2, 3, binary=binary)
        self.unit2 = unit(outputs // 2, outputs // 4, 3, binary=binary)
        self.unit3 = unit(outputs // 4, outputs // 4, 3, binary=binary)
        self.skip = nn.Identity() if inputs == outputs else unit(inputs, outputs, 1, binary=binary)

    def forward(self, x: Tensor) -> Tensor:
        a = self.unit1(x)
        b = self.unit2(a)
        c = self.unit3(b)
        return torch.cat([a, b, c], 1) + self.skip(x)


class Bottleneck(nn.Module):
    """What the block replaces: 1 x 1, 3 x 3 and 1 x 1 units by way of ``width`` channels, plus the input."""

    def __init__(self, channels: int, width: int, *, binary: bool = True):
        super().__init__()
        if channels < 1 or width < 1:
            raise ValueError(f"a bottleneck needs at least 1 channel and a width of 1, not {channels} and {width}")
        self.unit1 = unit(channels, width, 1, binary=binary)
        self.unit2 = unit(width, width, 3, binary=binary)
        self.unit3 = unit(width, channels, 1, binary=binary)

    def forward(self, x: Tensor) -> Tensor:
        return self.unit3(self.unit2(self.unit1(x))) + x


def equal_width(channels: int) -> int:
    """The width at which a bottleneck has nearest to the block's 99 / 16 · channels² weights: 186 for 256 channels."""
    return round((math.sqrt(channels**2 + 9 * 99 / 16 * channels**2) - channels) / 9)  # 9 w² + 2 C w = 99 / 16 C²


def keypoints(images: Tensor, *, sigma: float = 1.0, threshold: float = 0.5) -> Tensor:
    """Heat maps (n, 4, h, w) of the stroke's topmost, bottommost, leftmost and rightmost pixel, of (n, 1, h, w) images.

    The stroke is what exceeds ``threshold``; of several pixels the first in reading order counts. A map is a Gaussian
    of ``sigma`` pixels, 1 at its pixel. The maps of an image without stroke are 0.
    """
    if images.dim() != 4 or images.shape[1] != 1 or not sigma > 0:
        raise ValueError(f"keypoints needs images (n, 1, h, w) and sigma > 0, not {tuple(images.shape)} and {sigma}")
    height, width = images.shape[2:]
    y, x = (
        torch.arange(height).repeat_interleave(width),
        torch.arange(width).repeat(height),
    )  # of pixels as they are read
    order = torch.arange(height * width) / (height * width)
    rank = torch.stack([-y, y, -x, x]) - order  # largest: the outermost, and of those the first
    stroke = images.flatten(1) > threshold
    found = rank.masked_fill(~stroke[:, None], -torch.inf).argmax(2)
    distance = (y - y[found][..., None]).square() + (x - x[found][..., None]).square()
    maps = torch.exp(-distance / (2 * sigma**2)) * stroke.any(1)[:, None, None]
    return maps.reshape(-1, 4, height, width)


def positions(heatmaps: Tensor) -> Tensor:
    """Row and column of the largest value of each map, (n, maps, 2), float; the first in reading order of several."""
    place = heatmaps.flatten(2).argmax(2)
    return torch.stack([place // heatmaps.shape[3], place % heatmaps.shape[3]], 2).float()


def heatmap_error(predicted: Tensor, targets: Tensor) -> float:
    """Mean distance, in pixels, between the largest values of predicted and target maps; target maps of 0 are left out.

    Raises ValueError for maps of different shapes, and where all targets are 0.
    """
    there = targets.flatten(2).amax(2) > 0 if targets.numel() else torch.zeros(0)
    if predicted.shape != targets.shape or not there.any():
        raise ValueError(f"two equal shapes with a target are needed, not {predicted.shape} and {targets.shape}")
    return (positions(predicted) - positions(targets)).norm(dim=2)[there].mean().item()


def fit_heatmaps(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 3e-3,
    batch_size: int = 64,
) -> list[float]:
    """Minimise the mean squared error of the maps by Adam, along half a cosine; return each epoch's mean loss.

    In place, in evaluation mode after it. Raises ValueError without images, and where the loss is not finite.
    """
    if not 0 < len(images) == len(targets):
        raise ValueError(f"one target for each of at least one image is needed, not {len(targets)} for {len(images)}")
    generator = torch.Generator().manual_seed(seed)
    update = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(update, max(1, epochs * -(-len(images) // batch_size)))
    losses = []
    model.to(memory_format=layout(model)).train()
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images), generator=generator).split(batch_size):
            loss = functional.mse_loss(logits(model, images[batch]), targets[batch])
            update.zero_grad()
            loss.backward()
            update.step()
            schedule.step()
            total += loss.item() * len(batch)
        losses.append(total / len(images))
        if not math.isfinite(losses[-1]):
            raise ValueError(f"training diverged: the loss is {losses[-1]}; try a lower learning rate")
    model.to(memory_format=torch.contiguous_format).eval()
    return losses
