"""Vectors against torch's SVD, the loss against another implementation, gradients where singular values are equal."""

import given
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lib import training
from lib.distillation.singular_vectors import aligned, distiller, features, loss, right_vectors
from lib.vision import torchvision

SHAPES = [(3, 4, 3, 5), (3, 15, 2, 3), (3, 6, 2, 3)]  # fewer channels than places, more, and as many


def maps(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=given.generator(seed), dtype=dtype)


def three(seed=0, dtype=torch.float64):
    return tuple(maps(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(SHAPES))


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_vectors_are_those_of_the_svd(shape):
    x = maps(*shape)
    _, expected, rows = torch.linalg.svd(x.flatten(2).mT, full_matrices=False)
    values, vectors = right_vectors(x, 4)
    torch.testing.assert_close(values, expected[:, :4])
    cosines = (vectors.mT @ rows.mT[..., :4]).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(cosines.abs(), torch.ones(3, 4, dtype=torch.float64))
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(4, dtype=torch.float64).expand(3, 4, 4))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [1, 3])
def test_what_the_vectors_leave_is_what_eckart_and_young_say(shape, k):
    x = maps(*shape)
    rows, vectors = x.flatten(2).mT, right_vectors(x, k)[1]
    left = (rows - rows @ vectors @ vectors.mT).square().sum((1, 2))
    torch.testing.assert_close(left, torch.linalg.svdvals(rows)[:, k:].square().sum(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_scale_changes_values_alone_however_large_or_small(shape):
    x = maps(*shape, dtype=torch.float32)
    values, vectors = right_vectors(x, 2)
    for scale in (1e-30, 1e30, -5.0):
        scaled, found = right_vectors(scale * x, 2)
        torch.testing.assert_close(scaled, abs(scale) * values, rtol=1e-4, atol=0)
        torch.testing.assert_close((found * vectors).sum(1).abs(), torch.ones(3, 2), rtol=1e-4, atol=0)


def test_a_singular_value_of_zero_has_no_direction():
    one = torch.tensor([1.0, 2, 3])[:, None, None] * torch.tensor([[1.0, 0], [2, 1]])  # of rank 1
    for x in (one[None], one.reshape(1, 6, 1, 2), torch.zeros(1, 3, 2, 2), torch.zeros(1, 5, 1, 2)):
        values, vectors = right_vectors(x, 2)
        assert torch.equal(values > 0, vectors.norm(dim=1) > 0.99) and torch.isfinite(vectors).all()
    assert right_vectors(one[None], 2)[0][0].tolist() == [pytest.approx(84**0.5), 0]


def test_alignment_undoes_order_and_signs():
    teacher = torch.linalg.qr(maps(2, 6, 3)).Q
    mixed = torch.cat([teacher[..., [2, 0, 1]] * torch.tensor([-1.0, 1, -1]), torch.zeros(2, 6, 1)], 2)
    torch.testing.assert_close(aligned(mixed, teacher), teacher)


def test_features_lie_between_zero_and_one():
    first, second = maps(2, 4, 3), 9 * maps(2, 5, 3, seed=1)
    values = features(first, second)
    expected = np.exp(-((first.numpy()[:, :, None] - second.numpy()[:, None]) ** 2) / 8)
    np.testing.assert_allclose(values.numpy(), expected)
    assert values.shape == (2, 4, 5, 3) and (values > 0).all() and (values <= 1).all()


def of_repdistiller(student, teacher, k):
    """The loss of RepDistiller for any height and width, with one choice for the teacher's signs."""

    def svd(x, count):
        _, values, rows = torch.linalg.svd(x.flatten(2).mT, full_matrices=False)
        return F.normalize(values[:, :count], dim=1), F.normalize(rows.mT[..., :count], dim=1)

    before, total = None, 0.0
    for ours, theirs in zip(student, teacher, strict=True):
        share, t = svd(theirs, k)
        t = t * t.sum(1, keepdim=True).sign()
        s = svd(ours, k + 3)[1]
        cosine = s.mT @ t
        largest = cosine.abs().amax(1, keepdim=True)
        s = s @ torch.where(largest == cosine.abs(), cosine.sign(), 0)
        s, t = s * share[:, None], t * share[:, None]
        if before is not None:
            gaps = [torch.exp(-(x[:, None] - y[:, :, None]).pow(2) / 8) for x, y in zip((s, t), before, strict=True)]
            total = total + (gaps[0] - gaps[1]).pow(2).sum() / len(ours)
        before = s, t
    return total


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("seed", [10, 20])
def test_loss_and_gradient_are_those_of_another_implementation(k, seed):
    teacher, gradients = three(seed), []
    for compute in (lambda s: loss(s, teacher, k=k), lambda s: k**0.5 / 2 * of_repdistiller(s, teacher, k)):
        student = [x.requires_grad_() for x in three()]
        value = compute(student)
        gradients.append((value, *torch.autograd.grad(value, student)))
    assert gradients[0][0] > 1e-3
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("k", [1, 2])
def test_the_gradient_is_that_of_finite_differences(k):
    shapes = [(1, 3, 2, 2), (1, 5, 1, 3), (1, 2, 2, 1)]
    student, teacher = ([maps(*shape, seed=seed + i) for i, shape in enumerate(shapes)] for seed in (0, 10))
    student = [x.requires_grad_() for x in student]
    assert torch.autograd.gradcheck(lambda *x: loss(x, tuple(teacher), k=k), student)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 3])
