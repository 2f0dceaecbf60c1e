"""The one training loop, and the error of what it trained."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypedDict

import numpy as np
import torch
from scipy import optimize
from torch import Tensor, nn

from lib import running
from lib.datasets import Split

OPTIMIZERS = ("sgd", "adam")
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


LOSSES: dict[str, Loss] = {
    "cross_entropy": nn.functional.cross_entropy,
    "squared_hinge": squared_hinge,
    "squared_error": nn.functional.mse_loss,  # the split's labels are what the outputs should be
}


class Lesson(Protocol):
    """The loss of one training step, from more than labels: what a :class:`Teaching` gives to :func:`fit`."""

    def __call__(self, outputs: Tensor, labels: Tensor, images: Tensor, samples: Tensor) -> Tensor:
        """Return the loss, a scalar.

        outputs: of the network in training mode, (n, classes).
        labels: (n,).
        images: that the network was given, moved and mirrored as they were.
        samples: (n,), the numbers of the samples in the split.
        """


class Teaching(Protocol):
    """What a network learns from, where it is not the labels alone: a teacher (:mod:`lib.distillation`)."""

    def lesson(self, student: nn.Module, split: Split, *, augmented: bool) -> AbstractContextManager[Lesson]:
        """Check that the student can be taught with this split, and return its loss for as long as training lasts.

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
    """Options of :func:`fit` that every optimizer leaves open: for a technique that brings its own optimizer."""

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

    options: option name -> value; the values are not looked at.
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
    """Train the model: minimize the loss by stochastic gradient descent with Nesterov momentum. In place.

    The learning rate falls from ``learning_rate`` to zero along half a cosine over all steps. The model is in
    evaluation mode afterwards. Parameters that need no gradient stay as they are.

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
    loss: "cross_entropy" (default), "squared_hinge", "squared_error", for which the split's labels are the outputs
        that are wanted, or a function (outputs, labels) -> scalar.
    teaching: what gives the loss instead, from more than the labels: a distiller with its teacher. Default None.
    before_epoch: called with the number of each epoch, from 0, before it begins, for instance to prune a little more.
    after_step: called after each update, for instance to bring weights back between limits.

    Returns the mean loss of each epoch. Raises ValueError, before anything is changed, for an empty split, for epochs,
    batch_size, loss or optimizer that are not accepted, and for a network that answers in training mode with anything
    but one tensor; and for a loss that is not finite, after the epoch in which it became so.

    >>> from lib import datasets, models
    >>> problem = datasets.load("monks-1-rule")
    >>> losses = fit(models.mlp(inputs=17, hidden=(20,), classes=2), problem.train, epochs=3, seed=0)
    >>> len(losses), losses[-1] < losses[0]
    (3, True)
    """
    split.check_not_empty("to train on")
    if epochs < 0 or batch_size < 1:
        raise ValueError(f"epochs must be 0 or more and batch_size 1 or more, not {epochs} and {batch_size}")
    if not callable(loss) and loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, or a function, not {loss!r}")
    if flip and split.images.dim() != 4:
        shape = tuple(split.images.shape)
        raise ValueError(f"flip mirrors images (n, channels, height, width): these samples have the shape {shape}")
    if (shift or flip) and split.labels.dim() > 2:  # the labels of pixels would have to move as well
        shape = tuple(split.labels.shape)
        raise ValueError(f"shift and flip move images, not labels: labels of shape {shape} would not fit them any more")
    by_labels = loss if callable(loss) else LOSSES[loss]
    if not callable(optimizer) and optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    plain = nullcontext(lambda outputs, labels, images, samples: by_labels(outputs, labels))
    lessons = plain if teaching is None else teaching.lesson(model, split, augmented=bool(shift) or flip)
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
    buffers, modes = [b.clone() for b in model.buffers()], [module.training for module in model.modules()]
    memory = running.layout(model, split.images)
    model.to(memory_format=memory)  # type: ignore[call-overload]  # missing from torch's stubs
    with lessons as lesson:
        for epoch in range(epochs):
            if before_epoch is not None:
                before_epoch(epoch)
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
                if not isinstance(answers, Tensor):
                    for buffer, value in zip(model.buffers(), buffers, strict=True):
                        buffer.copy_(value)
                    for module, mode in zip(model.modules(), modes, strict=True):
                        module.training = mode
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
    return losses


def check_one_answer(model: nn.Module, images: Tensor) -> None:
    """Raise ValueError where a network answers in training mode with anything but one tensor. A copy of it is run.

    model: any network; it is left as it was.
    images: the first two are run through the copy.

    >>> check_one_answer(nn.Linear(3, 2), torch.zeros(2, 3))
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        answers = running.logits(copy.deepcopy(model).train(), images[:2])
    if not isinstance(answers, Tensor):
        raise ValueError(_several(model, answers))


def _several(model: nn.Module, answers: object) -> str:
    return (
        f"{type(model).__name__} answers in training mode with {type(answers).__name__}, not with one tensor of logits:"
        " train it without its heads for training, or wrap it"
    )


def batches(n: int, batch_size: int, generator: torch.Generator | None = None) -> list[Tensor]:
    """Deal n samples in random order into batches: the numbers of the samples in each.

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
        Parameters without a mask are kept whole; default none has one.
    iterations: the largest number of L-BFGS iterations, default 500.

    Returns E. Raises ValueError for an empty split.

    >>> from lib import datasets
    >>> objective = minimize(nn.Linear(17, 2).double(), datasets.load("monks-1-rule").train, weight_decay=0.01)
    >>> round(objective, 3)
    0.488
    """
    split.check_not_empty("to train on")
    parameters = dict(model.named_parameters())
    mask = torch.cat([(masks or {}).get(n, torch.ones_like(p)).to(p.dtype).flatten() for n, p in parameters.items()])
    start = mask * nn.utils.parameters_to_vector(parameters.values()).detach()
    images = split.images.to(mask.dtype)
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

    Raises ValueError for an empty split and a batch_size below 1.

    >>> error_pct(nn.Identity(), Split(torch.eye(4), torch.tensor([0, 1, 2, 0])))
    25.0
    """
    split.check_not_empty("to evaluate on")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    model.eval()
    plain = split.images.to(memory_format=torch.contiguous_format)  # some channels_last kernels are wrong: see layout
    pairs = zip(plain.split(batch_size), split.labels.split(batch_size), strict=True)
    wrong = sum((running.logits(model, images).argmax(dim=1) != labels).sum().item() for images, labels in pairs)
    return 100 * wrong / len(split)
