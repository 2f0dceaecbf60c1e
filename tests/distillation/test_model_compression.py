"""Made-up samples: what MUNGE does to a pair, what each source keeps of the data, and the loss on probabilities."""

import math

import given
import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import nn

from lib import datasets, models, training
from lib.datasets import Split
from lib.distillation import model_compression
from lib.distillation.model_compression import labeled, marginals, munge, naive_bayes, neighbors
from lib.vision import torchvision


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=given.generator(seed), dtype=torch.float64).to(dtype)


def digits(n):
    return datasets.load("digits").train.images[:n]


def nearest(rows):
    distances = cdist(rows, rows)
    np.fill_diagonal(distances, np.inf)
    return distances.argmin(1).tolist()


# --- MUNGE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3), (40, 1), (30, 2, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_with_probability_zero_the_copies_are_exact(shape, dtype):
    images = drawn(*shape, dtype=dtype)
    made = munge(images, copies=3, probability=0, spread=1.0, seed=0)
    assert made.dtype == dtype and torch.equal(made, images.repeat(3, *[1] * (len(shape) - 1)))


def test_without_noise_each_pair_swaps_in_turn():
    images = drawn(30, 4)
    expected = images.clone()
    for i, j in enumerate(nearest(images.numpy())):
        expected[[i, j]] = expected[[j, i]]
    for copy in munge(images, copies=2, probability=1, spread=math.inf, seed=0).chunk(2):
        assert torch.equal(copy, expected)


def test_without_noise_a_sample_becomes_its_neighbor_and_neighbors_swap_back():
    images = torch.tensor([[0.0, 0.0], [1.0, 1.0], [3.0, 3.0]])  # 0 and 1 are each other's neighbors, and 2 meets 1
    made = munge(images, copies=1, probability=1, spread=math.inf, seed=0)
    assert made.tolist() == [[0, 0], [3, 3], [1, 1]]


