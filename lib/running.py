"""Running a network: its outputs, what flows through it, its modes, and the memory layout that is safe and fast."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class Flow:
    """Layer name -> its first input and its output in the last forward pass, with their gradients' graph."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def captured(model: nn.Module, names: Iterable[str]) -> Iterator[Flow]:
    """Inside, every forward pass of the model leaves what flows through the named layers in the :class:`Flow`.

    Raises ValueError for a layer that the model does not have.
    """
    layers = dict(model.named_modules())
    flow, hooks = Flow(), []
    names = list(names)
    for name in names:
        if name not in layers:
            raise ValueError(f"{type(model).__name__} has no layer {name!r}: it has {', '.join(filter(None, layers))}")

    def keeper(name: str):
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            flow.inputs[name], flow.outputs[name] = inputs[0], output

        return hook

    try:
        hooks += [layers[name].register_forward_hook(keeper(name)) for name in names]
        yield flow
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, the model is in evaluation mode; behind, every module is in its own mode again."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


def layout(model: nn.Module, images: Tensor) -> torch.memory_format:
    """The memory layout to train in: channels_last where it is safe, and plain memory (contiguous_format) elsewhere.

    Convolutions train half again as fast in channels_last on a CPU. It is not safe for a network that

    - has tensors of five dimensions, or joins channels and places by ``view``: it raises an error there;
    - answers differently there, or has a convolution whose output or gradients differ there: some processors run wrong
      kernels (oneDNN 3.12 with AVX-512 or AMX: one input channel, a stride along the width, one output column);
    - has a strided 1 x 1 convolution that reads fewer than 8 channels: oneDNN 3.12 (AVX2) writes outside its memory in
      the weight gradient.

    The model runs twice on the first 8 images, in evaluation mode; it and the random state are as before afterwards.

    images: (n, channels, height, width), or what else the model takes.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and _crashes(layer.in_channels, layer.kernel_size, layer.stride):
            return torch.contiguous_format
    convolutions = _Convolutions()
    try:
        with convolutions:
            answers = _answers(model, images[:8], torch.channels_last)
        expected = _answers(model, images[:8], torch.contiguous_format)
        # Only a coarse look: rounding may flip a sign or a quantized value. The convolutions are compared exactly.
        gap = (answers.double() - expected.double()).nan_to_num().abs().max()
        same = gap <= 1e-2 * expected.double().nan_to_num().abs().max()
        safe = bool(same) and all(_same_in_both_layouts(*each) for each in convolutions.seen)
    except Exception:  # whatever it is: training in plain memory works, or says what is wrong with model or images
        safe = False
    return torch.channels_last if safe else torch.contiguous_format


def _crashes(channels: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the weight gradient of such a convolution may write outside its memory in channels_last."""
    return max(size) == 1 < max(stride) and channels < 8


class _Convolutions(TorchDispatchMode):
    """Notes each 2-d convolution that runs: shapes of input and weight, type, whether it has a bias, and its place."""

    def __init__(self):
        super().__init__()
        self.seen: dict[tuple, None] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.convolution.default and args[0].dim() == 4:
            images, weight, bias, *place = args
            place = tuple(tuple(value) if isinstance(value, list) else value for value in place)
            self.seen[tuple(images.shape), tuple(weight.shape), images.dtype, bias is not None, place] = None
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def _answers(model: nn.Module, images: Tensor, memory: torch.memory_format) -> Tensor:
    """The answers of copies of the model's tensors in that layout, in evaluation mode."""
    tensors = {}
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        own = memory if value.dim() in (4, 5) else torch.contiguous_format  # as in nn.Module.to
        tensors[name] = value.detach().to(memory_format=own, copy=True)
    before = [(module, dict(vars(module))) for module in model.modules()]
    generators = [(g, g.get_state()) for _, kept in before for g in kept.values() if isinstance(g, torch.Generator)]
    try:
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            return functional_call(model.eval(), tensors, (images.to(memory_format=torch.contiguous_format),))
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
    # Of constant weights, such as those of a mean, a network takes no gradient; a layer of that kind came to no trial.
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
    """A convolution of random signs, to try a kernel: its output, and the gradients of its images and weight.

    All are sums of +1 and -1, so whole numbers, which every right kernel gives (see :func:`equal_sums`).

    images: shape, (n, channels, height, width).
    weight: shape, (filters, channels / groups, height, width).
    place: stride, padding, dilation, transposed, output padding and groups, as in ``torch.convolution``.
    dtype, memory: of images and weight.
    bias: whether a bias of 1 is added.
    gradients: whether to compute them; otherwise the output alone is returned.
    """
    generator = torch.Generator().manual_seed(0)

    def signs(shape: tuple[int, ...]) -> Tensor:
        return (2 * torch.randint(0, 2, shape, generator=generator) - 1).to(dtype)

    x, w = (signs(shape).to(memory_format=memory).requires_grad_() for shape in (images, weight))
    filters = weight[1] * place[-1] if place[3] else weight[0]
    with torch.enable_grad():
        output = torch.convolution(x, w, torch.ones(filters, dtype=dtype) if bias else None, *place)
        after = torch.autograd.grad(output, (x, w), signs(output.shape)) if gradients else ()
        return output.detach(), *after


def equal_sums(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same whole numbers, but for the rounding of their types."""
    a, b, rounding = a.double(), b.double(), max(torch.finfo(t.dtype).eps for t in (a, b))
    return bool(((a - b).abs() < 0.5 + 4 * rounding * b.abs()).all())  # NaN is not less


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """The model's output; a wrong shape of input is one clear error instead of one deep in a layer."""
    try:
        return model(images)
    except RuntimeError as error:
        shape = tuple(images.shape)
        raise ValueError(f"{type(model).__name__} does not take images of shape {shape}: {error}") from error
