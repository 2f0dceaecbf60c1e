r"""Holes of four shapes in a convolution: single weights, kernels, strides inside kernels, whole feature maps.

A weight :math:`W \in \mathbb R^{C_o \times C_i \times k \times k}` is masked (anwar2017structured) at the level of

- a *feature map*: filter o goes, with all that the next layers compute from its map;
- a *kernel*: one mask value for each pair of filter and source map, :math:`M \in \{0,1\}^{C_o \times C_i}`;
- an *intra-kernel stride*: of the :math:`k^2` places of a kernel, row by row, those at
  :math:`o_i, o_i + s, o_i + 2s, \dots` stay, with the offset :math:`o_i < s` shared by **all** kernels of source map i;
- a *weight*: each by itself, which is no structure.

A convolution is one matrix product: the kernel matrix :math:`C_o \times C_i k^2` times the feature matrix
:math:`C_i k^2 \times HW` of the patches. Strides take the same rows of the feature matrix away for all outputs, so

.. math:: n_i = \lceil (k^2 - o_i) / s \rceil, \qquad
          (C_o \times \textstyle\sum_i n_i) \cdot (\textstyle\sum_i n_i \times HW)

is still one dense product. Single weights and kernels leave rows that some output needs: both matrices keep their size.
"""

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from lib import running, structure
from lib.pruning.shared.selection import largest

LEVELS = ("weight", "kernel", "stride", "map")


def masks(
    model: nn.Module,
    example_input: Tensor,
    *,
    level: str,
    density: float | None = None,
    stride: int | None = None,
    select: str = "magnitude",
    seed: int = 0,
) -> dict[str, Tensor]:
    """Layer name -> bool mask of its weight's shape, for every 2-d convolution (grouped and depthwise ones as well).

    example_input: (n, channels, height, width); the level "map" traces the network with it.
    level: "weight", "kernel" or "map" with ``density``, the share of each layer's weights, kernels or filters that
        stays; or "stride" with ``stride``, and then about 1 / stride of the weights stay. "map" masks linear layers,
        too, where these read a map that goes.
    select: "magnitude" keeps what has the largest sum of magnitudes, "random" draws with ``seed``.
    The masks go into a network by :func:`lib.pruning.magnitude.prune` with ``kept=masks``. Raises ValueError for other
    arguments, and for a model without a 2-d convolution.
    """
    _checked(level, density, stride, select)
    convolutions = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    if not convolutions:
        raise ValueError(f"{type(model).__name__} has no 2-d convolution to prune")
    generator = torch.Generator().manual_seed(seed)

    def saliency(weight: Tensor) -> Tensor:
        return weight.detach().abs() if select == "magnitude" else torch.rand(weight.shape, generator=generator)

    if level == "map":
        return _maps(model, example_input, density, saliency)
    found = {}
    for name, layer in convolutions.items():
        value = saliency(layer.weight)
        if level == "stride":
            found[name] = strided(value, layer.groups, stride)
        elif level == "kernel":
            found[name] = largest(value.sum((2, 3)), density)[:, :, None, None].expand_as(value).clone()
        else:
            found[name] = largest(value, density)
    return found


def _checked(level: str, density: float | None, stride: int | None, select: str) -> None:
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(LEVELS)}, not {level!r}")
    if select not in ("magnitude", "random"):
        raise ValueError(f"select must be 'magnitude' or 'random', not {select!r}")
    if level == "stride" and (density is not None or not isinstance(stride, int) or stride < 1):
        raise ValueError(f"the level 'stride' takes stride, 1 or more, and no density, not {stride} and {density}")
    if level != "stride" and (stride is not None or density is None or not 0 < density <= 1):
        raise ValueError(f"the level {level!r} takes density, in (0, 1], and no stride, not {density} and {stride}")


