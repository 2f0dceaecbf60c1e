r"""SegNet and Squeeze-SegNet: a class for each pixel, by an encoder that pools and a decoder that mirrors it.

SegNet (badrinarayanan2017segnet) shrinks an image with the 13 convolutions of VGG16, and mirrors them to come back to
its size. Each pool remembers where its maxima were, and the decoder puts its values there:

.. math:: (p, i) = \operatorname{pool}(x), \qquad u_j = \sum_{k :\, i_k = j} y_k

Squeeze-SegNet (nanfack2018squeezesegnet) takes SqueezeNet as the encoder. Its decoder mirrors each fire module by a
DFire module, which expands and then squeezes, with the e filters of that fire module, from its outputs to its inputs:

.. math:: \operatorname{DFire}(x) = \operatorname{relu}(W_s * \big[\operatorname{relu}(W_1 * x),
   \operatorname{relu}(W_3 * x)\big])

These 3 x 3 filters read wide inputs, which SqueezeNet avoids. So the network has 3.9 times fewer parameters than
SegNet, in the layout of a public implementation; we could not read the paper's table of sizes. The light layout is
ours, and has more than ten times fewer: a DFire module is a fire module and then the squeeze, and the detour through
1000 maps between encoder and decoder is gone.

SqueezeNet's pools overlap, so one pixel is often the maximum of several windows. There we add the values, unlike the
public implementation (:func:`lib.architectures.shared.encoder_decoder.unpool`). SegNet's pools do not overlap, so
nothing is added there.

Left out: the weights of VGG16 and SqueezeNet from ImageNet, with which the papers start.
"""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

from lib.architectures.shared.convolutions import activated, draw_weights
from lib.architectures.shared.encoder_decoder import EncoderDecoder
from lib.architectures.shared.network import scaled
from lib.architectures.squeezenet import VERSIONS, Fire, fire_sizes
from lib.arguments import check_sizes
from lib.seeding import seeded

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # filters of each stage


def segnet(seed: int = 0, *, channels: int = 3, classes: int = 11, width: float = 1.0) -> EncoderDecoder:
    """Build SegNet: the convolutions of VGG16 and their mirror, each with batch norm (badrinarayanan2017segnet).

    The initial weights are He's (uniform).

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs for each pixel, 2 or more, default 11.
    width: factor of all numbers of filters, default 1.

    Input (n, channels, height, width) of 32 pixels or more on each side, output (n, classes, height, width) logits.
    Raises ValueError for other values.

    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in segnet().parameters())
    29449355
    """
    check_sizes({"channels": channels, "classes": classes})
    stages = [[scaled(filters, width) for filters in stage] for stage in VGG16]
    inputs = [channels, *(stage[-1] for stage in stages)]
    with seeded(seed):
        encoder = [_chain([before, *stage]) for before, stage in zip(inputs[:-1], stages, strict=True)]
        # mirrored: from the outputs of each convolution to its inputs; in place of the first one are the classes
        decoder = [_chain([*stage[::-1], before]) for before, stage in zip(inputs[1:-1], stages[1:], strict=True)]
        last = nn.Conv2d(stages[0][0], classes, 3, padding=1)
        decoder.insert(0, _chain(stages[0][::-1]).append(last))
        network = EncoderDecoder(encoder, nn.Identity(), decoder[::-1], channels=channels, least=32, kernel=2)
        draw_weights(network, "uniform")
        return network


class DFire(nn.Module):
    """The mirror of a fire module: expand with 1 x 1 and 3 x 3 filters, then squeeze with 1 x 1 filters.

    inputs: channels of the input, 1 or more.
    expand1x1: 1 x 1 filters that expand, 1 or more.
    expand3x3: 3 x 3 filters that expand, 1 or more.
    outputs: 1 x 1 filters that squeeze, 1 or more.
    batch_norm: whether batch norm follows each convolution in place of a bias; ours. Default False.

    Input (n, inputs, height, width), output (n, outputs, height, width). Raises ValueError for other sizes.

    >>> DFire(256, 128, 128, 96)(torch.zeros(2, 256, 5, 7)).shape
    torch.Size([2, 96, 5, 7])
    """

    def __init__(self, inputs: int, expand1x1: int, expand3x3: int, outputs: int, *, batch_norm: bool = False) -> None:
        check_sizes({"inputs": inputs, "expand1x1": expand1x1, "expand3x3": expand3x3, "outputs": outputs})
        super().__init__()
        self.expand1x1 = activated(inputs, expand1x1, 1, batch_norm=batch_norm)
        self.expand3x3 = activated(inputs, expand3x3, 3, batch_norm=batch_norm)
        self.squeeze = activated(expand1x1 + expand3x3, outputs, 1, batch_norm=batch_norm)

    # method
    def forward(self, x: Tensor) -> Tensor:
        return self.squeeze(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))

    # end of method


