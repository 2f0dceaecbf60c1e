"""Logit mimicking: the gradient, the closed form of a linear student, and logits that are shifted, scaled and back."""

import given
import pytest
import torch
from torch import nn

from lib import models, training
from lib.datasets import Split
from lib.distillation import logit_mimic, soft_targets
from lib.distillation.shared.distiller import answers
from lib.vision import torchvision


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=given.generator(seed), dtype=torch.float64).to(dtype)


G, Z = 3 * drawn(6, 10), 3 * drawn(6, 10, seed=1)


@pytest.mark.parametrize("rows", [1, 6])
def test_the_gradient_is_the_difference_over_the_samples(rows):
    student = G[:rows].clone().requires_grad_()
    loss = logit_mimic.loss(student, Z[:rows])
    loss.backward()
    torch.testing.assert_close(student.grad, (G[:rows] - Z[:rows]) / rows)
    by_hand = sum((a - b) ** 2 for a, b in zip(G[:rows].flatten().tolist(), Z[:rows].flatten().tolist(), strict=True))
    assert loss.item() == pytest.approx(by_hand / (2 * rows))


def test_a_copy_of_the_teacher_has_no_loss_and_stays():
    teacher, copy, split = given.perceptron().eval(), given.perceptron(), given.split(20, 6, classes=3)
    images = split.images.double()
    loss = logit_mimic.loss(copy(images), teacher(images))
    loss.backward()
    assert loss.item() == 0 and not any(p.grad.any() for p in copy.parameters())
    teaching = logit_mimic.distiller(teacher)
    losses = training.fit(copy, Split(images, split.labels), epochs=2, seed=0, weight_decay=0, teaching=teaching)
    assert max(losses) < 1e-28  # what rounding leaves: the order of the samples is another
    torch.testing.assert_close(given.state(copy), given.state(teacher), rtol=0, atol=1e-14)


def test_a_constant_changes_the_loss_and_not_the_choice():
    shifted = G + 5.0
    assert torch.equal(shifted.argmax(1), G.argmax(1))
    assert logit_mimic.loss(shifted, G).item() == pytest.approx(10 * 25 / 2)
    assert soft_targets.loss(shifted, G).item() == pytest.approx(0, abs=1e-12)  # soft targets do not see it


def test_a_linear_student_ends_at_least_squares():
    images = drawn(40, 5)
    teacher = given.seeded(lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()).eval()
    student = given.seeded(lambda: nn.Linear(5, 3, bias=False).double(), 1)
    training.fit(
        student,
        Split(images, torch.zeros(40, dtype=torch.long)),
        epochs=400,
        seed=0,
        batch_size=40,
        weight_decay=0,
        teaching=logit_mimic.distiller(teacher),
    )
    x, z = images.T, answers(teacher, images).T
    torch.testing.assert_close(student.weight.detach(), z @ x.T @ torch.linalg.inv(x @ x.T), rtol=1e-6, atol=1e-8)


def test_a_class_at_each_place_is_a_sample_at_each_place():
    student, teacher = drawn(2, 5, 3, 4), drawn(2, 5, 3, 4, seed=1)
    rows = [x.movedim(1, -1).reshape(-1, 5) for x in (student, teacher)]
    torch.testing.assert_close(logit_mimic.loss(student, teacher), logit_mimic.loss(*rows))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_the_loss_keeps_the_type_and_gives_the_teacher_no_gradient(dtype):
    student, teacher = (x.to(dtype).clone().requires_grad_() for x in (G, Z))
    loss = logit_mimic.loss(student, teacher)
    loss.backward()
    assert loss.dtype == dtype and torch.isfinite(student.grad).all() and teacher.grad is None


