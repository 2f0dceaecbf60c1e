r"""ShuffleNet: grouped 1 x 1 convolutions, and a shuffle of channels that lets the groups talk.

A 1 x 1 convolution in g groups costs 1 / g as much, but each output sees only its own group. So the g n channels
between two of them are written as a matrix (g, n), transposed, and read again:

.. math:: \text{channel } j = a g + b \text{ of the result is channel } b n + a , \qquad 0 \le a < n,\ 0 \le b < g

(zhang2018shufflenet, section 3.1). A unit of c channels with a bottleneck of m = c / 4 costs
:math:`h w (2 c m / g + 9 m)` multiply-adds on a map of h x w, without the shuffle, which multiplies nothing.

The stem is the first convolution. The paper prints 24 channels for its 1x network only. The multiply-adds it prints
for 2x (524 million), 1.5x (292), 0.5x (38) and 0.25x (13) follow from 48, 24, 12 and 12 channels, so these are the
default here, rounded up to a multiple of the groups: in 8 groups, a stem of 12 cannot be built, because the first unit
would need 180 = 192 - 12 new channels, which 8 does not divide. The 38.53 million of that network is a sum over
fractions of a channel; with the 16 channels used here, as in the authors' code, it is 40.47 million. In 2 and 4
groups, widths other than 1 and 2 leave bottlenecks that the groups do not divide (25 or 34 channels at 0.5) and are
refused; the paper has results for some and does not say how it rounds. Left out is how the paper trains.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from lib.architectures.shared.network import Network, scaled
from lib.architectures.shared.strides import check_strides, least
from lib.arguments import check_sizes
from lib.seeding import seeded

OUTPUTS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}  # groups -> channels of the first stage (table 1)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Shuffle the channels: write them as a matrix (groups, n), transpose it, and read it again.

    x: (batch, channels, ...); need not be contiguous.
    groups: of the channels, 1 or more; must divide their number.

    Returns the same shape. Raises ValueError for groups that do not divide the channels.
    Source: zhang2018shufflenet, section 3.1.

    >>> shuffle(torch.arange(12)[None], 3).tolist()
    [[0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]]
    """
    check_sizes({"groups": groups})
    if x.dim() < 2 or x.shape[1] % groups:
        raise ValueError(
            f"an input of {tuple(x.shape)}: its second dimension, the channels, must be a multiple of {groups}"
        )
    # method
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
    # end of method


def permutation(channels: int, groups: int) -> Tensor:
    """Return the shuffle as a permutation: channel j of the result is channel ``permutation[j]`` of the input.

    channels: a multiple of the groups, 1 or more.
    groups: 1 or more.

    Returns (channels,) whole numbers. Raises ValueError for groups that do not divide the channels.

    >>> permutation(6, 2).tolist()
    [0, 3, 1, 4, 2, 5]
    """
    check_sizes({"channels": channels, "groups": groups})
    return shuffle(torch.arange(channels)[None], groups)[0]