def test_a_student_that_agrees_is_at_the_minimum(dtype, k):
    student, teacher = ([x.requires_grad_() for x in three(dtype=dtype)] for _ in range(2))
    value = loss(tuple(student), tuple(teacher), k=k)
    value.backward()
    assert value.abs() < 1e-8 and all(x.grad.abs().max() < 1e-5 for x in student)
    assert all(x.grad is None for x in teacher)


def test_scale_and_sign_of_a_map_do_not_count():
    student, teacher = three(), three(seed=10)
    expected = loss(student, teacher)
    moved = student[0] * 7, -student[1], student[2] / 100
    torch.testing.assert_close(loss(moved, teacher), expected)
    torch.testing.assert_close(loss(student, (teacher[0], -3 * teacher[1], teacher[2])), expected)
    assert loss(teacher, student) != expected


def test_places_in_another_order_do_not_count():
    student, teacher = three(), three(seed=10)
    turned = tuple(x.flatten(2).flip(2).reshape(*x.shape[:2], x.shape[3], x.shape[2]) for x in student)
    torch.testing.assert_close(loss(turned, teacher), loss(student, teacher))


def test_the_signs_that_the_solver_chooses_do_not_count(monkeypatch):
    student, teacher = three(), three(seed=10)
    expected, solver, seen = loss(student, teacher, k=2), torch.linalg.eigh, []

    def other_signs(matrices):
        values, vectors = solver(matrices)
        seen.append(matrices)
        return values, vectors * maps(1, 1, vectors.shape[2], seed=len(seen)).sign()

    monkeypatch.setattr(torch.linalg, "eigh", other_signs)
    torch.testing.assert_close(loss(student, teacher, k=2), expected)
    assert len(seen) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 2])
def test_equal_singular_values_and_dead_maps_have_finite_gradients(dtype, k):
    identity = torch.eye(6, dtype=dtype).reshape(6, 2, 3).expand(3, 6, 2, 3)
    student, teacher = list(three(dtype=dtype)), three(seed=10, dtype=dtype)
    student[2] = identity.clone()  # six equal ones
    student[0][0], student[1][1], teacher[1][2] = 0, 1, 0  # none, one and none of the teacher's
    student[1][0, 3] = 0
    student = [x.requires_grad_() for x in student]
    value = loss(tuple(student), teacher, k=k)
    value.backward()
    assert torch.isfinite(value) and all(torch.isfinite(x.grad).all() for x in student)
    assert not student[0].grad[0].any() and student[0].grad[1].any()  # a dead map gets no gradient


@pytest.mark.parametrize("shape", [(1, 4, 3, 5), (1, 12, 2, 3)])
def test_nearly_equal_singular_values_do_not_blow_up_the_gradient(shape):
    channels, places = shape[1], shape[2] * shape[3]
    count = min(channels, places)
    left, right = (torch.linalg.qr(maps(n, count, seed=n)).Q for n in (places, channels))
    values = torch.linspace(2, 1, count, dtype=torch.float64)
    values[1] = values[0] * (1 - 1e-15)
    x = (left * values @ right.T).T.reshape(shape).requires_grad_()
    right_vectors(x, 2)[1].square().sum(1)[0, 0].backward()  # constant: the exact gradient is 0
    assert x.grad.abs().max() < 1e-6
    x.grad = None
    (right_vectors(x, 2)[1] * maps(1, channels, 2, seed=3)).sum().backward()
    assert x.grad.abs().max() < 10


