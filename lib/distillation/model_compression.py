r"""Model compression: made-up samples, labeled by a large ensemble, train one small network (bucila2006model).

A teacher can label any input, so its student needs no labels, only inputs that look like the real ones. The paper
compares three sources of them:

- :func:`munge`, *MUNGE*: each sample mixes with its nearest neighbor;
- :func:`naive_bayes`, *NBE*: samples of an estimate of the joint distribution;
- :func:`marginals`, *RANDOM*: each value on its own, which destroys the structure.

The student learns the teacher's probabilities p by squared error,

.. math:: L = \frac{1}{N C} \sum_{t, c} \big(p_c(g(x^{(t)})) - p_c(z(x^{(t)}))\big)^2 .

Nominal values, which the paper compares by Hamming distance and swaps, are left out: all values count as numbers.
"""

from numbers import Integral

import numpy as np
import torch
from torch import Tensor, nn

from lib.datasets import Split
from lib.distillation.shared.distiller import Distiller, Term, answers, check_classes, check_finite, check_shapes

ROWS = 1000  # rows whose distances or draws are in memory at the same time


def munge(images: Tensor, *, copies: int, probability: float, spread: float, seed: int) -> Tensor:
    r"""Make samples near the given ones: MUNGE, for continuous values (bucila2006model, section 2.3).

    In each copy of the set every sample e meets its nearest neighbor e', in the order of the samples. With probability
    p, a value is drawn again in both samples at once, each from the other's old value:

    .. math:: e_a \leftarrow \mathcal N(e'_a, \sigma), \quad e'_a \leftarrow \mathcal N(e_a, \sigma), \quad
              \sigma = |e_a - e'_a| / s .

    A sample that is the neighbor of several is changed by each of them. Neighbors are found once, among the given
    images, and not again among changed ones. The distance is Euclidean without any scaling: bring the columns of a
    table to one scale first. New values stay between the smallest and the largest given value.

    images: (n, ...), two or more, without labels.
    copies: k, how often the set is copied, 1 or more.
    probability: p in [0, 1]; with 0 the copies are exact.
    spread: s, 1e-6 or more; the larger, the nearer a new value is to the neighbor's old one; infinity swaps the two.
    seed: of the draws.

    Returns (k n, ...), of the type and on the device of the images.
    Raises ValueError for fewer than two images, images that are empty, not finite or no floats, and for arguments that
    are not accepted.

    >>> images = torch.tensor([[0.0, 0.0], [0.1, 0.2], [1.0, 1.0]])
    >>> munge(images, copies=2, probability=0.5, spread=1.0, seed=0).shape
    torch.Size([6, 2])
    """
    rows = _rows(images, least=2)
    _check_count("copies", copies)
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must be in [0, 1], not {probability}")
    if not spread >= 1e-6:
        raise ValueError(f"spread must be 1e-6 or more, not {spread}")
    low, high = rows.min(), rows.max()
    partners = neighbors(images).tolist()
    random = np.random.default_rng(seed)
    made = np.tile(rows, (copies, 1, 1))
    for copy in made:
        for i, j in enumerate(partners):
            if i % ROWS == 0:  # drawn in blocks, which is faster
                shape = (min(ROWS, len(copy) - i), copy.shape[1])
                chosen = random.random(shape, dtype=np.float32) < probability
                noise = random.standard_normal((2, *shape), dtype=np.float32)
            # method
            one, other = copy[i], copy[j]
            deviation = np.abs(one - other) / spread
            new_one = other + deviation * noise[0, i % ROWS]
            new_other = one + deviation * noise[1, i % ROWS]
            copy[i] = np.where(chosen[i % ROWS], new_one.clip(low, high), one)
            copy[j] = np.where(chosen[i % ROWS], new_other.clip(low, high), other)
            # end of method
    return torch.from_numpy(made).to(images).reshape(-1, *images.shape[1:])


def neighbors(images: Tensor) -> Tensor:
    """Return the number of each sample's nearest other sample, by Euclidean distance.

    images: (n, ...), two or more.

    Returns (n,), int64; where several are equally near, one of them.
    Raises ValueError for fewer than two images, and images that are empty, not finite or no floats.

    >>> neighbors(torch.tensor([[0.0], [1.0], [1.5], [9.0]]))
    tensor([1, 2, 1, 2])
    """
    rows = torch.from_numpy(_rows(images, least=2)).to(images.device)
    rows = rows - rows.mean(0)  # distances stay the same, and their squares lose fewer digits
    lengths = rows.square().sum(1)
    nearest = []
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        distances = lengths - 2 * part @ rows.T  # squared, less the row's own squared length
        distances[torch.arange(len(part)), torch.arange(start, start + len(part))] = torch.inf
        nearest.append(distances.argmin(1))
    return torch.cat(nearest)


def marginals(images: Tensor, n: int, *, seed: int) -> Tensor:
    """Make samples with each value drawn on its own: RANDOM (bucila2006model, section 2.1).

    Each value is copied from the same place of a random image, a new one for each value.

    images: (m, ...), one or more, without labels.
    n: number of samples to make, 1 or more.
    seed: of the draws.

    Returns (n, ...), of the type and on the device of the images.
    Raises ValueError for images that are empty, not finite or no floats, and for n below 1.

    >>> marginals(torch.tensor([[0.0, 2.0], [1.0, 3.0]]), 500, seed=0).unique(dim=0).tolist()
    [[0.0, 2.0], [0.0, 3.0], [1.0, 2.0], [1.0, 3.0]]
    """
    rows, random = _rows(images), np.random.default_rng(seed)
    _check_count("n", n)
    made = np.empty((n, rows.shape[1]), rows.dtype)
    for start in range(0, n, ROWS):
        part = made[start : start + ROWS]
        part[:] = np.take_along_axis(rows, random.integers(len(rows), size=part.shape), axis=0)
    return torch.from_numpy(made).to(images).reshape(-1, *images.shape[1:])


