r"""Knowledge in singular vectors: the student's maps should change from layer to layer as the teacher's do.

A map X of one image, (places, channels), is reduced to its first k right singular vectors,
:math:`X \approx U_k \Sigma_k V_k^\top`: they say which channels respond together. The student's vectors are matched
with the teacher's :math:`v_{T,i}`, their sign included, and both are weighted by the teacher's singular values, as
:math:`f_i = v_i \, \sigma_{T,i} / \lVert \sigma_T \rVert`. What a network does between two maps l and l + 1 is

.. math:: D_{m,n,i} = \exp\big(-(f^{l}_{m,i} - f^{l+1}_{n,i})^2 / 8\big) \quad \text{for all channels m and n,}

and the loss of an image is :math:`\tfrac{\sqrt{k}}{2} \sum_l \lVert D_S - D_T \rVert^2` (lee2018selfsupervised). The
gradient of this loss is scaled down where it is longer than that of the labels.

Three things differ from the authors' code. The loss is the mean over a batch, not the sum. The limit is for the
gradient of all parameters together, not of each, and does not fade in over the first epochs. The sign of the teacher's
vectors, on which D depends and which the code leaves open, is fixed here: the entries of each sum to 0 or more.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lib.distillation.shared.distiller import Distiller, Tap, Term, check_finite

MORE = 3  # vectors of the student, beyond k, among which the k best matches are sought, as in the authors' code
EQUAL = 1000  # roundings of the largest eigenvalue: vectors of nearer ones mix, and their gradient would be noise


def loss(
    student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], labels: Tensor | None = None, *, k: int = 1
) -> Tensor:
    """Return the mean loss of a batch (lee2018selfsupervised).

    student: two maps or more in the order of their layers, each (n, channels, height, width).
    teacher: as many maps of the same images and channels; height and width may differ.
    labels: not read.
    k: singular vectors of each map, 1 (default) to the number of channels or places of the smallest map.

    float16 and bfloat16 are computed in float32.
    Raises ValueError for fewer than two maps, another number of them in the teacher, maps of other dimensions or
    different channels, a k outside its range, and maps that are not finite.

    >>> first, second = torch.rand(2, 4, 3, 3), torch.rand(2, 6, 2, 2)
    >>> loss((5 * first, second), (first, second)).item() < 1e-6  # the scale of a map does not matter
    True
    """
    _check_maps(student, teacher, k)
    # method
    mine, its = [], []  # weighted vectors of each map, (n, channels, k)
    for ours, theirs in zip(student, teacher, strict=True):
        values, vectors = right_vectors(theirs.detach().to(ours), k)
        vectors = vectors * torch.where(vectors.sum(1, keepdim=True) < 0, -1, 1)
        share = nn.functional.normalize(values, dim=1)[:, None]  # sigma / |sigma|
        candidates = right_vectors(ours, min(k + MORE, ours.shape[1], ours[0, 0].numel()))[1]
        mine.append(aligned(candidates, vectors) * share)
        its.append(vectors * share)
    pairs = zip(pairwise(mine), pairwise(its), strict=True)
    squares = [(features(*ours) - features(*theirs)).square().sum((1, 2, 3)) for ours, theirs in pairs]
    return k**0.5 / 2 * torch.stack(squares).sum(0).mean()
    # end of method


def right_vectors(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""Return the largest singular values of each map, and the right singular vectors that belong to them.

    They come from the smaller of the Gram matrices :math:`X^\top X` and :math:`X X^\top`. The gradient
    :math:`\mathrm{d} v_i = \sum_{j \ne i} v_j \, v_j^\top \mathrm{d}(X^\top X) v_i / (\sigma_i^2 - \sigma_j^2)` goes
    through the vectors alone. It does not exist where two singular values are equal. The paper leaves out terms that
    are not finite; here a term is left out as soon as rounding decides the difference.

    maps: (n, channels, height, width), finite.
    count: of vectors, 1 to the number of channels or of places, whichever is smaller.

    Returns values (n, count), the largest first, and vectors (n, channels, count) of length 1. A singular value that is
    0 up to rounding has no direction, and its vector is 0.

    >>> values, vectors = right_vectors(torch.tensor([[3.0, 0.0], [0.0, 2.0]]).reshape(1, 2, 1, 2), 2)
    >>> values.tolist(), vectors.abs().tolist()
    ([[3.0, 2.0]], [[[1.0, 0.0], [0.0, 1.0]]])
    """
    rows = maps.flatten(2).mT
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    largest = rows.detach().abs().amax((1, 2), keepdim=True)
    largest = torch.where(largest > 0, largest, 1)
    rows = rows / largest  # the vectors do not change, and squares neither overflow nor vanish
    fewer_places = rows.shape[1] < rows.shape[2]
    squares, vectors = _Leading.apply(rows @ rows.mT if fewer_places else rows.mT @ rows, count)
    real = squares > _roundings(squares, min(rows.shape[1:]))
    if fewer_places:  # v = X' u / sigma
        vectors = rows.mT @ vectors
        lengths = torch.where(real[:, None], vectors, 1).norm(dim=1, keepdim=True)
        vectors = vectors / lengths
    values = torch.where(real, squares, 0).sqrt() * largest[:, 0]
    return values, torch.where(real[:, None], vectors, 0)


