r"""DarkRank: the student ranks the samples of a batch by similarity as the teacher does.

Each sample of the batch is a query q, and the others are its candidates. With embeddings scaled to length 1, the score
of a candidate and the probability that the candidates come in the order :math:`\pi` (Plackett and Luce) are

.. math:: S(x) = -\alpha \lVert q - x \rVert_2^\beta, \qquad
    P(\pi \mid X) = \prod_{i=1}^{n} \frac{\exp S(x_{\pi(i)})}{\sum_{k \ge i} \exp S(x_{\pi(k)})} .

The *soft* loss is :math:`\mathrm{KL}[P(\pi \mid X^t) \Vert P(\pi \mid X^s)]` over all orders, the *hard* loss
:math:`-\log P(\pi^y \mid X^s)` of the one order :math:`\pi^y` that the teacher finds most probable
(chen2018darkrank). The paper adds them to a large-margin softmax, a verification loss and a triplet loss;
here cross-entropy takes the place of those three.
"""

import math
from itertools import permutations

import torch
from torch import Tensor, nn

from lib.distillation.shared.distiller import Distiller, Tap, Term, check_finite

KINDS = ("soft", "hard")
MOST = 6  # candidates in the soft loss: 720 orders for each query
SMALLEST = 1e-12  # least squared distance: at distance 0, powers below 2 have no finite gradient


def loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor | None = None,
    *,
    kind: str = "soft",
    candidates: int | None = 4,
    queries: int | None = None,
    alpha: float = 3.0,
    beta: float = 3.0,
) -> Tensor:
    """Return the mean loss of the queries of a batch (chen2018darkrank, soft and hard transfer).

    student: embeddings, (n, ...), of two samples or more; they are flattened and scaled to length 1.
    teacher: embeddings of the same samples; their length may differ.
    labels: not read.
    kind: "soft" (default) compares the probabilities of all orders and is 0 for a student that agrees. "hard" maximizes
        the probability of the teacher's order; it is cheaper, and keeps falling while a student that already agrees
        moves the candidates further apart.
    candidates: how many of the teacher's nearest samples each query ranks, 2 or more; a smaller batch ranks all it has.
        Default 4, as in the authors' code for the soft loss, which has batches of 8. In larger batches, nothing keeps
        the samples beyond these 4 away. None ranks all others, as in their code for the hard loss. The soft loss takes
        at most 6, since the number of orders grows as the factorial: 24 for 4, 720 for 6, 40,320 for 8.
    queries: how many samples from the beginning of the batch are queries, 1 or more. Default None: all. The authors'
        code takes the first half of a batch, where it has put pairs of the same class.
    alpha: factor in the score, above 0, default 3.
    beta: power of the distance, above 0, default 3. The authors' code has alpha 12.25 and beta 4.

    Raises ValueError for options that are not accepted, for fewer than two samples, for different numbers of samples,
    and for embeddings of the teacher that are not finite.

    >>> embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.1]])
    >>> loss(embeddings, 5 * embeddings).item() < 1e-6, loss(embeddings.flip(0).roll(1, 0), embeddings).item() > 0.1
    (True, True)
    """
    _check_options(kind, candidates, queries, alpha, beta)
    _check_embeddings(student, teacher)
    check_finite(teacher)
    mine, its = _unit(student), _unit(teacher.detach())
    # method
    ranked = nearest(its, queries=queries, candidates=candidates)  # the teacher's order, (queries, candidates)
    mine, its = scores(mine, ranked, alpha=alpha, beta=beta), scores(its, ranked, alpha=alpha, beta=beta)
    if kind == "hard":
        return -log_probability(mine).mean()
    orders = torch.tensor(list(permutations(range(ranked.shape[1]))), device=ranked.device)
    log_student, log_teacher = log_probability(mine[:, orders]), log_probability(its[:, orders])  # (queries, orders)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(1).mean()
    # end of method


