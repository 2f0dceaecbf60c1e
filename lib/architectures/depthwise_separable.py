r"""Depthwise separable convolution: each channel is filtered by itself, then a 1 x 1 convolution mixes the channels.

For one depthwise filter D_i for each of the M input channels (sifre2014rigid) and a pointwise matrix P (N, M), the two
in a row are one dense convolution with the kernel

.. math:: W_{o,i} = P_{o,i} D_i , \qquad
          \frac{k^2 M + M N}{k^2 M N} = \frac1N + \frac1{k^2} \ \text{ of its multiply-adds and weights}

(howard2017mobilenets, section 3.1), so for each input channel the kernels of all outputs are multiples of one k x k
filter. Xception (chollet2017xception) is a network of 36 convolutions, 34 of which are depthwise separable. Its author
found it best to have nothing between the two halves; ``between`` puts an activation there.

Left out is how Xception was trained: dropout of 0.5 before the classifier, averaged weights and the optional fully
connected layers.
"""

from collections import OrderedDict
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor, nn

from lib.architectures.shared.network import Network, scaled
from lib.architectures.shared.strides import check_strides, least
from lib.arguments import check_sizes
from lib.seeding import seeded

ACTIVATIONS: dict[str, Callable[[], nn.Module | None]] = {"none": lambda: None, "relu": nn.ReLU, "elu": nn.ELU}