class LightDFire(nn.Sequential):
    """Our DFire module: 1 x 1 filters squeeze to an eighth of the channels before it expands and squeezes.

    inputs, expand1x1, expand3x3, outputs, batch_norm: as in :class:`DFire`, which has the same input and output.

    >>> [sum(p.numel() for p in kind(512, 256, 256, 384).parameters()) for kind in (DFire, LightDFire)]
    [1508224, 394176]
    """

    def __init__(self, inputs: int, expand1x1: int, expand3x3: int, outputs: int, *, batch_norm: bool = False) -> None:
        check_sizes({"inputs": inputs, "expand1x1": expand1x1, "expand3x3": expand3x3, "outputs": outputs})
        # method
        fire = Fire(inputs, scaled(inputs, 1 / 8), expand1x1, expand3x3, batch_norm=batch_norm)
        squeeze = activated(expand1x1 + expand3x3, outputs, 1, batch_norm=batch_norm)
        # end of method
        super().__init__(OrderedDict(fire=fire, squeeze=squeeze))


def squeeze_segnet(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 11,
    width: float = 1.0,
    light: bool = False,
    batch_norm: bool = False,
) -> EncoderDecoder:
    """Build Squeeze-SegNet: SqueezeNet 1.0, and DFire modules that mirror it (nanfack2018squeezesegnet).

    The initial weights are He's (uniform); the last layer, a transposed convolution, keeps PyTorch's.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs for each pixel, 2 or more, default 11.
    width: factor of all numbers of filters, default 1.
    light: whether it is our layout, with :class:`LightDFire` modules and nothing between the last fire module and its
        mirror. Default False: the public layout.
    batch_norm: whether batch norm follows each convolution, except for the last, in place of a bias; ours. Without it
        the network is hard to train from scratch. Default False.

    Input (n, channels, height, width) of 21 pixels or more on each side, output (n, classes, height, width) logits.
    Raises ValueError for other values.

    >>> with torch.device("meta"):
    ...     [sum(p.numel() for p in squeeze_segnet(light=light).parameters()) for light in (False, True)]
    [7617939, 2414827]
    """
    check_sizes({"channels": channels, "classes": classes})
    stem, _ = VERSIONS["1.0"]  # its pools follow the first convolution, fire4 and fire8
    first, detour = scaled(stem.filters, width), scaled(1000, width)
    sizes = fire_sizes(width=width)
    widths = [first, *(size.expand1x1 + size.expand3x3 for size in sizes)]
    if not all(min(size) for size in sizes):
        raise ValueError(f"width must leave a filter of each kind in every fire module, and {width} leaves none")
    with seeded(seed):
        begin = activated(channels, first, stem.kernel, stride=stem.stride, padding=0, batch_norm=batch_norm)
        fires = [Fire(inputs, *size, batch_norm=batch_norm) for inputs, size in zip(widths[:-1], sizes, strict=True)]
        mirror = LightDFire if light else DFire
        # from the outputs of each fire module to its inputs, with as many filters that expand
        dfires = [
            mirror(fire.outputs, size.expand1x1, size.expand3x3, fire.inputs, batch_norm=batch_norm)
            for fire, size in zip(fires, sizes, strict=True)
        ]
        between = [] if light else [(widths[-1], detour), (detour, widths[-1])]
        middle = [fires[7], *(activated(a, b, 1, batch_norm=batch_norm) for a, b in between), dfires[7]]
        # undoes h -> (h - 7) / 2 + 1; where that is rounded, one pixel too many is cut
        end = nn.ConvTranspose2d(first, classes, 10, stride=2, padding=1)
        network = EncoderDecoder(
            [begin, nn.Sequential(*fires[:3]), nn.Sequential(*fires[3:7])],
            nn.Sequential(*middle),
            [nn.Sequential(*dfires[6:2:-1]), nn.Sequential(*dfires[2::-1]), end],
            channels=channels,
            least=21,
            kernel=3,
        )
        draw_weights(network, "uniform")
        return network


def _chain(widths: list[int]) -> nn.Sequential:
    return nn.Sequential(*(activated(a, b, 3, batch_norm=True, bias=True) for a, b in pairwise(widths)))
