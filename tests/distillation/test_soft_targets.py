"""Soft targets: what the equation promises, in the limits too, and a second implementation of it."""

from itertools import pairwise

import given
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from lib import models, training
from lib.distillation import soft_targets
from lib.distillation.shared.distiller import answers
from lib.vision import torchvision


def logits(*shape, seed=0, dtype=torch.float64):
    return 3 * torch.randn(*shape, generator=given.generator(seed), dtype=torch.float64).to(dtype)


Z, V, LABELS = logits(6, 10), logits(6, 10, seed=1), torch.arange(6)


def gradient(student, teacher, **options):
    student = student.clone().requires_grad_()
    soft_targets.loss(student, teacher, LABELS[: len(student)], **options).backward()
    return student.grad


def by_hand(student, teacher, temperature):
    """The divergence, sample by sample and class by class, times T^2."""
    total = 0.0
    for z, v in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = (torch.tensor([x / temperature for x in row], dtype=torch.float64).exp() for row in (v, z))
        p, q = p / p.sum(), q / q.sum()
        total += sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True)).item()
    return temperature**2 * total / len(student)


def centered(x):
    return x - x.mean(1, keepdim=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("rows", [1, 6])
def test_the_loss_is_the_divergence_times_temperature_squared(temperature, rows):
    found = soft_targets.loss(Z[:rows], V[:rows], temperature=temperature).item()
    assert found == pytest.approx(by_hand(Z[:rows], V[:rows], temperature), rel=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_gradient_is_the_temperature_times_the_difference_of_probabilities(temperature):
    expected = temperature * ((Z / temperature).softmax(1) - (V / temperature).softmax(1)) / len(Z)
    torch.testing.assert_close(gradient(Z, V, temperature=temperature), expected)


def test_at_high_temperature_the_gradient_is_that_of_centered_logits():
    expected = (centered(Z) - centered(V)) / (10 * len(Z))
    errors = []
    for temperature in (10.0, 100.0, 1e3, 1e4):
        errors.append(((gradient(Z, V, temperature=temperature) - expected).norm() / expected.norm()).item())
    assert errors[-1] < 1e-3
    assert all(5 < a / b < 20 for a, b in pairwise(errors))  # it falls as 1 / T


def test_at_high_temperature_the_loss_is_that_of_centered_logits():
    expected = (centered(Z) - centered(V)).square().sum().item() / (2 * 10 * len(Z))
    assert soft_targets.loss(Z, V, temperature=1e4).item() == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_equal_logits_have_no_loss_and_no_gradient(dtype):
    z = Z.to(dtype).clone().requires_grad_()
    loss = soft_targets.loss(z, z.detach(), temperature=4.0)
    loss.backward()
    assert loss.dtype == dtype and abs(loss.item()) < 20 * torch.finfo(dtype).eps
    assert z.grad.abs().max() < 8 * torch.finfo(dtype).eps


def test_a_constant_for_each_sample_changes_nothing():
    shift = 100 * logits(6, 1, seed=2)
    expected = soft_targets.loss(Z, V)
    for student, teacher in ((Z + shift, V), (Z, V + shift), (Z + shift, V - shift)):
        torch.testing.assert_close(soft_targets.loss(student, teacher), expected)


def test_a_teacher_that_is_sure_gives_cross_entropy_with_its_choice():
    found = soft_targets.loss(Z, 1000 * V, temperature=1.0)
    torch.testing.assert_close(found, cross_entropy(Z, V.argmax(1)))
    assert torch.isfinite(gradient(Z.float(), 1e6 * V.float(), temperature=1.0)).all()


def test_the_mean_is_over_samples_and_not_over_classes():
    logs, soft = (Z / 4).log_softmax(1), (V / 4).softmax(1)
    found = soft_targets.loss(Z, V, temperature=4.0)
    torch.testing.assert_close(found, 16 * kl_div(logs, soft, reduction="batchmean"))
    torch.testing.assert_close(found, 160 * kl_div(logs, soft, reduction="none").mean())  # 10 classes


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_weight_mixes_both_losses_and_keeps_temperature_squared(weight):
    soft = soft_targets.loss(Z, V, temperature=4.0)
    found = soft_targets.loss(Z, V, LABELS, temperature=4.0, labels_weight=weight)
    torch.testing.assert_close(found, (1 - weight) * soft + weight * cross_entropy(Z, LABELS))
    assert soft.item() == pytest.approx(by_hand(Z, V, 4.0))


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_torchdistill_agrees_but_for_its_loss_without_labels(alpha):
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    theirs = losses.KDLoss("s", "output", "t", "output", temperature=4.0, alpha=alpha)
    expected = theirs({"s": {"output": Z}}, {"t": {"output": V}}, LABELS)
    if alpha == 0:  # there the soft loss is returned without T^2
        expected = 16 * expected
    torch.testing.assert_close(soft_targets.loss(Z, V, LABELS, temperature=4.0, labels_weight=alpha), expected)


def test_a_class_at_each_place_is_a_sample_at_each_place():
    student, teacher = logits(2, 5, 3, 4), logits(2, 5, 3, 4, seed=1)
    labels = torch.arange(24).reshape(2, 3, 4) % 5
    rows = [x.movedim(1, -1).reshape(-1, 5) for x in (student, teacher)]
    for weight in (0.0, 0.4):
        found = soft_targets.loss(student, teacher, labels, labels_weight=weight)
        torch.testing.assert_close(found, soft_targets.loss(*rows, labels.flatten(), labels_weight=weight))


def test_the_teacher_gets_no_gradient():
    student, teacher = Z.clone().requires_grad_(), V.clone().requires_grad_()
    soft_targets.loss(student, teacher).backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


def test_tensors_that_are_not_contiguous_give_the_same():
    torch.testing.assert_close(soft_targets.loss(Z.T.contiguous().T, V[:, ::1]), soft_targets.loss(Z, V))


def test_a_taught_student_answers_like_its_teacher():
    split, teacher = given.split(60, 20, classes=4), models.mlp(1, inputs=20, hidden=(30,), classes=4).eval()
    student = models.mlp(2, inputs=20, hidden=(30,), classes=4)
    before = soft_targets.loss(student.eval()(split.images), answers(teacher, split.images)).item()
    training.fit(student, split, epochs=60, seed=0, teaching=soft_targets.distiller(teacher, temperature=2.0))
    assert soft_targets.loss(student(split.images), answers(teacher, split.images)).item() < 0.2 * before


def test_options_reach_the_loss():
    made = soft_targets.distiller(nn.Linear(3, 2), temperature=2.5, labels_weight=0.3)
    assert dict(made.terms[0].options) == {"temperature": 2.5, "labels_weight": 0.3}
    assert made.terms[0].loss is soft_targets.loss and made.labels_weight == 0


def test_networks_we_did_not_write_teach_and_learn():
    teacher = given.seeded(lambda: torchvision.models.resnet18(weights=None, num_classes=4)).eval()
    student = given.seeded(lambda: torchvision.models.mobilenet_v2(weights=None, num_classes=4))
    before, split = given.state(student), given.split(4, 3, 64, 64, classes=4)
    losses = training.fit(student, split, epochs=1, seed=0, teaching=soft_targets.distiller(teacher))
    assert 0 < losses[0] < 100 and not given.same_state(before, given.state(student))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_a_temperature_out_of_range_is_refused(temperature):
    for call in (lambda t: soft_targets.loss(Z, V, temperature=t), lambda t: soft_targets.distiller(V, temperature=t)):
        with pytest.raises(ValueError, match="temperature must be above 0 and finite, not"):
            call(temperature)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(ValueError, match=r"labels_weight must be in \[0, 1\], not"):
        soft_targets.loss(Z, V, LABELS, labels_weight=weight)
    with pytest.raises(ValueError, match=r"labels_weight must be in \[0, 1\], not"):
        soft_targets.distiller(V, labels_weight=weight)


def test_other_bad_input_is_one_sentence():
    broken = V.clone()
    broken[2, 3] = torch.nan
    for student, teacher, says in (
        (Z, V[:, :9], r"the same shape, not \(6, 10\) and \(6, 9\)"),
        (Z[0], V[0], "2 dimensions or more and a sample are needed"),
        (Z[:0], V[:0], r"answers of shape \(0, 10\)"),
        (Z[:, :1], V[:, :1], "at least two classes are needed"),
        (Z, broken, "the teacher's answers hold NaN or infinity"),
    ):
        with pytest.raises(ValueError, match=says):
            soft_targets.loss(student, teacher)
    with pytest.raises(ValueError, match="labels are needed where their weight is above 0"):
        soft_targets.loss(Z, V, labels_weight=0.5)
