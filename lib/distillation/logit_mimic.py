r"""Logit mimicking: a student learns the teacher's logits by regression, without any label (ba2014deep).

With the logits :math:`g(x)` of the student and :math:`z` of the teacher, for N samples,

.. math:: L = \frac{1}{2N} \sum_t \lVert g(x^{(t)}) - z^{(t)} \rVert_2^2 .

Unlike probabilities, logits show how the teacher ranks the classes that it finds unlikely, and the gradient does not
vanish where the teacher is sure. Unlike soft targets, they have a level: a student whose logits are all off by the same
constant still has a loss. The paper's student is shallow, with one very wide hidden layer, and its teacher is often an
ensemble whose logits are averaged (:class:`lib.distillation.ensemble.Ensemble` with the geometric mean).
"""

import torch
from torch import Tensor, nn

from lib.distillation.shared.distiller import Distiller, Term, check_finite, check_shapes


def loss(student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return half the squared distance of the logits, summed over the classes, averaged over the batch (ba2014deep).

    Some implementations take the mean over the classes as well: to get the same steps here, divide the learning rate
    by the number of classes.

    student: logits, (n, classes), or (n, classes, ...) for a class at each place, where each place counts as a sample.
    teacher: logits of the same shape.
    labels: not used.

    Raises ValueError for logits of different shapes, and for a teacher that is not finite.

    >>> loss(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]])).item()
    5.0
    """
    check_shapes(student, teacher)
    check_finite(teacher)
    # method
    samples = student.numel() / student.shape[1]
    return (student - teacher.detach()).square().sum() / (2 * samples)
    # end of method


def distiller(teacher: nn.Module | Tensor) -> Distiller:
    """Return what ``training.fit`` takes as ``teaching``.

    Logits are large, and so are the gradients: at a learning rate that suits labels, training diverges or all ReLU
    units die. Use a fiftieth of it, or "adam"; :func:`conditioning` makes training easier, too.

    teacher: any classifier, or its stored logits; see :class:`~lib.distillation.shared.distiller.Distiller`.

    >>> from lib import datasets, models, training
    >>> split = datasets.load("digits").train.first(100)
    >>> teaching = distiller(models.mlp(hidden=(40,)).eval())
    >>> losses = training.fit(models.mlp(hidden=(9,)), split, epochs=3, seed=0, learning_rate=0.01, teaching=teaching)
    >>> losses[-1] < losses[0]
    True
    """
    return Distiller(teacher, [Term(loss)])


class Rescaled(nn.Module):
    """A layer without weights that multiplies all logits by one factor and adds a shift for each class.

    factor: one number, ().
    shift: (classes,).

    Input and output (n, classes) or (n, classes, ...).
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, factor: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor)
        self.register_buffer("shift", shift)

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.factor + self.shift.reshape(-1, *[1] * (logits.dim() - 2))


def conditioning(logits: Tensor) -> tuple[Rescaled, Rescaled]:
    r"""Return layers that bring a teacher's logits to mean 0 in each class and standard deviation 1 over all, and back.

    .. math:: z' = (z - \mu) / \sigma, \qquad z = \sigma z' + \mu

    Training is then easier, and the loss is that of the logits divided by :math:`\sigma^2`. Teach by
    ``nn.Sequential(teacher, condition).eval()`` or by ``condition(logits)``; after training, use
    ``nn.Sequential(student, undo)``.

    logits: of the teacher for the training split, (n, classes) or (n, classes, ...).

    Returns two layers: condition, and undo.
    Raises ValueError for logits that are not finite, are no floats, or are the same for all samples.

    >>> condition, undo = conditioning(torch.tensor([[1.0, 5.0], [3.0, 3.0]]))
    >>> condition(torch.tensor([[3.0, 4.0]])), undo(torch.tensor([[1.0, 0.0]]))
    (tensor([[1., 0.]]), tensor([[3., 4.]]))
    """
    check_shapes(logits, logits)
    if not logits.is_floating_point():
        raise ValueError(f"the teacher's logits are {logits.dtype}: floating-point numbers are needed")
    check_finite(logits)
    rows = logits.detach().double().movedim(1, -1).flatten(0, -2)
    mean = rows.mean(0)
    spread = (rows - mean).square().mean().sqrt()
    # a spread below the rounding of the logits' type is noise
    if spread <= torch.finfo(logits.dtype).eps * rows.abs().max():
        raise ValueError("the teacher's logits are the same for all samples: there is no spread to divide by")
    return Rescaled((1 / spread).to(logits), (-mean / spread).to(logits)), Rescaled(spread.to(logits), mean.to(logits))