class Shuffle(nn.Module):
    """:func:`shuffle` as a layer.

    groups: of the channels, 1 or more.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        check_sizes({"groups": groups})
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        return shuffle(x, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class Unit(nn.Module):
    """A bottleneck of grouped 1 x 1 convolutions around a depthwise one (zhang2018shufflenet, figure 2).

    inputs: channels of the input, a multiple of the groups.
    outputs: channels of the output, a multiple of 4 times the groups. If there are as many as inputs, at stride 1, the
        input is added. If there are more, the input, average-pooled at stride 2, comes first, then the new channels.
    groups: of both 1 x 1 convolutions, default 3.
    stride: of the depthwise convolution, 1 or 2; default 1.
    first: whether the first 1 x 1 convolution is in one group, as in the first unit of the network. Default False.
    shuffled: whether the channels are shuffled after the first 1 x 1 convolution. Default True.

    Raises ValueError for sizes that the groups do not divide, and for outputs that cannot be reached.

    >>> tuple(Unit(24, 240, stride=2, first=True)(torch.zeros(1, 24, 8, 8)).shape)
    (1, 240, 4, 4)
    """

    def __init__(
        self, inputs: int, outputs: int, *, groups: int = 3, stride: int = 1, first: bool = False, shuffled: bool = True
    ) -> None:
        super().__init__()
        check_sizes({"inputs": inputs, "outputs": outputs, "groups": groups})
        check_strides((stride,), count=1)
        if inputs % groups or outputs % (4 * groups):
            raise ValueError(
                f"a unit from {inputs} to {outputs} channels in {groups} groups: the inputs must be a multiple of"
                f" {groups}, the outputs of {4 * groups}"
            )
        self.added = inputs == outputs and stride == 1  # else concatenated
        new = outputs if self.added else outputs - inputs
        if new < 1:
            raise ValueError(
                f"a unit from {inputs} to {outputs} channels with stride {stride}: it must have more outputs than"
                " inputs, or as many at stride 1"
            )
        self.inputs, self.outputs = inputs, outputs
        m = outputs // 4
        # method
        self.reduce = nn.Conv2d(inputs, m, 1, groups=1 if first else groups, bias=False)
        self.bn1 = nn.BatchNorm2d(m)
        self.shuffle = Shuffle(groups) if shuffled else nn.Identity()
        self.depthwise = nn.Conv2d(m, m, 3, stride, padding=1, groups=m, bias=False)
        self.bn2 = nn.BatchNorm2d(m)
        self.expand = nn.Conv2d(m, new, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(new)
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else nn.Identity()
        # end of method

    # method
    def forward(self, x: Tensor) -> Tensor:
        y = self.shuffle(torch.relu(self.bn1(self.reduce(x))))
        y = self.bn3(self.expand(self.bn2(self.depthwise(y))))  # no ReLU after the depthwise convolution
        return torch.relu(x + y if self.added else torch.cat([self.pool(x), y], 1))

    # end of method


def shufflenet(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 1000,
    width: float = 1.0,
    groups: int = 3,
    outputs: int | None = None,
    stem: int | None = None,
    units: tuple[int, ...] = (4, 8, 4),
    strides: tuple[int, ...] = (2, 2, 2, 2, 2),
    shuffled: bool = True,
) -> Network:
    """Build ShuffleNet (zhang2018shufflenet, table 1).

    With the defaults it has 1,865,728 parameters; with a width of 2, it has 5,450,776 and 524,045,184 multiply-adds
    for an image of 224 x 224.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 1000.
    width: factor above 0 for the channels of the stages, default 1; the paper has 0.25, 0.5, 1, 1.5 and 2.
    groups: of the 1 x 1 convolutions, default 3; the paper has 1, 2, 3, 4 and 8.
    outputs: channels of the first stage before ``width``, doubled in each stage. Default by the paper's table 1: 144,
        200, 240, 272 or 384 for 1, 2, 3, 4 or 8 groups. Times ``width`` it must be a multiple of 4 times the groups.
    stem: channels of the first convolution, a multiple of the groups. Default: 12 for a width below 1, 24 below 2, else
        48, rounded up to such a multiple.
    units: of each stage, 1 or more; default (4, 8, 4).
    strides: of the first convolution, of the max-pool (left out where 1) and of the first unit of each stage; numbers
        that are 1 or 2. The default is for 224 pixels; (1, 1, 2, 2, 2) leaves 4 x 4 of images of 28 or 32.
    shuffled: whether channels are shuffled. Default True; False is the ablation of the paper's table 3.

    Input (n, channels, height, width), output (n, classes) logits.
    Raises ValueError for sizes, widths and strides other than these, and for channels that the groups do not divide.

    >>> sum(p.numel() for p in shufflenet(width=0.5).parameters())
    718324
    """
    check_sizes({"channels": channels, "classes": classes, "groups": groups})
    if outputs is None and groups not in OUTPUTS:
        raise ValueError(
            f"groups must be one of {', '.join(map(str, OUTPUTS))} where outputs is not given, not {groups}"
        )
    wide = scaled(OUTPUTS[groups] if outputs is None else outputs, width)
    if not isinstance(units, tuple | list) or not units:
        raise ValueError(f"units must be a whole number for each stage, not {units!r}")
    check_sizes({f"units[{i}]": number for i, number in enumerate(units)})
    check_strides(strides, count=2 + len(units))
    if stem is None:
        stem = -(-(12 if width < 1 else 24 if width < 2 else 48) // groups) * groups
    check_sizes({"stem": stem})
    if wide % (4 * groups):
        raise ValueError(
            f"the first stage has {wide} channels (width {width}): they must be a multiple of {4 * groups}, 4 times"
            " the groups, so choose another width or outputs"
        )
    if stem % groups or stem >= wide:
        raise ValueError(
            f"stem must be a multiple of {groups}, the groups, and below the {wide} channels after it, not {stem}"
        )
    with seeded(seed):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers |= {"conv": nn.Conv2d(channels, stem, 3, strides[0], padding=1, bias=False)}
        layers |= {"bn": nn.BatchNorm2d(stem), "relu": nn.ReLU()}
        layers |= {"maxpool": nn.MaxPool2d(3, 2, padding=1)} if strides[1] == 2 else {}
        inputs = stem
        for stage, number in enumerate(units):
            for unit in range(number):
                layers[f"stage{stage + 2}_{unit + 1}"] = Unit(
                    inputs,
                    wide * 2**stage,
                    groups=groups,
                    stride=1 if unit else strides[2 + stage],
                    first=stage == unit == 0,  # it has too few inputs for groups
                    shuffled=shuffled,
                )
                inputs = wide * 2**stage
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(inputs, classes)}
    return Network(layers, channels=channels, least=least(strides))
