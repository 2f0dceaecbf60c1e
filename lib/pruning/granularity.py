r"""Prune a convolution at four levels: single weights, kernels, strides inside kernels, whole feature maps.

A weight :math:`W \in \mathbb R^{C_o \times C_i \times k \times k}` is masked (anwar2017structured) at the level of

- a *feature map*: filter o goes, with all that the next layers compute from its map;
- a *kernel*: one mask value for each pair of filter and source map, :math:`M \in \{0,1\}^{C_o \times C_i}`;
- an *intra-kernel stride*: of the :math:`k^2` places of a kernel, row by row, those at
  :math:`o_i, o_i + s, o_i + 2s, \dots` stay, with the offset :math:`o_i < s` shared by **all** kernels of source map i;
- a *weight*: each by itself, without any structure.

A convolution is one matrix product: the kernel matrix :math:`C_o \times C_i k^2` times the feature matrix
:math:`C_i k^2 \times HW` of the patches. Strides take the same rows of the feature matrix away for all outputs, so

.. math:: n_i = \lceil (k^2 - o_i) / s \rceil, \qquad
          (C_o \times \textstyle\sum_i n_i) \cdot (\textstyle\sum_i n_i \times HW)

is still one dense product. Single weights and kernels leave rows that some output needs: both matrices keep their size.
"""

import copy
from collections.abc import Callable, Mapping
from numbers import Integral

import torch
from torch import Tensor, nn

from lib import measure, running, structure
from lib.arguments import check_one_of
from lib.pruning.shared.selection import check_masks, largest
from lib.weights import layer_named, replace

LEVELS = ("weight", "kernel", "stride", "map")
SELECTIONS = ("magnitude", "random")
LAYERS = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear  # what may compute, carry or read a map


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
    """Choose which weights of every 2-d convolution to keep, at one of four levels.

    :func:`lib.pruning.magnitude.apply` puts the masks into a network.

        >>> from lib import models
        >>> chosen = masks(models.lenet5(), torch.zeros(1, 1, 28, 28), level="kernel", density=0.5)
        >>> {name: int(mask.sum()) for name, mask in chosen.items()}
        {'conv1': 250, 'conv2': 12500}

    model: any network with a 2-d convolution, including grouped and depthwise ones. It is not changed.
    example_input: (n, channels, height, width); the level "map" traces the network with it.
    level: "weight", "kernel" and "map" keep a share of the weights, kernels or filters of each layer, and take
        ``density``; "stride" keeps every stride-th place of a kernel, and takes ``stride``. "map" also masks the linear
        layers, and convolutions of other dimensions, that compute or read a map that goes.
    density: share to keep, in (0, 1].
    stride: 1 or more; about 1 / stride of the weights are kept.
    select: "magnitude" (default) keeps what has the largest sum of magnitudes, "random" draws.
    seed: of the random draw.

    Returns layer name -> bool mask of the shape of the weight, True where it is kept.
    Raises ValueError for a value that is not accepted, a density or a stride at a level that does not take it, and a
    model without a 2-d convolution or, at the level "map", without a map that can go.
    Source: anwar2017structured.
    """
    check_one_of("level", level, LEVELS)
    check_one_of("select", select, SELECTIONS)
    convolutions = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    if not convolutions:
        raise ValueError(f"{type(model).__name__} has no 2-d convolution to prune")
    generator = torch.Generator().manual_seed(seed)

    def saliency(name: str) -> Tensor:
        weight = layer_named(model, name).weight
        if select == "random":
            return torch.rand(weight.shape, generator=generator, device=generator.device).to(weight.device)
        if not torch.isfinite(weight).all():
            raise ValueError(f"the weights of layer {name!r} hold NaN or infinity: finite ones are needed")
        return weight.detach().abs().to(torch.promote_types(weight.dtype, torch.float32))

    if level == "stride":
        if density is not None or not isinstance(stride, Integral) or stride < 1:
            raise ValueError(f"the level 'stride' takes stride, 1 or more, and no density, not {stride} and {density}")
        return {name: strided(saliency(name), layer.groups, stride) for name, layer in convolutions.items()}
    if stride is not None or density is None or not 0 < density <= 1:
        raise ValueError(f"the level {level!r} takes density, in (0, 1], and no stride, not {density} and {stride}")
    if level == "map":
        return _maps(model, example_input, density, saliency)
    if level == "kernel":
        return {name: _kernels(saliency(name), density) for name in convolutions}
    return {name: _share(saliency(name), density) for name in convolutions}


