"""The one training loop, evaluation, and a cache of trained networks."""

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from lib import imports
from lib.datasets import Split

OPTIMIZERS = ("sgd", "adam")


def squared_hinge(outputs: Tensor, labels: Tensor) -> Tensor:
    """Mean over samples of the sum over classes of max(0, 1 - t y)^2, t = +1 for the label's class and -1 else."""
    targets = 2 * nn.functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype) - 1
    return (1 - targets * outputs).clamp(min=0).square().sum(1).mean()


LOSSES = {
    "cross_entropy": nn.functional.cross_entropy,
    "squared_hinge": squared_hinge,
    "squared_error": nn.functional.mse_loss,  # the split's labels are what the outputs should be
}


def fit(
    model: nn.Module,
    split: Split,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 128,
    shift: int = 0,
    optimizer: str | Callable[[list[dict]], torch.optim.Optimizer] = "sgd",
    loss: str = "cross_entropy",
    before_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[], None] | None = None,
) -> list[float]:
    """Minimise the loss by stochastic gradient descent with Nesterov momentum; return each epoch's mean loss.

    The learning rate falls from ``learning_rate`` to zero along half a cosine over all steps. ``weight_decay`` acts on
    weights of two dimensions or more, never on biases. ``shift`` moves each training image by up to that many pixels in
    both directions, zeros coming in. ``before_epoch(i)`` is called before epoch i, for instance to prune a little more.
    ``after_step()`` is called after each update, for instance to bring weights back between limits.
    ``optimizer="adam"`` takes Adam instead, whose first decay rate is ``momentum``, with the same schedule; a function
    makes any other from the groups of parameters. ``loss``: "cross_entropy", "squared_hinge" or "squared_error".
    Sample order and shifts depend on ``seed`` alone. Raises ValueError on an empty split or a loss that is not finite.
    """
    if len(split) == 0:
        raise ValueError("the training split is empty: at least one sample is needed")
    if epochs < 0 or batch_size < 1:
        raise ValueError(f"epochs must be 0 or more and batch_size 1 or more, not {epochs} and {batch_size}")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {loss!r}")
    if not callable(optimizer) and optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    generator = torch.Generator().manual_seed(seed)
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    other = [p for p in model.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": other, "weight_decay": 0.0}]
    if callable(optimizer):
        update = optimizer(groups)
    elif optimizer == "adam":
        update = torch.optim.Adam(groups, lr=learning_rate, betas=(momentum, 0.999), fused=True)
    else:
        update = torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, nesterov=momentum > 0, fused=True)
    steps = max(1, epochs * -(-len(split) // batch_size))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(update, steps)
    losses = []
    memory = layout(model, split.images)
    model.to(memory_format=memory)
    for epoch in range(epochs):
        if before_epoch is not None:
            before_epoch(epoch)
        model.train()
        total = 0.0
        for batch in torch.randperm(len(split), generator=generator).split(batch_size):
            images = split.images[batch]
            if shift:
                images = shifted(images, shift, generator)
            if memory == torch.contiguous_format:  # one channel, permuted, would ask for channels_last all the same
                images = images.to(memory_format=memory)
            cost = LOSSES[loss](logits(model, images), split.labels[batch])
            update.zero_grad()
            cost.backward()
            update.step()
            schedule.step()
            if after_step is not None:
                after_step()
            total += cost.item() * len(batch)
        losses.append(total / len(split))
        if not torch.isfinite(torch.tensor(losses[-1])):
            raise ValueError(
                f"training diverged in epoch {epoch + 1}: the loss is {losses[-1]}; try a lower learning rate"
            )
    model.to(memory_format=torch.contiguous_format).eval()
    return losses


def minimise(
    model: nn.Module,
    split: Split,
    *,
    weight_decay: float,
    kept: Mapping[str, Tensor] | None = None,
    iterations: int = 500,
) -> float:
    """Bring a small network to a minimum of cross-entropy + weight_decay / 2 · |w|², by L-BFGS; return the objective.

    Each step sees the whole split, and the decay acts on biases too, so that the point is a minimum of a function that
    can be written down. ``kept``: parameter name -> bool mask; what it does not keep becomes zero and stays zero.
    Best in float64. In place, in evaluation mode. Raises ValueError on an empty split.
    """
    if len(split) == 0:
        raise ValueError("the training split is empty: at least one sample is needed")
    parameters = dict(model.named_parameters())
    mask = torch.cat([(kept or {}).get(n, torch.ones_like(p)).to(p.dtype).flatten() for n, p in parameters.items()])
    start = mask * nn.utils.parameters_to_vector(parameters.values()).detach()
    images = split.images.to(mask.dtype)
    model.eval()

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        vector = torch.from_numpy(values).to(mask.dtype) * mask
        nn.utils.vector_to_parameters(vector, parameters.values())
        loss = nn.functional.cross_entropy(logits(model, images), split.labels)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters.values()))])
        whole = loss.item() + weight_decay / 2 * vector.square().sum().item()
        return whole, (mask * (gradient + weight_decay * vector)).double().numpy()

    options = {"maxiter": iterations, "maxfun": 5 * iterations, "ftol": 1e-13, "gtol": 1e-8}
    found = minimize(objective, start.double().numpy(), jac=True, method="L-BFGS-B", options=options)
    return objective(found.x)[0]


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


