r"""A convolutional network in integers, as it ran on processors without floating point (mamalet2007realtime).

Each layer has its own fixed-point format, with as many bits of fraction as the range of its numbers leaves; the range
is measured on images (roux2007embedded). With codes :math:`x = X 2^{-f_x}` and :math:`w = W 2^{-f_w}` of b bits,

.. math:: A = B + \sum_i W_i X_i, \qquad Y = (A + 2^{s-1}) \gg s, \quad s = f_x + f_w - f_y,

and the sum A fits 32 bits whatever the input: bits are taken from :math:`f_w` until every output has
:math:`2^{b-1} \sum_i |W_i| + |B| + 2^{s-1} < 2^{31}`. tanh is a table. A convolution with the kernel k, followed by the
mean of 2 x 2 windows, is one convolution of stride 2 with a kernel that is larger by one,

.. math:: \bar k = \tfrac14 \big( k * \mathbb 1_{2 \times 2} \big),

so four sums of 25 products become one of 36. The network is modeled on the Convolutional Face Finder (garcia2004cff),
with one deliberate difference: every map of the second stage reads all maps of the first.
"""

import copy
from collections import OrderedDict
from itertools import pairwise
from numbers import Integral
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from lib import running, weights
from lib.datasets import Split
from lib.precision.shared import chains, integers


def face_finder(seed: int = 0, *, channels: int = 1, classes: int = 10) -> nn.Sequential:
    """Build a face finder: twice convolution, mean of 2 x 2, factor and bias per map, tanh; then a neuron per map.

    It has 1,172 parameters for one channel. Input (n, channels, 28, 28), output (n, classes) logits. A larger image
    gives the logits of every 28 x 28 window, four pixels apart, (n, classes * rows * columns) (garcia2004cff).

    seed: of the random weights, default 0.
    channels: of the images, default 1.
    classes: number of outputs, default 10.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed))
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
        for name in ("s1", "s2"):
            # makes up for the spread that a mean of four loses if they are independent
            nn.init.constant_(weights.layer_named(model, name).weight, 2.0)
    return model


def fused_kernel(kernel: Tensor, *, step: int = 1) -> Tensor:
    """Add four copies of a kernel, one step apart: a fourth of the sum convolves and takes the mean of 2 x 2 at once.

    For integers the sum is exact, and taking a fourth is a shift by two.

    kernel: (..., height, width).
    step: the convolution's stride, default 1.

    Returns (..., height + step, width + step).

    >>> fused_kernel(torch.ones(1, 2, dtype=torch.int64))
    tensor([[1, 2, 1],
            [1, 2, 1]])
    """
    # method
    wide = nn.functional.pad(kernel, (0, step, 0, step))
    copies = (wide.roll((y, x), (-2, -1)) for y in (0, step) for x in (0, step))
    return sum(copies, start=torch.zeros_like(wide))
    # end of method


@torch.no_grad()
def fuse(model: nn.Sequential) -> nn.Sequential:
    """Merge each convolution with the AvgPool2d(2) and the factors for each map that come after it.

    model: a chain of the layers that :func:`lib.precision.shared.chains.chain` accepts; left unchanged.

    Returns a new network of plain layers that computes the same. A pooling with no convolution before it stays.
    Raises ValueError for other layers.

    >>> [type(layer).__name__ for layer in fuse(nn.Sequential(nn.Conv2d(1, 4, 5), nn.AvgPool2d(2), nn.Tanh()))]
    ['Conv2d', 'Tanh']
    """
    fused: list[nn.Module] = []
    for layer in chains.chain(model):
        before = fused[-1] if fused else None
        if isinstance(layer, nn.AvgPool2d) and _plain(before):
            step = before.stride[0]
            wide = fused_kernel(before.weight, step=step) / 4
            doubled = chains.geometry(before) | {"stride": (2 * step, 2 * step)}
            fused[-1] = _convolution(wide, before.bias, before, doubled)
        elif isinstance(before, nn.Conv2d) and _scales(layer):
            factor = layer.weight.flatten()
            bias = factor * before.bias if before.bias is not None else torch.zeros_like(factor)
            bias = bias + layer.bias if layer.bias is not None else bias
            fused[-1] = _convolution(before.weight * factor[:, None, None, None], bias, before, chains.geometry(before))
        else:
            fused.append(layer)
    return nn.Sequential(*fused)


def _plain(layer: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution with the same stride both ways and without dilation."""
    return isinstance(layer, nn.Conv2d) and layer.dilation == (1, 1) and layer.stride[0] == layer.stride[1]


