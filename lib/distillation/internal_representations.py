r"""Internal representations: a student copies its teacher's attention layer by layer, before it copies the answers.

For transformers. Layer j of a student with l layers learns from layer :math:`\lceil j L / l \rceil` of a teacher with L
layers (the last of its share). Two losses compare them (aguilar2020internal): one the attention probabilities A, whose
rows say how much a token attends to each token, the other the states h of the CLS token after the layer,

.. math::

    L_{KL} = \frac{1}{\text{heads} \cdot \text{rows}} \sum_{\text{heads}} \sum_{\text{rows}} A^T \log \frac{A^T}{A^S},
    \qquad L_{\cos} = 1 - \cos(h^T, h^S).

The layers are taught from the lowest to the highest: one after the other (*progressive*), or each together with those
below it (*stacked*). At the end the student learns only the teacher's answers, as soft targets. The student starts from
layers of the teacher (:func:`initialized`). In the paper the stage of a layer may end early, once the layer has
converged; here it always runs all its epochs.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor, nn

from lib import training
from lib.arguments import check_one_of
from lib.datasets import Split
from lib.distillation import soft_targets
from lib.distillation.shared.distiller import Distiller, Term, check_shapes
from lib.training import FitOptions

SCHEDULES = ("progressive", "stacked")
Pair = tuple[int, int]  # (layer of the student, layer of the teacher that it learns from), numbered from 0


@dataclass(frozen=True)
class Parts:
    """The names of a transformer's parts, with ``{}`` for the number of the layer, from 0.

    layer: the layer itself. Default "layers.{}".
    attention: a module whose output is the attention probabilities, (n, heads, rows, columns) or (n, rows, columns).
        Default "layers.{}.attention.probabilities". ``nn.MultiheadAttention`` has no such module, and is refused.
    state: a module whose output is the state of the CLS token after the layer, (n, width), or of all tokens, (n,
        tokens, width), the first of which is CLS. Default "layers.{}.cls".

    Raises ValueError for a name that does not hold ``{}`` exactly once.

    >>> named("encoder.block_{}", 3), Parts(layer="encoder.block_{}").state
    ('encoder.block_3', 'layers.{}.cls')
    """

    layer: str = "layers.{}"
    attention: str = "layers.{}.attention.probabilities"
    state: str = "layers.{}.cls"

    def __post_init__(self) -> None:
        for name in (self.layer, self.attention, self.state):
            if name.count("{}") != 1:
                raise ValueError(f"{name!r} must have {{}} once, for the number of the layer")


ROWS = Parts()  # of a row_transformer


def named(pattern: str, layer: int) -> str:
    """Return the name of a part of one layer.

    pattern: with ``{}`` for the number of the layer.
    layer: its number, from 0.

    >>> named("layers.{}.cls", 2)
    'layers.2.cls'
    """
    return pattern.replace("{}", str(layer))


def matched(student_layers: int, teacher_layers: int) -> list[Pair]:
    r"""Return which layer of the teacher each layer of the student learns from.

    student_layers: l, 1 or more.
    teacher_layers: L, l or more.

    Returns pairs of numbers from 0, as in the names of modules: :math:`(j - 1, \lceil j L / l \rceil - 1)` for j = 1 to
    l. Raises ValueError for a student without layers, or with more than the teacher.

    >>> matched(2, 4), matched(3, 4)
    ([(0, 1), (1, 3)], [(0, 1), (1, 2), (2, 3)])
    """
    if not 1 <= student_layers <= teacher_layers:
        raise ValueError(
            f"a student must have at least 1 layer and at most its teacher's {teacher_layers}, not {student_layers}"
        )
    return [(j - 1, -(-j * teacher_layers // student_layers) - 1) for j in range(1, student_layers + 1)]


def attention_loss(student: Tensor, teacher: Tensor, *, average_heads: bool = False) -> Tensor:
    """Return the divergence of the student's attention from the teacher's: the mean over samples, heads and rows.

    student: probabilities, (n, heads, rows, columns) or (n, rows, columns); each row sums to 1.
    teacher: probabilities of the same shape.
    average_heads: whether to compare the means over the heads, so that their numbers may differ; default False.

    Raises ValueError for other shapes, and for rows that are not probabilities.

    >>> attention_loss(torch.tensor([[[0.5, 0.5]]]), torch.tensor([[[1.0, 0.0]]]))
    tensor(0.6931)
    """
    for who, rows in (("student", student), ("teacher", teacher)):
        _check_probabilities(who, rows, four=average_heads)
    if average_heads:
        student, teacher = student.mean(1), teacher.mean(1)
    elif student.dim() == teacher.dim() == 4 and student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"the student has {student.shape[1]} attention heads and the teacher {teacher.shape[1]}: equal numbers are"
            " needed, or average_heads=True"
        )
    check_shapes(student, teacher, least=3)
    # method
    ours, its = (rows.clamp_min(torch.finfo(rows.dtype).tiny).log() for rows in (student, teacher))  # some rows hold 0
    # Over a row, - teacher + student sums to 0. With it each summand is 0 or
    # more, with gradient 0 where both are equal.
    return (teacher * (its - ours) - teacher + student).sum(-1).mean()
    # end of method


def state_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - cos between the states of the CLS tokens, averaged over the samples: their lengths do not matter.

    student: states, (n, width), or (n, tokens, width) with CLS first.
    teacher: states of the same width. A state of zeros has no direction; against any other state it counts as 1/2.

    Raises ValueError for other shapes.

    >>> state_loss(torch.tensor([[3.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    tensor(1.)
    """
    first = [state[:, 0] if state.dim() == 3 and state.shape[1] else state for state in (student, teacher)]
    check_shapes(*first)
    if first[0].dim() != 2:
        raise ValueError(f"states must be (n, width) or (n, tokens, width), not {tuple(student.shape)}")
    # method
    ours, its = (state / _length(state) for state in first)
    return (ours - its).square().sum(1).mean() / 2  # = 1 - cos, and exactly 0 with a gradient of 0 where both agree
    # end of method