def _share(value: Tensor, density: float) -> Tensor:
    """Select the largest entries; in a layer of zeros, which has not been trained yet, the first ones."""
    return largest(value, density, candidates=None if value.any() else torch.ones_like(value, dtype=torch.bool))


def _kernels(value: Tensor, density: float) -> Tensor:
    return _share(value.sum((2, 3)), density)[:, :, None, None].expand_as(value).clone()


def strided(value: Tensor, groups: int, stride: int) -> Tensor:
    """Choose for each source map the offset that keeps the largest weights, the same for all kernels that read it.

    value: what each weight is worth, (filters, channels / groups, height, width).
    groups: of the convolution.
    stride: s, 1 or more; every s-th place of a kernel is kept, row by row.

    Returns a bool mask of the same shape, True where a weight is kept.

        >>> strided(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]), groups=1, stride=2).int().tolist()
        [[[[0, 1], [0, 1]]]]
    """
    # method
    places = value.shape[2] * value.shape[3]
    place = torch.arange(places, device=value.device)
    kept = torch.stack([place % stride == offset for offset in range(min(stride, places))])
    by_source = value.reshape(groups, -1, value.shape[1], places).sum(1)  # (groups, C_i / groups, k^2)
    share = (kept / kept.sum(1, keepdim=True)).to(value.dtype)
    offset = (by_source @ share.T).argmax(2)  # by the mean, since offset 0 may keep one more
    shared = kept[offset][:, None].expand(-1, value.shape[0] // groups, -1, -1)
    return shared.reshape(value.shape)
    # end of method


def _maps(
    model: nn.Module, example_input: Tensor, density: float, saliency: Callable[[str], Tensor]
) -> dict[str, Tensor]:
    """Mask rows of the layers that compute or carry a removed map, and columns of those that read it."""
    groups = structure.groups(model, example_input)
    layers = dict(model.named_modules())
    scores = {name: saliency(name).flatten(1).sum(1) for group in groups for name in group.producers}
    if not scores:
        raise ValueError(f"{type(model).__name__} has no feature map that can go: all are its outputs")
    kept = structure.keep(scores, fraction=1 - density, groups=groups, least=1)
    touched = {name for group in groups for name in (*group.producers, *group.carriers, *group.consumers)}
    masks = {
        name: torch.ones_like(layer.weight, dtype=torch.bool)
        for name, layer in layers.items()
        if isinstance(layer, nn.Conv2d) or (isinstance(layer, LAYERS) and name in touched)
    }
    for group in groups:
        removed = ~kept[group.producers[0]]
        rows = dict.fromkeys(group.producers, removed)
        rows |= {name: numbers[removed].flatten() for name, numbers in group.carriers.items()}
        for name, row in rows.items():
            if name in masks:  # batch norm has no weights to mask
                masks[name][row] = False
        for name, columns in group.consumers.items():
            if name not in masks:
                continue
            parts = getattr(layers[name], "groups", 1)
            if parts == 1:
                masks[name][:, columns[removed].flatten()] = False
            else:  # input c of a grouped convolution is read by its own group's filters alone
                blocks, width = masks[name].unflatten(0, (parts, -1)), masks[name].shape[1]
                blocks[columns[removed].flatten() // width, :, columns[removed].flatten() % width] = False
    return masks


def multiply_adds(model: nn.Module, masks: Mapping[str, Tensor], example_input: Tensor) -> int:
    """Count the multiply-adds of the masked layers for one input, without those of the removed weights.

    model: any network; it runs in evaluation mode and is not changed.
    masks: layer name -> bool mask of the shape of the weight, True where it is kept. Only these layers are counted:
        linear layers and convolutions, also transposed ones, each time that they run.
    example_input: (n, channels, height, width); its shape is used.

    Raises ValueError for a layer that does not exist, that is of another kind or that does not run, and for a mask of
    another shape.

        >>> layer = nn.Conv2d(2, 3, 3, padding=1)
        >>> multiply_adds(layer, {"": torch.ones(3, 2, 3, 3, dtype=torch.bool)}, torch.zeros(1, 2, 5, 7))
        1890
    """
    check_masks(masks, {name: layer_named(model, name).weight for name in masks})
    whole = measure.multiply_adds_by_layer(model, tuple(example_input.shape[1:]))
    running.check_ran(masks, whole)
    return sum(whole[name] // mask.numel() * int(mask.sum()) for name, mask in masks.items())


def rows(mask: Tensor) -> Tensor:
    """Find the rows of the feature matrix that at least one output needs.

    mask: (filters, channels, height, width), True where a weight is kept.

    Returns (channels · height · width,) bool.

        >>> rows(torch.tensor([[[[True, False]]], [[[True, False]]]])).tolist()
        [True, False]
    """
    return mask.flatten(1).any(0)


class LoweredConvolution(nn.Module):
    """A masked convolution as one dense product of the two matrices, without the rows that no output needs.

    Called with images (n, C_i, H, W), it returns (n, C_o, H', W'). What was frozen stays frozen.

    layer: a 2-d convolution in one group, with zero padding, given as numbers. It is copied.
    mask: bool, of the shape of the weight, True where it is kept.

    Raises ValueError for other convolutions and for a mask of another shape.

        >>> layer, mask = nn.Conv2d(2, 3, 3), torch.ones(3, 2, 3, 3, dtype=torch.bool)
        >>> mask[:, 1] = False  # no filter reads the second map
        >>> LoweredConvolution(layer, mask).kernel.shape
        torch.Size([3, 9])
    """

    needed: Tensor

    def __init__(self, layer: nn.Conv2d, mask: Tensor):
        super().__init__()
        if type(layer).forward is not nn.Conv2d.forward:
            raise ValueError(f"{layer} cannot be lowered: it has a forward pass of its own")
        if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise ValueError(f"{layer} cannot be lowered: accepted are groups=1 and zero padding given as numbers")
        if mask.shape != layer.weight.shape:
            raise ValueError(f"the mask must be of shape {tuple(layer.weight.shape)}, not {tuple(mask.shape)}")
        self.padding, self.stride, self.dilation = layer.padding, layer.stride, layer.dilation
        self.kernel_size, needed = layer.kernel_size, rows(mask)
        mask = mask.to(layer.weight.device)
        kernel = (layer.weight.detach() * mask).flatten(1)[:, needed.to(mask.device)].contiguous()  # C_o x sum n_i
        self.kernel = nn.Parameter(kernel, requires_grad=layer.weight.requires_grad)
        bias = layer.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        self.register_buffer("needed", needed.nonzero().flatten().to(mask.device))
        self.train(layer.training)

    def features(self, images: Tensor) -> Tensor:
        """Build the rows of the feature matrix that are needed, and no others.

        images: (n, C_i, H, W).

        Returns (n, rows, H', W').
        Raises ValueError for images of another number of dimensions.
        """
        if images.dim() != 4:
            raise ValueError(f"images must be (n, channels, height, width), not of shape {tuple(images.shape)}")
        (py, px), (sy, sx), (dy, dx), (ky, kx) = self.padding, self.stride, self.dilation, self.kernel_size
        padded = nn.functional.pad(images, (px, px, py, py)).contiguous()
        n, channels, height, width = padded.shape
        shape = (height - dy * (ky - 1) - 1) // sy + 1, (width - dx * (kx - 1) - 1) // sx + 1
        a, b, c, d = padded.stride()
        patches = padded.as_strided((n, channels, ky, kx, *shape), (a, b, c * dy, d * dx, c * sy, d * sx))
        return patches[:, self.needed // (ky * kx), self.needed // kx % ky, self.needed % kx]

    def forward(self, images: Tensor) -> Tensor:
        # method
        features = self.features(images)
        product = self.kernel @ features.flatten(2)
        # end of method
        if self.bias is not None:
            product = product + self.bias[:, None]
        return product.unflatten(2, features.shape[2:])


def lower(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Make masked convolutions really smaller: each that does not need all rows becomes one dense product.

    model: a dense network. It is not changed.
    masks: layer name -> bool mask of the shape of the weight, True where it is kept. Layers that need all rows, and
        layers of another kind, stay as they are.

    Returns a copy of the model, with a :class:`LoweredConvolution` in place of each such layer.
    Raises ValueError for a layer that does not exist or cannot be lowered, and for a mask of another shape.
    """
    model = copy.deepcopy(model)
    for name, mask in masks.items():
        layer = layer_named(model, name)
        if isinstance(layer, nn.Conv2d) and not rows(mask).all():
            try:
                model = replace(model, name, LoweredConvolution(layer, mask))
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from error
    return model
