r"""SqueezeNet: fire modules make it as accurate as AlexNet with a fiftieth of the parameters (iandola2016squeezenet).

A fire module squeezes its input into few channels with 1 x 1 filters, then expands these with 1 x 1 and 3 x 3 filters:

.. math:: s = \operatorname{relu}(W_s * x), \qquad
   y = \big[\operatorname{relu}(W_1 * s), \operatorname{relu}(W_3 * s)\big]

The paper has three strategies (section 3.1): use 1 x 1 filters in place of 3 x 3 filters, give the 3 x 3 filters few
input channels, and pool late, so that the feature maps stay large. The first two save parameters. The third changes no
parameter, but it costs multiply-adds. Module i = 0, 1, ... of a network expands to e filters, of which a share is
3 x 3, and squeezes to s (section 5.1):

.. math:: e_i = \mathrm{base}_e + \mathrm{incr}_e \lfloor i / \mathrm{freq} \rfloor, \qquad
   s_i = \mathrm{SR} \, e_i, \qquad e_{i, 3 \times 3} = \mathrm{pct}_{3 \times 3} \, e_i

Batch norm, which the paper does not have, is ours: without it small networks are hard to train from scratch.
Left out: the complex bypass (a 1 x 1 convolution where the numbers of channels differ), and compression of the weights.
"""

from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lib.architectures.shared.convolutions import activated, draw_weights
from lib.architectures.shared.network import Network, scaled
from lib.arguments import check_sizes
from lib.seeding import seeded


@dataclass(frozen=True)
class Stem:
    """The first convolution of a network.

    filters: 1 or more.
    kernel: height and width of a filter in pixels, 1 or more.
    stride: 1 or more.
    padding: pixels of zeros on each side, from 0 to kernel - 1, default 0.

    Raises ValueError for other values.
    """

    filters: int
    kernel: int
    stride: int
    padding: int = 0

    def __post_init__(self) -> None:
        check_sizes(vars(self), {"padding": 0})
        if self.padding >= self.kernel:
            raise ValueError(f"padding must be below {self.kernel}, the size of the filter, not {self.padding}")


# version: first convolution, and the layers that a pool follows (1 is the first convolution, 2 the first fire module)
VERSIONS = {"1.0": (Stem(96, 7, 2), (1, 4, 8)), "1.1": (Stem(64, 3, 2), (1, 3, 5))}


class FireSizes(NamedTuple):
    """Filters of a fire module: 1 x 1 that squeeze, 1 x 1 that expand, 3 x 3 that expand."""

    squeeze: int
    expand1x1: int
    expand3x3: int


