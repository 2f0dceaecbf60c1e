r"""A convolutional network in integers, as it ran on processors without floating point (mamalet2007realtime).

Each layer has its own fixed-point format, with as many bits of fraction as the range of its numbers leaves; the range
is observed on images (roux2007embedded). With codes :math:`x = X 2^{-f_x}` and :math:`w = W 2^{-f_w}` of b bits,

.. math:: A = B + \sum_i W_i X_i, \qquad Y = (A + 2^{s-1}) \gg s, \quad s = f_x + f_w - f_y,

and the sum A fits 32 bits whatever the input: bits are taken from :math:`f_w` until every output has
:math:`2^{b-1} \sum_i |W_i| + |B| + 2^{s-1} < 2^{31}`. tanh is a table. A convolution with the kernel k and
the mean of windows of 2 x 2 behind it are one convolution of stride 2 with a kernel that is larger by one,

.. math:: \bar k = \tfrac14 \big( k * \mathbb 1_{2 \times 2} \big),

so four sums of 25 products become one of 36. The network follows the kind of the Convolutional Face Finder
(garcia2004cff), with one difference that is meant: all second maps read all first ones.
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib import running
from lib.datasets import Split
from lib.precision.shared import integers


def face_finder(seed: int = 0, *, channels: int = 1, classes: int = 10) -> nn.Sequential:
    """Two stages of convolution, mean of 2 x 2, factor and bias for each map, tanh; then a neuron for each map.

    1,172 parameters for one channel. Input (n, channels, 28, 28), output (n, classes) logits. A larger image gives the
    logits of every window of 28 x 28, four pixels apart, (n, classes * rows * columns).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            OrderedDict(
                c1=nn.Conv2d(channels, 4, 5),
                mean1=nn.AvgPool2d(2),
                s1=nn.Conv2d(4, 4, 1, groups=4),
                tanh1=nn.Tanh(),
                c2=nn.Conv2d(4, 14, 3),
                mean2=nn.AvgPool2d(2),
                s2=nn.Conv2d(14, 14, 1, groups=14),
                tanh2=nn.Tanh(),
                n1=nn.Conv2d(14, 14, 5, groups=14),
                tanh3=nn.Tanh(),
                n2=nn.Conv2d(14, classes, 1),
                flatten=nn.Flatten(),
            )
        )
        for scale in (model.s1, model.s2):
            nn.init.constant_(scale.weight, 2.0)  # what a mean of four loses in spread, if they are independent
    return model


def fused_kernel(kernel: Tensor, *, step: int = 1) -> Tensor:
    """The sum of four copies of a kernel (..., height, width), ``step`` apart; ``step`` is the convolution's stride.

    A fourth of it makes convolution and mean one; of integers the sum is exact, and the fourth a shift by two.
    """
    wide = nn.functional.pad(kernel, (0, step, 0, step))
    return sum(wide.roll((y, x), (-2, -1)) for y in (0, step) for x in (0, step))


@torch.no_grad()
def fuse(model: nn.Sequential) -> nn.Sequential:
    """The same function with each convolution, the AvgPool2d(2) and the factors for each map behind it made one.

    A new network of plain layers; the given one is not changed. A pooling with no convolution before it stays.
    Raises ValueError for a model that is no chain, and for layers as :func:`integer` does.
    """
    fused: list[nn.Module] = []
    for layer in chain(model):
        before = fused[-1] if fused else None
        plain = isinstance(before, nn.Conv2d) and before.dilation == (1, 1) and before.stride[0] == before.stride[1]
        if isinstance(layer, nn.AvgPool2d) and plain:
            fused[-1] = _convolution(
                before,
                fused_kernel(before.weight, step=before.stride[0]) / 4,
                before.bias,
                stride=2 * before.stride[0],
            )
        elif isinstance(before, nn.Conv2d) and _scales(layer):
            factor = layer.weight.flatten()
            bias = factor * before.bias if before.bias is not None else torch.zeros_like(factor)
            bias = bias + layer.bias if layer.bias is not None else bias
            fused[-1] = _convolution(before, before.weight * factor[:, None, None, None], bias)
        else:
            fused.append(layer)
    return nn.Sequential(*fused)


def _scales(layer: nn.Module) -> bool:
    """Whether a convolution multiplies each map by one factor."""
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1) or layer.padding != (0, 0):
        return False
    return layer.groups == layer.in_channels == layer.out_channels and layer.stride == (1, 1)


