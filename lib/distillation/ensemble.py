r"""Many teachers, one student: the student learns the mean answer of an ensemble (hinton2015distilling, section 4).

The soft targets of M members with logits :math:`z_m` are the mean of their probabilities at a temperature T. The paper
allows two means:

.. math:: \text{arithmetic: } \frac1M \sum_m p^{(T)}(z_m), \qquad
          \text{geometric, normalized: } p^{(T)}\Big(\frac1M \sum_m z_m\Big).

:class:`Ensemble` is a network whose logits give exactly these soft targets, so every distillation technique accepts it
as a teacher. Logit mimicking averages logits, which is the geometric mean (ba2014deep).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib import running
from lib.arguments import check_one_of
from lib.distillation import soft_targets
from lib.distillation.shared.distiller import Distiller

MEANS = ("arithmetic", "geometric")


class Ensemble(nn.Module):
    """Several classifiers that answer as one, always in evaluation mode.

    members: one or more networks that answer with logits (n, classes, ...) of equal shapes. They are not copied.
    mean: of the members' probabilities, "arithmetic" (default) or "geometric".
    temperature: T > 0, default 1, at which the arithmetic mean is taken; choose that of the student's soft targets. The
        geometric mean is the same at all temperatures.

    Input what the members take, output (n, classes, ...) logits whose probabilities at the temperature T are the mean.
    Raises ValueError for no members, a member that is not a network or is listed twice, and a mean or temperature that
    is not accepted; and, when it runs, for members whose answers differ in shape.

    >>> members = [nn.Linear(4, 3), nn.Linear(4, 3)]
    >>> images = torch.rand(2, 4)
    >>> mean = sum(member(images).softmax(1) for member in members) / 2
    >>> torch.allclose(Ensemble(members)(images).softmax(1), mean)
    True
    """

    temperature: Tensor

    def __init__(self, members: Sequence[nn.Module], *, mean: str = "arithmetic", temperature: float = 1.0) -> None:
        members = list(members)
        if not members:
            raise ValueError("an ensemble needs at least one member")
        for i, member in enumerate(members):
            if not isinstance(member, nn.Module):
                raise ValueError(f"member {i} of the ensemble is {type(member).__name__}: networks are needed")
            for j in range(i):
                if members[j] is member:
                    raise ValueError(f"member {i} of the ensemble is member {j} again: each counts once")
        check_one_of("mean", mean, MEANS)
        soft_targets.check_temperature(temperature)
        super().__init__()
        self.members = nn.ModuleList(members)
        self.mean = mean
        first = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(()))
        self.register_buffer("temperature", first.new_tensor(temperature).detach())
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        answers = [running.logits(member, images) for member in self.members]
        shapes = [tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__ for a in answers]
        if len(set(shapes)) > 1 or not isinstance(answers[0], Tensor) or answers[0].dim() < 2:
            listed = ", ".join(map(str, dict.fromkeys(shapes)))
            raise ValueError(f"the members answer with {listed}: logits (n, classes, ...) of equal shapes are needed")
        # method
        logits = torch.stack(answers)
        if self.mean == "geometric":
            return logits.mean(0)
        # T log p has the probabilities p at the temperature T
        log_probabilities = (logits / self.temperature).log_softmax(2)
        return self.temperature * (log_probabilities.logsumexp(0) - math.log(len(answers)))
        # end of method

    def train(self, mode: bool = True) -> "Ensemble":
        """Stay in evaluation mode: the members are trained already.

        mode: not used.
        """
        return super().train(False)

    def extra_repr(self) -> str:
        """The mean, the one setting that no tensor holds."""
        return f"mean={self.mean!r}"


def distiller(
    members: Sequence[nn.Module],
    *,
    mean: str = "arithmetic",
    temperature: float = 4.0,
    labels_weight: float = 0.0,
) -> Distiller:
    """Return what ``training.fit`` takes as ``teaching``: soft targets of an ensemble, with its temperature for both.

    members: one or more classifiers with the same classes; see :class:`Ensemble`.
    mean: "arithmetic" (default) or "geometric".
    temperature: T > 0, default 4.
    labels_weight: of cross-entropy with the labels, in [0, 1], default 0; see :mod:`lib.distillation.soft_targets`.

    Raises ValueError for members, a mean, a temperature or a weight that is not accepted.

    >>> from lib import datasets, models, training
    >>> split = datasets.load("digits").train.first(100)
    >>> teaching = distiller([models.mlp(seed, hidden=(40,)) for seed in range(3)])
    >>> losses = training.fit(models.mlp(hidden=(9,)), split, epochs=2, seed=0, learning_rate=0.01, teaching=teaching)
    """
    teacher = Ensemble(members, mean=mean, temperature=temperature)
    return soft_targets.distiller(teacher, temperature=temperature, labels_weight=labels_weight)


def transferred_pct(single: float, ensemble: float, student: float) -> float:
    r"""Return how much of the ensemble's gain the student has reached, in percent (hinton2015distilling, Table 1).

    .. math:: 100 \, \frac{e_\text{single} - e_\text{student}}{e_\text{single} - e_\text{ensemble}}

    It is above 100 for a student that is better than the ensemble, and negative for one that is worse than the single
    network.

    single: error in percent of one network like the student, trained without a teacher.
    ensemble: error in percent of the ensemble.
    student: error in percent of the student of the ensemble.

    Raises ValueError for errors outside [0, 100], and for an ensemble that is not better than the single network: then
    there is no gain to transfer.

    >>> round(transferred_pct(41.1, 38.9, 39.2), 1)  # the paper's: "more than 80 %"
    86.4
    """
    for name, error in (("single", single), ("ensemble", ensemble), ("student", student)):
        if not 0 <= error <= 100:
            raise ValueError(f"the error of {name} must be in [0, 100] percent, not {error}")
    if single <= ensemble:
        raise ValueError(
            f"the ensemble's error of {ensemble} % is not below the single network's {single} %: no gain to transfer"
        )
    return 100 * (single - student) / (single - ensemble)
