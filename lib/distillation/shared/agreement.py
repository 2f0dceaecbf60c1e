"""How often a student answers as its teacher does, and how often it makes the same mistakes."""

import torch
from torch import Tensor, nn

from lib import running
from lib.datasets import Split
from lib.distillation.shared.distiller import fitted


def agreement_pct(student: nn.Module, teacher: nn.Module | Tensor, split: Split, *, batch_size: int = 500) -> float:
    """Return the share of samples, in percent, for which student and teacher choose the same class.

    student: any classifier; it answers in evaluation mode, and its mode is restored.
    teacher: likewise, with as many classes; or its stored answers, one for each sample of the split.
    split: the samples; at least one. Labels are not used.
    batch_size: samples per forward pass, 1 or more, default 500.

    Where classifiers answer for each place, (n, classes, ...), each place counts as a sample.

    Raises ValueError for an empty split, a batch_size below 1, different numbers of classes, and answers that are not
    logits or not finite.

    >>> split = Split(torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 0]))
    >>> agreement_pct(nn.Identity(), nn.Hardtanh(-9, 1), split)  # the second ties, and the first of equals is chosen
    50.0
    """
    mine, its = _choices(student, teacher, split, batch_size)
    return 100 * (mine == its).double().mean().item()


def shared_mistakes_pct(
    student: nn.Module, teacher: nn.Module | Tensor, split: Split, *, batch_size: int = 500
) -> float:
    """Return the share of the teacher's mistakes, in percent, for which the student chooses the same wrong class.

    By chance alone it is above zero: compare with a network that was trained without this teacher.

    student: any classifier; it answers in evaluation mode, and its mode is restored.
    teacher: likewise, with as many classes; or its stored answers, one for each sample of the split.
    split: the samples and their true classes; at least one that the teacher misclassifies.
    batch_size: samples per forward pass, 1 or more, default 500.

    Raises ValueError for an empty split, a teacher without a mistake, a batch_size below 1, labels that are not one for
    each choice, different numbers of classes, and answers that are not logits or not finite.

    >>> split = Split(torch.tensor([[3.0, 1.0], [0.0, 1.0]]), torch.tensor([1, 1]))
    >>> shared_mistakes_pct(nn.Identity(), nn.Identity(), split)  # the first sample is the only mistake
    100.0
    """
    mine, its = _choices(student, teacher, split, batch_size)
    if its.shape != split.labels.shape:
        raise ValueError(
            f"labels of shape {tuple(split.labels.shape)} for choices of shape {tuple(its.shape)}: each needs a label"
        )
    mistakes = its != split.labels.to(its.device)
    if not mistakes.any():
        raise ValueError("the teacher makes no mistake on this split: there is none that the student could share")
    return 100 * (mine == its)[mistakes].double().mean().item()


@torch.no_grad()
def _choices(student: nn.Module, teacher: nn.Module | Tensor, split: Split, batch_size: int) -> tuple[Tensor, Tensor]:
    """The classes that both choose for each sample, on the teacher's device."""
    split.check_not_empty("to compare answers on")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    if isinstance(teacher, Tensor) and len(teacher) != len(split):
        raise ValueError(f"{len(teacher)} stored answers for {len(split)} samples: each sample needs its own")
    plain = split.images.to(memory_format=torch.contiguous_format)  # some channels_last kernels are wrong
    chosen: tuple[list[Tensor], list[Tensor]] = ([], [])
    network = teacher if isinstance(teacher, nn.Module) else nn.Identity()
    shown = plain if isinstance(teacher, nn.Module) else teacher
    with running.evaluating(student), running.evaluating(network):
        for images, seen in zip(plain.split(batch_size), shown.split(batch_size), strict=True):
            both = [_logits(student, images), _logits(network, seen)]
            if both[0].shape != both[1].shape:
                raise ValueError(
                    f"the student answers {len(images)} samples with {tuple(both[0].shape)} and the teacher with"
                    f" {tuple(both[1].shape)}: both must have the same classes"
                )
            for choices, logits in zip(chosen, both, strict=True):
                choices.append(logits.argmax(1).to(both[1].device))
    return torch.cat(chosen[0]), torch.cat(chosen[1])


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    answers = running.logits(network, fitted(network, images))
    if not isinstance(answers, Tensor) or answers.dim() < 2 or len(answers) != len(images) or not answers.shape[1]:
        answered = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
        raise ValueError(
            f"{type(network).__name__} must answer {len(images)} samples with logits ({len(images)}, classes, ...), not"
            f" with {answered}"
        )
    if not torch.isfinite(answers).all():
        raise ValueError(f"the logits of {type(network).__name__} hold NaN or infinity: finite ones are needed")
    return answers
