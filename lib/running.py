"""Running a network: its outputs, what flows through it, its modes, and a memory layout that is safe and fast."""

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class Flow:
    """Layer name -> its first input and its output in the last forward pass, not detached from the graph."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def captured(model: nn.Module, names: Iterable[str]) -> Iterator[Flow]:
    """Keep what flows through the named layers: inside the block, every forward pass fills the :class:`Flow`.

    model: any network.
    names: of the layers, as in ``model.named_modules()``.

    Raises ValueError for a layer that the model does not have.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    >>> with captured(model, ["0"]) as flow:
    ...     answers = model(torch.zeros(2, 4))
    >>> tuple(flow.inputs["0"].shape), tuple(flow.outputs["0"].shape)
    ((2, 4), (2, 3))
    """
    layers = dict(model.named_modules())
    flow, hooks = Flow(), []
    names = list(names)
    for name in names:
        if name not in layers:
            raise ValueError(f"{type(model).__name__} has no layer {name!r}: it has {', '.join(filter(None, layers))}")

    def keeper(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], by_name: dict[str, Tensor], output: Tensor) -> None:
            flow.outputs[name] = output
            for first in (*inputs, *by_name.values())[:1]:  # a layer may be called without an input
                flow.inputs[name] = first

        return hook

    try:
        hooks += [layers[name].register_forward_hook(keeper(name), with_kwargs=True) for name in names]
        yield flow
    finally:
        for hook in hooks:
            hook.remove()


def ran(model: nn.Module, names: Iterable[str], images: Tensor) -> list[str]:
    """Return which of the named layers run in a forward pass in evaluation mode.

    A layer can exist and never run: its owner reads the weight and does not call the layer (``out_proj`` of
    ``nn.MultiheadAttention``), or only training calls it (the side branches of GoogLeNet). A hook on it sees nothing.

    model: any network; it is left as it was.
    names: of the layers, as in ``model.named_modules()``.
    images: (n, channels, height, width), or whatever else the model takes; the first one is used.

    Returns the names of those that ran, in the given order; :func:`check_ran` refuses the others.
    Raises ValueError for a layer that the model does not have.

    >>> model = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, batch_first=True)
    >>> ran(model, ["linear1", "self_attn.out_proj"], torch.zeros(1, 5, 8))
    ['linear1']
    """
    names = list(names)
    with torch.no_grad(), evaluating(model), captured(model, names) as flow:
        logits(model, images[:1])
    return [name for name in names if name in flow.outputs]


def check_ran(names: Iterable[str], ran: Container[str]) -> None:
    """Raise ValueError for the first of the named layers that did not run.

    names: of layers that must run.
    ran: names of those that ran: what :func:`ran` returns, or the ``outputs`` of a :class:`Flow`.

    >>> check_ran(["fc1", "fc2"], ["fc1"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: layer 'fc2' did not run: ...
    """
    for name in names:
        if name not in ran:
            raise ValueError(
                f"layer {name!r} did not run: its owner reads the weight and does not call the layer, or only training"
                " calls it; name the layers to work on, without this one"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode inside the block; each module's own mode is restored afterwards.

    model: any network.

    >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    >>> with evaluating(model):
    ...     [module.training for module in model]
    [False, False]
    >>> [module.training for module in model]
    [True, False]
    """
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


def layout(model: nn.Module, images: Tensor) -> torch.memory_format:
    """Choose the memory layout to train in: channels_last where it is safe, plain memory (contiguous_format) elsewhere.

    In channels_last convolutions train about 1.5 times as fast on a CPU. It is not safe for a network that

    - has tensors of five dimensions, or joins channels and places by ``view``: it raises an error there;
    - answers differently there, or has a convolution whose output or gradients differ there: some processors run wrong
      kernels (oneDNN 3.12 with AVX-512 or AMX: one input channel, a stride along the width, one output column);
    - has a strided 1 x 1 convolution that reads fewer than 8 channels: oneDNN 3.12 (AVX2) writes outside its memory in
      the weight gradient.

    model: any network. It runs twice, in evaluation mode; it and the random state are unchanged afterwards.
    images: (n, channels, height, width), or whatever else the model takes; the first 8 are used.

    >>> layout(nn.Conv2d(4, 8, kernel_size=1, stride=2), torch.zeros(2, 4, 6, 6))
    torch.contiguous_format
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and _crashes(layer.in_channels, layer.kernel_size, layer.stride):
            return torch.contiguous_format
    convolutions = _Convolutions()
    try:
        with convolutions:
            answers = _answers(model, images[:8], torch.channels_last)
        expected = _answers(model, images[:8], torch.contiguous_format)
        # A coarse comparison, since rounding may flip a sign or a quantized value. Convolutions are compared exactly.
        gap = (answers.double() - expected.double()).nan_to_num().abs().max()
        same = gap <= 1e-2 * expected.double().nan_to_num().abs().max()
        safe = bool(same) and all(_same_in_both_layouts(*each) for each in convolutions.seen)
    except Exception:  # any: training in plain memory works, or says what is wrong with the model or the images
        safe = False
    return torch.channels_last if safe else torch.contiguous_format


def arranged(images: Tensor, memory: torch.memory_format) -> Tensor:
    """Return the images in a memory layout, with strides that say which.

    Images of one channel look the same in both layouts. Unless their strides are those of channels_last, a convolution
    takes them for plain memory, and hands plain memory on to all layers after it.

    images: (n, channels, height, width); of other dimensions they are returned in plain memory.
    memory: what :func:`layout` chose.

    >>> arranged(torch.zeros(2, 1, 3, 4), torch.channels_last).stride()
    (12, 1, 4, 1)
    """
    if memory == torch.contiguous_format or images.dim() != 4:
        return images.to(memory_format=torch.contiguous_format)
    return torch.empty_like(images, memory_format=memory).copy_(images)


def _crashes(channels: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the weight gradient of such a convolution may write outside its memory in channels_last."""
    return max(size) == 1 < max(stride) and channels < 8


class _Convolutions(TorchDispatchMode):
    """Notes each 2-d convolution that runs: shapes of images and weight, type, whether it has a bias, ``place``."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[tuple, None] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.convolution.default and args[0].dim() == 4:
            images, weight, bias, *place = args
            place = tuple(tuple(value) if isinstance(value, list) else value for value in place)
            self.seen[tuple(images.shape), tuple(weight.shape), images.dtype, bias is not None, place] = None
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def _answers(model: nn.Module, images: Tensor, memory: torch.memory_format) -> Tensor:
    """The model's answers in evaluation mode, with copies of its tensors in the layout ``memory``."""
    tensors = {}
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        own = memory if value.dim() in (4, 5) else torch.contiguous_format  # as in nn.Module.to
        tensors[name] = value.detach().to(memory_format=own, copy=True)
    before = [(module, dict(vars(module))) for module in model.modules()]
    generators = [(g, g.get_state()) for _, kept in before for g in kept.values() if isinstance(g, torch.Generator)]
    try:
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            return functional_call(model.eval(), tensors, (arranged(images, memory),))
    finally:
        for module, kept in before:  # its mode, and what its forward pass set
            vars(module).clear()
            vars(module).update(kept)
        for generator, state in generators:
            generator.set_state(state)


@cache
def _same_in_both_layouts(
    images: tuple[int, ...], weight: tuple[int, ...], dtype: torch.dtype, bias: bool, place: tuple
) -> bool:
    # If the weight gradient may crash, only the output is tried. Such a convolution comes this far only if its weight
    # is a constant, as in a mean: no layer has it, and no gradient is taken.
    gradients = not _crashes(images[1], weight[2:], place[0])
    plain, last = (
        convolved(images, weight, place, dtype=dtype, bias=bias, memory=memory, gradients=gradients)
        for memory in (torch.contiguous_format, torch.channels_last)
    )
    return all(map(equal_sums, plain, last))


def convolved(
    images: tuple[int, ...],
    weight: tuple[int, ...],
    place: tuple,
    *,
    dtype: torch.dtype,
    memory: torch.memory_format,
    bias: bool = False,
    gradients: bool = True,
) -> tuple[Tensor, ...]:
    """Convolve random signs, to try a kernel: return the output, and the gradients of the images and the weight.

    All are sums of +1 and -1: integers, which every correct kernel computes exactly (see :func:`equal_sums`).

    images: shape, (n, channels, height, width).
    weight: shape, (filters, channels / groups, height, width).
    place: stride, padding, dilation, transposed, output padding and groups, as in ``torch.convolution``.
    dtype: of images and weight, a float type.
    memory: layout of images and weight.
    bias: whether a bias of 1 is added, default False.
    gradients: whether to compute them, default True; otherwise the output alone is returned.

    >>> place = ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)
    >>> formats = (torch.contiguous_format, torch.channels_last)
    >>> a, b = (convolved((2, 8, 6, 6), (4, 8, 3, 3), place, dtype=torch.float32, memory=memory) for memory in formats)
    >>> [tuple(x.shape) for x in a], equal_sums(a[0], b[0])
    ([(2, 4, 4, 4), (2, 8, 6, 6), (4, 8, 3, 3)], True)
    """
    generator = torch.Generator().manual_seed(0)

    def signs(shape: tuple[int, ...]) -> Tensor:
        return (2 * torch.randint(0, 2, shape, generator=generator) - 1).to(dtype)

    x, w = (arranged(signs(shape), memory).requires_grad_() for shape in (images, weight))
    filters = weight[1] * place[-1] if place[3] else weight[0]
    with torch.enable_grad():
        output = torch.convolution(x, w, torch.ones(filters, dtype=dtype) if bias else None, *place)
        after = torch.autograd.grad(output, (x, w), signs(output.shape)) if gradients else ()
        return output.detach(), *after


def equal_sums(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same integers, up to the rounding of their types.

    a, b: of one shape and of float types, each value within rounding of an integer. NaN equals nothing.
    """
    a, b, rounding = a.double(), b.double(), max(torch.finfo(t.dtype).eps for t in (a, b))
    return bool(((a - b).abs() < 0.5 + 4 * rounding * b.abs()).all())  # NaN is not less


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the model's output; an input of the wrong shape gives one clear error, not one from deep inside a layer.

    model: any network.
    images: (n, channels, height, width), or whatever else the model takes.

    Raises ValueError, which names the model and the shape, in place of the errors that layers raise for inputs that
    they do not take. A ValueError of this package is passed on unchanged.

    >>> tuple(logits(nn.Linear(4, 3), torch.zeros(2, 4)).shape)
    (2, 3)
    """
    try:
        return model(images)
    except (RuntimeError, AssertionError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, ValueError) and _is_ours(error):
            raise
        shape = tuple(images.shape)
        raise ValueError(f"{type(model).__name__} does not take images of shape {shape}: {error}") from error


def _is_ours(error: Exception) -> bool:
    """Whether a function of this package raised the error."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals.get("__name__", "").startswith("lib.")


def class_logits(model: nn.Module, images: Tensor, *, infinite: bool = False) -> Tensor:
    """Return the logits of a classifier, and refuse whatever else a model may answer.

    model: a classifier of whole samples.
    images: (n, channels, height, width), or whatever else the model takes.
    infinite: whether infinity is accepted, for callers that only look for the largest logit. Default False.

    Returns (n, classes).
    Raises ValueError for images that the model does not take, for an answer of another shape, and for NaN or infinity.

    >>> tuple(class_logits(nn.Linear(4, 3), torch.zeros(2, 4)).shape)
    (2, 3)
    """
    answers = logits(model, images)
    if not isinstance(answers, Tensor) or answers.dim() != 2 or len(answers) != len(images):
        answered = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
        raise ValueError(
            f"{type(model).__name__} must answer {len(images)} samples with logits of shape ({len(images)}, classes),"
            f" not with {answered}"
        )
    if infinite and torch.isnan(answers).any():
        raise ValueError("the network's logits hold NaN: numbers are needed")
    if not infinite and not torch.isfinite(answers).all():
        raise ValueError("the network's logits hold NaN or infinity: finite ones are needed")
    return answers


def fitted(model: nn.Module, images: Tensor) -> Tensor:
    """Bring images to the type and the device of a model's weights; whole numbers stay whole where it embeds them.

    model: any network; one without float parameters gets the images as they are.
    images: of any type and device.

    >>> fitted(nn.Linear(4, 3).double(), torch.zeros(2, 4)).dtype
    torch.float64
    >>> fitted(nn.Sequential(nn.Embedding(9, 4), nn.Flatten()), torch.zeros(2, 4, dtype=torch.long)).dtype
    torch.int64
    """
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    if first is None:
        return images
    embeds = any(isinstance(layer, nn.Embedding | nn.EmbeddingBag) for layer in model.modules())
    return images.to(first.device, None if embeds and not images.is_floating_point() else first.dtype)


def check_made(model: nn.Module) -> None:
    """Raise ValueError for the first parameter or buffer that a lazy layer has not made yet.

    model: any network.

    >>> check_made(nn.LazyLinear(3))
    Traceback (most recent call last):
    ValueError: 'weight' of LazyLinear is not there yet: run the model once, and its lazy layers are made
    """
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(value):
            kind = type(model).__name__
            raise ValueError(f"{name!r} of {kind} is not there yet: run the model once, and its lazy layers are made")
