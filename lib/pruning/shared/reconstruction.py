r"""Measure what the next layers read of each channel, and give new weights to layers that read too little.

A layer computes :math:`y_o = \sum_c \hat x_{o,c} + b_o`, where :math:`\hat x_{o,c} = \sum_k W_{o,c,k}\, x_{c,k}` is
what channel c contributes to output o at one place. If each contribution is multiplied by :math:`\beta_c`, which is 0
for a channel that is gone, the squared error of all outputs is

.. math:: \sum_{o,\,\text{places}} \Big(\sum_c (1 - \beta_c)\, \hat x_{o,c}\Big)^2 = (1-\beta)^\top G\, (1-\beta),
   \qquad G_{cd} = \sum_{o,\,\text{places}} \hat x_{o,c}\, \hat x_{o,d},

so the matrix G of a group is all that is needed to choose among its channels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from lib import running, structure, weights
from lib.datasets import Split

ConvolutionOrLinear = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
Solve = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def sampled(
    model: nn.Module, names: Sequence[str], split: Split, *, images: int = 200, places: int = 10, seed: int = 0
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Sample what layers read and what they answer, at random places of random images.

    The same seed draws the same images and places in networks of the same shape.

    model: any network; it is left as it was.
    names: names of convolution and linear layers.
    split: samples to run through the network; labels are not read.
    images: number of images to draw, 1 or more. Default 200.
    places: number of places to draw from each map, 1 or more; all of them where there are fewer. Default 10.
    seed: seed of the draws. Default 0.

    Yields for each batch of images, and each layer in the order in which they run: its name, its patches (n, inputs, k)
    and its answers (n, outputs) without the bias, both float64. k is the number of positions of the kernel, 1 for a
    linear layer.
    Raises ValueError for an empty split, numbers out of range, and a name of no convolution or linear layer.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3))
    >>> split = Split(torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))
    >>> [(name, patches.shape, answers.shape) for name, patches, answers in sampled(model, ["0"], split, places=5)]
    [('0', torch.Size([10, 1, 9]), torch.Size([10, 4]))]
    """
    _check(split, images, places)
    layers = {name: _accepted(model, name) for name in names}
    drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:images]
    generators = {name: torch.Generator().manual_seed(seed) for name in names}
    with running.captured(model, names) as flow, running.evaluating(model):
        for batch in split.images[drawn].split(100):
            running.logits(model, batch)
            for name, inputs in flow.inputs.items():
                yield name, *_at_places(layers[name], inputs, flow.outputs[name], places, generators[name])


def _check(split: Split, images: int, places: int, outputs: int = 1) -> None:
    split.check_not_empty("to see what the layers read")
    if images < 1 or places < 1:
        raise ValueError(f"images and places must be 1 or more, not {images} and {places}")
    if outputs < 1:
        raise ValueError(f"outputs must be 1 or more, not {outputs}")


def _accepted(model: nn.Module, name: str) -> ConvolutionOrLinear:
    layer = weights.layer_named(model, name)
    if not isinstance(layer, ConvolutionOrLinear):
        raise ValueError(f"layer {name!r} must be a convolution or linear, not {type(layer).__name__}")
    return layer


