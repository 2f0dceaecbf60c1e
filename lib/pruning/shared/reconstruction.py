r"""What the next layers read of each channel, and new weights for those that read too little of it.

A layer computes :math:`y_o = \sum_c \hat x_{o,c} + b_o`, where :math:`\hat x_{o,c} = \sum_k W_{o,c,k}\, x_{c,k}` is
what channel c contributes to output o at one place. If each contribution is scaled by :math:`\beta_c`, with 0 for a
channel that is gone, the squared error of all outputs is

.. math:: \sum_{o,\,\text{places}} \Big(\sum_c (1 - \beta_c)\, \hat x_{o,c}\Big)^2 = (1-\beta)^\top G\, (1-\beta),
   \qquad G_{cd} = \sum_{o,\,\text{places}} \hat x_{o,c}\, \hat x_{o,d},

so the matrix G of a group is all that a choice of its channels needs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from lib import running, structure
from lib.datasets import Split

Solve = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def sampled(
    model: nn.Module, names: Sequence[str], data: Split, *, images: int = 200, places: int = 10, seed: int = 0
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The name of a layer, its patches (n, inputs, k) and its answers (n, outputs) without the bias, in float64.

    names: convolution and linear layers; k is the number of positions of the kernel, 1 for a linear layer. They come in
        the order in which they run, once for each batch of images.
    images: how many images are drawn. places: how many places of each map, all of them where there are fewer.
    The same seed draws the same images and places in networks of the same shape. Raises ValueError for an empty split.
    """
    _checked(data, images, places)
    drawn = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:images]
    generators = {name: torch.Generator().manual_seed(seed) for name in names}
    modes = {module: module.training for module in model.modules()}
    try:
        with running.captured(model.eval(), names) as flow:
            for batch in data.images[drawn].split(100):
                running.logits(model, batch)
                for name, inputs in flow.inputs.items():
                    layer = model.get_submodule(name)
                    yield name, *_at_places(layer, inputs, flow.outputs[name], places, generators[name])
    finally:
        for module, mode in modes.items():
            module.training = mode


def _checked(data: Split, images: int, places: int) -> None:
    if len(data) == 0:
        raise ValueError("the split is empty: at least one image is needed to see what the layers read")
    if images < 1 or places < 1:
        raise ValueError(f"images and places must be 1 or more, not {images} and {places}")


