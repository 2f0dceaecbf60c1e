r"""Stacks of small filters in place of a large one: they see as much, and have fewer weights.

In a stack of convolutions of sizes :math:`k_l` and stride 1, each place of the output sees

.. math:: 1 + \sum_l (k_l - 1)

pixels in each direction, so that two 3 x 3 filters see as much as one of 5 x 5, and three as much as one of 7 x 7
(simonyan2015very, section 2.3). With C channels everywhere they have 18 and 27 :math:`C^2` weights, not 25 and 49. In
the same way n x n becomes 1 x n and n x 1, which have 2 n :math:`C^2` weights (szegedy2016rethinking, section 3.2).

Without an activation between them, two convolutions A (M, I, ...) and B (O, M, ...) *are* one convolution, with

.. math:: K_{o,i,c} = \sum_m \sum_{a + s b = c} A_{m,i,a} \, B_{o,m,b}

where s is the stride of A. The converse is false: most 5 x 5 filters are not a stack of two 3 x 3 ones. Left out: the
middle layers of szegedy2016rethinking that have more filters than the input, and dilation.
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from lib.architectures.shared.network import Network, scaled
from lib.arguments import check_sizes
from lib.seeding import seeded

Size = int | tuple[int, int]  # of a filter: of both sides, or height and width


def threes(size: int) -> tuple[int, ...]:
    """Give the sizes of the stack of 3 x 3 filters that sees as much as one filter (simonyan2015very, section 2.3).

    size: of the one filter, height and width in pixels; odd, 3 or more.

    Raises ValueError for another size.

    >>> threes(5), threes(7)
    ((3, 3), (3, 3, 3))
    """
    check_sizes({"size": size})
    if size % 2 == 0 or size < 3:
        raise ValueError(f"size must be odd and 3 or more, not {size}: each 3 x 3 filter adds two pixels to one")
    return (3,) * (size // 2)


def lines(size: int) -> tuple[tuple[int, int], ...]:
    """Give the sizes of a row filter and a column filter that see as much as one (szegedy2016rethinking, section 3.2).

    size: of the one filter, height and width in pixels; 2 or more.

    Raises ValueError for another size.

    >>> lines(7)
    ((1, 7), (7, 1))
    """
    check_sizes({"size": size})
    if size < 2:
        raise ValueError(f"size must be 2 or more, not {size}: a filter of one pixel has no rows and columns")
    return ((1, size), (size, 1))


def stack(inputs: int, outputs: int, sizes: Sequence[Size]) -> nn.Sequential:
    """Build a stack of convolutions that keep height and width, each with batch norm and ReLU.

    inputs: channels of the input, 1 or more.
    outputs: filters of each convolution, 1 or more.
    sizes: of the filters of each convolution: pixels, or (height, width); at least one.

    Input (n, inputs, height, width), output (n, outputs, height, width).
    Raises ValueError for no sizes, and for numbers that are not whole or below 1.

    >>> [sum(p.numel() for p in stack(8, 8, sizes).parameters() if p.dim() > 1) for sizes in ([5], threes(5), lines(5))]
    [1600, 1152, 640]
    """
    check_sizes({"inputs": inputs, "outputs": outputs})
    layers = OrderedDict[str, nn.Module]()
    for i, (height, width) in enumerate(_pairs(sizes), 1):
        # ``padding="same"`` would do for all, but not every exporter knows it
        padding = (height // 2, width // 2) if height % 2 and width % 2 else "same"
        layers[f"conv{i}"] = nn.Conv2d(inputs, outputs, (height, width), padding=padding, bias=False)
        layers |= {f"bn{i}": nn.BatchNorm2d(outputs), f"relu{i}": nn.ReLU()}
        inputs = outputs
    return nn.Sequential(layers)


def network(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 1000,
    width: float = 1.0,
    sizes: Sequence[Sequence[Size]] = ((5,), (5,)),
) -> Network:
    """Build a network with any filter sizes: stacks of convolutions, max pools between them, and the mean of each map.

    Every convolution has the same number of filters, so that networks with different sizes can be compared. A first
    1 x 1 convolution makes that many maps of the image, so each stack also has as many inputs as outputs. Nothing after
    the stacks sees where a feature is: with 1 x 1 filters only, a network sees single pixels, and the largest of four.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 1000.
    width: factor of the 32 filters of each convolution, default 1.
    sizes: for each stack the sizes of its filters, as in :func:`stack`; default two stacks of one 5 x 5 each.

    Input (n, channels, height, width) with 1 pixel or more, twice as many for each pool; output (n, classes) logits.
    Raises ValueError for no stacks, an empty one, and for numbers that are not accepted.

    >>> from lib import measure
    >>> [measure.parameters(network(classes=10, sizes=sizes)) for sizes in ([[5], [5]], [[3, 3], [3, 3]], [[1], [1]])]
    [51818, 37610, 2666]
    """
    check_sizes({"channels": channels, "classes": classes})
    if isinstance(sizes, str) or not sizes:
        raise ValueError(f"sizes must hold the sizes of one stack or more, not {sizes!r}")
    filters = scaled(32, width)
    with seeded(seed):
        layers = OrderedDict[str, nn.Module](maps=stack(channels, filters, [1]))
        for i, each in enumerate(sizes, 1):
            layers |= {f"pool{i - 1}": nn.MaxPool2d(2)} if i > 1 else {}
            layers[f"stack{i}"] = stack(filters, filters, each)
        layers |= OrderedDict(average=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(filters, classes))
        return Network(layers, channels=channels, least=2 ** (len(sizes) - 1))


def composed(first: Tensor, second: Tensor, *, stride: Size = 1) -> Tensor:
    """Give the kernel of the one convolution that equals two convolutions without an activation between them.

    The second must have no padding. The one convolution has the padding of the first, and the product of both strides.

    first: kernel A of the convolution that comes first, (M, I, height, width).
    second: kernel B of the other one, (O, M, height, width); its type and device are those of ``first``.
    stride: of the first convolution, 1 or more, of both directions or (height, width). Default 1.

    Returns K (O, I, height, width), with :math:`h_A + s (h_B - 1)` rows, and likewise columns.
    Raises ValueError for kernels whose channels do not fit, that are empty, or that are not finite floats of one type.

    >>> import torch
    >>> first, second = torch.randn(4, 3, 3, 3), torch.randn(5, 4, 3, 3)
    >>> composed(first, second).shape, composed(first, second, stride=2).shape
    (torch.Size([5, 3, 5, 5]), torch.Size([5, 3, 7, 7]))
    """
    ((down, across),) = _pairs([stride])
    if first.dim() != 4 or second.dim() != 4 or second.shape[1] != len(first) or not first.numel() * second.numel():
        raise ValueError(
            "kernels must be (M, I, height, width) and (O, M, height, width), none of them 0,"
            f" not {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if first.dtype != second.dtype or not first.is_floating_point():
        raise ValueError(f"kernels must be floats of one type, not {first.dtype} and {second.dtype}")
    if not (first.isfinite().all() and second.isfinite().all()):
        raise ValueError("the kernels hold NaN or infinity: finite ones are needed")
    # method
    # K[o, i, c] = sum_m sum_{a + s b = c} A[m, i, a] B[o, m, b]:
    # a transposed convolution adds up just that
    return functional.conv_transpose2d(second, first, stride=(down, across))
    # end of method


def _pairs(sizes: Sequence[Size]) -> list[tuple[int, int]]:
    """The sizes as (height, width); ValueError for none of them and for numbers below 1."""
    pairs = [(size, size) if isinstance(size, int) else size for size in sizes]
    if not pairs or any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"sizes must be pixels or (height, width), one or more of them, not {sizes!r}")
    for height, width in pairs:
        check_sizes({"height": height, "width": width})
    return pairs