def naive_bayes(images: Tensor, labels: Tensor, n: int, *, seed: int) -> Tensor:
    """Make samples from a naive Bayes estimate: NBE, with the classes as its components (bucila2006model, section 2.2).

    A class is drawn in proportion to how often it occurs; then each value is drawn on its own, from the normal
    distribution with the mean and the standard deviation of that value in the class. New values stay between the
    smallest and the largest given value. The paper uses no classes here: it finds the components, each a naive Bayes
    model, by expectation maximization, without labels.

    images: (m, ...), one or more.
    labels: (m,) whole numbers, of classes, or of any other grouping, such as a teacher's choices.
    n: number of samples to make, 1 or more.
    seed: of the draws.

    Returns (n, ...), of the type and on the device of the images.
    Raises ValueError for images that are empty, not finite or no floats, for labels that are not one whole number for
    each, and for n below 1.

    >>> images, labels = torch.tensor([[0.0, 1.0], [0.0, 1.0], [5.0, 5.0]]), torch.tensor([0, 0, 1])
    >>> naive_bayes(images, labels, 500, seed=0).unique(dim=0).tolist()  # no value varies within a class
    [[0.0, 1.0], [5.0, 5.0]]
    """
    rows, random = _rows(images), np.random.default_rng(seed)
    _check_count("n", n)
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"labels must be {len(images)} whole numbers, one for each image, not {labels.dtype} of shape"
            f" {tuple(labels.shape)}"
        )
    low, high = rows.min(), rows.max()
    classes, counts = np.unique(labels.cpu().numpy(), return_counts=True)
    members = [rows[labels.cpu().numpy() == each] for each in classes]
    mean = np.stack([part.mean(0) for part in members])
    deviation = np.stack([part.std(0) for part in members])
    made = np.empty((n, rows.shape[1]), rows.dtype)
    for start in range(0, n, ROWS):
        part = made[start : start + ROWS]
        drawn = random.choice(len(classes), len(part), p=counts / counts.sum())
        noise = random.standard_normal(part.shape, dtype=np.float32)
        part[:] = (mean[drawn] + deviation[drawn] * noise).clip(low, high)
    return torch.from_numpy(made).to(images).reshape(-1, *images.shape[1:])


def labeled(teacher: nn.Module, images: Tensor) -> Split:
    """Return a split of made-up images with the classes that the teacher chooses, to train on.

    A student trained with a :func:`distiller` learns the teacher's probabilities and ignores these labels.

    teacher: any classifier; its mode is restored.
    images: (n, ...), one or more.

    Raises ValueError for no images and for answers that are not logits or not finite.

    >>> labeled(nn.Identity(), torch.eye(3)).labels
    tensor([0, 1, 2])
    """
    logits = answers(teacher, images)
    if logits.dim() < 2 or len(logits) != len(images):
        raise ValueError(
            f"the teacher answers {len(images)} images with {tuple(logits.shape)}: logits (n, classes, ...) are needed"
        )
    return Split(images, logits.argmax(1).to(images.device))


def loss(student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return the mean squared error between probabilities (bucila2006model, section 3).

    Its gradient vanishes where the student is sure, even of the wrong class: logits or soft targets train faster.

    student: logits, (n, classes), or (n, classes, ...) for a class at each place.
    teacher: logits of the same shape.
    labels: not used.

    Raises ValueError for logits of different shapes or of one class alone, and for a teacher that is not finite.

    >>> loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[99.0, 0.0]])).item()
    0.25
    """
    check_shapes(student, teacher)
    check_finite(teacher)
    check_classes(student)
    # method
    return (student.softmax(1) - teacher.detach().softmax(1)).square().mean()
    # end of method


def distiller(teacher: nn.Module | Tensor) -> Distiller:
    """Return what ``training.fit`` takes as ``teaching``.

    The loss is small, at most 2 over the number of classes, so use a higher learning rate than for labels.

    teacher: any classifier, or its stored logits; see :class:`~lib.distillation.shared.distiller.Distiller`.

    >>> from lib import datasets, models, training
    >>> teacher = models.mlp(hidden=(40,)).eval()
    >>> images = munge(datasets.load("digits").train.images[:50], copies=2, probability=0.5, spread=1.0, seed=0)
    >>> student, transfer = models.mlp(hidden=(9,)), labeled(teacher, images)
    >>> losses = training.fit(student, transfer, epochs=3, seed=0, teaching=distiller(teacher))
    >>> losses[-1] < losses[0]
    True
    """
    return Distiller(teacher, [Term(loss)])


def _rows(images: Tensor, *, least: int = 1) -> np.ndarray:
    """The images as rows, float32 or float64, after checking that they are finite and enough."""
    if len(images) < least or not images.numel() or images.dim() < 2:
        raise ValueError(f"images of shape {tuple(images.shape)}: (n, ...) with {least} or more of them are needed")
    if not images.is_floating_point():
        raise ValueError(f"the images are {images.dtype}: floating-point numbers are needed")
    if not torch.isfinite(images).all():
        raise ValueError("the images hold NaN or infinity: finite values are needed")
    wide = images.detach().to("cpu", torch.promote_types(images.dtype, torch.float32))
    return wide.reshape(len(images), -1).numpy()


def _check_count(name: str, count: object) -> None:
    if isinstance(count, bool) or not isinstance(count, Integral) or int(count) < 1:
        raise ValueError(f"{name} must be a whole number from 1 up, not {count!r}")