def loss(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    labels: Tensor | None = None,
    *,
    average_heads: bool = False,
) -> Tensor:
    """Return the sum of the two internal losses of one pair of layers (aguilar2020internal).

    student: attention probabilities and states of the CLS token; see :func:`attention_loss` and :func:`state_loss`.
    teacher: the same two tensors of the teacher.
    labels: not used.
    average_heads: whether to compare the means over the heads, default False.

    Raises ValueError for other shapes, and for rows of attention that are not probabilities.

    >>> attention, state = torch.full((1, 2, 3, 3), 1 / 3), torch.ones(1, 4)
    >>> loss((attention, 2 * state), (attention, state))
    tensor(0.)
    """
    if len(student) != 2 or len(teacher) != 2:
        raise ValueError(
            f"two taps are compared, attention and state, not {len(student)} of the student and {len(teacher)} of the"
            " teacher"
        )
    return attention_loss(student[0], teacher[0], average_heads=average_heads) + state_loss(student[1], teacher[1])


def distiller(
    teacher: nn.Module, pairs: Sequence[Pair], *, parts: Parts = ROWS, average_heads: bool = False
) -> Distiller:
    """Return what ``training.fit`` takes as ``teaching``: the internal losses of some pairs of layers.

    teacher: a transformer.
    pairs: (layer of the student, layer of the teacher), numbers from 0; at least one. See :func:`matched`.
    parts: the names of the parts in both networks, default as in a ``row_transformer``.
    average_heads: whether to compare the means over the heads, default False.

    Raises ValueError for no pairs.

    >>> from lib.distillation.shared.row_transformer import row_transformer
    >>> [term.taps[0] for term in distiller(row_transformer(), matched(1, 4)).terms]
    [('layers.0.attention.probabilities', 'layers.3.attention.probabilities')]
    """
    terms = [
        Term(
            loss,
            taps=[(named(part, ours), named(part, its)) for part in (parts.attention, parts.state)],
            options={"average_heads": average_heads},
        )
        for ours, its in pairs
    ]
    return Distiller(teacher, terms)