def _at_places(
    layer: nn.Module, inputs: Tensor, outputs: Tensor, places: int, generator: torch.Generator
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
        across = [-1 if each == axis else 1 for each in range(len(sizes))]
        index.append((where[axis] * stride).reshape(-1, *spread) + (torch.arange(width) * dilation).reshape(1, *across))
    patches = inputs.movedim(1, -1)[tuple(index)].movedim(-1, 1).flatten(2)
    answers = outputs.movedim(1, -1)[(image, *where)]
    return patches.double(), answers.double() - (0 if layer.bias is None else layer.bias.double())


def kernels(layer: nn.Module) -> Tensor:
    """The weight of a convolution or linear layer as (outputs, inputs, k), float64; zero between separate groups."""
    weight = layer.weight.detach().double().reshape(*layer.weight.shape[:2], -1)
    g = getattr(layer, "groups", 1)
    if g == 1:
        return weight
    outputs, inputs, k = weight.shape
    whole = torch.zeros(g, outputs // g, g, inputs, k, dtype=weight.dtype)
    whole[torch.arange(g), :, torch.arange(g)] = weight.reshape(g, outputs // g, inputs, k)
    return whole.reshape(outputs, g * inputs, k)


def contributions(patches: Tensor, weight: Tensor) -> Tensor:
    """(n, outputs, channels): what each channel adds to each output; over the channels they sum to the answer.

    patches: (n, channels, k). weight: (outputs, channels, k).
    """
    return torch.einsum("nck,ock->noc", patches, weight)


def grams(
    model: nn.Module, data: Split, *, images: int = 200, places: int = 10, outputs: int = 64, seed: int = 0
) -> dict[str, Tensor]:
    """The matrix G (channels, channels) of every layer whose filters may go; layers that an addition ties share one.

    images, places: as in :func:`sampled`. outputs: how many outputs of each next layer are drawn, all where there are
    fewer. Where several layers read the channels, their matrices are added, each divided by the energy of its answer,
    so that :math:`(1-\\beta)^\\top G (1-\\beta)` is a relative error: 1 if all channels go.
    Raises ValueError for an empty split and for channels that are not finite.
    """
    _checked(data, images, places)
    found = structure.groups(model, data.images[:1])
    names = list(dict.fromkeys(name for group in found for name in group.consumers))
    weights = {}
    for name in names:
        weight = kernels(model.get_submodule(name))
        weights[name] = weight[torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))[:outputs]]
    sums = {(i, name): 0 for i, group in enumerate(found) for name in group.consumers}
    for name, patches, _ in sampled(model, names, data, images=images, places=places, seed=seed):
        for i, columns in ((i, group.consumers[name]) for i, group in enumerate(found) if name in group.consumers):
            read, weight = patches[:, columns].flatten(2), weights[name][:, columns].flatten(2)
            for part in read.split(max(1, 2**22 // (len(weight) * len(columns)))):
                rows = contributions(part, weight).flatten(0, 1)
                sums[i, name] = sums[i, name] + rows.T @ rows
    matrices = {}
    for i, group in enumerate(found):
        parts = [sums[i, name] / sums[i, name].sum().clamp_min(1e-12) for name in group.consumers]
        matrix = sum(parts, torch.zeros(group.channels, group.channels, dtype=torch.float64)) / max(1, len(parts))
        if not torch.isfinite(matrix).all():
            raise ValueError(
                f"what the layers behind {group.producers[0]!r} read is not finite: look for NaN in the data"
            )
        matrices |= dict.fromkeys(group.producers, matrix)
    return matrices


def reconstruct(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    data: Split,
    solve: Solve,
    *,
    images: int = 1000,
    places: int = 10,
    seed: int = 0,
) -> nn.Module:
    """A masked copy of the model (:func:`lib.structure.mask`) whose next layers make up for the channels that are gone.

    The layers that read masked channels get new weights one after the other, in the order in which they run: what a
    layer reads comes from the copy as it is by then, what it should answer from the model, so that an error of an
    earlier layer is corrected and not passed on. Shrink the copy with the same masks afterwards.
    solve: (patches (n, inputs, k), answers (n, outputs), weight (outputs, inputs, k), channel (inputs,)) -> new weight;
        only what is kept is in it, and ``channel`` numbers the channel to which an input belongs.
    """
    _checked(data, images, places)
    example = data.images[:1]
    masked = structure.mask(model, masks, example)
    found = structure.groups(model, example)
    stays = {name: mask for group in found for name, mask in _joint(group, masks)}
    inputs, channel = {}, {}
    for number, group in enumerate(found):
        for name, columns in group.consumers.items():
            width = kernels(model.get_submodule(name)).shape[1]
            inputs.setdefault(name, torch.ones(width, dtype=torch.bool))
            channel.setdefault(name, -1 - torch.arange(width))
            channel[name][columns] = (number * width + torch.arange(group.channels))[:, None]
            if group.producers[0] in stays:
                inputs[name][columns] = stays[group.producers[0]][:, None]
    how = {"places": places, "seed": seed}
    answers: dict[str, list[Tensor]] = {}
    short = [name for name, kept in inputs.items() if not kept.all()]
    for name, _, answer in sampled(model, short, data, images=images, **how):
        answers.setdefault(name, []).append(answer.to(model.get_submodule(name).weight.dtype))
    for name, wanted in answers.items():
        layer = masked.get_submodule(name)
        patches = torch.cat([x for _, x, _ in sampled(masked, [name], data, images=images, **how)])
        wanted = torch.cat(wanted).double()
        weight = kernels(layer)
        rows = stays.get(name, torch.ones(len(weight), dtype=torch.bool))
        held = layer.weight.detach().double().reshape(*layer.weight.shape[:2], -1)
        blocks = getattr(layer, "groups", 1)
        every = zip(torch.arange(len(rows)).chunk(blocks), torch.arange(len(inputs[name])).chunk(blocks), strict=True)
        for b, (out, into) in enumerate(every):
            out, into = out[rows[out]], into[inputs[name][into]]
            new = solve(patches[:, into], wanted[:, out], weight[out[:, None], into], channel[name][into])
            held[out[:, None], into - b * held.shape[1]] = new
        layer.weight.data.copy_(held.reshape(layer.weight.shape))
    return masked


def _joint(group: structure.Group, masks: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """The mask of a group, for each of its producers, whichever of them is named."""
    mask = next((masks[name] for name in group.producers if name in masks), None)
    return [] if mask is None else [(name, mask) for name in group.producers]
