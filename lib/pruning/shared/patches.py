"""What convolution and linear layers read and answer, at random places of random images."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from lib import running, weights
from lib.datasets import Split

ConvolutionOrLinear = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
FORWARD = {kind.forward for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)}


@torch.no_grad()
def sampled(
    model: nn.Module, names: Iterable[str], split: Split, *, images: int = 200, places: int = 10, seed: int = 0
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Sample what layers read and what they answer, at random places of random images.

    The same seed draws the same images and places in networks of the same shape. At most 100 images run at once, and
    fewer if a map would have more than 2^24 values.

    model: any network; it is left as it was.
    names: names of convolution and linear layers that run in a forward pass.
    split: samples to run through the network; labels are not read.
    images: number of images to draw, 1 or more. Default 200.
    places: number of places to draw from each map, 1 or more; all of them if there are fewer. Default 10.
    seed: seed of the draws. Default 0.

    Yields for each batch of images, and each call of a layer in the order in which they run: the layer's name, its
    patches (n, inputs, k) and its answers (n, outputs) without the bias, both float64. k is the number of positions of
    the kernel, 1 for a linear layer.
    Raises ValueError for an empty split, numbers out of range, a name that belongs to no convolution or linear layer, a
    layer with a forward pass of its own, one that reads an input without a batch, and one that does not run.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3))
    >>> split = Split(torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))
    >>> [(name, patches.shape, answers.shape) for name, patches, answers in sampled(model, ["0"], split, places=5)]
    [('0', torch.Size([10, 1, 9]), torch.Size([10, 4]))]
    """
    check(split, images, places)
    layers = accepted(model, names)
    for batch in calls(model, layers, batches(model, split, images=images, seed=seed), places=places, seed=seed):
        for name, patches, answers in batch:
            yield name, patches.double(), without_bias(layers[name], answers)


def check(split: Split, images: int, places: int) -> None:
    """Raise ValueError for an empty split, and for numbers below 1.

    split: samples to run through a network.
    images: number of images to draw.
    places: number of places to draw from each map.
    """
    split.check_not_empty("to see what the layers read")
    if images < 1 or places < 1:
        raise ValueError(f"images and places must be 1 or more, not {images} and {places}")


