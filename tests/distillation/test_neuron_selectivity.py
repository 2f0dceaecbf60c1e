"""MMD against sums over all pairs, its closed forms, what must not change it, and networks that learn by it."""

import given
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lib import training
from lib.distillation import soft_targets
from lib.distillation.neuron_selectivity import KERNELS, discrepancy, distiller, loss
from lib.vision import torchvision


def maps(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=given.generator(seed), dtype=dtype)


def pair(dtype=torch.float64):
    return maps(3, 4, 5, 3, dtype=dtype), maps(3, 7, 5, 3, seed=1, dtype=dtype)


def units(values):
    return F.normalize(values.flatten(2), dim=2)


def by_pairs(student, teacher, kernel):
    """The three sums of the definition, one pair of channels after the other."""
    both = [units(teacher).numpy(), units(student).numpy()]
    pooled = np.concatenate(both, 1)
    variance = np.mean([np.sum((x - y) ** 2) for image in pooled for x in image for y in image])

    def value(x, y):
        if kernel == "gaussian":
            return np.exp(-np.sum((x - y) ** 2) / (2 * variance))
        return np.dot(x, y) ** (1 if kernel == "linear" else 2)

    def mean(one, other):
        return np.array([np.mean([value(x, y) for x in a for y in b]) for a, b in zip(one, other, strict=True)])

    theirs, ours = both
    return mean(theirs, theirs) + mean(ours, ours) - 2 * mean(theirs, ours)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [(5, 3), (2, 2), (2, 1)])
def test_it_is_the_three_sums_over_all_pairs(kernel, size):
    student, teacher = maps(3, 4, *size), maps(3, 7, *size, seed=1)
    expected = by_pairs(student, teacher, kernel)
    np.testing.assert_allclose(discrepancy(student, teacher, kernel=kernel).numpy(), expected, atol=1e-9)
    single = discrepancy(student.float(), teacher.float(), kernel=kernel).numpy()
    np.testing.assert_allclose(single, expected, atol=1e-5)
    assert loss(student, teacher, kernel=kernel).item() == pytest.approx(expected.mean(), abs=1e-9)


@pytest.mark.parametrize("channels", [3, 40])  # fewer and more than the 15 places: both ways to compute it
def test_the_polynomial_kernel_matches_gram_matrices_of_places(channels):
    student, teacher = maps(2, channels, 5, 3), maps(2, channels + 2, 5, 3, seed=1)
    ours, theirs = units(student), units(teacher)
    gap = theirs.mT @ theirs / (channels + 2) - ours.mT @ ours / channels
    torch.testing.assert_close(discrepancy(student, teacher), gap.square().sum((1, 2)), rtol=1e-8, atol=1e-9)


def test_the_linear_kernel_compares_the_mean_patterns():
    student, teacher = pair()
    gap = units(teacher).mean(1) - units(student).mean(1)
    torch.testing.assert_close(discrepancy(student, teacher, kernel="linear"), gap.square().sum(1), rtol=1e-8, atol=0)


def test_it_is_the_loss_of_repdistiller():
    def kernel(a, b):
        return (a[:, None] * b[:, :, None]).sum(-1).pow(2).mean()

    student, teacher = pair()
    s, t = units(student), units(teacher)
    expected = kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)
    assert loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_channels_in_another_order_or_twice_are_no_difference(kernel):
    teacher = maps(3, 6, 4, 5)
    order = torch.randperm(6, generator=given.generator(2))
    for student in (teacher, teacher[:, order], torch.cat([teacher, teacher[:, order]], 1)):
        assert discrepancy(student, teacher, kernel=kernel).abs().max() < 1e-12
    assert discrepancy(teacher[:, :3], teacher, kernel=kernel).min() > 1e-4
    assert discrepancy(teacher.flip(3), teacher, kernel=kernel).min() > 1e-4  # other places are a difference