def strided(value: Tensor, groups: int, stride: int) -> Tensor:
    """For each source map the offset that keeps the largest weights, for all kernels that read it."""
    places = value.shape[2] * value.shape[3]
    kept = torch.stack([torch.arange(places) % stride == offset for offset in range(min(stride, places))])
    by_source = value.reshape(groups, -1, value.shape[1], places).sum(1)  # (groups, C_i / groups, k^2)
    offset = (by_source @ (kept / kept.sum(1, keepdim=True)).T).argmax(2)  # by the mean: offset 0 may keep one more
    shared = kept[offset][:, None].expand(-1, value.shape[0] // groups, -1, -1)
    return shared.reshape(value.shape)


def _maps(
    model: nn.Module, example_input: Tensor, density: float, saliency: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Rows of the layers that compute a map or carry it on, columns of those that read it."""
    found = structure.groups(model, example_input)
    layers = dict(model.named_modules())
    scores = {name: saliency(layers[name].weight).flatten(1).sum(1) for group in found for name in group.producers}
    if not scores:
        raise ValueError(f"{type(model).__name__} has no feature map that can go: all are its outputs")
    kept = structure.keep(scores, fraction=1 - density, groups=found, least=1)
    touched = {name for group in found for name in (*group.producers, *group.carriers, *group.consumers)}
    result = {
        name: torch.ones_like(layer.weight, dtype=torch.bool)
        for name, layer in layers.items()
        if isinstance(layer, nn.Conv2d) or (isinstance(layer, nn.Linear) and name in touched)
    }
    for group in found:
        removed = ~kept[group.producers[0]]
        rows = dict.fromkeys(group.producers, removed)
        rows |= {name: numbers[removed].flatten() for name, numbers in group.carriers.items()}
        for name, row in rows.items():
            if name in result:  # batch norm has no weights to mask
                result[name][row] = False
        for name, columns in group.consumers.items():
            if name in result and getattr(layers[name], "groups", 1) == 1:
                result[name][:, columns[removed].flatten()] = False
            elif name in result:  # input c of a grouped convolution is read by its own group's filters alone
                blocks, width = result[name].unflatten(0, (layers[name].groups, -1)), result[name].shape[1]
                blocks[columns[removed].flatten() // width, :, columns[removed].flatten() % width] = False
    return result


def multiply_adds(model: nn.Module, found: Mapping[str, Tensor], example_input: Tensor) -> int:
    """Multiply-adds of the named layers for one input, those with masked weights left out."""
    with running.captured(model, found) as flow, torch.no_grad():
        model(example_input[:1])
    return sum(flow.outputs[name][0, 0].numel() * int(mask.sum()) for name, mask in found.items())


def rows(mask: Tensor) -> Tensor:
    """(C_i k^2,) bool: the rows of the feature matrix that at least one output needs."""
    return mask.flatten(1).any(0)


class LoweredConvolution(nn.Module):
    """A masked convolution as one dense product of the two matrices, without the rows that no output needs.

    layer: a 2-d convolution in one group. mask: bool, of its weight's shape. Images (n, C_i, H, W) -> (n, C_o, H', W').
    """

    def __init__(self, layer: nn.Conv2d, mask: Tensor):
        super().__init__()
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise ValueError(f"{layer} cannot be lowered: accepted are groups=1, zeros around, padding as numbers")
        if mask.shape != layer.weight.shape:
            raise ValueError(f"the mask has the shape {tuple(mask.shape)}, the weight {tuple(layer.weight.shape)}")
        self.padding, self.stride, self.dilation = layer.padding, layer.stride, layer.dilation
        self.kernel_size, needed = layer.kernel_size, rows(mask)
        kernel = (layer.weight.detach() * mask).flatten(1)[:, needed]
        self.kernel = nn.Parameter(kernel.contiguous())  # C_o x sum n_i
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.register_buffer("needed", needed.nonzero().flatten())

    def features(self, images: Tensor) -> Tensor:
        """The needed rows of the feature matrix, (n, rows, H', W'). The others are never written."""
        (py, px), (sy, sx), (dy, dx), (ky, kx) = self.padding, self.stride, self.dilation, self.kernel_size
        padded = nn.functional.pad(images, (px, px, py, py)).contiguous()
        n, channels, height, width = padded.shape
        shape = (height - dy * (ky - 1) - 1) // sy + 1, (width - dx * (kx - 1) - 1) // sx + 1
        a, b, c, d = padded.stride()
        patches = padded.as_strided((n, channels, ky, kx, *shape), (a, b, c * dy, d * dx, c * sy, d * sx))
        return patches[:, self.needed // (ky * kx), self.needed // kx % ky, self.needed % kx]

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        product = self.kernel @ features.flatten(2)
        if self.bias is not None:
            product = product + self.bias[:, None]
        return product.unflatten(2, features.shape[2:])


def lower(model: nn.Module, found: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a dense model in which the masked convolutions that need not all rows are lowered ones."""
    model = copy.deepcopy(model)
    for name, mask in found.items():
        layer = model.get_submodule(name)
        if isinstance(layer, nn.Conv2d) and not rows(mask).all():
            if not name:
                return LoweredConvolution(layer, mask)
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, LoweredConvolution(layer, mask))
    return model