def batches(
    model: nn.Module, split: Split, *, images: int, seed: int, entries: int = 2**24, most: int = 100
) -> list[Tensor]:
    """Draw images, in batches that are small enough for memory.

    model: any network; it runs once, on one image, and is left as it was.
    split: the samples to draw from.
    images: number of images to draw; all if there are fewer.
    seed: seed of the draw.
    entries: number of values that the largest map of a batch may have. Default 2^24.
    most: number of images that a batch may have. Default 100.

    >>> split = Split(torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.long))
    >>> [len(batch) for batch in batches(nn.Conv2d(1, 4, 3), split, images=9, seed=0, entries=300)]
    [2, 2, 1]
    """
    drawn = split.images[torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:images]]
    largest = drawn[:1].numel()

    def note(layer: nn.Module, inputs: object, output: object) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel())

    with torch.no_grad(), running.evaluating(model), ExitStack() as stack:
        for layer in model.modules():
            stack.callback(layer.register_forward_hook(note).remove)
        running.logits(model, drawn[:1])
    return list(drawn.split(max(1, min(most, entries // largest))))


@torch.no_grad()
def calls(
    model: nn.Module, names: Iterable[str], batches: Iterable[Tensor], *, places: int, seed: int
) -> Iterator[list[tuple[str, Tensor, Tensor]]]:
    """Run batches through a network, and yield for each all calls of some layers, in the order in which they run.

    model: any network; it is left as it was.
    names: names of convolution and linear layers that run in a forward pass.
    batches: of images.
    places: number of places to draw from each map.
    seed: seed of the draws; each layer draws by itself.

    Yields lists of the layer's name, its patches (n, inputs, k) and its answers (n, outputs) with the bias.
    Raises ValueError as :func:`sampled` does.
    """
    layers = accepted(model, names)
    generators = {name: torch.Generator().manual_seed(seed) for name in layers}
    taken: list[tuple[str, Tensor, Tensor]] = []

    def take(name: str, inputs: Tensor, output: Tensor) -> None:  # immediately, since a ReLU in place may follow
        patches, where = _at_places(name, layers[name], inputs, places, generators[name])
        taken.append((name, patches, _channels_last(layers[name], output)[where]))

    for images in batches:
        with running.evaluating(model), _hooked(layers, take, before=False):
            running.logits(model, images)
        running.check_ran(layers, {name for name, _, _ in taken})
        yield list(taken)
        taken.clear()


def without_bias(layer: ConvolutionOrLinear, answers: Tensor) -> Tensor:
    """Return what a layer answers, minus its bias.

    layer: a convolution or linear layer.
    answers: (n, outputs).

    Returns (n, outputs), float64.

    >>> layer = nn.Linear(3, 2)
    >>> without_bias(layer, layer(torch.zeros(1, 3))).tolist()
    [[0.0, 0.0]]
    """
    return answers.double() - (0 if layer.bias is None else layer.bias.detach().double())


class _Enough(BaseException):
    """Ends a forward pass that has shown enough; not an Exception, so that no model catches it as its own error."""


@torch.no_grad()
def in_turn(
    model: nn.Module,
    names: Iterable[str],
    batches: Sequence[Tensor],
    take: Callable[[str, Tensor], None],
    *,
    places: int,
    seed: int,
) -> None:
    """Show what each layer reads before it answers, so that it and the layers before it can get new weights first.

    A single batch runs once, and pauses at each layer. Several batches run once for each layer, up to that layer.

    model: any network; what ``take`` changes in it takes effect at once.
    names: names of convolution and linear layers, in the order in which they run, once in each forward pass.
    batches: of images.
    take: called with a layer's name and its patches (n, inputs, k).
    places: number of places to draw from each map.
    seed: seed of the draws; they are those of :func:`calls`.
    """
    layers = accepted(model, names)
    groups = [list(layers)] if len(batches) == 1 else [[name] for name in layers]
    for group in groups:
        generators = {name: torch.Generator().manual_seed(seed) for name in group}
        parts: list[Tensor] = []

        def show(name: str, inputs: Tensor, output: object) -> None:
            parts.append(_at_places(name, layers[name], inputs, places, generators[name])[0])  # noqa: B023
            if len(batches) > 1:
                raise _Enough
            take(name, parts.pop())  # noqa: B023

        with running.evaluating(model), _hooked({name: layers[name] for name in group}, show, before=True):
            for images in batches:
                with suppress(_Enough):
                    running.logits(model, images)
        if len(batches) > 1:
            take(group[0], torch.cat(parts))


def accepted(model: nn.Module, names: Iterable[str]) -> dict[str, ConvolutionOrLinear]:
    """Find layers that compute sums of products with their weight, and nothing else.

    model: any network.
    names: of its layers.

    Returns layer name -> layer.
    Raises ValueError for a name that belongs to no layer, and for a layer that is not torch's own convolution or linear
    layer.

    >>> accepted(nn.Sequential(nn.Linear(4, 3)), ["0"])
    {'0': Linear(in_features=4, out_features=3, bias=True)}
    """
    layers: dict[str, ConvolutionOrLinear] = {}
    for name in names:
        layer: Any = weights.layer_named(model, name)
        kind = type(layer).__name__
        if not isinstance(layer, ConvolutionOrLinear):
            raise ValueError(f"layer {name!r} must be a convolution or linear, not {kind}")
        if type(layer).forward not in FORWARD:
            raise ValueError(f"layer {name!r}, {kind}, has a forward pass of its own: accepted are torch's layers")
        layers[name] = layer
    return layers


@contextmanager
def _hooked(
    layers: Mapping[str, nn.Module], take: Callable[[str, Tensor, Tensor], None], *, before: bool
) -> Iterator[None]:
    """Inside the block, ``take`` sees each call of a layer: its input and, unless ``before``, its output."""

    def shown(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], by_name: dict[str, Tensor], output: Any = None) -> None:
            take(name, (*inputs, *by_name.values())[0], output)

        return hook

    with ExitStack() as stack:
        for name, layer in layers.items():
            register: Any = layer.register_forward_pre_hook if before else layer.register_forward_hook
            stack.callback(register(shown(name), with_kwargs=True).remove)
        yield


def _channels_last(layer: ConvolutionOrLinear, values: Tensor) -> Tensor:
    """(n, places ..., channels); the places of a linear layer are one axis."""
    if isinstance(layer, nn.Linear):
        return values.reshape(len(values), -1, values.shape[-1])
    return values.movedim(1, -1)


def _at_places(
    name: str, layer: ConvolutionOrLinear, inputs: Tensor, places: int, generator: torch.Generator
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The patches (n, inputs, k) of random places, and where they are in the layer's output, channels last."""
    linear = isinstance(layer, nn.Linear)
    if inputs.dim() < 2 if linear else inputs.dim() != layer.weight.dim():
        raise ValueError(f"layer {name!r} reads shape {tuple(inputs.shape)}: the first axis must count the samples")
    if isinstance(layer, nn.Linear):  # a convolution of kernel 1 over all dimensions but the last, or over one place
        steps = [(1, 1, 1)]
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs = nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
        steps = list(zip(layer.stride, layer.dilation, layer.kernel_size, strict=True))
    maps, device = _channels_last(layer, inputs), inputs.device
    sizes = torch.Size(
        (size - dilation * (width - 1) - 1) // stride + 1
        for size, (stride, dilation, width) in zip(maps.shape[1:-1], steps, strict=True)
    )
    shares = torch.rand(len(maps), sizes.numel(), generator=generator, device=generator.device)
    drawn = shares.argsort(1)[:, :places].to(device)
    image = torch.arange(len(maps), device=device).repeat_interleave(drawn.shape[1])
    where = torch.unravel_index(drawn.flatten(), sizes)
    spread = [1] * len(sizes)
    index = [image.reshape(-1, *spread)]
    for axis, (stride, dilation, width) in enumerate(steps):  # axis + 1 of the index runs over the kernel's positions
        across = [-1 if other == axis else 1 for other in range(len(sizes))]
        positions = torch.arange(width, device=device) * dilation
        index.append((where[axis] * stride).reshape(-1, *spread) + positions.reshape(1, *across))
    return maps[tuple(index)].movedim(-1, 1).flatten(2), (image, *where)


def kernels(layer: weights.Layer) -> Tensor:
    """Return the weight of a layer as one matrix for each position of its kernel.

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
    whole = weight.new_zeros(g, outputs // g, g, inputs, k)
    own = torch.arange(g, device=weight.device)
    whole[own, :, own] = weight.reshape(g, outputs // g, inputs, k)
    return whole.reshape(outputs, g * inputs, k)