def fire_sizes(
    modules: int = 8,
    *,
    base_e: int = 128,
    incr_e: int = 128,
    freq: int = 2,
    squeeze_ratio: float = 0.125,
    pct_3x3: float = 0.5,
    width: float = 1.0,
) -> list[FireSizes]:
    """Give the filters of each fire module from the paper's metaparameters (iandola2016squeezenet, section 5.1).

    modules: number of fire modules, 1 or more, default 8.
    base_e: filters that expand in the first module, 1 or more, default 128.
    incr_e: more of them in each later group of modules, 0 or more, default 128.
    freq: modules in a group, 1 or more, default 2.
    squeeze_ratio: SR, filters that squeeze for each that expands, in (0, 1], default 0.125. At 1 nothing is squeezed.
    pct_3x3: share (not percent) of the filters that expand that are 3 x 3, in [0, 1], default 0.5.
    width: factor of e, default 1.

    Returns one :class:`FireSizes` for each module, rounded to whole filters, with at least one that squeezes.
    Raises ValueError for other values.

    >>> fire_sizes(3)[::2]
    [FireSizes(squeeze=16, expand1x1=64, expand3x3=64), FireSizes(squeeze=32, expand1x1=128, expand3x3=128)]
    """
    check_sizes({"modules": modules, "base_e": base_e, "freq": freq, "incr_e": incr_e}, {"incr_e": 0})
    if not (_is_share(squeeze_ratio) and squeeze_ratio > 0):
        raise ValueError(f"squeeze_ratio must be in (0, 1], not {squeeze_ratio!r}")
    if not _is_share(pct_3x3):
        raise ValueError(f"pct_3x3 must be in [0, 1], not {pct_3x3!r}")
    sizes = []
    for i in range(modules):
        # e_i = base_e + incr_e floor(i / freq)
        e = scaled(base_e + incr_e * (i // freq), width)
        e3 = int(pct_3x3 * e + 0.5)
        # s_i = SR e_i
        sizes.append(FireSizes(scaled(e, squeeze_ratio), e - e3, e3))
    return sizes


class Fire(nn.Module):
    """The fire module: squeeze with 1 x 1 filters, expand with 1 x 1 and 3 x 3 filters.

    inputs: channels of the input, 1 or more.
    squeeze: 1 x 1 filters that squeeze, 1 or more; the paper has fewer than ``expand1x1 + expand3x3``.
    expand1x1: 1 x 1 filters that expand, 0 or more.
    expand3x3: 3 x 3 filters that expand, 0 or more; at least one filter of the two kinds.
    bypass: whether the input is added to the output, which then has as many channels. Default False.
    batch_norm: whether batch norm follows each convolution in place of a bias; ours. Default False.

    Input (n, inputs, height, width), output (n, expand1x1 + expand3x3, height, width); the 1 x 1 filters come first.
    Raises ValueError for other sizes, and for a bypass between different numbers of channels.

    >>> sum(p.numel() for p in Fire(96, 16, 64, 64).parameters())
    11920
    """

    def __init__(
        self,
        inputs: int,
        squeeze: int,
        expand1x1: int,
        expand3x3: int,
        *,
        bypass: bool = False,
        batch_norm: bool = False,
    ) -> None:
        sizes = {"inputs": inputs, "squeeze": squeeze, "expand1x1": expand1x1, "expand3x3": expand3x3}
        check_sizes(sizes, {"expand1x1": 0, "expand3x3": 0})
        if not expand1x1 + expand3x3:
            raise ValueError("a fire module needs a filter that expands: expand1x1 and expand3x3 are both 0")
        if bypass and inputs != expand1x1 + expand3x3:
            raise ValueError(f"bypass needs as many outputs as inputs, not {expand1x1 + expand3x3} and {inputs}")
        super().__init__()
        self.inputs, self.outputs, self.bypass = inputs, expand1x1 + expand3x3, bypass
        self.squeeze = activated(inputs, squeeze, 1, batch_norm=batch_norm)
        self.expand = nn.ModuleDict(
            {
                f"{size}x{size}": activated(squeeze, filters, size, batch_norm=batch_norm)
                for size, filters in ((1, expand1x1), (3, expand3x3))
                if filters
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        # method
        squeezed = self.squeeze(x)
        expanded = torch.cat([expand(squeezed) for expand in self.expand.values()], 1)
        return expanded + x if self.bypass else expanded
        # end of method

    def extra_repr(self) -> str:  # no weight tells a bypass apart, and the cache knows a network by its text
        return f"bypass={self.bypass}"


def squeezenet(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 1000,
    width: float = 1.0,
    version: Literal["1.0", "1.1"] = "1.0",
    stem: Stem | None = None,
    pools: tuple[int, ...] | None = None,
    modules: int = 8,
    base_e: int = 128,
    incr_e: int = 128,
    freq: int = 2,
    squeeze_ratio: float = 0.125,
    pct_3x3: float = 0.5,
    bypass: bool = False,
    batch_norm: bool = False,
    dropout: float = 0.5,
) -> Network:
    """Build a SqueezeNet: a convolution, fire modules with pools between them, a 1 x 1 convolution and the mean.

    With the defaults, or version 1.1, it computes what torchvision's squeezenet1_0 or squeezenet1_1 computes. The
    layers are conv1, fire2 to fire9, and conv10. Initial weights are drawn as torchvision does: He's (uniform), but
    normal with a deviation of 0.01 in the last convolution. A ReLU follows that one, as in the paper, so no logit is
    negative.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 1000.
    width: factor of the filters of the first convolution and of e, default 1.
    version: "1.0" (default) or "1.1", which sets ``stem`` and ``pools``.
    stem: first convolution, for small images ``Stem(64, 3, 1, padding=1)``; default: that of the version.
    pools: layers that a pool of 3 x 3 pixels and stride 2 follows, 1 for conv1, 2 for fire2, ..., or () for none. Late
        pools cost no parameters. Default: those of the version, (1, 4, 8) or (1, 3, 5).
    modules, base_e, incr_e, freq, squeeze_ratio, pct_3x3: of the fire modules, as in :func:`fire_sizes`.
    bypass: whether each fire module with as many outputs as inputs adds its input to its output: fire3, 5, 7 and 9 by
        default ("simple bypass", section 6). Default False.
    batch_norm: whether batch norm follows each convolution except the last, in place of a bias; ours. Default False.
    dropout: before the last convolution, in [0, 1), default 0.5.

    Input (n, channels, height, width) of 224 x 224 pixels, or of another size of which stride and pools leave a pixel;
    output (n, classes) logits.
    Raises ValueError for other values, pools after layers that are not there, and a bypass that no module can have.

    >>> digits = squeezenet(channels=1, classes=10, width=0.25, stem=Stem(32, 3, 1, padding=1), pools=(3, 5))
    >>> digits(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    check_sizes({"channels": channels, "classes": classes})
    if version not in VERSIONS:
        raise ValueError(f'version must be "1.0" or "1.1", not {version!r}')
    if not (_is_share(dropout) and dropout < 1):
        raise ValueError(f"dropout must be in [0, 1), not {dropout!r}")
    sizes = fire_sizes(
        modules,
        base_e=base_e,
        incr_e=incr_e,
        freq=freq,
        squeeze_ratio=squeeze_ratio,
        pct_3x3=pct_3x3,
        width=width,
    )
    stem = VERSIONS[version][0] if stem is None else stem
    pools = VERSIONS[version][1] if pools is None else pools
    if not isinstance(pools, tuple) or len({*pools}) < len(pools) or not {*pools} <= {*range(1, modules + 2)}:
        raise ValueError(f"pools must be different layers from 1 to {modules + 1}, not {pools}")
    stem = Stem(scaled(stem.filters, width), stem.kernel, stem.stride, stem.padding)
    widths = [stem.filters, *(size.expand1x1 + size.expand3x3 for size in sizes)]
    if bypass and not any(a == b for a, b in pairwise(widths)):
        raise ValueError(f"bypass needs a fire module with as many outputs as inputs; here the widths are {widths}")

    with seeded(seed):
        layers = OrderedDict[str, nn.Module](
            conv1=activated(
                channels,
                stem.filters,
                stem.kernel,
                stride=stem.stride,
                padding=stem.padding,
                batch_norm=batch_norm,
            )
        )
        for place in range(1, modules + 2):
            if place > 1:
                a, b = widths[place - 2 : place]
                layers[f"fire{place}"] = Fire(a, *sizes[place - 2], bypass=bypass and a == b, batch_norm=batch_norm)
            if place in pools:
                layers[f"pool{place}"] = nn.MaxPool2d(3, 2, ceil_mode=True)
        last = nn.Conv2d(widths[-1], classes, 1)
        layers |= OrderedDict(dropout=nn.Dropout(dropout))
        layers |= {f"conv{modules + 2}": last, f"relu{modules + 2}": nn.ReLU()}
        layers |= OrderedDict(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
        # n pixels after a pool need 2 n before it; n pixels after the stem need stride (n - 1) + kernel, with padding
        least = stem.stride * (2 ** len(pools) - 1) + stem.kernel - 2 * stem.padding
        network = Network(layers, channels=channels, least=max(1, least))
        draw_weights(network, "uniform")
        nn.init.normal_(last.weight, std=0.01)
        return network


def _is_share(value: float) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= 1
