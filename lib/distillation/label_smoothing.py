r"""Label smoothing: a teacher trained on smoothed labels can be more accurate and still teach worse.

The label of class y becomes, for K classes and the smoothing :math:`\alpha`,

.. math:: y_k^{LS} = (1 - \alpha) \, y_k + \alpha / K

(muller2019when, section 1). Smoothing pulls the samples of a class together. Their wrong-class logits then no longer
say how one sample differs from another, which is what a student learns from. Three numbers show it:
:func:`equivalent_smoothing`, :func:`wrong_logit_variance` and :func:`mutual_information`. The teacher is trained by
``training.fit(teacher, split, loss=Smoothed(0.1), ...)``. It teaches by soft targets alone:
:func:`lib.distillation.soft_targets.distiller` with ``labels_weight=0``, the paper's :math:`\beta = 1`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib import training
from lib.datasets import Split
from lib.distillation.shared.distiller import answers
from lib.distillation.soft_targets import check_temperature


def smoothed(labels: Tensor, classes: int, smoothing: float, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the smoothed targets.

    labels: (n,) class numbers, or (n, ...) for a class at each place; at least one.
    classes: K, 2 or more.
    smoothing: alpha in [0, 1].
    dtype: of the targets, default float32.

    Returns (n, classes) or (n, classes, ...): probabilities, equal for all classes but the label's.
    Raises ValueError for labels that are not class numbers, and for values out of range.

    >>> smoothed(torch.tensor([0, 2]), 4, 0.2)
    tensor([[0.8500, 0.0500, 0.0500, 0.0500],
            [0.0500, 0.0500, 0.8500, 0.0500]])
    """
    check_smoothing(smoothing)
    _check_labels(labels, classes)
    # method
    hard = nn.functional.one_hot(labels, classes).movedim(-1, 1).to(dtype)
    return (1 - smoothing) * hard + smoothing / classes
    # end of method


