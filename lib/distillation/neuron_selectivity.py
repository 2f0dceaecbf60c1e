r"""Neuron selectivity transfer: the student's neurons should prefer the same places of an image as the teacher's.

The answers of one channel at all places of an image are its *selectivity pattern*, scaled to length 1. The patterns of
the student's channels and those of the teacher's are two samples, and their maximum mean discrepancy is

.. math:: \mathrm{MMD}^2 = \frac{1}{C_T^2} \sum_{i, i'} k(f_T^i, f_T^{i'}) + \frac{1}{C_S^2} \sum_{j, j'}
    k(f_S^j, f_S^{j'}) - \frac{2}{C_T C_S} \sum_{i, j} k(f_T^i, f_S^j) .

The order of the channels does not matter, so no channel of the student is tied to one of the teacher, and the two may
have different numbers of channels. Training minimizes cross-entropy plus :math:`\tfrac{\lambda}{2} \mathrm{MMD}^2`
(huang2017nst). The authors' code leaves out the first sum, which is constant; here it is kept, so that 0 is the best
value.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.distillation import soft_targets
from lib.distillation.shared.distiller import Distiller, Tap, Term, check_finite

KERNELS = ("linear", "polynomial", "gaussian")
SMALLEST = 1e-10  # added to a squared length, as in the authors' code: bounds the gradient of a nearly dead channel


def loss(
    student: Tensor | tuple[Tensor, ...],
    teacher: Tensor | tuple[Tensor, ...],
    labels: Tensor | None = None,
    *,
    kernel: str = "polynomial",
) -> Tensor:
    """Return the mean of MMD^2 over the images of a batch, summed over the taps.

    student: maps, (n, channels, height, width), or a tuple of maps where several parts are tapped.
    teacher: maps of the same images, as many as the student's; channels, height and width may differ.
    labels: not read.
    kernel: "polynomial" (default), "linear" or "gaussian", as in :func:`discrepancy`.

    Raises ValueError for all that :func:`discrepancy` refuses, and for different numbers of maps.

    >>> maps = torch.rand(2, 5, 4, 4)
    >>> abs(loss(maps[:, [3, 0, 4, 1, 2]], maps).item()) < 1e-6  # channels in another order
    True
    """
    ours = (student,) if isinstance(student, Tensor) else student
    theirs = (teacher,) if isinstance(teacher, Tensor) else teacher
    if not ours or len(ours) != len(theirs):
        raise ValueError(
            f"{len(ours)} maps of the student and {len(theirs)} of the teacher: they are compared in pairs"
        )
    pairs = zip(ours, theirs, strict=True)
    return torch.stack([discrepancy(mine, its, kernel=kernel).mean() for mine, its in pairs]).sum()


def discrepancy(student: Tensor, teacher: Tensor, *, kernel: str = "polynomial") -> Tensor:
    r"""Return MMD^2 between the patterns of the student's channels and the teacher's, for each image.

    The three kernels (huang2017nst) are :math:`x^\top y`, :math:`(x^\top y)^2`, and
    :math:`\exp(-\lVert x - y \rVert^2 / 2 \sigma^2)`. :math:`\sigma^2` is the mean squared distance of all pairs of
    patterns that are compared in the batch; no gradient goes through it. The first compares the means of the patterns
    only. The second compares the mean products of two places,
    :math:`\lVert F_T^\top F_T / C_T - F_S^\top F_S / C_S \rVert_F^2`, and is computed in this form where there are
    fewer places than channels.

    student: (n, channels, height, width). A map of another size is resized to the teacher's by bilinear interpolation;
        a larger one is averaged, so that each of its places counts.
    teacher: (n, channels, height, width), of at least two places. No gradient goes to it.
    kernel: "polynomial" (default; degree 2, constant 0), "linear" or "gaussian".

    Returns (n,), 0 or more up to rounding; float16 and bfloat16 are computed in float32. A channel that is 0 everywhere
    has the pattern 0 and gets no gradient.
    Raises ValueError for another kernel, maps of other dimensions, different numbers of images, empty maps, a teacher
    of one place, and a teacher's maps that are not finite.

    >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2)  # each channel prefers one of two places
    >>> student = torch.tensor([[7.0, 0.0]]).reshape(1, 1, 1, 2)
    >>> [round(discrepancy(student, teacher, kernel=kernel).item(), 3) for kernel in ("linear", "polynomial")]
    [0.5, 0.5]
    """
    check_kernel(kernel)
    _check_maps(student, teacher)
    check_finite(teacher)
    student, teacher = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x for x in (student, teacher))
    teacher = teacher.detach().to(student)
    if student.shape[2:] != teacher.shape[2:]:
        student = nn.functional.interpolate(student, size=teacher.shape[2:], mode="bilinear", antialias=True)
    # method
    patterns = torch.cat([_patterns(teacher), _patterns(student)], 1)  # (n, channels of both, places)
    its, mine = teacher.shape[1], student.shape[1]
    share = torch.cat([student.new_full((its,), 1 / its), student.new_full((mine,), -1 / mine)])
    if kernel == "linear":  # |mean of the teacher's patterns - mean of the student's|^2
        return (share @ patterns).square().sum(1)
    if kernel == "polynomial" and patterns.shape[2] < patterns.shape[1]:  # |F_T' F_T / C_T - F_S' F_S / C_S|^2
        return ((patterns.mT * share) @ patterns).square().sum((1, 2))
    products = patterns @ patterns.mT  # x'y of all pairs, (n, channels of both, channels of both)
    values = products.square() if kernel == "polynomial" else _gaussian(products)
    return values @ share @ share  # the three sums of MMD^2 at once
    # end of method


def _patterns(maps: Tensor) -> Tensor:
    """The channels scaled to length 1, (n, channels, places)."""
    flat = maps.flatten(2)
    squares = flat.square().sum(2, keepdim=True)
    return torch.where(squares > 0, flat / (squares + SMALLEST).sqrt(), 0)


def _gaussian(products: Tensor) -> Tensor:
    lengths = products.diagonal(dim1=1, dim2=2)
    distances = (lengths[:, :, None] + lengths[:, None, :] - 2 * products).clamp_min(0)
    variance = distances.detach().mean().clamp_min(torch.finfo(distances.dtype).tiny)  # 0 where all patterns are equal
    return (-distances / (2 * variance)).exp()


def distiller(
    teacher: nn.Module,
    taps: Sequence[Tap],
    *,
    kernel: str = "polynomial",
    weight: float = 50.0,
    soft_weight: float = 0.0,
    temperature: float = 4.0,
) -> Distiller:
    """Return what ``training.fit`` takes as ``teaching``: cross-entropy plus weight / 2 times MMD^2.

    teacher: any network with the student's classes.
    taps: (part of the student, part of the teacher), each with maps (n, channels, height, width); one or more. The
        paper takes the last convolutions; the authors' code taps their batch norm, before the ReLU.
    kernel: "polynomial" (default), "linear" or "gaussian".
    weight: lambda, 0 or more, default 50. The authors' code multiplies MMD^2 itself by 50: a weight of 100 here.
    soft_weight: of an additional loss of soft targets, 0 or more, default 0: none. With 1 it has the weight of the
        authors' code for NST + KD.
    temperature: of the soft targets, above 0, default 4.

    Raises ValueError for another kernel, no taps, and a weight or a temperature outside its range.

    >>> from lib import datasets, models, training
    >>> split = datasets.load("digits").train.first(40)
    >>> teaching = distiller(models.lenet5(0).eval(), [("conv2", "conv2")])
    >>> losses = training.fit(models.lenet5(1), split, epochs=2, seed=0, learning_rate=0.01, teaching=teaching)
    """
    check_kernel(kernel)
    if not taps:
        raise ValueError("name at least one tap: (part of the student, part of the teacher)")
    for name, value in (("weight", weight), ("soft_weight", soft_weight)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be 0 or more and finite, not {value}")
    soft_targets.check_temperature(temperature)
    terms = [Term(loss, taps=taps, weight=weight / 2, options={"kernel": kernel})]
    if soft_weight:
        terms.append(Term(soft_targets.loss, weight=soft_weight, options={"temperature": temperature}))
    return Distiller(teacher, terms, labels_weight=1.0)


def check_kernel(kernel: str) -> None:
    """Raise ValueError for an unknown kernel.

    kernel: "linear", "polynomial" or "gaussian".

    >>> check_kernel("linear")
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, not {kernel!r}")


def _check_maps(student: Tensor, teacher: Tensor) -> None:
    shapes = f"{tuple(student.shape)} of the student and {tuple(teacher.shape)} of the teacher"
    if student.dim() != 4 or teacher.dim() != 4 or not student.numel() or not teacher.numel():
        raise ValueError(f"maps {shapes}: (n, channels, height, width) are needed, none of them 0")
    if len(student) != len(teacher):
        raise ValueError(f"maps {shapes}: both must be of the same images")
    if teacher.shape[2] * teacher.shape[3] < 2:
        raise ValueError(f"maps {shapes}: the teacher has one place, and a pattern needs two or more")