def two_pairs(n):
    """Four samples of n values: 0 and 1 are neighbors of each other, and so are 2 and 3, which make the range wide."""
    far = torch.tensor([1000.0, -1000.0], dtype=torch.float64).repeat(n // 2)
    return torch.stack([torch.zeros(n), torch.ones(n), far, far + 0.5])


def test_new_values_are_normal_around_the_old_value_of_the_other():
    made = munge(two_pairs(40_000), copies=1, probability=1, spread=8.0, seed=0)
    # the first meeting swaps with a deviation of 1 / 8, the second swaps back with 1 / 8 of the distance by then
    once = 1 / 8
    twice = math.sqrt(once**2 + (1 + 2 * once**2) / 8**2)
    for values, mean in zip(made[:2], (0, 1), strict=True):
        assert values.mean().item() == pytest.approx(mean, abs=0.01)
        assert values.std().item() == pytest.approx(twice, rel=0.03)
    assert torch.corrcoef(made[:2])[0, 1].item() == pytest.approx(0, abs=0.03)  # each has a draw of its own


@pytest.mark.parametrize("probability", [0.2, 0.7])
def test_each_value_changes_with_the_given_probability(probability):
    images = two_pairs(40_000)
    made = munge(images, copies=1, probability=probability, spread=2.0, seed=0)
    for kept in (made == images).double().mean(1)[:2].tolist():  # each meets its neighbor twice
        assert kept == pytest.approx((1 - probability) ** 2, abs=0.01)


def test_the_mean_of_each_value_is_preserved():
    images = torch.rand(300, 6, generator=given.generator(), dtype=torch.float64)
    made = munge(images, copies=100, probability=0.5, spread=2.0, seed=0)
    torch.testing.assert_close(made.mean(0), images.mean(0), atol=0.01, rtol=0)


def test_new_values_stay_within_those_that_were_given():
    images = digits(60)
    made = munge(images, copies=4, probability=0.9, spread=0.2, seed=0)
    assert made.min() >= images.min() and made.max() <= images.max() and (made == images.max()).float().mean() > 0.01
    assert made.shape == (240, 1, 28, 28) and made[:, :, 0, 0].eq(0).all()  # a value that never varies stays


def test_the_seed_alone_decides_the_draws():
    images, before = drawn(20, 3), torch.random.get_rng_state()
    untouched, old = np.random.get_state()[1].copy(), images.clone()
    labels = torch.arange(20) % 3
    for make in (
        lambda seed: munge(images, copies=2, probability=0.5, spread=1.0, seed=seed),
        lambda seed: marginals(images, 30, seed=seed),
        lambda seed: naive_bayes(images, labels, 30, seed=seed),
    ):
        assert torch.equal(make(1), make(1)) and not torch.equal(make(1), make(2))
    assert torch.equal(torch.random.get_rng_state(), before) and (np.random.get_state()[1] == untouched).all()
    assert torch.equal(images, old)


def test_images_that_are_not_contiguous_give_the_same():
    images = drawn(12, 6)
    turned = images.T.contiguous().T
    options = {"copies": 2, "probability": 0.5, "spread": 1.0, "seed": 0}
    assert torch.equal(munge(turned, **options), munge(images, **options))
    assert torch.equal(marginals(turned, 9, seed=0), marginals(images, 9, seed=0))


@pytest.mark.parametrize("shape", [(2, 1), (50, 7), (2500, 3), (30, 2, 3, 3)])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_neighbors_are_those_of_all_distances(shape, offset):
    images = drawn(*shape) + offset
    rows = images.flatten(1).numpy()
    distances = cdist(rows, rows)
    np.fill_diagonal(distances, np.inf)
    assert neighbors(images).tolist() == distances.argmin(1).tolist()
    found = neighbors(images.float()).numpy()
    assert (distances[np.arange(len(rows)), found] <= distances.min(1) + 1e-3).all()


def test_equal_samples_are_neighbors_of_each_other():
    images = drawn(5, 3)[[0, 1, 2, 3, 0, 4]]
    assert neighbors(images)[[0, 4]].tolist() == [4, 0]
    made = munge(images, copies=1, probability=1, spread=1.0, seed=0)
    assert torch.isfinite(made).all()


# --- the other sources --------------------------------------------------------------------------------------------


def test_marginals_keep_how_often_a_value_occurs_and_nothing_more():
    first = torch.tensor([0.0, 0, 0, 1])
    images = torch.stack([first, 5 * first], 1)  # the second value follows the first
    made = marginals(images, 40_000, seed=0)
    assert made.shape == (40_000, 2)
    for column, value in ((0, 1), (1, 5)):
        assert (made[:, column] == value).double().mean().item() == pytest.approx(0.25, abs=0.01)
    both = (made[:, 0] == 1) & (made[:, 1] == 5)
    assert both.double().mean().item() == pytest.approx(1 / 16, abs=0.01)


def test_naive_bayes_keeps_shares_means_and_deviations_of_the_classes():
    images = torch.cat([drawn(300, 2) * torch.tensor([0.5, 2.0]) + 20, drawn(100, 2, seed=1) - 20])
    images[300:, 1] = 0.25  # does not vary within its class
    labels = torch.tensor([7] * 300 + [3] * 100)
    made = naive_bayes(images, labels, 30_000, seed=0)
    first = made[:, 0] > 0
    assert first.double().mean().item() == pytest.approx(0.75, abs=0.01)
    for part, values in ((made[first], images[:300]), (made[~first], images[300:])):
        torch.testing.assert_close(part.mean(0), values.mean(0), atol=0.05, rtol=0)
        torch.testing.assert_close(part.std(0), values.std(0, correction=0), atol=0.05, rtol=0.05)
    covariance = torch.corrcoef(made[first].T)[0, 1].item()
    assert covariance == pytest.approx(0, abs=0.03) and made[~first, 1].eq(0.25).all()
    assert made.min() >= images.min() and made.max() <= images.max()


def test_a_class_of_one_sample_is_that_sample():
    images = drawn(3, 2, 4)
    made = naive_bayes(images, torch.tensor([0, 1, 2]), 50, seed=0)
    assert made.shape == (50, 2, 4)
    assert sorted(made.flatten(1).unique(dim=0).tolist()) == sorted(images.flatten(1).tolist())


def test_the_three_sources_come_ever_less_near_to_the_data():
    split = datasets.load("digits").train.first(300)
    made = [
        munge(split.images, copies=1, probability=0.5, spread=2.0, seed=0),
        naive_bayes(split.images, split.labels, 300, seed=0),
        marginals(split.images, 300, seed=0),
    ]
    near = [cdist(x.flatten(1), split.images.flatten(1)).min(1).mean() for x in made]
    assert near[0] < 0.8 * near[1] and near[1] < 0.8 * near[2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_type_of_the_images_is_kept(dtype):
    images, labels = torch.rand(9, 2, 2, generator=given.generator()).to(dtype), torch.arange(9) % 2
    for made in (
        munge(images, copies=2, probability=0.5, spread=1.0, seed=0),
        marginals(images, 5, seed=0),
        naive_bayes(images, labels, 5, seed=0),
    ):
        assert made.dtype == dtype and made.shape[1:] == (2, 2) and torch.isfinite(made).all()


def test_the_teacher_labels_by_its_choice():
    teacher = models.mlp(1, inputs=20, hidden=(30,), classes=4)
    images = drawn(50, 20, dtype=torch.float32)
    split = labeled(teacher, images)
    assert teacher.training and training.error_pct(teacher, split) == 0
    assert torch.equal(split.images, images) and len(split.labels.unique()) > 1


# --- the loss -----------------------------------------------------------------------------------------------------


def test_the_loss_is_the_mean_squared_error_of_probabilities():
    student, teacher = drawn(6, 4).requires_grad_(), 3 * drawn(6, 4, seed=1)
    loss = model_compression.loss(student, teacher)
    p, q = student.detach().exp(), teacher.exp()
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    assert loss.item() == pytest.approx((p - q).square().sum().item() / 24)
    loss.backward()
    expected = 2 / 24 * p * ((p - q) - (p * (p - q)).sum(1, keepdim=True))
    torch.testing.assert_close(student.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_logits_have_no_loss_and_a_constant_changes_nothing(dtype):
    student = drawn(6, 4, dtype=dtype).clone().requires_grad_()
    teacher = student.detach().clone().requires_grad_()
    loss = model_compression.loss(student, teacher)
    loss.backward()
    assert loss.item() == 0 and not student.grad.any() and teacher.grad is None
    assert model_compression.loss(student + 3, teacher).item() < 1e-12
    far = torch.tensor([[1e4, -1e4, 0, 0]], dtype=dtype).requires_grad_()
    model_compression.loss(far, -far.detach()).backward()
    assert torch.isfinite(far.grad).all()


def test_a_class_at_each_place_is_a_sample_at_each_place():
    student, teacher = drawn(2, 5, 3, 4), drawn(2, 5, 3, 4, seed=1)
    rows = [x.movedim(1, -1).reshape(-1, 5) for x in (student, teacher)]
    torch.testing.assert_close(model_compression.loss(student, teacher), model_compression.loss(*rows))


def test_a_student_learns_from_made_up_samples_alone():
    split, test = (part.first(300) for part in (datasets.load("digits").train, datasets.load("digits").test))
    teacher = models.mlp(0, hidden=(100,))
    training.fit(teacher, split, epochs=15, seed=0)
    images = munge(split.images, copies=3, probability=0.3, spread=2.0, seed=0)
    student = models.mlp(1, hidden=(50,))
    training.fit(student, labeled(teacher, images), epochs=15, seed=0, teaching=model_compression.distiller(teacher))
    assert training.error_pct(student, test) < 30


def test_networks_we_did_not_write_teach_and_learn():
    teacher = given.seeded(lambda: torchvision.models.resnet18(weights=None, num_classes=4)).eval()
    student = given.seeded(lambda: torchvision.models.mobilenet_v2(weights=None, num_classes=4))
    before = given.state(student)
    images = munge(given.split(2, 3, 64, 64).images, copies=2, probability=0.5, spread=1.0, seed=0)
    teaching = model_compression.distiller(teacher)
    losses = training.fit(student, labeled(teacher, images), epochs=1, seed=0, teaching=teaching)
    assert 0 < losses[0] < 1 and not given.same_state(before, given.state(student))


IMAGES, LABELS = torch.rand(5, 3), torch.arange(5)
OPTIONS = {"copies": 1, "probability": 0.5, "spread": 1.0, "seed": 0}
BROKEN = torch.tensor([[0.0, torch.nan], [1.0, 2.0]])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: munge(IMAGES, **OPTIONS | {"copies": 0}), "copies must be a whole number from 1 up, not 0"),
        (lambda: munge(IMAGES, **OPTIONS | {"copies": 1.5}), "copies must be a whole number from 1 up, not 1.5"),
        (lambda: munge(IMAGES, **OPTIONS | {"probability": 1.1}), r"probability must be in \[0, 1\], not 1.1"),
        (lambda: munge(IMAGES, **OPTIONS | {"probability": math.nan}), r"probability must be in \[0, 1\], not nan"),
        (lambda: munge(IMAGES, **OPTIONS | {"spread": 0.0}), "spread must be 1e-6 or more, not 0.0"),
        (lambda: munge(IMAGES, **OPTIONS | {"spread": math.nan}), "spread must be 1e-6 or more, not nan"),
        (lambda: munge(IMAGES, **OPTIONS | {"spread": -1.0}), "spread must be 1e-6 or more, not -1.0"),
        (lambda: munge(IMAGES[:1], **OPTIONS), r"shape \(1, 3\): \(n, ...\) with 2 or more of them are needed"),
        (lambda: munge(IMAGES[:, :0], **OPTIONS), r"images of shape \(5, 0\)"),
        (lambda: munge(BROKEN, **OPTIONS), "the images hold NaN or infinity"),
        (lambda: munge(LABELS[:, None], **OPTIONS), "the images are torch.int64: floating-point numbers are needed"),
        (lambda: neighbors(IMAGES[0]), r"images of shape \(3,\)"),
        (lambda: marginals(IMAGES, 0, seed=0), "n must be a whole number from 1 up, not 0"),
        (lambda: marginals(IMAGES[:0], 3, seed=0), "with 1 or more of them are needed"),
        (lambda: marginals(BROKEN, 3, seed=0), "NaN or infinity"),
        (lambda: naive_bayes(IMAGES, LABELS, -1, seed=0), "n must be a whole number from 1 up, not -1"),
        (lambda: naive_bayes(IMAGES, LABELS[:4], 3, seed=0), "labels must be 5 whole numbers, one for each image"),
        (lambda: naive_bayes(IMAGES, LABELS.float(), 3, seed=0), "not torch.float32 of shape"),
        (lambda: naive_bayes(BROKEN, LABELS[:2], 3, seed=0), "NaN or infinity"),
        (lambda: labeled(nn.Identity(), IMAGES[:0]), "there are no images to answer"),
        (lambda: labeled(nn.Flatten(0), IMAGES), r"the teacher answers 5 images with \(15,\)"),
        (lambda: labeled(nn.Identity(), BROKEN), "NaN or infinity"),
        (lambda: model_compression.loss(IMAGES, IMAGES[:, :2]), "must have the same shape"),
        (lambda: model_compression.loss(IMAGES[:, :1], IMAGES[:, :1]), "at least two classes are needed"),
        (lambda: model_compression.loss(torch.zeros(2, 2), BROKEN), "NaN or infinity"),
    ],
)
def test_bad_input_is_one_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_split_of_made_up_samples_is_a_split():
    split = labeled(nn.Identity(), marginals(torch.eye(3), 7, seed=0))
    assert isinstance(split, Split) and len(split) == 7 and split.labels.dtype == torch.int64