def _convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor | None, *, stride: int | None = None) -> nn.Conv2d:
    outputs, inputs, *size = weight.shape
    how = {"stride": stride or like.stride, "padding": like.padding, "dilation": like.dilation, "groups": like.groups}
    layer = nn.Conv2d(inputs * like.groups, outputs, tuple(size), bias=bias is not None, **how)
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
    return layer


def chain(model: nn.Module) -> Iterator[nn.Module]:
    """The layers of a chain in their order, without those that do nothing; ValueError for one not known here."""
    if isinstance(model, nn.Sequential):
        for layer in model:
            yield from chain(layer)
        return
    accepted = (
        isinstance(model, nn.Linear | nn.Tanh | nn.ReLU)
        or (isinstance(model, nn.Flatten) and model.start_dim == 1)
        or (isinstance(model, nn.Conv2d) and model.padding_mode == "zeros" and not isinstance(model.padding, str))
        or (
            isinstance(model, nn.AvgPool2d)
            and _square(model, 2)
            and (model.padding, model.divisor_override) == (0, None)
        )
        or (isinstance(model, nn.MaxPool2d) and _square(model) and model.dilation == 1)
    )
    if accepted:
        yield model
    elif not isinstance(model, nn.Dropout | nn.Identity):
        raise ValueError(
            f"{model} cannot be computed in integers here: accepted are chains (nn.Sequential) of Linear, Conv2d"
            " padded with zeros, AvgPool2d(2), square MaxPool2d, Tanh, ReLU, Flatten and Dropout"
        )


def _square(pool: nn.Module, size: int | None = None) -> bool:
    side, stride = pool.kernel_size, pool.stride
    whole = all(isinstance(each, int) for each in (side, stride, pool.padding))
    return whole and not pool.ceil_mode and (size is None or side == stride == size)


