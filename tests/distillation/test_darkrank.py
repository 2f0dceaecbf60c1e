"""Probabilities of orders by enumeration, the losses against two other implementations, and their gradients."""

from itertools import permutations

import given
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lib import datasets, models, training
from lib.distillation import darkrank
from lib.distillation.darkrank import distiller, log_probability, loss, nearest, scores
from lib.distillation.shared import retrieval
from lib.vision import torchvision


def rows(n, d, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=given.generator(seed), dtype=dtype)


def orders_of(values):
    return torch.stack([values[list(order)] for order in permutations(range(len(values)))])


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_the_probabilities_of_all_orders_sum_to_one(n):
    values = 3 * rows(1, n)[0]
    assert log_probability(orders_of(values)).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_a_probability_is_the_product_of_plackett_and_luce():
    values = rows(1, 5)[0]
    weights = values.exp()
    expected = np.prod([(weights[i] / weights[i:].sum()).item() for i in range(5)])
    assert log_probability(values).exp().item() == pytest.approx(expected, rel=1e-12)


def test_the_most_probable_order_is_the_one_by_score():
    values = rows(1, 5)[0]
    orders = orders_of(values)
    assert torch.equal(orders[log_probability(orders).argmax()], values.sort(descending=True).values)


def test_two_candidates_make_a_logistic_loss():
    values = rows(7, 2)
    torch.testing.assert_close(log_probability(values), F.logsigmoid(values[:, 0] - values[:, 1]))


def test_a_constant_added_to_all_scores_changes_nothing():
    values = rows(6, 4)
    torch.testing.assert_close(log_probability(values + 100), log_probability(values))
    assert not torch.allclose(log_probability(values * 2), log_probability(values))


def test_a_query_is_never_its_own_candidate_even_among_equals():
    embeddings = rows(4, 3)[[0, 0, 1, 2, 0, 3]]
    ranked = nearest(embeddings)
    assert ranked.shape == (6, 5) and all(query not in row for query, row in enumerate(ranked.tolist()))
    assert ranked[0, :2].tolist() == [1, 4] and ranked[4, :2].tolist() == [0, 1]
    assert torch.equal(nearest(embeddings, queries=2, candidates=3), ranked[:2, :3])


def of_the_authors(student, teacher, kind):
    """The formula of the authors' code: half of the batch are queries, the soft loss has 4 candidates."""
    student, teacher = (F.normalize(x).numpy() * np.sqrt(3.5) for x in (student, teacher))
    total, half = 0.0, len(student) // 2
    for query in range(half):
        its, mine = (np.square(x - x[query]).sum(1) for x in (teacher, student))
        ranking = np.argsort(its)[1 : 5 if kind == "soft" else None].tolist()

        def probability(distances, order):
            weights = np.exp([-(distances[i] ** 2) for i in order])
            return np.prod([weights[i] / weights[i:].sum() for i in range(len(order))])

        if kind == "hard":
            total -= np.log(probability(mine, ranking))
            continue
        for order in permutations(ranking):
            p = probability(its, order)
            total += p * np.log(p / probability(mine, order))  # their sum leaves out log p, which is constant
    return total / half


@pytest.mark.parametrize(("kind", "candidates"), [("soft", 4), ("hard", None)])
def test_it_is_the_loss_of_the_authors_code(kind, candidates):
    student, teacher = rows(8, 5), rows(8, 7, seed=1)
    options = {"kind": kind, "candidates": candidates, "queries": 4, "alpha": 3.5**2, "beta": 4.0}
    expected = of_the_authors(student, teacher, kind)
    assert expected > 0.1 and loss(student, teacher, **options).item() == pytest.approx(expected, rel=1e-9)


def test_the_hard_loss_is_that_of_the_public_reimplementation():
    student, teacher = rows(9, 5), rows(9, 7, seed=1)
    mine, its = (-3 * torch.cdist(F.normalize(x), F.normalize(x)).pow(3) for x in (student, teacher))
    order = its.sort(dim=1, descending=True)[1][:, 1:5]
    ranked = mine.gather(1, order)
    later = torch.stack([ranked[:, i:].logsumexp(1) for i in range(4)], 1)
    expected = -(ranked - later).sum(1).mean()
    assert loss(student, teacher, kind="hard").item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_soft_loss_is_zero_only_for_the_same_distances():
    teacher = rows(8, 5)
    turn = torch.linalg.qr(rows(9, 5, seed=1)).Q  # 5 dimensions into 9, distances kept
    assert loss(3 * teacher @ turn.T, teacher).item() == pytest.approx(0, abs=1e-12)
    assert loss(teacher + 0.1 * rows(8, 5, seed=2), teacher).item() > 1e-4


