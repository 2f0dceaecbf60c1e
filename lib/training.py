"""The one training loop, and the error of a trained network."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from numbers import Integral
from typing import Protocol, TypedDict

import numpy as np
import torch
from scipy import optimize
from torch import Tensor, nn

from lib import running
from lib.datasets import Split

OPTIMIZERS = ("sgd", "adam")
IGNORED = -100  # the label that torch's cross-entropy ignores
Optimizer = str | Callable[[list[dict]], torch.optim.Optimizer]
Loss = Callable[[Tensor, Tensor], Tensor]


def squared_hinge(outputs: Tensor, labels: Tensor) -> Tensor:
    r"""Return the mean over samples of the squared hinge loss, summed over the classes.

    .. math:: \frac1n \sum_i \sum_c \max(0, 1 - t_{ic}\, y_{ic})^2

    with t = +1 for the class of the label and -1 for the others (courbariaux2015binaryconnect).

    outputs: y, (n, classes).
    labels: (n,) class numbers.

    >>> squared_hinge(torch.tensor([[2.0, 0.5], [0.0, 1.0]]), torch.tensor([0, 1]))
    tensor(1.6250)
    """
    targets = 2 * nn.functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype) - 1
    return (1 - targets * outputs).clamp(min=0).square().sum(1).mean()


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean squared difference between the outputs and the labels, which are the wanted outputs.

    outputs: of any shape.
    labels: of the same shape; ValueError otherwise.

    >>> squared_error(torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]]))
    tensor(2.)
    """
    if outputs.shape != labels.shape:
        shapes = f"{tuple(labels.shape)} for outputs of shape {tuple(outputs.shape)}"
        raise ValueError(f"squared_error needs labels of the shape of the outputs, not labels of shape {shapes}")
    return nn.functional.mse_loss(outputs, labels)


LOSSES: dict[str, Loss] = {
    "cross_entropy": nn.functional.cross_entropy,
    "squared_hinge": squared_hinge,
    "squared_error": squared_error,
}


class Lesson(Protocol):
    """The loss of one training step, from more than labels: what a :class:`Teaching` gives to :func:`fit`."""

    def __call__(self, outputs: Tensor, labels: Tensor, images: Tensor, samples: Tensor) -> Tensor:
        """Return the loss, a scalar.

        outputs: of the network in training mode, (n, classes).
        labels: (n,).
        images: those that the network was given, moved and mirrored.
        samples: (n,), the numbers of the samples in the split.
        """


class Teaching(Protocol):
    """What a network learns from if not from the labels alone: a teacher (:mod:`lib.distillation`)."""

    def lesson(self, student: nn.Module, split: Split, *, augmented: bool) -> AbstractContextManager[Lesson]:
        """Check that the student can learn from this split; return a context manager that yields its loss.

        student: the network that is trained.
        split: the samples to train on.
        augmented: whether images are moved or mirrored before the student sees them.
        """


class UpdateOptions(TypedDict, total=False):
    """Options of :func:`fit` that say how a step is made from a gradient."""

    learning_rate: float
    momentum: float
    optimizer: Optimizer


class LoopOptions(TypedDict, total=False):
    """Options of :func:`fit` that work with every optimizer: for a technique that brings its own."""

    weight_decay: float
    batch_size: int
    shift: int
    flip: bool
    loss: str | Loss


class FitOptions(UpdateOptions, LoopOptions, total=False):
    """Options of :func:`fit` that a technique with a training loop passes on: ``**options: Unpack[FitOptions]``.

    :func:`fit` says what each of them means. A technique calls :func:`check_options` first, so that a misspelled option
    is refused before anything is changed.
    """


