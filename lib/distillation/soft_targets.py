r"""Soft targets: a student learns the teacher's probabilities, softened by a temperature (hinton2015distilling).

With the logits :math:`v` of the teacher and :math:`z` of the student, and
:math:`p_i^{(T)}(z) = \exp(z_i / T) / \sum_j \exp(z_j / T)`,

.. math:: L = (1 - w) \, T^2 \, \mathrm{KL}(p^{(T)}(v) \,\Vert\, p^{(T)}(z)) + w \, \mathrm{CE}(y, p^{(1)}(z)).

Gradients of the first term shrink with :math:`1 / T^2`, and the factor :math:`T^2` undoes that, so that the weight w
means the same at every temperature.
"""

from torch import Tensor, nn

from lib.distillation.shared.distiller import Distiller, Term, check_classes, check_finite, check_shapes


def loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None = None,
    *,
    temperature: float = 4.0,
    labels_weight: float = 0.0,
) -> Tensor:
    """Return the mean loss of a batch (hinton2015distilling, section 2).

    student: logits, (n, classes), or (n, classes, ...) for a class at each place.
    teacher: logits of the same shape.
    labels: (n,) or (n, ...) class numbers; read only where ``labels_weight`` is above 0.
    temperature: T > 0, default 4. The paper finds 2.5 to 4 best for small students, and 20 good for large ones.
    labels_weight: w in [0, 1], default 0: labels are not used.

    Raises ValueError for logits of different shapes or of one class alone, whose probability is 1 whatever the logit; a
    teacher that is not finite; a temperature or a weight outside its range; and missing labels.

    >>> import torch
    >>> z = torch.tensor([[1.0, 2.0, 3.0]])
    >>> round(loss(z, z + 5).item(), 6), round(loss(z, -z, temperature=1.0).item(), 3)
    (0.0, 1.15)
    """
    check_shapes(student, teacher)
    check_finite(teacher)
    check_classes(student)
    check_temperature(temperature)
    if not 0 <= labels_weight <= 1:
        raise ValueError(f"labels_weight must be in [0, 1], not {labels_weight}")
    # method
    soft = (teacher.detach() / temperature).softmax(1)
    log_student = (student / temperature).log_softmax(1)
    places = student.numel() / student.shape[1]
    divergence = nn.functional.kl_div(log_student, soft, reduction="sum") / places
    total = (1 - labels_weight) * temperature**2 * divergence
    # end of method
    if not labels_weight:
        return total
    if labels is None:
        raise ValueError(f"labels are needed where their weight is above 0: it is {labels_weight}")
    return total + labels_weight * nn.functional.cross_entropy(student, labels)


def distiller(teacher: nn.Module | Tensor, *, temperature: float = 4.0, labels_weight: float = 0.0) -> Distiller:
    """Return what ``training.fit`` takes as ``teaching``.

    teacher: any classifier, or its stored logits; see :class:`~lib.distillation.shared.distiller.Distiller`.
    temperature: T > 0, default 4.
    labels_weight: w in [0, 1], default 0.

    Raises ValueError for a temperature or a weight outside its range.

    >>> from lib import datasets, models, training
    >>> split = datasets.load("digits").train.first(100)
    >>> teaching = distiller(models.mlp(hidden=(40,)).eval(), temperature=2.0)
    >>> losses = training.fit(models.mlp(hidden=(9,)), split, epochs=2, seed=0, teaching=teaching)
    """
    check_temperature(temperature)
    if not 0 <= labels_weight <= 1:
        raise ValueError(f"labels_weight must be in [0, 1], not {labels_weight}")
    options = {"temperature": temperature, "labels_weight": labels_weight}
    return Distiller(teacher, [Term(loss, options=options)])


def check_temperature(temperature: float) -> None:
    """Raise ValueError for a temperature that is not above 0 and finite.

    temperature: T.

    >>> check_temperature(4.0)
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 and finite, not {temperature}")