def test_the_hard_loss_is_smallest_for_the_order_of_the_student():
    student = rows(6, 4)
    best = loss(student, student, kind="hard", candidates=None)
    others = [loss(student, rows(6, 4, seed=seed), kind="hard", candidates=None) for seed in range(1, 9)]
    assert best < min(others)


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_the_gradient_is_that_of_finite_differences(kind, beta):
    student, teacher = rows(5, 3).requires_grad_(), rows(5, 3, seed=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, kind=kind, candidates=3, beta=beta), student)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_that_agrees_is_at_the_minimum_of_the_soft_loss(dtype):
    student, teacher = (rows(8, 5, dtype=dtype).requires_grad_() for _ in range(2))
    value = loss(student, teacher)
    value.backward()
    assert value.abs() < 1e-6 and student.grad.abs().max() < 1e-6 and teacher.grad is None


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_and_dead_embeddings_have_finite_gradients(kind, beta, dtype):
    student, teacher = rows(8, 5, dtype=dtype), rows(8, 5, seed=1, dtype=dtype)
    student[1], student[2], teacher[3], student[4] = student[0], 0, 0, 1e-30
    student.requires_grad_()
    value = loss(student, teacher, kind=kind, beta=beta)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()
    alike = torch.ones(5, 3, dtype=dtype, requires_grad=True)
    loss(alike, torch.zeros(5, 3, dtype=dtype), kind=kind, beta=beta).backward()
    assert torch.isfinite(alike.grad).all()


def test_a_small_batch_ranks_all_it_has():
    student, teacher = rows(3, 5), rows(3, 5, seed=1)
    expected = [F.logsigmoid(s[0] - s[1]) for s in scores(F.normalize(student), nearest(F.normalize(teacher)))]
    found = loss(student, teacher, kind="hard", candidates=5, queries=9)
    assert found.item() == pytest.approx(-torch.stack(expected).mean().item(), rel=1e-9)
    assert loss(student[:2], teacher[:2]).item() == 0  # one candidate has one order


def test_maps_are_flattened_and_short_floats_work():
    student, teacher = rows(6, 8, dtype=torch.float32), rows(6, 12, seed=1, dtype=torch.float32)
    expected = loss(student, teacher).item()
    assert loss(student.reshape(6, 2, 2, 2), teacher.reshape(6, 3, 4)).item() == pytest.approx(expected, rel=1e-5)
    x = student.to(torch.bfloat16).requires_grad_()
    value = loss(x, teacher.to(torch.bfloat16))
    value.backward()
    assert value.item() == pytest.approx(expected, rel=0.1) and torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    "options",
    [{"kind": "soft", "weight": 1.0}, {"kind": "hard", "candidates": None, "weight": 0.3}],
    ids=["soft", "hard"],
)
def test_a_taught_student_ranks_more_as_its_teacher_does(options):
    digits = datasets.load("digits", first=(200, 20, 100))
    teacher = models.mlp(0, hidden=(64, 16))
    training.fit(teacher, digits.train, epochs=10, seed=0, learning_rate=0.05, batch_size=20)
    wanted, taus = retrieval.embeddings(teacher, "fc2", digits.test), []
    for weight in (0.0, options["weight"]):
        student, teaching = (
            models.mlp(1, hidden=(16, 8)),
            distiller(teacher, ("fc2", "fc2"), **options | {"weight": weight}),
        )
        steps = {"learning_rate": 0.005, "optimizer": "adam", "batch_size": 8}
        training.fit(student, digits.train, epochs=5, seed=0, teaching=teaching, **steps)
        taus.append(retrieval.rank_correlation(retrieval.embeddings(student, "fc2", digits.test), wanted))
    assert taus[1] > taus[0] + 0.05


def test_a_residual_network_teaches_one_with_longer_embeddings():
    teacher, student = (getattr(torchvision.models, name)(num_classes=4) for name in ("resnet18", "mobilenet_v2"))
    teaching = distiller(teacher.eval(), ("classifier.0", "avgpool"), queries=2)
    split = given.split(4, 3, 64, 64, classes=4)
    losses = training.fit(student, split, epochs=1, seed=0, learning_rate=0.01, teaching=teaching)
    assert np.isfinite(losses).all() and all(torch.isfinite(p).all() for p in student.parameters())


def test_bad_options_are_refused():
    network = models.mlp()
    for options, words in (
        ({"kind": "firm"}, "kind must be one of soft, hard, not 'firm'"),
        ({"candidates": 7}, "at most 6 candidates, 720 orders, not 7"),
        ({"candidates": None}, "not all samples"),
        ({"candidates": 1}, "candidates must be an integer of 2 or more, or None for all, not 1"),
        ({"candidates": 2.5}, "not 2.5"),
        ({"queries": 0}, "queries must be an integer of 1 or more"),
        ({"alpha": 0.0}, "alpha must be above 0 and finite, not 0.0"),
        ({"beta": float("inf")}, "beta must be above 0 and finite, not inf"),
    ):
        with pytest.raises(ValueError, match=words):
            loss(rows(4, 2), rows(4, 2), **options)
        with pytest.raises(ValueError, match=words):
            distiller(network, ("fc2", "fc2"), **options)


def test_bad_embeddings_are_refused():
    good, nan = rows(3, 2), rows(3, 2)
    nan[1, 1] = float("nan")
    for student, teacher, words in (
        (good[0], good[0], r"\(n, d\) are needed"),
        (good[:0], good[:0], "none of them 0"),
        (good, good[:2], r"embeddings \(3, 2\) of the student .* both must be of the same samples"),
        (good[:1], good[:1], "a query needs another sample to rank"),
        (good, nan, "the teacher's answers hold NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=words):
            darkrank.loss(student, teacher)