def nearest(embeddings: Tensor, *, queries: int | None = None, candidates: int | None = None) -> Tensor:
    """Return the numbers of the nearest other samples of each query, the nearest first.

    embeddings: (n, d), of two samples or more. Samples at the same distance are ordered by number.
    queries: how many samples from the beginning are queries, 1 or more, default all.
    candidates: how many of the nearest are returned, default all others.

    Returns (queries, candidates) integers; a query is never its own candidate.

    >>> nearest(torch.tensor([[0.0], [1.0], [3.0]])).tolist()
    [[1, 2], [0, 2], [1, 0]]
    """
    distances = torch.cdist(embeddings[:queries], embeddings, compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(math.inf)
    return distances.argsort(dim=1, stable=True)[:, : len(embeddings) - 1][:, :candidates]


def scores(embeddings: Tensor, ranked: Tensor, *, alpha: float = 3.0, beta: float = 3.0) -> Tensor:
    r"""Return :math:`S = -\alpha \lVert q - x \rVert^\beta` of the candidates of each query.

    embeddings: (n, d); the queries are the first of them.
    ranked: numbers of the candidates, (queries, candidates).
    alpha: above 0, default 3.
    beta: above 0, default 3.

    Returns (queries, candidates). Equal embeddings count as :math:`10^{-6}` apart, which keeps gradients finite.

    >>> scores(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[1, 2]]), alpha=1.0, beta=2.0).tolist()
    [[-1.0, -4.0]]
    """
    squares = (embeddings[: len(ranked), None] - embeddings[ranked]).square().sum(2)
    return -alpha * squares.clamp_min(SMALLEST).pow(beta / 2)


def log_probability(scores: Tensor) -> Tensor:
    """Return the logarithm of the probability that candidates come in the order in which their scores are given.

    scores: S, (..., candidates).

    Returns (...).

    >>> round(log_probability(torch.zeros(3)).exp().item(), 4)  # one of six orders
    0.1667
    """
    # method
    # sum over i of S_i - log(sum over k >= i of exp(S_k)), from the end
    return (scores - scores.flip(-1).logcumsumexp(-1).flip(-1)).sum(-1)
    # end of method


def distiller(
    teacher: nn.Module,
    tap: Tap,
    *,
    kind: str = "soft",
    candidates: int | None = 4,
    queries: int | None = None,
    alpha: float = 3.0,
    beta: float = 3.0,
    weight: float = 1.0,
    labels_weight: float = 1.0,
) -> Distiller:
    """Return what ``training.fit`` takes as ``teaching``: cross-entropy plus weight times DarkRank.

    teacher: any network with the student's classes.
    tap: (part of the student, part of the teacher) that give the embeddings; their lengths may differ.
    kind: "soft" (default) or "hard".
    candidates: how many each query ranks, 2 or more, default 4; None: all. At most 6 for the soft loss.
    queries: in each batch, 1 or more; default None: all samples.
    alpha: factor in the score, above 0, default 3.
    beta: power of the distance, above 0, default 3.
    weight: of the loss, 0 or more, default 1. The authors' code uses 16 for the soft loss, with a learning rate of
        0.0005. Scores differ by up to 24, so gradients are large: a learning rate that works for labels can be far too
        high.
    labels_weight: of cross-entropy, 0 or more, default 1.

    Raises ValueError for options that are not accepted.

    >>> from lib import datasets, models, training
    >>> split = datasets.load("digits").train.first(40)
    >>> teaching = distiller(models.lenet5(0).eval(), ("fc1", "fc1"), kind="hard")
    >>> losses = training.fit(models.lenet5(1), split, epochs=2, seed=0, learning_rate=0.01, teaching=teaching)
    """
    _check_options(kind, candidates, queries, alpha, beta)
    options = {"kind": kind, "candidates": candidates, "queries": queries, "alpha": alpha, "beta": beta}
    return Distiller(teacher, [Term(loss, taps=[tap], weight=weight, options=options)], labels_weight=labels_weight)


def _unit(embeddings: Tensor) -> Tensor:
    """The rows scaled to length 1, (n, d); a row of zeros stays zero."""
    flat = embeddings.flatten(1)
    flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
    lengths = flat.norm(dim=1, keepdim=True)
    return flat / torch.where(lengths > 0, lengths, 1)


def _check_options(kind: str, candidates: int | None, queries: int | None, alpha: float, beta: float) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    for name, number, least in (("candidates", candidates, 2), ("queries", queries, 1)):
        if number is not None and (not isinstance(number, int) or number < least):
            raise ValueError(f"{name} must be an integer of {least} or more, or None for all, not {number!r}")
    if kind == "soft" and (candidates is None or candidates > MOST):
        most = f"{MOST} candidates, {math.factorial(MOST)} orders"
        raise ValueError(f"the soft loss takes at most {most}, not {candidates or 'all samples'}")
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, not {value}")


def _check_embeddings(student: Tensor, teacher: Tensor) -> None:
    shapes = f"embeddings {tuple(student.shape)} of the student and {tuple(teacher.shape)} of the teacher"
    if student.dim() < 2 or teacher.dim() < 2 or not student.numel() or not teacher.numel():
        raise ValueError(f"{shapes}: (n, d) are needed, none of them 0")
    if len(student) != len(teacher):
        raise ValueError(f"{shapes}: both must be of the same samples")
    if len(student) < 2:
        raise ValueError(f"{shapes}: a query needs another sample to rank")