@pytest.mark.parametrize("shape", [(50, 4), (6, 4, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_conditioned_logits_have_mean_zero_and_spread_one(shape, dtype):
    offsets = torch.tensor([100.0, -3, 0, 7], dtype=dtype).reshape(4, *[1] * (len(shape) - 2))
    logits = 5 * drawn(*shape, dtype=dtype) + offsets
    condition, undo = logit_mimic.conditioning(logits)
    made, digits = condition(logits), 1e-10 if dtype == torch.float64 else 1e-4
    rows = made.movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(rows.mean(0), torch.zeros(4, dtype=dtype), atol=digits, rtol=0)
    assert made.square().mean().item() == pytest.approx(1, rel=digits)
    torch.testing.assert_close(undo(made), logits, rtol=digits, atol=digits)
    assert made.dtype == dtype


def test_one_scale_serves_all_classes():
    logits = torch.tensor([[1.0, 10.0], [-1.0, -10.0]])
    condition, _ = logit_mimic.conditioning(logits)
    torch.testing.assert_close(condition(logits), logits / (101 / 2) ** 0.5)


def test_the_conditioned_loss_is_the_loss_over_the_variance():
    condition, undo = logit_mimic.conditioning(Z)
    torch.testing.assert_close(
        logit_mimic.loss(G, condition(Z)) * undo.factor.square(), logit_mimic.loss(undo(G), Z), rtol=1e-10, atol=0
    )


def test_a_student_learns_conditioned_logits_and_answers_in_plain_ones():
    split = given.split(60, 20, classes=4)
    teacher = models.mlp(1, inputs=20, hidden=(30,), classes=4).eval()
    condition, undo = logit_mimic.conditioning(answers(teacher, split.images))
    students = []
    for taught_by in (nn.Sequential(teacher, condition).eval(), condition(answers(teacher, split.images))):
        student = models.mlp(2, inputs=20, hidden=(60,), classes=4)
        training.fit(student, split, epochs=60, seed=0, teaching=logit_mimic.distiller(taught_by))
        students.append(nn.Sequential(student, undo).eval())
    expected = answers(teacher, split.images)
    for student in students:
        assert logit_mimic.loss(student(split.images), expected) < 0.1 * expected.var() * 4 / 2
    torch.testing.assert_close(students[0](split.images), students[1](split.images), rtol=1e-3, atol=1e-3)


def test_the_scale_survives_a_state_dict_and_a_change_of_type():
    condition, undo = logit_mimic.conditioning(Z)
    other, _ = logit_mimic.conditioning(G)
    other.load_state_dict(condition.state_dict())
    assert torch.equal(other(Z), condition(Z)) and not list(condition.parameters())
    assert nn.Sequential(nn.Linear(4, 10), undo).float()(torch.zeros(2, 4)).dtype == torch.float32


def test_networks_we_did_not_write_teach_and_learn():
    teacher = given.seeded(lambda: torchvision.models.resnet18(weights=None, num_classes=4)).eval()
    student = given.seeded(lambda: torchvision.models.mobilenet_v2(weights=None, num_classes=4))
    before, split = given.state(student), given.split(4, 3, 64, 64, classes=4)
    losses = training.fit(student, split, epochs=1, seed=0, teaching=logit_mimic.distiller(teacher))
    assert 0 < losses[0] < 100 and not given.same_state(before, given.state(student))


def test_bad_input_is_one_sentence():
    broken = Z.clone()
    broken[2, 3] = torch.inf
    for call, says in (
        (lambda: logit_mimic.loss(G, Z[:, :9]), r"the same shape, not \(6, 10\) and \(6, 9\)"),
        (lambda: logit_mimic.loss(G[0], Z[0]), "2 dimensions or more"),
        (lambda: logit_mimic.loss(G[:0], Z[:0]), r"answers of shape \(0, 10\)"),
        (lambda: logit_mimic.loss(G, broken), "hold NaN or infinity"),
        (lambda: logit_mimic.distiller("teacher"), "must be a network or a tensor of its stored answers, not str"),
        (lambda: logit_mimic.conditioning(broken), "hold NaN or infinity"),
        (lambda: logit_mimic.conditioning(Z[:0]), "a sample are needed"),
        (lambda: logit_mimic.conditioning(Z[:1]), "no spread to divide by"),
        (lambda: logit_mimic.conditioning(Z[:1].float().expand(9, -1)), "the same for all samples"),
        (lambda: logit_mimic.conditioning(Z.long()), "are torch.int64: floating-point numbers are needed"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