class IntegerSum(nn.Module):
    """A convolution, or a linear layer as one of a single pixel, in integers. Its formats stand in a buffer.

    kernel: (outputs, inputs / groups, height, width) codes, int8 up to 8 bits, else int16. bias: (outputs,) int32.
    formats: the fractions of input, kernel and output, and the bits of an output's code (32: the sum itself).
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear, *, bits: int, fraction: int, wanted: int, output_bits: int):
        super().__init__()
        self.linear = isinstance(layer, nn.Linear)
        how = {} if self.linear else {key: getattr(layer, key) for key in ("stride", "padding", "dilation", "groups")}
        self.how = how
        weight = layer.weight.detach().double().numpy()
        weight = weight[:, :, None, None] if self.linear else weight
        bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().numpy()
        found = integers.fraction(abs(weight).max(), bits)
        while True:  # bits are taken from the kernel until no input can make a sum overflow
            kernel = integers.encode(weight, found, bits)
            start = np.floor(bias * 2.0 ** (fraction + found) + 0.5)
            output = fraction + found if output_bits == 32 else min(wanted, fraction + found + 15)
            shift = fraction + found - output
            largest = 2.0 ** (bits - 1) * np.abs(kernel.astype(np.int64)).sum((1, 2, 3)) + abs(start)
            if (largest + 2.0 ** max(0, shift - 1)).max() < 2**31:
                break
            found -= 1
        self.register_buffer("kernel", torch.from_numpy(kernel.astype(np.int8 if bits <= 8 else np.int16)))
        self.register_buffer("bias", torch.from_numpy(start.astype(np.int32)))
        self.register_buffer("formats", torch.tensor([fraction, found, output, output_bits], dtype=torch.int16))

    @property
    def fraction(self) -> int:
        """Bits of fraction of the output."""
        return int(self.formats[2])

    def forward(self, codes: np.ndarray) -> np.ndarray:
        before, kernel, after, bits = self.formats.tolist()
        codes = codes[:, :, None, None] if self.linear else codes
        out = integers.convolve(
            codes, self.kernel.numpy(), self.bias.numpy(), shift=before + kernel - after, bits=bits, **self.how
        )
        return out[:, :, 0, 0] if self.linear else out


class IntegerNetwork(nn.Module):
    """What :func:`integer` makes: images (n, channels, height, width) in, outputs out, and integers in between.

    Its state is integer tensors alone, so `storage.save` writes what a device would hold.
    """

    def __init__(self, steps: list[nn.Module], *, bits: int, fraction: int):
        super().__init__()
        self.steps, self.bits = nn.ModuleList(steps), bits
        self.register_buffer("input", torch.tensor([fraction], dtype=torch.int16))

    def forward(self, images: Tensor) -> Tensor:
        codes, fraction = self.trace(images)[-1]
        return torch.from_numpy(codes.astype(np.float32) * np.float32(2.0**-fraction))

    def trace(self, images: Tensor) -> list[tuple[np.ndarray, int]]:
        """The codes of the images and those behind every step, each with its bits of fraction."""
        fraction = int(self.input)
        found = [(integers.encode(images.numpy(), fraction, self.bits), fraction)]
        for step in self.steps:
            codes, fraction = found[-1]
            if isinstance(step, IntegerSum):
                found.append((step(codes), step.fraction))
            elif isinstance(step, nn.Tanh):
                highest, table = 2 ** (self.bits - 1) - 1, integers.tanh_table(self.bits)
                shift = fraction - integers.TANH_FRACTION
                found.append((integers.tanh(codes, table, shift, highest), self.bits - 1))
            elif isinstance(step, nn.ReLU):
                found.append((np.maximum(codes, 0), fraction))
            elif isinstance(step, nn.AvgPool2d):
                found.append((integers.mean_pool(codes), fraction))
            elif isinstance(step, nn.MaxPool2d):
                how = {"size": step.kernel_size, "stride": step.stride, "padding": step.padding}
                found.append((integers.max_pool(codes, **how), fraction))
            else:
                found.append((codes.reshape(len(codes), -1), fraction))
        return found


@torch.no_grad()
def memory_bytes(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """Bytes of all parameters as they are held, and of the largest map with the one computed from it.

    model: an integer network, or a chain of float layers; of a compressed weight both what is stored and the dense
    weight count, as both are held.
    """
    if isinstance(model, IntegerNetwork):
        held = sum(value.nbytes for value in model.state_dict().values())
        maps = [codes.nbytes for codes, _ in model.trace(images)]
    else:
        held = sum(parameter.nbytes for parameter in model.parameters())
        held += sum(layer.weight.nbytes for layer in model.modules() if parametrize.is_parametrized(layer))
        maps = [images.nbytes]
        for layer in chain(model):
            images = layer(images)
            maps.append(images.nbytes)
    return held, max((a + b for a, b in pairwise(maps)), default=maps[0])


@torch.no_grad()
def integer(model: nn.Module, split: Split, *, bits: int = 16) -> IntegerNetwork:
    """The model in codes of ``bits`` bits, each layer in the format that its numbers on the split's images ask for.

    model: a chain of layers, see :func:`chain`; it is not changed. bits: 2 to 16, of weights and of what flows between
    layers; what a tanh reads has 16, the last sum 32. Raises ValueError for other layers and bits, an empty split, and
    numbers that are not finite.
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be in 2..16, not {bits}")
    if len(split) == 0:
        raise ValueError("the split is empty: at least one image is needed to see the ranges")
    layers = list(chain(model))
    sums = [i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d | nn.Linear)]
    if not sums:
        raise ValueError(
            f"{type(model).__name__} has no layer with a weight: accepted are linear and convolution layers"
        )
    values, steps = split.images.clone(), []  # a ReLU may compute in place
    start = fraction = integers.fraction(_peak(values, "the images"), bits)
    for i, layer in enumerate(layers):
        if i in sums and values.dim() != (2 if isinstance(layer, nn.Linear) else 4):
            raise ValueError(
                f"{layer} meets numbers of shape {tuple(values.shape)}: images, or flattened ones, are needed"
            )
        values = running.logits(layer, values)
        peak = _peak(values, f"the outputs of {layer}")
        if i in sums:
            if not layer.weight.numel():
                raise ValueError(f"{layer} has no weights: at least one input and one output are needed")
            behind = layers[i + 1] if i + 1 < len(layers) else None
            wanted, width = integers.fraction(peak, bits), bits
            if isinstance(behind, nn.Tanh):
                wanted, width = integers.TANH_FRACTION, 16
            elif i == sums[-1] and all(isinstance(each, nn.Flatten) for each in layers[i + 1 :]):
                width = 32
            step = IntegerSum(layer, bits=bits, fraction=fraction, wanted=wanted, output_bits=width)
            steps.append(step)
            fraction = step.fraction
        else:
            steps.append(layer)
            fraction = bits - 1 if isinstance(layer, nn.Tanh) else fraction
    return IntegerNetwork(steps, bits=bits, fraction=start)


def _peak(values: Tensor, what: str) -> float:
    peak = float(values.abs().max()) if values.numel() else 0.0
    if not np.isfinite(peak):
        raise ValueError(f"{what} hold NaN or infinity: finite numbers are needed")
    return peak