def check_options(options: Mapping[str, object], *, kinds: type = FitOptions) -> None:
    """Raise TypeError for an option that is not in ``kinds``; the message lists those that are.

    options: option name -> value; the values are not checked.
    kinds: a TypedDict of the accepted options, default :class:`FitOptions`.

    >>> check_options({"learning_rate": 0.1})
    >>> try:
    ...     check_options({"rate": 0.1})
    ... except TypeError as error:
    ...     print(str(error).split(":")[0])
    there is no option 'rate'
    """
    accepted = kinds.__annotations__
    for name in options:
        if name not in accepted:
            raise TypeError(f"there is no option {name!r}: accepted are {', '.join(accepted)}")


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
    flip: bool = False,
    optimizer: Optimizer = "sgd",
    loss: str | Loss = "cross_entropy",
    teaching: Teaching | None = None,
    before_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[], None] | None = None,
) -> list[float]:
    """Train the model in place: minimize the loss by stochastic gradient descent with Nesterov momentum.

    The learning rate falls from ``learning_rate`` to zero along half a cosine over all steps. The model is in
    evaluation mode afterwards. Parameters that need no gradient stay as they are. Before anything else, a copy of the
    model is tried on two samples.

    model: any network that takes the split's images, (n, ...) -> (n, classes).
    split: the samples to train on; at least one.
    epochs: passes over the split, 0 or more.
    seed: integer. The order of the samples and the shifts depend on it alone.
    learning_rate: of the first step, default 0.1. An ``optimizer`` that is a function has its own instead.
    momentum: default 0.9; with 0 the descent is plain. For "adam" it is the decay rate of the first moment.
    weight_decay: added to the gradient as ``weight_decay`` times the weight, default 5e-4. It acts on parameters of two
        dimensions or more, so never on biases and batch norm.
    batch_size: samples per step, 1 or more, default 128; the last batch of an epoch may be smaller (see
        :func:`batches`).
    shift: pixels, 0 or more, default 0. Each training image is moved by up to this many pixels in both directions, each
        time by another offset; zeros come in at the border. For images (n, channels, height, width) only.
    flip: whether each training image is mirrored, left for right, with probability 1/2 each time. Default False.
    optimizer: "sgd" (default), "adam", or a function that makes another ``torch.optim.Optimizer`` from a list of
        parameter groups.
    loss: "cross_entropy" (default), "squared_hinge", "squared_error", for which the split's labels are the wanted
        outputs, or a function (outputs, labels) -> scalar.
    teaching: a distiller with its teacher, which gives the loss instead, from more than the labels. Default None.
    before_epoch: called with the number of each epoch, from 0, before it begins, for instance to prune a little more.
        The parameters that learn stay the same: it may freeze or change them, but neither replace nor unfreeze any.
    after_step: called after each update, for instance to bring weights back within limits.

    Returns the mean loss of each epoch. Raises ValueError, before anything is changed, for an empty split, for
    arguments that are not accepted, for images and labels that do not fit each other, the network or the loss, for a
    network in which nothing learns, and for one that answers in training mode with anything but one tensor. Raises it
    later for a parameter that ``before_epoch`` added, and, after the epoch in which it happens, for a loss or a weight
    that is not finite.

    >>> from lib import datasets, models
    >>> problem = datasets.load("monks-1-rule")
    >>> losses = fit(models.mlp(inputs=17, hidden=(20,), classes=2), problem.train, epochs=3, seed=0)
    >>> len(losses), losses[-1] < losses[0]
    (3, True)
    """
    _check_samples(split, "to train on")
    if not _whole(epochs, 0) or not _whole(batch_size, 1):
        raise ValueError(
            f"epochs must be 0 or more and batch_size 1 or more, not {epochs} and {batch_size}: whole numbers"
        )
    for name, value in (("learning_rate", learning_rate), ("momentum", momentum), ("weight_decay", weight_decay)):
        _check_finite(name, value)
    if not _whole(shift, 0):
        raise ValueError(f"shift must be a whole number of 0 or more, not {shift}")
    if not callable(loss) and loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, or a function, not {loss!r}")
    if (shift or flip) and split.images.dim() != 4:
        does, shape = "flip mirrors" if flip else "shift moves", tuple(split.images.shape)
        raise ValueError(f"{does} images (n, channels, height, width): these samples have the shape {shape}")
    if (shift or flip) and split.labels.dim() > 2:  # the labels of pixels would have to move as well
        shape = tuple(split.labels.shape)
        raise ValueError(f"shift and flip move images, not labels: labels of shape {shape} would not fit them any more")
    by_labels = loss if callable(loss) else LOSSES[loss]
    if not callable(optimizer) and optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    running.check_made(model)
    learning = {id(p): p for p in model.parameters() if p.requires_grad}
    if epochs and not learning:
        raise ValueError(f"{type(model).__name__} has no parameter that learns: at least one must need a gradient")
    plain = nullcontext(lambda outputs, labels, images, samples: by_labels(outputs, labels))
    lessons = plain if teaching is None else teaching.lesson(model, split, augmented=bool(shift) or flip)
    tried = _tried(model, split.images, prepared=before_epoch is not None)
    if teaching is None and tried is not None:
        _check_labels(by_labels, tried, split.labels)
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
    steps = max(1, epochs * len(batches(len(split), batch_size)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(update, steps)
    losses = []
    memory = running.layout(model, split.images)
    model.to(memory_format=memory)  # type: ignore[call-overload]  # missing from torch's stubs
    with lessons as lesson:
        for epoch in range(epochs):
            if before_epoch is not None:
                before_epoch(epoch)
                for name, p in model.named_parameters():
                    if p.requires_grad and id(p) not in learning:
                        raise ValueError(
                            f"before_epoch brought parameter {name!r}, which would not be trained: let it keep the"
                            " parameters that learn, and unfreeze what it needs before"
                        )
            model.train()
            total = 0.0
            for batch in batches(len(split), batch_size, generator):
                images = split.images[batch]
                if shift:
                    images = shifted(images, shift, generator)
                if flip:
                    mirrored = torch.rand(len(images), generator=generator) < 0.5
                    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
                images = running.arranged(images, memory)
                answers = running.logits(model, images)
                if not isinstance(answers, Tensor):  # of a network that could not be tried
                    raise ValueError(_several(model, answers))
                cost = lesson(answers, split.labels[batch], images, batch)
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
    model.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    for name, p in model.named_parameters():
        if losses and p.grad is not None and not torch.isfinite(p).all():
            raise ValueError(
                f"training diverged in epoch {epochs}: parameter {name!r} holds NaN or infinity; try a lower learning"
                " rate"
            )
    return losses


def check_one_answer(model: nn.Module, images: Tensor) -> None:
    """Raise ValueError where a network answers in training mode with anything but one tensor. A copy of it is run.

    model: any network; it is left as it was.
    images: the first two are run through the copy.

    >>> check_one_answer(nn.Linear(3, 2), torch.zeros(2, 3))
    """
    _answered(model, copy.deepcopy(model).train(), images)


def _answered(model: nn.Module, twin: nn.Module, images: Tensor) -> Tensor:
    """What a copy of the model in training mode answers to two images; ValueError for anything but one tensor."""
    with torch.random.fork_rng([images.device] if images.is_cuda else []), torch.no_grad():
        answers = running.logits(twin, images[:2].to(memory_format=torch.contiguous_format))
    if not isinstance(answers, Tensor):
        raise ValueError(_several(model, answers))
    return answers


def _tried(model: nn.Module, images: Tensor, *, prepared: bool) -> Tensor | None:
    """What a copy answers in training mode; None for a network that cannot be tried before it is trained.

    prepared: whether a function is called before each epoch. It may bring what the network lacks to run.
    """
    try:
        twin = copy.deepcopy(model).train()
    except Exception:  # whatever a module may hold; it trains nevertheless
        return None
    try:
        return _answered(model, twin, images)
    except ValueError as error:
        if prepared and isinstance(error.__cause__, LookupError):
            with suppress(ValueError), running.evaluating(twin):
                _answered(model, twin, images)
                return None
        raise


def _check_samples(split: Split, purpose: str) -> None:
    split.check_not_empty(purpose)
    if len(split.images) != len(split.labels):
        raise ValueError(f"the split has {len(split.images)} images and {len(split.labels)} labels: one for each")


def _whole(value: object, least: int) -> bool:
    return isinstance(value, Integral) and int(value) >= least


def _check_finite(name: str, value: float) -> None:
    if not 0 <= value <= torch.finfo(torch.float32).max:
        raise ValueError(f"{name} must be 0 or more and finite in float32, not {value}")


def _check_labels(loss: Loss, outputs: Tensor, labels: Tensor) -> None:
    """ValueError where a loss of this file cannot compare the labels of a split with what a network answers.

    outputs: to the first samples.
    labels: of all samples.
    """
    name = next((name for name, known in LOSSES.items() if known is loss), None)
    if name is None:
        return
    if name != "squared_error" and not labels.is_floating_point():
        classes = outputs.shape[1] if outputs.dim() > 1 else 0
        unknown = (labels < 0) | (labels >= classes)
        if name == "cross_entropy":
            unknown &= labels != IGNORED
        wrong = labels[unknown]
        if wrong.numel():
            raise ValueError(
                f"labels hold the class {int(wrong.flatten()[0])}: accepted are 0 to {classes - 1}, one for each of the"
                f" {classes} outputs"
            )
    shapes = (
        f"{tuple(labels.shape)} and type {labels.dtype} for {len(outputs)} outputs of shape {tuple(outputs.shape[1:])}"
    )
    try:
        if name == "squared_hinge" and (outputs.dim() != 2 or labels.dim() != 1):
            raise TypeError("one class for each sample is needed")
        loss(outputs, labels[: len(outputs)])
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(f"{name} does not take labels of shape {shapes}: {error}") from error


def _several(model: nn.Module, answers: object) -> str:
    return (
        f"{type(model).__name__} answers in training mode with {type(answers).__name__}, not with one tensor of logits:"
        " train it without its heads for training, or wrap it"
    )


def batches(n: int, batch_size: int, generator: torch.Generator | None = None) -> list[Tensor]:
    """Deal n samples in random order into batches, and return the numbers of the samples in each.

    The last batch may be smaller. A single sample that is left over joins the batch before it, since batch norm learns
    nothing from one value.

    n: number of samples, 0 or more.
    batch_size: samples in each batch, 1 or more.
    generator: of the order; it is advanced. Default None: the order 0, 1, 2, ...

    >>> [batch.tolist() for batch in batches(7, 3)]
    [[0, 1, 2], [3, 4, 5, 6]]
    """
    order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
    parts = list(order.split(batch_size))
    if len(parts) > 1 and len(parts[-1]) == 1 < batch_size:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def minimize(
    model: nn.Module,
    split: Split,
    *,
    weight_decay: float,
    masks: Mapping[str, Tensor] | None = None,
    iterations: int = 500,
) -> float:
    r"""Bring a small network to a minimum of its regularized loss by L-BFGS. In place; returns the objective.

    .. math:: E(w) = \text{mean cross-entropy} + \tfrac{\lambda}{2} \lVert w \rVert^2

    Each step sees the whole split, and the decay acts on biases too, so that the result is a minimum of one function
    that can be written down. It is best run in float64. The model is in evaluation mode afterwards.

    model: a small network, since L-BFGS holds some twenty copies of all parameters.
    split: the samples; at least one. Images are converted to the type of the parameters.
    weight_decay: :math:`\lambda`, 0 or more.
    masks: parameter name -> bool mask of its shape, True where a value is kept; the others become zero and stay zero.
        Parameters without a mask are kept whole; default: no masks.
    iterations: the largest number of L-BFGS iterations, default 500.

    Returns E. Raises ValueError, before anything is changed, for an empty split, images that are not finite or that the
    model does not take, labels of other classes, a mask of no parameter or of another shape or type, a parameter that
    needs no gradient, and numbers below 0.

    >>> from lib import datasets
    >>> objective = minimize(nn.Linear(17, 2).double(), datasets.load("monks-1-rule").train, weight_decay=0.01)
    >>> round(objective, 3)
    0.488
    """
    _check_samples(split, "to train on")
    _check_finite("weight_decay", weight_decay)
    if not _whole(iterations, 0):
        raise ValueError(f"iterations must be a whole number of 0 or more, not {iterations}")
    parameters = dict(model.named_parameters())
    for name, p in parameters.items():
        if not p.requires_grad:
            raise ValueError(f"parameter {name!r} needs no gradient: all parameters are moved, so all must learn")
    for name, mask in (masks or {}).items():
        if name not in parameters:
            raise ValueError(f"there is no parameter {name!r}: masks are of {', '.join(parameters)}")
        if mask.dtype != torch.bool or mask.shape != parameters[name].shape:
            given, shape = f"{mask.dtype} of shape {tuple(mask.shape)}", tuple(parameters[name].shape)
            raise ValueError(f"the mask of parameter {name!r} must be truth values of shape {shape}, not {given}")
    images = running.fitted(model, split.images)
    if not torch.isfinite(images).all():
        raise ValueError("the images hold NaN or infinity: finite values are needed")
    with torch.no_grad(), running.evaluating(model):
        _check_labels(nn.functional.cross_entropy, running.class_logits(model, images[:2]), split.labels)
    mask = torch.cat([(masks or {}).get(n, torch.ones_like(p)).to(p.dtype).flatten() for n, p in parameters.items()])
    start = mask * nn.utils.parameters_to_vector(parameters.values()).detach()
    model.eval()

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        vector = torch.from_numpy(values).to(mask.dtype) * mask
        nn.utils.vector_to_parameters(vector, parameters.values())
        loss = nn.functional.cross_entropy(running.logits(model, images), split.labels)
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(parameters.values()))])
        whole = loss.item() + weight_decay / 2 * vector.square().sum().item()
        return whole, (mask * (gradient + weight_decay * vector)).double().numpy()

    options = {"maxiter": iterations, "maxfun": 5 * iterations, "ftol": 1e-13, "gtol": 1e-8}
    found = optimize.minimize(objective, start.double().numpy(), jac=True, method="L-BFGS-B", options=options)
    return objective(found.x)[0]