def _at_places(
    layer: ConvolutionOrLinear, inputs: Tensor, outputs: Tensor, places: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    if isinstance(layer, nn.Linear):  # a convolution of kernel 1 over all dimensions but the last, or over one place
        inputs, outputs = (x.movedim(-1, 1).reshape(len(x), x.shape[-1], -1) for x in (inputs, outputs))
        steps = [(1, 1, 1)]
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
        steps = list(zip(layer.stride, layer.dilation, layer.kernel_size, strict=True))
    n, sizes = len(outputs), outputs.shape[2:]
    drawn = torch.rand(n, sizes.numel(), generator=generator).argsort(1)[:, :places]
    image = torch.arange(n).repeat_interleave(drawn.shape[1])
    where = torch.unravel_index(drawn.flatten(), sizes)
    spread = [1] * len(sizes)
    index = [image.reshape(-1, *spread)]
    for axis, (stride, dilation, width) in enumerate(steps):  # axis + 1 of the index runs over the kernel's positions
        across = [-1 if other == axis else 1 for other in range(len(sizes))]
        index.append((where[axis] * stride).reshape(-1, *spread) + (torch.arange(width) * dilation).reshape(1, *across))
    patches = inputs.movedim(1, -1)[tuple(index)].movedim(-1, 1).flatten(2)
    answers = outputs.movedim(1, -1)[(image, *where)]
    return patches.double(), answers.double() - (0 if layer.bias is None else layer.bias.double())


def kernels(layer: weights.Layer) -> Tensor:
    """Give the weight of a layer as one matrix for each position of its kernel.

    layer: a convolution or linear layer.

    Returns (outputs, inputs, k), float64; for a grouped convolution with zeros between separate groups.

    >>> kernels(nn.Conv2d(4, 6, 3, groups=2)).shape
    torch.Size([6, 4, 9])
    """
    weight = layer.weight.detach().double().reshape(*layer.weight.shape[:2], -1)
    g = getattr(layer, "groups", 1)
    if g == 1:
        return weight
    outputs, inputs, k = weight.shape
    whole = torch.zeros(g, outputs // g, g, inputs, k, dtype=weight.dtype)
    whole[torch.arange(g), :, torch.arange(g)] = weight.reshape(g, outputs // g, inputs, k)
    return whole.reshape(outputs, g * inputs, k)


def contributions(patches: Tensor, weight: Tensor) -> Tensor:
    """Give what each channel adds to each output; summed over the channels, that is the answer without the bias.

    patches: (n, channels, k), what the layer reads.
    weight: (outputs, channels, k).

    Returns (n, outputs, channels).

    >>> contributions(torch.tensor([[[2.0], [3.0]]]), torch.tensor([[[10.0], [1.0]]]))
    tensor([[[20.,  3.]]])
    """
    # method
    return torch.einsum("nck,ock->noc", patches, weight)
    # end of method


def grams(
    model: nn.Module, split: Split, *, images: int = 200, places: int = 10, outputs: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    r"""Measure the matrix G of every layer whose filters may go.

    Where several layers read the channels, their matrices are averaged, each divided by the energy of its answer. So
    :math:`(1-\beta)^\top G (1-\beta)` is a relative error: 1 if all channels go. Layers that an addition ties share one
    G.

    model: any network that can be traced; it is left as it was.
    split: samples to run through the network; labels are not read.
    images: number of images to draw, 1 or more. Default 200.
    places: number of places to draw from each map, 1 or more; all of them where there are fewer. Default 10.
    outputs: number of outputs to draw from each next layer, 1 or more; all of them where there are fewer. Default 64.
    seed: seed of the draws. Default 0.

    Returns layer name -> (channels, channels) float64.
    Raises ValueError for an empty split, numbers out of range, inputs that are not finite, and a network that cannot be
    traced.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    >>> split = Split(torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.long))
    >>> gram = grams(model, split)["0"]
    >>> gram.shape, round(gram.sum().item(), 6)
    (torch.Size([4, 4]), 1.0)
    """
    _check(split, images, places, outputs)
    groups = structure.groups(model, split.images[:1])
    names = list(dict.fromkeys(name for group in groups for name in group.consumers))
    drawn = {}
    for name in names:
        weight = kernels(weights.layer_named(model, name))
        drawn[name] = weight[torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))[:outputs]]
    sums: dict[tuple[int, str], Tensor] = {}
    for name, patches, _ in sampled(model, names, split, images=images, places=places, seed=seed):
        for i, columns in ((i, group.consumers[name]) for i, group in enumerate(groups) if name in group.consumers):
            read, weight = patches[:, columns].flatten(2), drawn[name][:, columns].flatten(2)
            for part in read.split(max(1, 2**22 // (len(weight) * len(columns)))):
                rows = contributions(part, weight).flatten(0, 1)
                sums[i, name] = sums.get((i, name), 0) + rows.T @ rows
    matrices: dict[str, Tensor] = {}
    for i, group in enumerate(groups):
        parts = [sums[i, name] / sums[i, name].sum().clamp_min(1e-12) for name in group.consumers]
        matrix = sum(parts, torch.zeros(group.channels, group.channels, dtype=torch.float64)) / max(1, len(parts))
        if not torch.isfinite(matrix).all():
            raise ValueError(
                f"what the layers after {group.producers[0]!r} read must be finite: look for NaN in the split"
            )
        matrices |= dict.fromkeys(group.producers, matrix)
    return matrices


def reconstruct(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    split: Split,
    solve: Solve,
    *,
    images: int = 1000,
    places: int = 10,
    seed: int = 0,
) -> nn.Module:
    """Give the layers that read removed channels new weights, in a masked copy of the model.

    The layers get their weights one after the other, in the order in which they run. What a layer reads comes from the
    copy as it is by then, what it should answer from the model; so an error of an earlier layer is corrected and not
    passed on. Shrink the copy with the same masks afterwards.

    model: any network that can be traced; it is left as it was.
    masks: layer name -> (filters,) bool, True = keep.
    split: samples to fit to; labels are not read.
    solve: function of patches (n, inputs, k), answers (n, outputs), weight (outputs, inputs, k) and channel (inputs,)
        that returns the new weight. It is only shown what is kept; ``channel`` numbers the channel that an input
        belongs to.
    images: number of images to draw, 1 or more. Default 1000.
    places: number of places to draw from each map, 1 or more; all of them where there are fewer. Default 10.
    seed: seed of the draws. Default 0.

    Returns the copy, of the size of the model.
    Raises ValueError for an empty split, numbers out of range, and masks that :func:`lib.structure.mask` refuses.
    """
    _check(split, images, places)
    example = split.images[:1]
    masked = structure.mask(model, masks, example)
    groups = structure.groups(model, example)
    kept = {name: mask for group in groups for name, mask in _joint(group, masks)}
    inputs: dict[str, Tensor] = {}
    channel: dict[str, Tensor] = {}
    for number, group in enumerate(groups):
        for name, columns in group.consumers.items():
            width = kernels(weights.layer_named(model, name)).shape[1]
            inputs.setdefault(name, torch.ones(width, dtype=torch.bool))
            channel.setdefault(name, -1 - torch.arange(width))
            channel[name][columns] = (number * width + torch.arange(group.channels))[:, None]
            if group.producers[0] in kept:
                inputs[name][columns] = kept[group.producers[0]][:, None]
    answers: dict[str, list[Tensor]] = {}
    short = [name for name, some in inputs.items() if not some.all()]
    for name, _, answer in sampled(model, short, split, images=images, places=places, seed=seed):
        answers.setdefault(name, []).append(answer.to(weights.layer_named(model, name).weight.dtype))
    for name, parts in answers.items():
        layer = weights.layer_named(masked, name)
        reads = sampled(masked, [name], split, images=images, places=places, seed=seed)
        patches = torch.cat([x for _, x, _ in reads])
        wanted = torch.cat(parts).double()
        weight = kernels(layer)
        rows = kept.get(name, torch.ones(len(weight), dtype=torch.bool))
        held = layer.weight.detach().double().reshape(*layer.weight.shape[:2], -1)
        blocks = getattr(layer, "groups", 1)
        chunks = zip(torch.arange(len(rows)).chunk(blocks), torch.arange(len(inputs[name])).chunk(blocks), strict=True)
        for b, (out, into) in enumerate(chunks):
            out, into = out[rows[out]], into[inputs[name][into]]
            new = solve(patches[:, into], wanted[:, out], weight[out[:, None], into], channel[name][into])
            held[out[:, None], into - b * held.shape[1]] = new
        layer.weight.data.copy_(held.reshape(layer.weight.shape))
    return masked


def _joint(group: structure.Group, masks: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The mask of a group, for each of its producers, whichever of them the masks name."""
    mask = next((masks[name] for name in group.producers if name in masks), None)
    return [] if mask is None else [(name, mask) for name in group.producers]