def initialized(
    student: nn.Module, teacher: nn.Module, *, pairs: Sequence[Pair] | None = None, parts: Parts = ROWS
) -> nn.Module:
    """Return a copy of the student with the teacher's weights: those of paired layers, and all others of the same name.

    student: a transformer of the teacher's widths; it is left as it was.
    teacher: a transformer of as many layers or more.
    pairs: (layer of the student, layer of the teacher that it takes), numbers from 0. Default :func:`matched`; to take
        the lowest layers, ``[(0, 0), (1, 1), ...]``.
    parts: the names of the layers in both networks, default as in a ``row_transformer``.

    Raises ValueError for a student with a parameter or buffer that the teacher does not have in the same shape, for
    weights of the teacher that are not finite, and for layers that do not exist or are not each paired once.

    >>> from lib.distillation.shared.row_transformer import row_transformer
    >>> student, teacher = row_transformer(layers=2), row_transformer(1)
    >>> torch.equal(initialized(student, teacher).layers[1].fc1.weight, teacher.layers[3].fc1.weight)
    True
    """
    paired = _pairs(student, teacher, pairs, parts)
    taken = sorted(ours for ours, _ in paired)
    if taken != list(range(_layers(student, parts))):
        raise ValueError(f"each layer of the student must be in one pair: the pairs have its layers {taken}")
    prefixes = {named(parts.layer, ours) + ".": named(parts.layer, its) + "." for ours, its in paired}
    theirs, found = teacher.state_dict(), {}
    for name, value in student.state_dict().items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        source = prefixes.get(prefix, "") + name.removeprefix(prefix)
        if source not in theirs or theirs[source].shape != value.shape:
            shape = tuple(theirs[source].shape) if source in theirs else "nothing"
            raise ValueError(
                f"the student's {name} has the shape {tuple(value.shape)} and the teacher's {source} {shape}: a student"
                " takes the layers of a teacher of its own width and classes"
            )
        if not torch.isfinite(theirs[source]).all():
            raise ValueError(f"the teacher's {source} holds NaN or infinity: finite weights are needed")
        found[name] = theirs[source]
    result = copy.deepcopy(student)
    result.load_state_dict(found)
    return result