def shifted(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Move each image by its own random offset; zeros come in at the border.

    images: (n, channels, height, width).
    pixels: the largest offset in either direction, 0 or more.
    generator: of the offsets; it is advanced.

    Returns images of the same shape.

    >>> image = torch.eye(3)[None, None]
    >>> shifted(image, 1, torch.Generator().manual_seed(0))[0, 0]
    tensor([[0., 0., 1.],
            [0., 0., 0.],
            [0., 0., 0.]])
    """
    n, _, height, width = images.shape
    padded = nn.functional.pad(images, (pixels,) * 4)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, n, 1, 1), generator=generator)
    rows = dy + torch.arange(height)[:, None]
    columns = dx + torch.arange(width)[None, :]
    return padded[torch.arange(n)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


@torch.no_grad()
def error_pct(model: nn.Module, split: Split, *, batch_size: int = 1000) -> float:
    """Return the share of misclassified samples in percent. The model is in evaluation mode afterwards.

    model: any network with logits (n, classes).
    split: the samples to evaluate on; at least one.
    batch_size: samples per forward pass, 1 or more, default 1000.

    Raises ValueError for an empty split, a batch_size that is no whole number of 1 or more, labels that are not one for
    each sample, answers of another shape, and logits that hold NaN.

    >>> error_pct(nn.Identity(), Split(torch.eye(4), torch.tensor([0, 1, 2, 0])))
    25.0
    """
    _check_samples(split, "to evaluate on")
    if split.labels.dim() != 1:
        shape = tuple(split.labels.shape)
        raise ValueError(f"labels must be one class for each sample, ({len(split)},), not of shape {shape}")
    if not _whole(batch_size, 1):
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}: a whole number")
    model.eval()
    plain = split.images.to(memory_format=torch.contiguous_format)  # some channels_last kernels are wrong: see layout
    pairs = zip(plain.split(batch_size), split.labels.split(batch_size), strict=True)
    wrong = sum(
        (running.class_logits(model, images, infinite=True).argmax(dim=1) != labels).sum().item()
        for images, labels in pairs
    )
    return 100 * wrong / len(split)