class _Leading(torch.autograd.Function):
    """The largest eigenvalues of symmetric matrices (n, size, size), and their eigenvectors."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
        values, vectors = (found.flip(-1) for found in torch.linalg.eigh(matrices))
        ctx.save_for_backward(values, vectors)
        largest = values[:, :count].clone()
        ctx.mark_non_differentiable(largest)
        return largest, vectors[..., :count].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Any, gradient: Tensor) -> tuple[Tensor, None]:
        values, vectors = ctx.saved_tensors
        count = gradient.shape[2]
        gaps = values[:, None, :count] - values[:, :, None]  # lambda_i - lambda_j, (n, size, count)
        apart = gaps.abs() > _roundings(values, EQUAL)[:, None]
        parts = torch.where(apart, (vectors.mT @ gradient) / torch.where(apart, gaps, 1), 0)
        whole = vectors @ parts @ vectors[..., :count].mT
        return (whole + whole.mT) / 2, None


def _roundings(values: Tensor, number: int) -> Tensor:
    """``number`` roundings of the largest eigenvalue in each row of (n, count): (n, 1)."""
    return values[:, :1].abs() * (number * torch.finfo(values.dtype).eps)


def aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the student's vector that is most parallel to each of the teacher's, with the sign that agrees.

    student: candidates, (n, channels, at least one).
    teacher: (n, channels, k).

    Returns (n, channels, k).

    >>> teacher = torch.eye(3)[None, :, :2]
    >>> aligned(-torch.eye(3)[None], teacher).equal(teacher)
    True
    """
    cosines = student.mT @ teacher
    best = cosines.abs().argmax(1, keepdim=True)
    chosen = student.gather(2, best.expand(-1, student.shape[1], -1))
    return torch.where(cosines.gather(1, best) < 0, -chosen, chosen)


def features(first: Tensor, second: Tensor) -> Tensor:
    """Return D between the weighted vectors of two maps: a radial basis function for each pair of channels.

    first: of map l, (n, channels, k).
    second: of map l + 1, (n, other channels, k).

    Returns (n, channels, other channels, k) in (0, 1].

    >>> features(torch.zeros(1, 2, 1), torch.ones(1, 3, 1)).unique()  # exp(-1 / 8)
    tensor([0.8825])
    """
    return (-(first[:, :, None] - second[:, None]).square() / 8).exp()


def distiller(teacher: nn.Module, taps: Sequence[Tap], *, k: int = 1, weight: float = 1.0) -> Distiller:
    """Return what ``training.fit`` takes as ``teaching``: cross-entropy, and the loss with its gradient limited.

    teacher: any network with the student's classes.
    taps: (part of the student, part of the teacher), two or more in the order of their layers; both of a pair give maps
        (n, channels, height, width) with the same number of channels.
    k: singular vectors of each map, 1 or more, default 1.
    weight: of the loss, 0 or more, default 1.

    Raises ValueError for fewer than two taps, and a k or a weight outside its range.

    >>> from lib import datasets, models, training
    >>> split = datasets.load("digits").train.first(40)
    >>> teaching = distiller(models.lenet5(0).eval(), [("conv1", "conv1"), ("conv2", "conv2")])
    >>> losses = training.fit(models.lenet5(1), split, epochs=2, seed=0, learning_rate=0.01, teaching=teaching)
    """
    if len(taps) < 2:
        raise ValueError(f"{len(taps)} taps: two or more are needed, since the loss compares what happens between them")
    _check_k(k)
    terms = [Term(loss, taps=taps, weight=weight, options={"k": k})]
    return Distiller(teacher, terms, labels_weight=1.0, limit_gradient=True)


def _check_k(k: int) -> None:
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be an integer of 1 or more, not {k!r}")


def _check_maps(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], k: int) -> None:
    _check_k(k)
    if isinstance(student, Tensor) or isinstance(teacher, Tensor) or len(student) < 2 or len(student) != len(teacher):
        counts = [1 if isinstance(maps, Tensor) else len(maps) for maps in (student, teacher)]
        raise ValueError(
            f"{counts[0]} maps of the student and {counts[1]} of the teacher: two pairs or more are needed"
        )
    for ours, theirs in zip(student, teacher, strict=True):
        shapes = f"maps {tuple(ours.shape)} of the student and {tuple(theirs.shape)} of the teacher"
        if ours.dim() != 4 or theirs.dim() != 4 or not ours.numel() or not theirs.numel():
            raise ValueError(f"{shapes}: (n, channels, height, width) are needed, none of them 0")
        if ours.shape[:2] != theirs.shape[:2] or len(ours) != len(student[0]):
            raise ValueError(f"{shapes}: all must be of the same images, and those of a pair have the same channels")
        least = min(*(maps.shape[1] for maps in (ours, theirs)), *(maps[0, 0].numel() for maps in (ours, theirs)))
        if k > least:
            raise ValueError(f"{shapes}: they have {least} singular vectors at most, not k = {k}")
        check_finite(theirs)
        if not torch.isfinite(ours).all():
            raise ValueError("the student's maps hold NaN or infinity: try a lower learning rate")
