"""A teacher and the losses with which a student copies it: every technique of distillation trains this way.

All losses have one signature, ``loss(student, teacher, labels, **options) -> scalar``. ``student`` and ``teacher`` are
the answers of the two networks, or the outputs of named parts of them (*taps*): a tensor, or a tuple of tensors where
several parts are tapped. :class:`Distiller` collects both sides and adds up the terms,

.. math:: L = w_0 \\, \\mathrm{CE}(\\text{student}, y) + \\sum_i w_i L_i(\\text{student}, \\text{teacher}, y),

and ``training.fit(student, split, teaching=distiller, ...)`` minimizes the sum.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lib import running
from lib.datasets import Split
from lib.training import Lesson

Tap = tuple[str, str]  # names of a part of the student and of a part of the teacher


@dataclass(frozen=True, eq=False)
class Term:
    """One loss between student and teacher.

    loss: ``loss(student, teacher, labels, **options) -> scalar``: a module-level function without captured variables.
    taps: (part of the student, part of the teacher), as in ``named_modules()``. Default none: the networks' answers.
        The output of a part is compared; if it runs more than once in a forward pass, the last one.
    weight: of the loss in the sum, 0 or more, default 1.
    options: named arguments of the loss.

    Raises ValueError for taps that are not pairs of names.

    >>> from lib.distillation import soft_targets
    >>> Term(soft_targets.loss, taps=[("fc2", "fc3")], options={"temperature": 2.0}).weight
    1.0
    """

    loss: Callable[..., Tensor]
    taps: Sequence[Tap] = ()
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for tap in self.taps:
            if not isinstance(tap, tuple | list) or len(tap) != 2 or not all(isinstance(name, str) for name in tap):
                raise ValueError(
                    "taps must be pairs of names, (part of the student, part of the teacher), as in [('fc1', 'fc2')]:"
                    f" {tap!r} is no pair"
                )


@dataclass(frozen=True, eq=False)
class Distiller:
    """What ``training.fit`` takes as ``teaching``: a teacher and the terms of the loss.

    The teacher labels the very images that the student sees, in evaluation mode and without gradients. If images are
    neither moved nor mirrored, and only answers are compared, it labels each sample once. Stored answers are looked up
    by the number of the sample, so shuffling cannot mix them up.

    teacher: any network; or its stored answers, (n, classes, ...), one for each sample of the split, in its order.
    terms: of the loss; at least one.
    labels_weight: of cross-entropy with the labels, 0 or more, default 0: labels are not used.
    limit_gradient: whether to scale the gradient of the terms down where it is longer than that of the labels, default
        False. It needs ``labels_weight`` above 0.

    Raises ValueError for no terms, a teacher that is neither a network nor a tensor, weights below 0 or not finite, and
    ``limit_gradient`` without labels; and, before training changes anything, for all that :meth:`lesson` refuses.

    >>> from lib import datasets, models, training
    >>> from lib.distillation import soft_targets
    >>> split = datasets.load("digits").train.first(50)
    >>> teacher, student = models.mlp(hidden=(40,)), models.mlp(hidden=(9,))
    >>> distiller = Distiller(teacher.eval(), [Term(soft_targets.loss, options={"temperature": 4.0})])
    >>> losses = training.fit(student, split, epochs=3, seed=0, learning_rate=0.01, teaching=distiller)
    >>> losses[-1] < losses[0]
    True
    """

    teacher: nn.Module | Tensor
    terms: Sequence[Term]
    labels_weight: float = 0.0
    limit_gradient: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, nn.Module | Tensor):
            kind = type(self.teacher).__name__
            raise ValueError(f"the teacher must be a network or a tensor of its stored answers, not {kind}")
        if not self.terms:
            raise ValueError("a distiller needs at least one term: without one there is nothing to copy")
        for weight in (self.labels_weight, *(term.weight for term in self.terms)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"the weight of a loss must be 0 or more and finite, not {weight}")
        if self.limit_gradient and not self.labels_weight:
            raise ValueError("limit_gradient compares with the gradient of the labels: labels_weight must be above 0")

    def lesson(self, student: nn.Module, split: Split, *, augmented: bool) -> AbstractContextManager[Lesson]:
        """Check that this teacher can teach this student; return a context manager that gives the loss during training.

        student: any network; it is left as it was.
        split: the samples to train on; at least one.
        augmented: whether images are moved or mirrored before the student sees them.

        Raises ValueError for a student that shares weights with the teacher; for answers of different shapes, or that
        are not finite; for taps that do not exist, do not run or do not fit the loss; for stored answers that are not
        one for each sample, or that belong to images that are moved afterwards; and for taps of stored answers.
        """
        split.check_not_empty("to train on")
        stored = None
        if isinstance(self.teacher, Tensor):
            stored = self.teacher
            self._check_stored(stored, split, augmented=augmented)
            stored = stored.detach()
        elif self.teacher.training:
            warnings.warn("the teacher was in training mode: it labels in evaluation mode", stacklevel=3)
        self._try(student, split)
        if isinstance(self.teacher, nn.Module) and not augmented and not any(term.taps for term in self.terms):
            stored = answers(self.teacher, split.images)
        return self._lesson(student, stored, split.images)

    @contextmanager
    def _lesson(self, student: nn.Module, stored: Tensor | None, examples: Tensor) -> Iterator[Lesson]:
        # A memory layout that is safe for the student may be unsafe for the teacher, and the other way round.
        memory = torch.contiguous_format
        if stored is None and isinstance(self.teacher, nn.Module):
            memory = running.layout(self.teacher, fitted(self.teacher, examples[:8]))
        with self._both(student) as (flow, taught):

            def step(outputs: Tensor, labels: Tensor, images: Tensor, samples: Tensor) -> Tensor:
                if stored is None:
                    target = taught(running.arranged(images, memory))
                else:
                    target = stored[samples.to(stored.device)]
                return self._sum(student, outputs, target, labels, flow)

            yield step

    @contextmanager
    def _both(self, student: nn.Module) -> Iterator[tuple[Any, Callable[[Tensor], Tensor]]]:
        """Taps on both networks, and the teacher's answers: in evaluation mode, without gradients."""
        teacher, taps = self.teacher, [tap for term in self.terms for tap in term.taps]
        network = teacher if isinstance(teacher, nn.Module) else nn.Identity()
        ours, its = (list(dict.fromkeys(names)) for names in zip(*taps, strict=True)) if taps else ([], [])
        with _tapped(student, ours) as mine, _tapped(network, its) as other:

            @torch.no_grad()
            def taught(images: Tensor) -> Tensor:
                with running.evaluating(network):
                    return running.logits(network, fitted(network, images))

            yield (mine, other), taught

    def _sum(self, student: nn.Module, outputs: Tensor, target: Tensor, labels: Tensor, flow: Any) -> Tensor:
        check_finite(target)
        terms = outputs.new_zeros(())
        for term in self.terms:
            if term.taps:
                for names, ran in zip(zip(*term.taps, strict=True), flow, strict=True):
                    running.check_ran(names, ran)
                here = tuple(flow[0][name] for name, _ in term.taps)
                there = tuple(flow[1][name].detach() for _, name in term.taps)
                for value in there:
                    check_finite(value)
            else:
                here, there = (outputs,), (target,)
            there = tuple(value.to(like) for value, like in zip(there, here, strict=True))
            one = len(here) == 1
            loss = term.loss(here[0] if one else here, there[0] if one else there, labels, **term.options)
            terms = terms + term.weight * loss
        if not self.labels_weight:
            return terms
        by_labels = self.labels_weight * nn.functional.cross_entropy(outputs, labels)
        if self.limit_gradient:
            terms = terms * _limit(by_labels, terms, [p for p in student.parameters() if p.requires_grad])
        return by_labels + terms

    def _check_stored(self, stored: Tensor, split: Split, *, augmented: bool) -> None:
        if not stored.dim():
            raise ValueError("the stored answers are a single number: each sample needs its own")
        if augmented:
            raise ValueError("stored answers do not fit images that are moved or mirrored: give the teacher itself")
        if len(stored) != len(split):
            raise ValueError(f"{len(stored)} stored answers for {len(split)} samples: each sample needs its own")
        if any(term.taps for term in self.terms):
            raise ValueError("stored answers have no parts to tap: give the teacher itself")
        check_finite(stored)

    def _try(self, student: nn.Module, split: Split) -> None:
        """Compute the loss of two samples once, so that whatever does not fit is refused before training."""
        teacher = self.teacher
        if isinstance(teacher, nn.Module) and _memory(student) & _memory(teacher):
            raise ValueError("the teacher shares weights with its student: teach a copy (copy.deepcopy)")
        images, labels = split.images[:2], split.labels[:2]
        with torch.no_grad(), running.evaluating(student), self._both(student) as (flow, taught):
            outputs = running.logits(student, images)
            target = teacher[:2] if isinstance(teacher, Tensor) else taught(images)
            if not isinstance(outputs, Tensor) or not isinstance(target, Tensor) or outputs.shape != target.shape:
                shapes = [tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__ for a in (outputs, target)]
                raise ValueError(
                    f"the student answers {len(images)} samples with {shapes[0]} and the teacher with {shapes[1]}: both"
                    " must have the same classes"
                )
            unlimited = Distiller(teacher, self.terms, self.labels_weight)
            unlimited._sum(student, outputs, target, labels, flow)