@dataclass(frozen=True)
class Smoothed:
    """Cross-entropy with smoothed labels, as the ``loss`` of ``training.fit``; it is part of a cached network's key.

    smoothing: alpha in [0, 1], default 0.1; with 0 it is plain cross-entropy.

    Raises ValueError for a smoothing outside [0, 1].

    >>> from lib import datasets, models
    >>> split = datasets.load("digits").train.first(100)
    >>> losses = training.fit(models.mlp(hidden=(20,)), split, epochs=3, seed=0, loss=Smoothed(0.2))
    >>> losses[-1] < losses[0]
    True
    """

    smoothing: float = 0.1

    def __post_init__(self) -> None:
        check_smoothing(self.smoothing)

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of a batch; its gradient by the logits is (p - y^LS) / n.

        outputs: logits, (n, classes) or (n, classes, ...).
        labels: (n,) or (n, ...) class numbers.

        Raises ValueError for labels that do not fit.

        >>> Smoothed(0.1)(torch.zeros(1, 4), torch.tensor([2]))
        tensor(1.3863)
        """
        if outputs.dim() < 2 or outputs.shape[:1] + outputs.shape[2:] != labels.shape:
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} do not fit logits of shape {tuple(outputs.shape)}: (n,)"
                " labels and (n, classes) logits are needed, or a class at each place"
            )
        return nn.functional.cross_entropy(
            outputs, smoothed(labels, outputs.shape[1], self.smoothing, dtype=outputs.dtype)
        )


def equivalent_smoothing(teacher: nn.Module, split: Split, *, temperature: float = 1.0) -> float:
    r"""Return the smoothing that would give wrong classes as much probability as the teacher gives them.

    .. math:: \gamma = \mathrm E \Big[ \sum_k (1 - y_k) \, p_k^t(T) \, \tfrac{K}{K - 1} \Big]

    (muller2019when, section 4.) A network trained with this smoothing is the fair rival of the teacher's student.

    teacher: a classifier; its mode is restored.
    split: samples with labels; at least one.
    temperature: T > 0, default 1.

    Raises ValueError for an empty split, labels that are not class numbers, answers that are not finite logits, and a
    temperature that is not above 0 and finite.

    >>> undecided = nn.Linear(2, 4)
    >>> _ = undecided.requires_grad_(False).weight.zero_(), undecided.bias.zero_()
    >>> equivalent_smoothing(undecided, Split(torch.ones(3, 2), torch.tensor([0, 1, 3])))
    1.0
    """
    check_temperature(temperature)
    logits = _logits(teacher, split)
    probabilities = (logits.double() / temperature).softmax(1)
    wrong = 1 - probabilities.gather(1, split.labels.to(logits.device)[:, None])
    return wrong.mean().item() * logits.shape[1] / (logits.shape[1] - 1)


def wrong_logit_variance(model: nn.Module, split: Split) -> float:
    r"""Return how much the wrong-class logits of a class differ from sample to sample: what a student can learn there.

    The logit of the true class is taken out and the mean of the others subtracted, :math:`u = v - \bar v`. The variance
    of each of the K - 1 values is taken within each class, without bias:

    .. math:: \frac1{(n - C)(K - 1)} \sum_i \lVert u_i - \bar u_{y(i)} \rVert^2

    for n samples of C classes.

    model: a classifier of 3 classes or more; its mode is restored.
    split: samples with labels, more than there are classes among them.

    Raises ValueError for an empty split, labels that are not class numbers, answers that are not finite logits, fewer
    than 3 classes, and no class with two samples.

    >>> model = nn.Linear(3, 3)
    >>> _ = nn.init.eye_(model.weight), nn.init.zeros_(model.bias)
    >>> split = Split(torch.tensor([[9.0, 1.0, -1.0], [5.0, 3.0, -3.0]]), torch.tensor([0, 0]))
    >>> wrong_logit_variance(model, split)
    2.0
    """
    logits = _logits(model, split).double()
    n, classes = logits.shape
    if classes < 3:
        raise ValueError(
            f"wrong-class logits are compared with each other: 3 classes or more are needed, not {classes}"
        )
    present, place, counts = split.labels.to(logits.device).unique(return_inverse=True, return_counts=True)
    if n == len(present):
        raise ValueError("variance within a class needs two samples of it: here each class has one")
    # method
    is_wrong = nn.functional.one_hot(present[place], classes) == 0
    wrong = logits[is_wrong].reshape(n, classes - 1)
    wrong = wrong - wrong.mean(1, keepdim=True)
    means = wrong.new_zeros(len(present), classes - 1).index_add(0, place, wrong) / counts[:, None]
    return (wrong - means[place]).square().sum().item() / (n - len(present)) / (classes - 1)
    # end of method


@torch.no_grad()
def logit_differences(
    model: nn.Module,
    split: Split,
    *,
    pair: tuple[int, int],
    draws: int = 10,
    shift: int = 2,
    flip: bool = False,
    seed: int,
) -> Tensor:
    """Return the difference of two logits for images that are moved at random, several times each.

    model: a classifier; its mode is restored.
    split: images of the two classes, (n, channels, height, width); at least one. The paper takes 600.
    pair: the two classes; the logit of the second is subtracted from that of the first.
    draws: L, how often each image is moved, 1 or more, default 10.
    shift: pixels, 0 or more, default 2: each image is moved by up to this many in both directions.
    flip: whether each image is mirrored with probability 1/2, default False.
    seed: of shifts and mirroring.

    Returns (draws, n), float64.
    Raises ValueError for an empty split, images of other dimensions, numbers out of range, labels that are not in the
    pair, and answers that are not finite logits.

    >>> from lib import datasets, models
    >>> digits = datasets.load("digits").train.first(200)
    >>> two = Split(digits.images[digits.labels < 2], digits.labels[digits.labels < 2])
    >>> tuple(logit_differences(models.lenet5(), two, pair=(0, 1), draws=3, seed=0).shape)
    (3, 34)
    """
    split.check_not_empty("to move")
    if draws < 1 or shift < 0:
        raise ValueError(f"draws must be 1 or more and shift 0 or more, not {draws} and {shift}")
    if split.images.dim() != 4:
        shape = tuple(split.images.shape)
        raise ValueError(f"images must be (n, channels, height, width) to be moved, not {shape}")
    first, second = pair
    if first == second or not ((split.labels == first) | (split.labels == second)).all():
        raise ValueError(f"pair must be two different classes, and each label one of them, not {pair}")
    classes = _logits(model, split.first(1)).shape[1]
    if not (0 <= first < classes and 0 <= second < classes):
        raise ValueError(f"pair must be two of the classes 0 to {classes - 1}, not {pair}")
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        images = training.shifted(split.images, shift, generator) if shift else split.images
        if flip:
            mirrored = torch.rand(len(images), generator=generator) < 0.5
            images = torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
        logits = answers(model, images).double()
        found.append(logits[:, first] - logits[:, second])
    return torch.stack(found)


def mutual_information(differences: Tensor) -> float:
    r"""Estimate how much a difference of logits tells about the sample it comes from, in nats.

    The difference y of sample x counts as Gaussian around its mean :math:`\mu_x`, with one variance :math:`\sigma^2`
    for all:

    .. math::

        I = \log N + \mathrm E_{x, y} \Big[ -\frac{(y - \mu_x)^2}{2 \sigma^2}
            - \log \sum_{x'} e^{-(y - \mu_{x'})^2 / 2 \sigma^2} \Big]

    (muller2019when, section 4). It lies between 0, where all samples look alike, and log N, where each can be told from
    the others. It is near log 2 where only the two classes can be told apart, which is where smoothing leads. The paper
    prints a sum instead of the mean, and no log N; such values would be far outside these bounds.

    differences: (draws, n) of n samples: see :func:`logit_differences`.

    Returns I. Where the spreads of the samples differ much, the approximation falls below 0, and 0 is returned. If all
    draws are equal, the limit of small :math:`\sigma` is returned: the entropy of the groups of equal samples.
    Raises ValueError for other shapes, no values, and NaN or infinity.

    >>> two = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    >>> round(mutual_information(two + torch.tensor([[-1.0], [1.0]])), 4)  # four samples that look like two
    0.6931
    """
    if differences.dim() != 2 or not differences.numel():
        raise ValueError(f"differences must be (draws, samples), at least one of each, not {tuple(differences.shape)}")
    if not torch.isfinite(differences).all():
        raise ValueError("differences hold NaN or infinity: finite ones are needed")
    y = differences.double()
    means = y[0] + (y - y[0]).mean(0)  # exactly y[0] where all draws are equal
    variance = (y - means).square().mean().item()
    n = y.shape[1]
    if not variance:
        alike = means.unique(return_counts=True)[1].double() / n
        return max(0.0, -(alike * alike.log()).sum().item())
    # method
    own = -(y - means).square() / (2 * variance)
    every = torch.stack([(-(row[:, None] - means).square() / (2 * variance)).logsumexp(1) for row in y])
    return min(max(math.log(n) + (own - every).mean().item(), 0.0), math.log(n))
    # end of method


def check_smoothing(smoothing: float) -> None:
    """Raise ValueError for a smoothing outside [0, 1].

    smoothing: alpha.

    >>> check_smoothing(0.1)
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be in [0, 1], not {smoothing}")


def _check_labels(labels: Tensor, classes: int) -> None:
    if classes < 2:
        raise ValueError(f"there must be 2 classes or more, not {classes}")
    if labels.dtype != torch.int64 or not labels.dim() or not labels.numel():
        raise ValueError(
            f"labels must be int64 class numbers, at least one, not {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        wrong = labels.min().item() if labels.min() < 0 else labels.max().item()
        raise ValueError(f"labels must be class numbers from 0 to {classes - 1}, not {wrong}")


def _logits(model: nn.Module, split: Split) -> Tensor:
    """The logits of a classifier of whole samples, (n, classes), with labels that fit."""
    split.check_not_empty("to answer")
    found = answers(model, split.images)
    if found.dim() != 2 or len(found) != len(split):
        raise ValueError(
            f"{type(model).__name__} must answer {len(split)} samples with logits of shape ({len(split)}, classes), not"
            f" {tuple(found.shape)}"
        )
    if split.labels.dim() != 1:
        raise ValueError(f"a label for each sample is needed, (n,), not {tuple(split.labels.shape)}")
    _check_labels(split.labels, found.shape[1])
    return found
