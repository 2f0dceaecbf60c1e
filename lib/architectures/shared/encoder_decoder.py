r"""An encoder that pools, and a decoder that puts its values where the pools found their maxima.

.. math:: (p, i) = \operatorname{pool}(x), \qquad u_j = \sum_{k :\, i_k = j} y_k

Where pools overlap, one pixel is often the maximum of several windows, and the values are added. torch's max_unpool2d
writes one of them over the other, yet sends the gradient to both.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.architectures.shared.network import Network, check_images


def unpool(values: Tensor, places: Tensor, size: torch.Size) -> Tensor:
    """Put the values where a pool found its maxima, and zeros elsewhere.

    values: (n, channels, height, width) as pooled.
    places: of the maxima, as ``max_pool2d`` returns them for each value: row times width plus column.
    size: of the result, as before the pool, (n, channels, height, width).

    Values of one place are added, so this is the transpose of the pool that ``places`` describe. For a pool without
    overlap it is what ``max_unpool2d`` computes.

    >>> image = torch.tensor([[[[1.0, 2.0, 0.0], [3.0, 0.0, 5.0]]]])
    >>> pooled, places = functional.max_pool2d(image, 2, ceil_mode=True, return_indices=True)
    >>> unpool(pooled, places, image.shape).tolist()
    [[[[0.0, 0.0, 0.0], [3.0, 0.0, 5.0]]]]
    """
    # method
    flat = values.new_zeros(*size[:2], size[2] * size[3])
    # u_j = sum of y_k over the k with i_k = j
    return flat.scatter_add(2, places.flatten(2), values.flatten(2)).reshape(size)
    # end of method


class EncoderDecoder(Network):
    """Stages with a pool after each, a middle, and as many stages with an unpool before each.

    encoder: stages in the order in which they run; a pool of stride 2 follows each.
    middle: what runs between the last pool and the first unpool.
    decoder: stages in the order in which they run. The unpool before the first one undoes the last pool, and so on
        backwards, so each takes as many channels as the encoder's stage before that pool gives.
    channels: of the images.
    least: smallest height and width.
    kernel: of the pools, 2 or 3 pixels; those of 3 overlap, and look over the border to miss no pixel.

    Input (n, channels, height, width), output (n, classes, height, width), cut where the last stage gives more pixels.
    Raises ValueError for another kernel or number of stages, and in the forward pass for images of other channels, or
    smaller than ``least``.
    """

    encoder: nn.ModuleList
    middle: nn.Module
    decoder: nn.ModuleList

    def __init__(
        self,
        encoder: Sequence[nn.Module],
        middle: nn.Module,
        decoder: Sequence[nn.Module],
        *,
        channels: int,
        least: int,
        kernel: int,
    ) -> None:
        if kernel not in (2, 3) or len(encoder) != len(decoder):
            raise ValueError(
                "kernel must be 2 or 3, and the decoder must have as many stages as the encoder: not a kernel of"
                f" {kernel} with {len(encoder)} stages to encode and {len(decoder)} to decode"
            )
        layers = OrderedDict[str, nn.Module](encoder=nn.ModuleList(encoder), middle=middle)
        super().__init__(layers | OrderedDict(decoder=nn.ModuleList(decoder)), channels=channels, least=least)
        self.kernel = kernel

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, channels=self.channels, least=self.least)
        # method
        x, pools = images, []
        for stage in self.encoder:
            x = stage(x)
            size = x.shape
            x, places = functional.max_pool2d(x, self.kernel, 2, ceil_mode=self.kernel > 2, return_indices=True)
            pools.append((places, size))
        x = self.middle(x)
        for stage in self.decoder:
            x = stage(unpool(x, *pools.pop()))
        # end of method
        return x[..., : images.shape[2], : images.shape[3]]

    def extra_repr(self) -> str:  # no weight tells two kernels apart, and the cache knows a network by its text
        return f"kernel={self.kernel}"