@torch.no_grad()
def answers(teacher: nn.Module, images: Tensor, *, batch_size: int | None = None) -> Tensor:
    """Return a teacher's answers to images in evaluation mode, (n, classes, ...), to store them.

    teacher: any network; its mode is restored.
    images: (n, ...).
    batch_size: images at a time, 1 or more. Default None: 500, or fewer where they are large.

    Raises ValueError for no images, a batch_size below 1, and answers that are not one tensor or not finite.

    >>> tuple(answers(nn.Linear(4, 3), torch.zeros(5, 4)).shape)
    (5, 3)
    """
    if not len(images):
        raise ValueError("there are no images to answer")
    if batch_size is None:  # as many values as 500 images of 32 x 32 pixels in three colors have
        batch_size = min(500, max(1, 500 * 32 * 32 * 3 // max(1, images[0].numel())))
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    plain = images.to(memory_format=torch.contiguous_format)  # some channels_last kernels are wrong: see running.layout
    parts = []
    with running.evaluating(teacher):
        for part in plain.split(batch_size):
            parts.append(running.logits(teacher, fitted(teacher, part)))
            if not isinstance(parts[-1], Tensor):
                kind = type(parts[-1]).__name__
                raise ValueError(f"{type(teacher).__name__} answers with {kind}: one tensor of logits is needed")
    found = torch.cat(parts)
    check_finite(found)
    return found


def check_finite(values: Tensor) -> None:
    """Raise ValueError for a teacher's answers that hold NaN or infinity.

    values: answers, or what flows through a tap.

    >>> check_finite(torch.zeros(3))
    """
    if not torch.isfinite(values).all():
        raise ValueError("the teacher's answers hold NaN or infinity: finite ones are needed")


def check_shapes(student: Tensor, teacher: Tensor, *, least: int = 2) -> None:
    """Raise ValueError unless student and teacher have the same shape, with ``least`` dimensions or more and a sample.

    student: what the student answers, (n, ...).
    teacher: what the teacher answers.
    least: how many dimensions are needed, default 2.

    >>> check_shapes(torch.zeros(5, 3), torch.ones(5, 3))
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"student and teacher must have the same shape, not {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
    if student.dim() < least or not student.numel():
        raise ValueError(f"answers of shape {tuple(student.shape)}: {least} dimensions or more and a sample are needed")


def check_classes(logits: Tensor) -> None:
    """Raise ValueError for logits of a single class: its probability is always 1, so there is nothing to learn from it.

    logits: (n, classes, ...).

    >>> check_classes(torch.zeros(5, 2))
    """
    if logits.shape[1] < 2:
        raise ValueError(
            "logits of one class have the probability 1 whatever they are: at least two classes are needed"
        )


def fitted(network: nn.Module, images: Tensor) -> Tensor:
    """Bring images to the type and the device of a network's weights, where it has any.

    network: any.
    images: of any type and device.

    >>> fitted(nn.Linear(4, 3).double(), torch.zeros(2, 4)).dtype, fitted(nn.ReLU(), torch.zeros(2, 4)).dtype
    (torch.float64, torch.float32)
    """
    return running.fitted(network, images) if any(p.is_floating_point() for p in network.parameters()) else images


def _limit(main: Tensor, other: Tensor, parameters: list[nn.Parameter]) -> Tensor | float:
    """The factor, at most 1, that makes the gradient of ``other`` no longer than that of ``main``."""
    lengths = []
    for loss in (main, other):
        if not loss.requires_grad:
            return 1.0
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        lengths.append(torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt())
    return (lengths[0] / lengths[1].clamp_min(torch.finfo(lengths[1].dtype).tiny)).clamp_max(1).detach()


@contextmanager
def _tapped(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Name -> what the part answered in the last forward pass: a copy, since the next layer may change it in place."""
    with running.captured(network, names) as flow, ExitStack() as hooks:

        def keeper(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def keep(part: nn.Module, inputs: Any, output: Any) -> None:
                if not isinstance(output, Tensor):
                    kind = type(output).__name__
                    raise ValueError(f"layer {name!r} answers with {kind}, not with one tensor: tap another part")
                flow.outputs[name] = output.clone()

            return keep

        for name in names:
            hooks.callback(network.get_submodule(name).register_forward_hook(keeper(name)).remove)
        yield flow.outputs


def _memory(network: nn.Module) -> set[int]:
    """Where the network's parameters and buffers lie."""
    tensors = [*network.parameters(), *network.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}