def shifted(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Each image moved by its own random offset of at most ``pixels`` both ways; zeros come in at the border."""
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, (pixels,) * 4)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, n, 1, 1), generator=generator)
    rows = dy + torch.arange(height)[:, None]
    columns = dx + torch.arange(width)[None, :]
    return padded[torch.arange(n)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """The model's output; a wrong shape of input is one clear error instead of one deep in a layer."""
    try:
        return model(images)
    except RuntimeError as error:
        shape = tuple(images.shape)
        raise ValueError(f"{type(model).__name__} does not take images of shape {shape}: {error}") from error


@torch.no_grad()
def error_pct(model: nn.Module, split: Split, *, batch_size: int = 1000) -> float:
    """Share of wrongly classified samples, in percent."""
    if len(split) == 0:
        raise ValueError("the split to evaluate on is empty: at least one sample is needed")
    model.eval()
    plain = split.images.to(memory_format=torch.contiguous_format)  # some kernels for channels_last are wrong: layout
    pairs = zip(plain.split(batch_size), split.labels.split(batch_size), strict=True)
    wrong = sum((logits(model, images).argmax(dim=1) != labels).sum().item() for images, labels in pairs)
    return 100 * wrong / len(split)


def cached(train: Callable[..., nn.Module], model: nn.Module, **arguments: object) -> nn.Module:
    """``train(model, **arguments)``, which trains ``model`` in place; run once, then read back from the cache.

    The key is the code of ``train``'s module, of the model's classes and of every file of ``lib`` that they import, the
    model's own weights, and the arguments (a data split counts by its content). The cache is ``$SURVEY_CACHE``, or
    ``_build/cache``; a damaged entry is trained again. Two processes that want the same network train it once: the
    second waits.
    """
    folder = Path(os.environ.get("SURVEY_CACHE") or Path(__file__).parents[1] / "_build" / "cache")
    folder.mkdir(parents=True, exist_ok=True)
    key = _key(train, model, arguments)
    path = folder / f"{train.__name__}-{key}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        state = _read(path)
        if state is None:
            names = model.state_dict().keys()
            train(model, **arguments)
            state = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
            if state.keys() != names:
                raise ValueError(f"{train.__name__} changes how weights are stored: decompress the model to cache it")
            partial = path.with_suffix(".partial")
            safetensors.torch.save_file(state, partial, metadata={"digest": _digest(state)})
            partial.replace(path)
    model.load_state_dict(state)
    return model.eval()


def _read(path: Path) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return state if file.metadata().get("digest") == _digest(state) else None
    except (safetensors.SafetensorError, OSError, AttributeError):
        return None


def _digest(value: object) -> str:
    """One digest for the values that reach a cache key: tensors, splits, modules' weights, numbers, strings, lists."""
    digest = hashlib.sha256()

    def feed(item: object) -> None:
        if isinstance(item, Tensor):
            digest.update(f"{item.dtype}{tuple(item.shape)}".encode())
            digest.update(item.detach().contiguous().flatten().view(torch.uint8).numpy())
        elif isinstance(item, Split):
            feed([item.images, item.labels])
        elif isinstance(item, dict):
            feed([[key, item[key]] for key in sorted(item)])
        elif isinstance(item, list | tuple):
            digest.update(b"[")
            for each in item:
                feed(each)
                digest.update(b",")
            digest.update(b"]")
        else:
            digest.update(json.dumps(item).encode())  # anything else is not a cache key: TypeError

    feed(value)
    return digest.hexdigest()


def _key(train: Callable, model: nn.Module, arguments: dict[str, object]) -> str:
    if getattr(train, "__closure__", None):
        raise ValueError(f"{train.__name__} cannot be cached: it captures variables; pass them as arguments")
    try:
        files = {Path(inspect.getfile(sys.modules[train.__module__]))}
    except (AttributeError, KeyError, OSError, TypeError) as error:
        raise ValueError(
            f"{train!r} cannot be cached: accepted is a function of a module that stands in a file"
        ) from error
    own: dict[str, str] = {}
    for kind in sorted({type(module) for module in model.modules()}, key=str):
        top = kind.__module__.split(".")[0]
        if top == imports.PACKAGE:
            files.add(Path(inspect.getfile(kind)))
        elif top not in ("torch", "torchvision"):
            try:
                own[str(kind)] = inspect.getsource(kind.forward)
            except (OSError, TypeError) as error:
                raise ValueError(f"{kind.__name__} cannot be cached: its forward pass stands in no file") from error
    texts = [path.read_text("utf-8") for path in sorted(files)]
    codes = [imports.code(text) for text in texts]
    codes += [imports.code_of_file(path) for path in imports.closure(Path(__file__).parent, texts)]
    return _digest([sorted(codes), own, train.__qualname__, str(model), model.state_dict(), arguments])[:24]