def fit(
    student: nn.Module,
    split: Split,
    teacher: nn.Module,
    *,
    schedule: str = "progressive",
    epochs_per_layer: int,
    epochs: int,
    seed: int,
    pairs: Sequence[Pair] | None = None,
    temperature: float = 4.0,
    labels_weight: float = 0.0,
    parts: Parts = ROWS,
    average_heads: bool = False,
    **options: Unpack[FitOptions],
) -> list[float]:
    """Teach a student in place: its layers from the lowest to the highest, then its answers.

    The gradient of a layer's loss also changes the layers below it; those above, and the head, wait for their turn.

    student: a transformer; see :func:`initialized` for how it begins.
    split: the samples to train on; at least one.
    teacher: a transformer of as many layers or more.
    schedule: "progressive" (default): a stage for each layer, with its losses alone; "stacked": with those of the
        layers below it too.
    epochs_per_layer: epochs in the stage of each layer, 0 or more.
    epochs: epochs in the last stage, on the teacher's answers, 0 or more.
    seed: of the order of the samples in the first stage; each later stage takes the next number.
    pairs: (layer of the student, layer of the teacher), numbers from 0, in the order of the stages. Default
        :func:`matched`.
    temperature: of the soft targets of the last stage, above 0, default 4.
    labels_weight: of the labels in the last stage, in [0, 1], default 0. See :func:`lib.distillation.soft_targets`.
    parts: the names of the parts in both networks, default as in a ``row_transformer``.
    average_heads: whether to compare the means over the heads, default False.
    options: of :func:`lib.training.fit`, for every stage, except ``loss``; each stage starts again at
        ``learning_rate``.

    Returns the mean loss of each epoch, stage after stage.
    Raises TypeError for other options; ValueError, before anything is changed, for another schedule, numbers out of
    range, layers that do not exist, and all that a :class:`~lib.distillation.shared.distiller.Distiller` and
    ``training.fit`` refuse.

    >>> from lib import datasets
    >>> from lib.distillation.shared.row_transformer import row_transformer
    >>> split, student = datasets.load("digits").train.first(64), row_transformer(layers=2)
    >>> losses = fit(student, split, row_transformer(1).eval(), epochs_per_layer=1, epochs=2, seed=0)
    >>> len(losses), losses[-1] < losses[-2]
    (4, True)
    """
    training.check_options(options)
    check_one_of("schedule", schedule, SCHEDULES)
    if "loss" in options:
        raise ValueError("loss is no option here: the teacher gives the loss of every stage")
    if epochs_per_layer < 0 or epochs < 0:
        raise ValueError(f"epochs_per_layer and epochs must be 0 or more, not {epochs_per_layer} and {epochs}")
    split.check_not_empty("to train on")
    paired = _pairs(student, teacher, pairs, parts)
    answers = soft_targets.distiller(teacher, temperature=temperature, labels_weight=labels_weight)
    # method
    stages = []
    for last in range(len(paired)):
        taught = paired[last : last + 1] if schedule == "progressive" else paired[: last + 1]
        stages.append((distiller(teacher, taught, parts=parts, average_heads=average_heads), epochs_per_layer))
    stages.append((answers, epochs))
    # end of method
    for teaching, _ in stages:  # what does not fit is refused before the first stage
        teaching.lesson(student, split.first(2), augmented=True)
    losses = []
    for stage, (teaching, length) in enumerate(stages):
        losses += training.fit(student, split, epochs=length, seed=seed + stage, teaching=teaching, **options)
    return losses


def _pairs(student: nn.Module, teacher: nn.Module, pairs: Sequence[Pair] | None, parts: Parts) -> list[Pair]:
    """The pairs to teach, each of two layers that exist."""
    ours, its = _layers(student, parts), _layers(teacher, parts)
    found = matched(ours, its) if pairs is None else list(pairs)
    if not found:
        raise ValueError("there are no pairs of layers to teach")
    for pair in found:
        if not (0 <= pair[0] < ours and 0 <= pair[1] < its):
            raise ValueError(
                f"the pair {tuple(pair)} is out of range: the student has {ours} layers and the teacher {its}"
            )
    return found


def _layers(model: nn.Module, parts: Parts) -> int:
    names = {name for name, _ in model.named_modules()}
    count = 0
    while named(parts.layer, count) in names:
        count += 1
    if not count:
        raise ValueError(
            f"{type(model).__name__} has no layer {named(parts.layer, 0)!r}: name its parts in the argument parts"
        )
    return count


def _check_probabilities(who: str, rows: Tensor, *, four: bool) -> None:
    if rows.dim() not in ((4,) if four else (3, 4)) or not rows.numel() or not rows.is_floating_point():
        needed = "(n, heads, rows, columns)" + ("" if four else " or (n, rows, columns)")
        raise ValueError(f"the {who}'s attention must be {needed}, not {tuple(rows.shape)}")
    far = max(1e-4, 8 * torch.finfo(rows.dtype).eps)
    if not ((rows >= 0).all() and ((rows.sum(-1) - 1).abs() <= far).all()):
        raise ValueError(f"the {who}'s attention is not made of probabilities: each row must be 0 or more and sum to 1")


def _length(state: Tensor) -> Tensor:
    length = state.norm(dim=1, keepdim=True)
    return torch.where(length > 0, length, torch.ones_like(length))