class DepthwiseSeparable(nn.Sequential):
    """A depthwise and a pointwise convolution in a row, without biases: ``depthwise``, ``between``, ``pointwise``.

    inputs: channels of the input.
    outputs: channels of the output.
    kernel: height and width of the depthwise filters, odd; default 3. A border of zeros keeps the size.
    stride: of the depthwise convolution, default 1.
    between: layer between the two, for ``inputs`` channels; default none, and then the two are one dense convolution.

    Input (n, inputs, height, width). Raises ValueError for sizes below 1 and an even kernel.

    >>> block = DepthwiseSeparable(512, 512)
    >>> sum(p.numel() for p in block.parameters()), 9 * 512 + 512 * 512
    (266752, 266752)
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, between: nn.Module | None = None
    ) -> None:
        check_sizes({"inputs": inputs, "outputs": outputs, "kernel": kernel, "stride": stride})
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, so that a border keeps the size, not {kernel}")
        # method
        depthwise = nn.Conv2d(inputs, inputs, kernel, stride, kernel // 2, groups=inputs, bias=False)
        pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        # end of method
        middle = {} if between is None else {"between": between}
        super().__init__(OrderedDict(depthwise=depthwise, **middle, pointwise=pointwise))
        self.inputs, self.outputs = inputs, outputs


def dense_kernel(depthwise: Tensor, pointwise: Tensor, *, rank: int = 1) -> Tensor:
    r"""Return the kernel of the one dense convolution that equals a depthwise and a pointwise one in a row.

    .. math:: W_{o,i} = \sum_{r=1}^{R} P_{o,iR+r} D_{iR+r}

    depthwise: D (M R, 1, k_y, k_x), R filters for each of the M input channels, next to each other.
    pointwise: P (N, M R, 1, 1).
    rank: R, 1 or more; default 1.

    Returns (N, M, k_y, k_x). Raises ValueError for shapes that do not fit and for values that are not finite.

    >>> block = DepthwiseSeparable(4, 6, kernel=5)
    >>> tuple(dense_kernel(block.depthwise.weight, block.pointwise.weight).shape)
    (6, 4, 5, 5)
    """
    check_sizes({"rank": rank})
    filters = len(depthwise) if depthwise.dim() == 4 and depthwise.shape[1] == 1 else 0
    if not filters or filters % rank or pointwise.dim() != 4 or pointwise.shape[1:] != (filters, 1, 1):
        raise ValueError(
            f"weights of {tuple(depthwise.shape)} and {tuple(pointwise.shape)} with rank {rank}: the depthwise one must"
            " be (channels x rank, 1, height, width), the pointwise one (outputs, channels x rank, 1, 1)"
        )
    _check_finite(depthwise, pointwise)
    # W_oi = sum over r of P_oir D_ir
    return (pointwise * depthwise.transpose(0, 1)).unflatten(1, (-1, rank)).sum(2)


def separable(weight: Tensor, *, rank: int = 1) -> tuple[Tensor, Tensor]:
    """Return the depthwise and the pointwise weight whose dense kernel is nearest to a given one.

    For each input channel, the kernels of all outputs are a matrix (N, k_y k_x); its first R singular vectors give the
    least squared error. The rank min(N, k_y k_x) is exact.

    weight: of a dense convolution of one group, (N, M, k_y, k_x).
    rank: R, depthwise filters for each input channel, 1 to min(N, k_y k_x); default 1.

    Returns (M R, 1, k_y, k_x) and (N, M R, 1, 1), in the type of the weight. Raises ValueError for another shape or
    rank, and for values that are not finite.

    >>> depthwise, pointwise = separable(nn.Conv2d(4, 6, 3).weight)
    >>> tuple(depthwise.shape), tuple(pointwise.shape)
    ((4, 1, 3, 3), (6, 4, 1, 1))
    """
    if weight.dim() != 4 or not weight.numel():
        raise ValueError(
            f"a weight of {tuple(weight.shape)}: it must be (outputs, inputs, height, width), none of them 0"
        )
    outputs, _, height, width = weight.shape
    check_sizes({"rank": rank})
    if rank > min(outputs, height * width):
        raise ValueError(
            f"rank must be 1 to {min(outputs, height * width)} for a weight of {tuple(weight.shape)}, not {rank}"
        )
    _check_finite(weight)
    # method
    left, values, right = torch.linalg.svd(weight.detach().double().transpose(0, 1).flatten(2), full_matrices=False)
    roots = values[:, :rank].sqrt()  # either side gets the root of each singular value
    depthwise = roots[:, :, None] * right[:, :rank]  # (M, R, k_y k_x)
    pointwise = left[:, :, :rank] * roots[:, None]  # (M, N, R)
    # end of method
    return (
        depthwise.reshape(-1, 1, height, width).to(weight.dtype),
        pointwise.transpose(0, 1).reshape(outputs, -1, 1, 1).to(weight.dtype),
    )


def cost_ratio(outputs: int, *, kernel: int = 3) -> Fraction:
    """Return the share of a dense convolution's multiply-adds that a depthwise separable one has: exactly 1/N + 1/k^2.

    outputs: N, channels of the output.
    kernel: k, height and width of the filters; default 3.

    Raises ValueError for sizes below 1. Source: howard2017mobilenets, section 3.1.

    >>> cost_ratio(512), float(1 / cost_ratio(512))
    (Fraction(521, 4608), 8.844529750479847)
    """
    check_sizes({"outputs": outputs, "kernel": kernel})
    return Fraction(1, outputs) + Fraction(1, kernel**2)


class XceptionBlock(nn.Module):
    """Depthwise separable convolutions with batch norm, ReLU before each, and a shortcut around them all.

    channels: of the input, then of the output of each convolution; two or more.
    stride: 1, or 2 for a 3 x 3 max-pool of stride 2 at the end; default 1.
    first_relu: whether a ReLU comes before the first convolution, too. Default True.
    between: activation between depthwise and pointwise: "none" (default), "relu" or "elu".

    The shortcut is a 1 x 1 convolution with batch norm where channels or stride change.
    Raises ValueError for fewer channels, another stride and an unknown activation.
    """

    def __init__(
        self, channels: tuple[int, ...], *, stride: int = 1, first_relu: bool = True, between: str = "none"
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            raise ValueError(f"channels must be those of the input and of one output or more, not {channels!r}")
        check_strides((stride,), count=1)
        body: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (inputs, outputs) in enumerate(pairwise(channels), 1):
            body |= {f"relu{i}": nn.ReLU()} if i > 1 or first_relu else {}
            body[f"conv{i}"] = DepthwiseSeparable(inputs, outputs, between=_activation(between))
            body[f"bn{i}"] = nn.BatchNorm2d(outputs)
        body |= {"pool": nn.MaxPool2d(3, 2, padding=1)} if stride == 2 else {}
        self.body, self.shortcut = nn.Sequential(body), nn.Sequential()
        if stride == 2 or channels[0] != channels[-1]:
            conv = nn.Conv2d(channels[0], channels[-1], 1, stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels[-1])))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def xception(
    seed: int = 0,
    *,
    channels: int = 3,
    classes: int = 1000,
    width: float = 1.0,
    middle: int = 8,
    strides: tuple[int, ...] = (2, 2, 2, 2, 2),
    between: str = "none",
) -> Network:
    """Build Xception (chollet2017xception, figure 5).

    With the defaults it has 22,855,952 parameters. As in the author's own code the first two convolutions have no
    border, so 299 pixels become 147; the max-pools have one of a pixel on each side.

    seed: of the initial weights, default 0.
    channels: of the images, default 3.
    classes: number of outputs, 2 or more, default 1000.
    width: factor above 0 for the channels of all layers, default 1.
    middle: blocks of the middle flow, 0 or more, default 8.
    strides: of the first convolution and of blocks 2, 3, 4 and of the last block; five numbers, each 1 or 2. The
        default is for 299 pixels; (1, 1, 2, 2, 2) leaves 4 x 4 of images of 32.
    between: activation between depthwise and pointwise: "none" (default, the paper's), "relu" or "elu".

    Input (n, channels, height, width), output (n, classes) logits.
    Raises ValueError for sizes, widths, strides and activations other than these.

    >>> with torch.device("meta"):
    ...     network = xception()
    >>> sum(p.numel() for p in network.parameters())
    22855952
    """
    check_sizes({"channels": channels, "classes": classes})
    check_strides(strides, count=5)
    check_sizes({"middle": middle}, {"middle": 0})
    _activation(between)  # refuses before anything is built
    w = {n: scaled(n, width) for n in (32, 64, 128, 256, 728, 1024, 1536, 2048)}
    with seeded(seed):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers |= {"conv1": nn.Conv2d(channels, w[32], 3, strides[0], bias=False), "bn1": nn.BatchNorm2d(w[32])}
        layers |= {"relu1": nn.ReLU(), "conv2": nn.Conv2d(w[32], w[64], 3, bias=False), "bn2": nn.BatchNorm2d(w[64])}
        layers |= {"relu2": nn.ReLU()}
        entry = zip((64, 128, 256), (128, 256, 728), strides[1:4], strict=True)
        for i, (n, m, stride) in enumerate(entry, 2):
            layers[f"block{i}"] = XceptionBlock((w[n], w[m], w[m]), stride=stride, first_relu=i > 2, between=between)
        for i in range(5, 5 + middle):
            layers[f"block{i}"] = XceptionBlock((w[728],) * 4, between=between)
        layers["block_last"] = XceptionBlock((w[728], w[728], w[1024]), stride=strides[4], between=between)
        for i, (n, m) in enumerate(((1024, 1536), (1536, 2048)), 3):
            layers[f"conv{i}"] = DepthwiseSeparable(w[n], w[m], between=_activation(between))
            layers |= {f"bn{i}": nn.BatchNorm2d(w[m]), f"relu{i}": nn.ReLU()}
        layers |= {"pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "fc": nn.Linear(w[2048], classes)}
    # two 3 x 3 convolutions without a border, the first of them with a stride, come before the other strides
    return Network(layers, channels=channels, least=strides[0] * (least(strides[1:]) + 1) + 3)


def _activation(name: str) -> nn.Module | None:
    if name not in ACTIVATIONS:
        raise ValueError(f"between must be one of {', '.join(ACTIVATIONS)}, not {name!r}")
    return ACTIVATIONS[name]()


def _check_finite(*tensors: Tensor) -> None:
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise ValueError("the weight has NaN or infinity: all values must be finite")