@pytest.mark.parametrize("kernel", KERNELS)
def test_it_is_never_negative_and_no_scale_of_a_channel_counts(kernel):
    student, teacher = pair()
    value = discrepancy(student, teacher, kernel=kernel)
    scales = torch.tensor([0.1, 3, 1000, 7], dtype=torch.float64)[:, None, None]
    assert value.min() > 0
    torch.testing.assert_close(discrepancy(student * scales, 5 * teacher, kernel=kernel), value, rtol=1e-6, atol=1e-8)


def test_only_the_polynomial_kernel_overlooks_the_sign_of_a_channel():
    student, teacher = pair()
    same = {k: torch.allclose(*(discrepancy(x, teacher, kernel=k) for x in (student, -student))) for k in KERNELS}
    assert same == {"linear": False, "polynomial": True, "gaussian": False}


@pytest.mark.parametrize("kernel", ["linear", "polynomial"])
@pytest.mark.parametrize("channels", [2, 9])
def test_the_gradient_is_that_of_finite_differences(kernel, channels):
    teacher = maps(2, 3, 2, 3, seed=1)
    student = maps(2, channels, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, kernel=kernel), student)


def test_no_gradient_goes_through_the_width_of_the_gaussian():
    student, teacher = pair()
    student.requires_grad_()
    both = torch.cat([units(teacher), units(student)], 1)
    distances = (both[:, :, None] - both[:, None]).square().sum(3)
    values = (-distances / (2 * distances.mean().item())).exp()
    share = torch.tensor([1 / 7] * 7 + [-1 / 4] * 4, dtype=torch.float64)
    expected = torch.autograd.grad((values @ share @ share).mean(), student)[0]
    found = torch.autograd.grad(loss(student, teacher, kernel="gaussian"), student)[0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_that_agrees_is_at_the_minimum(kernel, dtype):
    student, teacher = (maps(2, 5, 4, 4, dtype=dtype).requires_grad_() for _ in range(2))
    value = loss(student, teacher, kernel=kernel)
    value.backward()
    assert value.abs() < 1e-6 and student.grad.abs().max() < 1e-6 and teacher.grad is None


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_channels_get_no_gradient_and_the_others_a_finite_one(kernel, dtype):
    student, teacher = pair(dtype)
    student[:, 1], teacher[:, 2], student[1] = 0, 0, 0
    student.requires_grad_()
    value = loss(student, teacher, kernel=kernel)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()
    assert not student.grad[:, 1].any() and not student.grad[1].any() and student.grad[0, 0].any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_maps_that_are_all_alike_are_no_difference(kernel):
    student = torch.ones(2, 3, 2, 2, requires_grad=True)
    value = loss(student, torch.full((2, 4, 2, 2), 5.0), kernel=kernel)
    value.backward()
    assert value.abs() < 1e-6 and student.grad.abs().max() < 1e-6


def test_a_map_of_another_size_is_resized_to_the_teachers():
    teacher = maps(2, 3, 4, 6)
    for size in ((2, 3), (8, 12), (5, 7)):
        student = maps(2, 5, *size, seed=1).requires_grad_()
        resized = F.interpolate(student, size=(4, 6), mode="bilinear", antialias=True)
        assert loss(student, teacher).item() == pytest.approx(loss(resized, teacher).item(), rel=1e-12)
    large = maps(2, 5, 32, 48, seed=1).requires_grad_()
    loss(large, teacher).backward()
    assert (large.grad != 0).all()  # each place counts, however much larger the map is


def test_layout_and_short_floats_change_little():
    student, teacher = pair(torch.float32)
    expected = loss(student, teacher).item()
    last = [x.to(memory_format=torch.channels_last) for x in (student, teacher)]
    assert loss(*last).item() == pytest.approx(expected, rel=1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        x = student.to(dtype).requires_grad_()
        value = loss(x, teacher.to(dtype))
        value.backward()
        assert value.item() == pytest.approx(expected, rel=0.02) and torch.isfinite(x.grad).all()


def test_several_taps_add_up():
    (s, t), (a, b) = pair(), (maps(3, 2, 2, 2), maps(3, 2, 2, 2, seed=4))
    assert loss((s, a), (t, b)).item() == pytest.approx(loss(s, t).item() + loss(a, b).item())


def network(channels, seed):
    def build():
        return nn.Sequential(nn.Conv2d(1, channels, 3), nn.ReLU(), nn.Flatten(), nn.Linear(channels * 36, 4))

    return given.seeded(build, seed)


def test_the_distiller_adds_the_terms_up_with_their_weights():
    split = given.split(6, 1, 8, 8, classes=4)
    teacher, student = network(6, 0).eval(), network(3, 1)
    teaching = distiller(teacher, [("1", "1")], weight=10.0, soft_weight=2.0, temperature=3.0)
    with teaching.lesson(student, split, augmented=False) as lesson:
        outputs = student(split.images)
        found = lesson(outputs, split.labels, split.images, torch.arange(6))
    target = teacher(split.images)
    expected = (
        F.cross_entropy(outputs, split.labels)
        + 5 * loss(student[:2](split.images), teacher[:2](split.images))
        + 2 * soft_targets.loss(outputs, target, temperature=3.0)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_training_brings_the_distributions_together_and_labels_alone_do_not(kernel):
    split = given.split(16, 1, 8, 8, classes=4)
    teacher = network(6, 0).eval()

    def gap(student):
        return loss(student[:2](split.images), teacher[:2](split.images), kernel=kernel).item()

    gaps = [gap(network(3, 1))]
    for weight in (0.0, 5.0):
        student, teaching = network(3, 1), distiller(teacher, [("1", "1")], kernel=kernel, weight=weight)
        training.fit(student, split, epochs=40, seed=0, learning_rate=0.01, teaching=teaching)
        gaps.append(gap(student))
    before, by_labels, taught = gaps
    assert taught < before / 2 and by_labels > 0.8 * before


def test_a_residual_network_teaches_one_with_other_channels():
    teacher, student = (getattr(torchvision.models, name)(num_classes=4) for name in ("resnet18", "mobilenet_v2"))
    taps = [("features.18", "layer4"), ("features.6", "layer3.1.bn1")]
    teaching = distiller(teacher.eval(), taps, soft_weight=1.0)
    split = given.split(4, 3, 64, 64, classes=4)
    losses = training.fit(student, split, epochs=1, seed=0, learning_rate=0.01, teaching=teaching)
    assert np.isfinite(losses).all() and all(torch.isfinite(p).all() for p in student.parameters())


def test_bad_maps_are_refused():
    good = torch.rand(2, 3, 4, 4)
    nan = good.clone()
    nan[0, 0, 0, 0] = float("nan")
    for student, teacher, words in (
        (good[0], good, r"\(n, channels, height, width\) are needed"),
        (good[:0], good[:0], "none of them 0"),
        (good[:1], good, r"maps \(1, 3, 4, 4\) of the student and .* both must be of the same images"),
        (good, good[:, :, :1, :1], "a pattern needs two or more"),
        (good, nan, "the teacher's answers hold NaN or infinity"),
        ((good, good), (good,), "2 maps of the student and 1 of the teacher"),
        ((), (), "0 maps of the student"),
    ):
        with pytest.raises(ValueError, match=words):
            loss(student, teacher)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="kernel must be one of linear, polynomial, gaussian, not 'cubic'"):
        loss(torch.rand(1, 2, 2, 2), torch.rand(1, 2, 2, 2), kernel="cubic")
    for options, words in (
        ({"taps": []}, "name at least one tap"),
        ({"kernel": "cubic"}, "kernel must be one of"),
        ({"weight": -1.0}, "weight must be 0 or more and finite, not -1.0"),
        ({"soft_weight": float("nan")}, "soft_weight must be 0 or more and finite, not nan"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            distiller(network(6, 0), **{"taps": [("1", "1")], **options})
    teaching, student = distiller(network(6, 0).eval(), [("2", "2")]), network(3, 1)
    split = given.split(4, 1, 8, 8, classes=4)
    with given.refused(student, r"\(n, channels, height, width\) are needed"):
        training.fit(student, split, epochs=1, seed=0, teaching=teaching)