def test_maps_of_one_place_or_channel_and_short_floats_work():
    for shape in ((3, 5, 1, 1), (3, 1, 4, 4)):
        student, teacher = ((maps(*shape, seed=s), maps(3, 2, 2, 2, seed=s + 1)) for s in (0, 10))
        assert torch.isfinite(loss(student, teacher))
    student, teacher = three(dtype=torch.float32), three(seed=10, dtype=torch.float32)
    expected = loss(student, teacher).item()
    last = tuple(x.to(memory_format=torch.channels_last) for x in student)
    assert loss(last, teacher).item() == pytest.approx(expected, rel=1e-4)
    for dtype in (torch.float16, torch.bfloat16):
        short = [x.to(dtype).requires_grad_() for x in student]
        value = loss(tuple(short), tuple(x.to(dtype) for x in teacher))
        value.backward()
        assert value.item() == pytest.approx(expected, rel=0.1)
        assert all(torch.isfinite(x.grad).all() for x in short)


def network(seed):
    def build():
        first = nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 2), nn.ReLU()
        return nn.Sequential(*first, nn.Flatten(), nn.Linear(32, 4))

    return given.seeded(build, seed)


TAPS = [("1", "1"), ("4", "4")]


def test_the_gradient_of_the_labels_leads():
    split, student = given.split(6, 1, 8, 8, classes=4), network(1)

    def gradient(weight):
        with distiller(network(0).eval(), TAPS, weight=weight).lesson(student, split, augmented=False) as lesson:
            value = lesson(student(split.images), split.labels, split.images, torch.arange(6))
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(student.parameters()))])

    by_labels = gradient(0.0)
    assert 0 < (gradient(1e-4) - by_labels).norm() < 0.01 * by_labels.norm()
    torch.testing.assert_close((gradient(1e6) - by_labels).norm(), by_labels.norm(), rtol=1e-3, atol=0)


def test_training_brings_the_student_closer_and_labels_alone_do_not():
    split, teacher = given.split(16, 1, 8, 8, classes=4), network(0).eval()

    def gap(student):
        return loss(*((net[:2](split.images), net[:5](split.images)) for net in (student, teacher))).item()

    gaps = [gap(network(1))]
    for weight in (0.0, 100.0):
        student, teaching = network(1), distiller(teacher, TAPS, weight=weight)
        training.fit(student, split, epochs=60, seed=0, learning_rate=0.05, teaching=teaching)
        gaps.append(gap(student))
    before, by_labels, taught = gaps
    assert taught < before / 2 and by_labels > 0.8 * before


def test_a_residual_network_teaches_one_with_smaller_maps():
    teacher, student = (getattr(torchvision.models, name)(num_classes=4) for name in ("resnet18", "mobilenet_v2"))
    taps = [("features.8", "layer1.0"), ("features.10", "layer1.1"), ("features.7", "maxpool")]
    teaching = distiller(teacher.eval(), taps, k=2)
    split = given.split(4, 3, 64, 64, classes=4)
    losses = training.fit(student, split, epochs=1, seed=0, learning_rate=0.01, teaching=teaching)
    assert np.isfinite(losses).all() and all(torch.isfinite(p).all() for p in student.parameters())


def test_bad_maps_are_refused():
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2)
    nan = b.clone()
    nan[0, 0, 0, 0] = float("nan")
    for student, teacher, words in (
        (a, a, "1 maps of the student and 1 of the teacher: two pairs or more are needed"),
        ((a,), (a,), "two pairs or more are needed"),
        ((a, b), (a, b, b), "2 maps of the student and 3 of the teacher"),
        ((a, b[0]), (a, b[0]), r"\(n, channels, height, width\) are needed"),
        ((a[:0], b[:0]), (a[:0], b[:0]), "none of them 0"),
        ((a, b), (a, b[:, :4]), r"\(2, 5, 2, 2\) of the student and \(2, 4, 2, 2\) .* have the same channels"),
        ((a, b[:1]), (a, b[:1]), "all must be of the same images"),
        ((a, b), (a, nan), "the teacher's answers hold NaN or infinity"),
        ((a, nan), (a, b), "the student's maps hold NaN or infinity: try a lower learning rate"),
    ):
        with pytest.raises(ValueError, match=words):
            loss(student, teacher)
    with pytest.raises(ValueError, match="they have 3 singular vectors at most, not k = 4"):
        loss((b, a), (b, a), k=4)


def test_bad_options_are_refused():
    a, b = torch.rand(2, 3, 4, 4), torch.rand(2, 5, 2, 2)
    for k in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"k must be an integer of 1 or more, not {k}"):
            loss((a, b), (a, b), k=k)
        with pytest.raises(ValueError, match="k must be an integer"):
            distiller(network(0), TAPS, k=k)
    with pytest.raises(ValueError, match="1 taps: two or more are needed"):
        distiller(network(0), TAPS[:1])
    with pytest.raises(ValueError, match="the weight of a loss must be 0 or more and finite, not -1"):
        distiller(network(0), TAPS, weight=-1.0)