def _scales(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a convolution that multiplies each map by one factor."""
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1) or layer.padding != (0, 0):
        return False
    return layer.groups == layer.in_channels == layer.out_channels and layer.stride == (1, 1)


def _convolution(weight: Tensor, bias: Tensor | None, like: nn.Conv2d, geometry: chains.Geometry) -> nn.Conv2d:
    outputs, inputs, height, width = weight.shape
    place: Any = {"device": weight.device, "dtype": weight.dtype, **geometry}
    layer = nn.Conv2d(inputs * geometry["groups"], outputs, (height, width), bias=bias is not None, **place)
    layer.weight.copy_(weight)
    if bias is not None and layer.bias is not None:
        layer.bias.copy_(bias)
    return layer.requires_grad_(like.weight.requires_grad)


class IntegerSum(nn.Module):
    """A convolution in integers; a linear layer is a convolution of a single pixel.

    Its buffers are ``kernel``, (outputs, inputs / groups, height, width) codes, int8 up to 8 bits, else int16;
    ``bias``, (outputs,) int32; and ``formats``: the fractions of input, kernel and output, and the bits of an output.

    layer: the layer whose weights are encoded; left unchanged.
    bits: of the codes of input and kernel, 2 to 16.
    fraction: bits of fraction of the input.
    wanted: bits of fraction that the output should have; it gets fewer if the sums have fewer.
    output_bits: of an output's code, up to 16; or 32 for the sum itself, with its own bits of fraction.
    """

    kernel: Tensor
    bias: Tensor
    formats: Tensor

    def __init__(self, layer: nn.Conv2d | nn.Linear, *, bits: int, fraction: int, wanted: int, output_bits: int):
        super().__init__()
        self.linear = isinstance(layer, nn.Linear)
        pixel = chains.Geometry(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
        self.geometry = pixel if isinstance(layer, nn.Linear) else chains.geometry(layer)
        weight = layer.weight.detach().double().cpu().numpy()
        weight = weight[:, :, None, None] if self.linear else weight
        bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().cpu().numpy()
        own = integers.fraction(abs(weight).max(), bits)  # the kernel's bits of fraction
        # method
        while True:  # bits are taken from the kernel until no input can make a sum overflow
            kernel = integers.encode(weight, own, bits)
            start = np.floor(bias * 2.0 ** (fraction + own) + 0.5)
            output = fraction + own if output_bits == 32 else min(wanted, fraction + own + 15)
            shift = fraction + own - output
            largest = 2.0 ** (bits - 1) * np.abs(kernel.astype(np.int64)).sum((1, 2, 3)) + abs(start)
            if (largest + 2.0 ** max(0, shift - 1)).max() < 2**31:
                break
            own -= 1
        # end of method
        self.register_buffer("kernel", torch.from_numpy(kernel.astype(np.int8 if bits <= 8 else np.int16)))
        self.register_buffer("bias", torch.from_numpy(start.astype(np.int32)))
        self.register_buffer("formats", torch.tensor([fraction, own, output, output_bits], dtype=torch.int16))

    @property
    def fraction(self) -> int:
        """Bits of fraction of the output."""
        return int(self.formats[2])

    def forward(self, codes: np.ndarray) -> np.ndarray:
        """Codes (n, inputs, height, width), or (n, inputs) for a linear layer, to the codes of the outputs."""
        before, kernel, after, bits = self.formats.tolist()
        codes = codes[:, :, None, None] if self.linear else codes
        out = integers.convolve(
            codes, self.kernel.numpy(), self.bias.numpy(), shift=before + kernel - after, bits=bits, **self.geometry
        )
        return out[:, :, 0, 0] if self.linear else out


class IntegerNetwork(nn.Module):
    """What :func:`convert` makes: a network that takes images (n, channels, height, width) and computes in integers.

    Its state is only integer tensors, so `storage.save` writes what a device would hold. One of them is named after the
    bits, so a network of other bits does not load this state.

    steps: layers of a chain, those with a weight as :class:`IntegerSum`.
    bits: of the codes that flow between them.
    fraction: bits of fraction of the images' codes.
    """

    def __init__(self, steps: list[nn.Module], *, bits: int, fraction: int):
        super().__init__()
        self.steps, self.bits = nn.ModuleList(steps), bits
        self.register_buffer(f"input_of_{bits}_bits", torch.tensor([fraction], dtype=torch.int16))

    @property
    def input(self) -> Tensor:
        """Bits of fraction of the images' codes, (1,)."""
        return self.get_buffer(f"input_of_{self.bits}_bits")

    def forward(self, images: Tensor) -> Tensor:
        """The outputs as float32, in the shape that the last layer gives. Raises ValueError for NaN."""
        codes, fraction = self.trace(images)[-1]
        return torch.from_numpy(codes.astype(np.float32) * np.float32(2.0**-fraction)).to(images.device)

    def trace(self, images: Tensor) -> list[tuple[np.ndarray, int]]:
        """The codes of the images and those after each step, with their bits of fraction."""
        fraction, numbers = int(self.input), images.detach().double().cpu().numpy()
        if np.isnan(numbers).any():
            raise ValueError("the images hold NaN: numbers are needed")
        traced = [(integers.encode(numbers, fraction, self.bits), fraction)]
        for step in self.steps:
            codes, fraction = traced[-1]
            if isinstance(step, IntegerSum):
                traced.append((step(codes), step.fraction))
            elif isinstance(step, nn.Tanh):
                highest, table = 2 ** (self.bits - 1) - 1, integers.tanh_table(self.bits)
                shift = fraction - integers.TANH_FRACTION
                traced.append((integers.tanh(codes, table, shift, highest), self.bits - 1))
            elif isinstance(step, nn.ReLU):
                traced.append((np.maximum(codes, 0), fraction))
            elif isinstance(step, nn.AvgPool2d):
                traced.append((integers.mean_pool(codes), fraction))
            elif isinstance(step, nn.MaxPool2d):
                size, stride, padding = step.kernel_size, step.stride, step.padding
                assert isinstance(size, int) and isinstance(stride, int) and isinstance(padding, int)  # see chain
                traced.append((integers.max_pool(codes, size=size, stride=stride, padding=padding), fraction))
            else:
                traced.append((codes.reshape(len(codes), -1), fraction))
        return traced


@torch.no_grad()
def memory_bytes(model: nn.Module, images: Tensor) -> tuple[int, int]:
    """The memory that a network needs to run, in bytes: for its parameters, and for its maps.

    Two maps are held at a time, the one that is read and the one that is computed from it: the largest pair counts.

    model: an integer network, or a chain of float layers; a compressed weight counts twice, as stored and as the dense
        weight, since both are held.
    images: (n, channels, height, width) that flow through it.

    >>> memory_bytes(nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 4))
    (40, 24)
    """
    if isinstance(model, IntegerNetwork):
        held = sum(value.nbytes for value in model.state_dict().values())
        maps = [codes.nbytes for codes, _ in model.trace(images)]
    else:
        held = sum(parameter.nbytes for parameter in model.parameters())
        dense = dict(weights.layers(model))
        held += sum(dense[name].weight.nbytes for name, *_ in weights.compressed(model))
        maps = [images.nbytes]
        for layer in chains.chain(model):
            images = layer(images)
            maps.append(images.nbytes)
    return held, max((a + b for a, b in pairwise(maps)), default=maps[0])


@torch.no_grad()
def convert(model: nn.Module, split: Split, *, bits: int = 16) -> IntegerNetwork:
    """Convert a network to integers, each layer in the format that its numbers on some images need.

    model: a chain of the layers that :func:`lib.precision.shared.chains.chain` accepts; left unchanged.
    split: images on which the range of each layer's numbers is measured.
    bits: of weights and of activations, 2 to 16, default 16; the input of a tanh has 16, the last sum 32.

    Returns a new network. Raises ValueError for other layers and bits, an empty split, and numbers that are not finite
    (mamalet2007realtime, roux2007embedded).

    >>> model, split = face_finder(), Split(torch.rand(2, 1, 28, 28), torch.zeros(2))
    >>> network = convert(fuse(model), split)
    >>> {value.dtype for value in network.state_dict().values()} == {torch.int16, torch.int32}
    True
    """
    if isinstance(bits, bool) or not isinstance(bits, Integral):
        raise ValueError(f"bits must be in 2..16, not {bits}: a whole number is needed")
    if not 2 <= bits <= 16:
        raise ValueError(f"bits must be in 2..16, not {bits}")
    bits = int(bits)
    split.check_not_empty("to see the ranges")
    layers = list(chains.named(model))
    sums = [i for i, (_, layer) in enumerate(layers) if isinstance(layer, nn.Conv2d | nn.Linear)]
    if not sums:
        raise ValueError(
            f"{type(model).__name__} has no layer with a weight: accepted are linear and convolution layers"
        )
    values = split.images.clone()  # a ReLU may compute in place
    steps: list[nn.Module] = []
    start = fraction = _fraction(values, "the images", bits)
    for i, (name, layer) in enumerate(layers):
        if isinstance(layer, nn.Conv2d | nn.Linear) and values.dim() != (2 if isinstance(layer, nn.Linear) else 4):
            raise ValueError(
                f"{name} gets numbers of shape {tuple(values.shape)}: convolutions take images, linear layers rows"
            )
        values = running.logits(layer, values)
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            steps.append(copy.deepcopy(layer))
            fraction = bits - 1 if isinstance(layer, nn.Tanh) else fraction
            continue
        if not layer.weight.numel():
            raise ValueError(f"{name} has no weights: at least one input and one output are needed")
        following = layers[i + 1][1] if i + 1 < len(layers) else None
        wanted, width = _fraction(values, f"the outputs of {name}", bits), bits
        _fraction(layer.weight, f"the weights of {name}", bits)
        if isinstance(following, nn.Tanh):
            wanted, width = integers.TANH_FRACTION, 16
        elif i == sums[-1] and all(isinstance(later, nn.Flatten) for _, later in layers[i + 1 :]):
            width = 32
        step = IntegerSum(layer, bits=bits, fraction=fraction, wanted=wanted, output_bits=width)
        steps.append(step)
        fraction = step.fraction
    return IntegerNetwork(steps, bits=bits, fraction=start)


def _fraction(values: Tensor, what: str, bits: int) -> int:
    """Bits of fraction with which the values fit. Raises ValueError if none do, and if they are not finite."""
    peak = float(values.abs().max()) if values.numel() else 0.0
    if not np.isfinite(peak):
        raise ValueError(f"{what} hold NaN or infinity: finite numbers are needed")
    fraction = integers.fraction(peak, bits)
    if round(peak * 2.0**fraction) > 2 ** (bits - 1) - 1:
        raise ValueError(f"{what} reach {peak:g}, too large for {bits} bits: scale them down")
    return fraction
