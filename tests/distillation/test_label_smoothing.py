"""Label smoothing: targets, gradient, the smoothing of a teacher, and what it erases, each in closed form."""

import copy
import math

import given
import pytest
import torch
from torch import nn

from lib import cache, models, training
from lib.datasets import Split, load
from lib.distillation import soft_targets
from lib.distillation.label_smoothing import (
    Smoothed,
    equivalent_smoothing,
    logit_differences,
    mutual_information,
    smoothed,
    wrong_logit_variance,
)
from lib.vision import torchvision

DTYPES = [torch.float32, torch.float64]


def normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=given.generator(seed), dtype=dtype)


def teller() -> nn.Module:
    """A classifier whose logits are its inputs."""
    return nn.Identity()


# --- targets and loss ---------------------------------------------------------------------------------------------


def test_targets_are_the_mixture_of_label_and_uniform():
    labels = torch.tensor([2, 0, 1, 2])
    targets = smoothed(labels, 3, 0.3, dtype=torch.float64)
    expected = [[0.7 * (k == y) + 0.1 for k in range(3)] for y in labels.tolist()]
    torch.testing.assert_close(targets, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)
    assert torch.equal(smoothed(labels, 3, 0.0), nn.functional.one_hot(labels).float())
    assert torch.equal(smoothed(labels, 3, 1.0), torch.full((4, 3), 1 / 3))
    assert smoothed(labels, 5, 0.3).shape == (4, 5) and smoothed(labels, 5, 0.3).dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6, 1.0])
def test_the_loss_is_the_mixture_of_two_cross_entropies(smoothing, dtype):
    z, labels = normal(6, 5, dtype=dtype) * 3, torch.tensor([0, 1, 2, 3, 4, 4])
    with_labels = nn.functional.cross_entropy(z, labels)
    with_uniform = -z.log_softmax(1).mean(1).mean()
    found = Smoothed(smoothing)(z, labels)
    torch.testing.assert_close(found, (1 - smoothing) * with_labels + smoothing * with_uniform)
    torch.testing.assert_close(found, nn.functional.cross_entropy(z, labels, label_smoothing=smoothing))
    assert found.dtype == dtype


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16, torch.float16])
def test_the_gradient_is_the_difference_of_probabilities_and_targets(dtype):
    z, labels = normal(4, 5).to(dtype).requires_grad_(), torch.tensor([0, 1, 2, 4])
    Smoothed(0.2)(z, labels).backward()
    expected = (z.double().softmax(1) - smoothed(labels, 5, 0.2, dtype=torch.float64)) / 4
    torch.testing.assert_close(z.grad.double(), expected.detach(), rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_the_least_loss_is_the_entropy_of_the_targets():
    labels = torch.arange(4)
    targets = smoothed(labels, 4, 0.2, dtype=torch.float64)
    z = targets.log().requires_grad_()
    least = Smoothed(0.2)(z, labels)
    least.backward()
    assert least.item() == pytest.approx(-(targets * targets.log()).sum(1).mean().item(), rel=1e-14)
    assert z.grad.abs().max() < 1e-16


def test_a_class_at_each_place_is_a_label():
    z, labels = normal(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5), generator=given.generator())
    flat = Smoothed(0.3)(z.movedim(1, -1).reshape(-1, 3), labels.flatten())
    torch.testing.assert_close(Smoothed(0.3)(z, labels), flat)
    assert smoothed(labels, 3, 0.3).shape == (2, 3, 4, 5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_smoothing_outside_its_range_is_refused(smoothing):
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\]"):
        Smoothed(smoothing)
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\]"):
        smoothed(torch.tensor([0]), 3, smoothing)


@pytest.mark.parametrize(
    ("labels", "classes", "says"),
    [
        (torch.tensor([0, 3]), 3, "class numbers from 0 to 2, not 3"),
        (torch.tensor([-100, 1]), 3, "class numbers from 0 to 2, not -100"),
        (torch.tensor([0, 0]), 1, "2 classes or more, not 1"),
        (torch.tensor([], dtype=torch.long), 3, "at least one"),
        (torch.tensor(1), 3, r"of shape \(\)"),
        (torch.tensor([0.0, 1.0]), 3, "int64 class numbers"),
    ],
)
def test_labels_that_are_no_class_numbers_are_refused(labels, classes, says):
    with pytest.raises(ValueError, match=says):
        smoothed(labels, classes, 0.1)


@pytest.mark.parametrize(("logits", "labels"), [((3, 4), (2,)), ((3, 4, 2), (3,)), ((4,), (4,)), ((3, 4), (3, 4))])
def test_labels_of_another_shape_are_refused(logits, labels):
    with pytest.raises(ValueError, match="do not fit logits of shape"):
        Smoothed(0.1)(torch.zeros(logits), torch.zeros(labels, dtype=torch.long))


# --- training -----------------------------------------------------------------------------------------------------


def small() -> Split:
    return given.split(30, 1, 8, 8, classes=3, labels="in turn")


def build(seed: int = 0) -> nn.Module:
    return models.mlp(seed, inputs=64, hidden=(8,), classes=3, batch_norm=False)


def test_a_cached_network_has_the_smoothing_in_its_key(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    networks = [
        cache.cached(training.fit, build(), split=small(), epochs=2, seed=0, loss=loss)
        for loss in (Smoothed(0.0), Smoothed(0.5), Smoothed(0.5), "cross_entropy")
    ]
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert given.equal(networks[1], networks[2]) and not given.equal(networks[0], networks[1])
    torch.testing.assert_close(networks[0].state_dict(), networks[3].state_dict())  # plain cross-entropy


def test_training_finds_the_smoothed_probabilities():
    split = Split(torch.eye(3), torch.arange(3))
    model = given.seeded(lambda: nn.Linear(3, 3))
    training.fit(model, split, epochs=150, seed=0, learning_rate=1.0, weight_decay=0, loss=Smoothed(0.3))
    torch.testing.assert_close(model(split.images).softmax(1), smoothed(split.labels, 3, 0.3), rtol=0, atol=1e-3)
    assert equivalent_smoothing(model, split) == pytest.approx(0.3, abs=2e-3)


def test_a_smoothed_teacher_has_less_variance_and_still_teaches():
    digits = load("digits").train.first(100)
    digits = Split(nn.functional.avg_pool2d(digits.images, 2), digits.labels)
    two = (digits.labels == 3) | (digits.labels == 8)
    pair = Split(digits.images[two], digits.labels[two])
    variances, informed = [], []
    for smoothing in (0.0, 0.4):
        teacher = models.mlp(0, inputs=196, hidden=(30, 30), batch_norm=False)
        training.fit(teacher, digits, epochs=40, seed=0, batch_size=32, learning_rate=0.05, loss=Smoothed(smoothing))
        variances.append(wrong_logit_variance(teacher, digits))
        differences = logit_differences(teacher, pair, pair=(3, 8), draws=10, shift=1, seed=0)
        informed.append(mutual_information(differences))
    assert variances[1] < 0.5 * variances[0]
    assert all(0.5 * math.log(2) < value < math.log(len(pair)) for value in informed)
    student = models.mlp(1, inputs=196, hidden=(12,), batch_norm=False)
    options = {"epochs": 15, "seed": 0, "batch_size": 16, "learning_rate": 0.1}
    losses = training.fit(student, digits, teaching=soft_targets.distiller(teacher, temperature=1.0), **options)
    assert losses[-1] < 0.5 * losses[0]


# --- the smoothing of a teacher -----------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4, 1.0])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_teacher_of_smoothed_targets_has_their_smoothing(smoothing, classes):
    labels = torch.arange(20) % classes
    logits = smoothed(labels, classes, smoothing, dtype=torch.float64).clamp_min(1e-300).log()
    assert equivalent_smoothing(teller(), Split(logits, labels)) == pytest.approx(smoothing, abs=1e-12)


def test_equivalent_smoothing_is_the_sum_of_the_definition():
    logits, labels = 3 * normal(7, 4), torch.tensor([0, 1, 2, 3, 0, 1, 0])
    p = (logits / 2.5).softmax(1)
    expected = sum(p[i, k].item() * 4 / 3 for i in range(7) for k in range(4) if k != labels[i]) / 7
    assert equivalent_smoothing(teller(), Split(logits, labels), temperature=2.5) == pytest.approx(expected, rel=1e-12)


def test_equivalent_smoothing_rises_with_temperature_to_one():
    split = Split(5 * nn.functional.one_hot(torch.arange(4)).double(), torch.arange(4))
    found = [equivalent_smoothing(teller(), split, temperature=t) for t in (0.1, 1, 4, 20, 1e6)]
    assert found == sorted(found) and found[0] < 1e-9 and found[-1] == pytest.approx(1, abs=1e-5)


# --- what smoothing erases ----------------------------------------------------------------------------------------


def test_the_variance_is_that_of_the_formula():
    logits, labels = normal(9, 4), torch.tensor([0, 0, 0, 2, 2, 3, 3, 3, 3])
    total = 0.0
    for label in (0, 2, 3):
        rows = []
        for row in logits[labels == label].tolist():
            wrong = [v for k, v in enumerate(row) if k != label]
            rows.append([v - sum(wrong) / 3 for v in wrong])
        for column in zip(*rows, strict=True):
            total += sum((v - sum(column) / len(column)) ** 2 for v in column)
    found = wrong_logit_variance(teller(), Split(logits, labels))
    assert found == pytest.approx(total / (9 - 3) / 3, rel=1e-12)


def test_the_variance_ignores_true_logits_shifts_and_class_means():
    logits, labels = normal(30, 4), torch.arange(30) % 4
    before = wrong_logit_variance(teller(), Split(logits, labels))
    moved = logits + normal(30, 1, seed=1) + normal(4, 4, seed=2)[labels]
    moved[torch.arange(30), labels] = 7 * normal(30, seed=3)
    assert wrong_logit_variance(teller(), Split(moved, labels)) == pytest.approx(before, rel=1e-10)
    assert wrong_logit_variance(teller(), Split(3 * logits, labels)) == pytest.approx(9 * before, rel=1e-10)
    order = torch.randperm(30, generator=given.generator())
    assert wrong_logit_variance(teller(), Split(logits[order], labels[order])) == pytest.approx(before, rel=1e-12)


def test_the_variance_of_independent_logits_is_theirs_without_bias():
    logits, labels = 2 * normal(4000, 5), torch.arange(4000) % 2000 % 5  # the mean of the 4 takes a quarter
    assert wrong_logit_variance(teller(), Split(logits, labels)) == pytest.approx(4 * 3 / 4, rel=0.05)
    pairs = 2 * normal(400, 200)
    labels = torch.arange(400) // 2  # two samples of each class: division by n would give half
    assert wrong_logit_variance(teller(), Split(pairs, labels)) == pytest.approx(4, rel=0.05)


def test_samples_of_a_class_that_are_alike_have_no_variance():
    labels = torch.arange(12) % 3
    assert wrong_logit_variance(teller(), Split(normal(3, 3)[labels], labels)) < 1e-28
    assert wrong_logit_variance(teller(), Split(normal(5, 3), torch.ones(5, dtype=torch.long))) > 0.01  # one class


# --- information --------------------------------------------------------------------------------------------------


def test_information_is_that_of_the_formula():
    y = normal(3, 4).tolist()
    means = [sum(row[x] for row in y) / 3 for x in range(4)]
    variance = sum((row[x] - means[x]) ** 2 for row in y for x in range(4)) / 12

    def density(value: float, x: int) -> float:
        return math.exp(-((value - means[x]) ** 2) / (2 * variance))

    terms = [math.log(density(row[x], x) / sum(density(row[x], k) for k in range(4))) for row in y for x in range(4)]
    expected = math.log(4) + sum(terms) / 12
    assert mutual_information(torch.tensor(y)) == pytest.approx(max(0, expected), rel=1e-6) and expected > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_information_lies_between_0_and_log_n(dtype):
    for scale in (0.0, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e18):
        y = (normal(5, 40, seed=1) + scale * normal(40, seed=2)).to(dtype)
        assert 0 <= mutual_information(y) <= math.log(40)
    assert mutual_information(y) == pytest.approx(math.log(40), rel=1e-9)


def test_information_of_groups_is_the_entropy_of_the_groups():
    noise = 0.1 * normal(200, 60)
    for groups, expected in ((1, 0), (2, math.log(2)), (3, math.log(3))):
        y = noise + 10.0 * (torch.arange(60) % groups)
        assert mutual_information(y) == pytest.approx(expected, abs=0.02)
    uneven = noise + 10.0 * (torch.arange(60) < 15)
    assert mutual_information(uneven) == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75), abs=0.02)


def test_information_of_two_gaussians_is_the_integral():
    y = normal(4000, 2) + torch.tensor([-1.0, 1.0], dtype=torch.float64)
    t = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    p = [torch.exp(-((t - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (-1, 1)]
    mixture = (p[0] + p[1]) / 2
    exact = sum(torch.trapezoid(d * (d / mixture).log(), t).item() for d in p) / 2
    assert mutual_information(y) == pytest.approx(exact, abs=0.02)


def test_information_without_noise_counts_groups_of_equal_samples():
    values = torch.tensor([0.1, 0.3, 0.3, 0.7, 0.7, 0.7, 0.7, 0.1])
    shares = torch.tensor([2, 2, 4]) / 8
    expected = -(shares * shares.log()).sum().item()
    for draws in (1, 3, 10):
        assert mutual_information(values.expand(draws, 8)) == pytest.approx(expected, rel=1e-6)
    tiny = values.double() + 1e-7 * normal(50, 8)
    assert mutual_information(tiny) == pytest.approx(expected, abs=0.05)
    assert mutual_information(torch.ones(4, 1)) == 0 == mutual_information(normal(4, 1))


def test_information_is_unchanged_by_scale_shift_and_order():
    y = normal(6, 9) + 2 * normal(9, seed=1)
    before = mutual_information(y)
    for changed in (3 * y, y - 100, -y, y.flip(0), y.flip(1)):
        assert mutual_information(changed) == pytest.approx(before, rel=1e-9)


def test_one_noisy_sample_does_not_make_information_negative():
    y = torch.zeros(4, 50)
    y[:, 0], y[:, 1] = torch.tensor([-9.0, 9.0, -9.0, 9.0]), 9.0
    assert mutual_information(y) == 0


# --- differences of logits ----------------------------------------------------------------------------------------


def images_of_two() -> Split:
    return Split(given.split(6, 1, 8, 8).images, torch.tensor([1, 2, 2, 1, 1, 2]))


def test_differences_are_those_of_moved_images():
    model, split = build(), images_of_two()
    still = logit_differences(model, split, pair=(2, 1), draws=3, shift=0, seed=0)
    logits = model(split.images).double()
    assert still.shape == (3, 6) and still.dtype == torch.float64
    torch.testing.assert_close(still, (logits[:, 2] - logits[:, 1]).expand(3, 6).detach())
    moved = logit_differences(model, split, pair=(2, 1), draws=4, shift=1, seed=3)
    generator = torch.Generator().manual_seed(3)
    for row in moved:
        logits = model(training.shifted(split.images, 1, generator)).double()
        torch.testing.assert_close(row, (logits[:, 2] - logits[:, 1]).detach())
    assert torch.equal(moved, logit_differences(model, split, pair=(2, 1), draws=4, shift=1, seed=3))
    assert not torch.equal(moved, logit_differences(model, split, pair=(2, 1), draws=4, shift=1, seed=4))
    torch.testing.assert_close(-moved, logit_differences(model, split, pair=(1, 2), draws=4, shift=1, seed=3))


def test_mirrored_images_give_one_of_two_differences():
    model, split = build(), images_of_two()
    flipped = Split(split.images.flip(3), split.labels)
    both = [logit_differences(model, s, pair=(1, 2), draws=1, shift=0, seed=0)[0] for s in (split, flipped)]
    drawn = logit_differences(model, split, pair=(1, 2), draws=30, shift=0, flip=True, seed=0)
    near = [(drawn - one).abs() < 1e-6 for one in both]
    assert (near[0] | near[1]).all() and near[0].any() and near[1].any()


# --- refusals, and what stays as it was ---------------------------------------------------------------------------


def probes(model: nn.Module, split: Split, pair: tuple[int, int] = (0, 1)) -> list:
    return [
        lambda: equivalent_smoothing(model, split),
        lambda: wrong_logit_variance(model, split),
        lambda: logit_differences(model, split, pair=pair, seed=0),
    ]


@pytest.mark.parametrize("number", range(3))
def test_what_no_classifier_answers_is_refused(number):
    images = given.split(4, 1, 8, 8, labels="zero")
    nothing = Split(images.images[:0], images.labels[:0])
    nan = build()
    nan.fc2.bias.data[1] = float("nan")
    maps, empty, full = nn.Conv2d(1, 3, 1), probes(build(), nothing)[number], probes(nan, images)[number]
    for probe, says in (
        (empty, "the split is empty"),
        (full, "NaN or infinity"),
        (probes(maps, images)[number], r"logits of shape \(\d, classes\)"),
        (probes(build(), Split(images.images[..., :5], images.labels))[number], "does not take images"),
    ):
        with pytest.raises(ValueError, match=says):
            probe()


@pytest.mark.parametrize("probe", [equivalent_smoothing, wrong_logit_variance])
def test_labels_of_other_classes_or_of_places_are_refused(probe):
    images = given.split(4, 1, 8, 8).images
    with pytest.raises(ValueError, match="from 0 to 2, not 3"):
        probe(build(), Split(images, torch.tensor([0, 1, 3, 0])))
    with pytest.raises(ValueError, match=r"a label for each sample is needed, \(n,\), not \(4, 8, 8\)"):
        probe(build(), Split(images, torch.zeros(4, 8, 8, dtype=torch.long)))


def test_values_that_the_probes_do_not_accept_are_refused():
    split = images_of_two()
    with pytest.raises(ValueError, match="temperature must be above 0"):
        equivalent_smoothing(build(), split, temperature=0)
    with pytest.raises(ValueError, match="3 classes or more are needed, not 2"):
        wrong_logit_variance(teller(), Split(normal(4, 2), torch.tensor([0, 1, 0, 1])))
    with pytest.raises(ValueError, match="two samples of it"):
        wrong_logit_variance(teller(), Split(normal(3, 3), torch.arange(3)))
    for arguments, says in (
        ({"pair": (1, 1)}, "pair must be two different classes"),
        ({"pair": (0, 1)}, "each label one of them"),
        ({"pair": (1, 2), "draws": 0}, "draws must be 1 or more"),
        ({"pair": (1, 2), "shift": -1}, "shift 0 or more"),
    ):
        with pytest.raises(ValueError, match=says):
            logit_differences(build(), split, **arguments, seed=0)
    with pytest.raises(ValueError, match="two of the classes 0 to 2"):
        logit_differences(build(), Split(split.images, torch.ones(6, dtype=torch.long)), pair=(1, 7), seed=0)
    with pytest.raises(ValueError, match=r"to be moved, not \(4, 3\)"):
        logit_differences(teller(), Split(normal(4, 3), torch.tensor([1, 2, 1, 2])), pair=(1, 2), seed=0)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (torch.zeros(3), r"\(draws, samples\)"),
        (torch.zeros(0, 3), "at least one of each"),
        (torch.tensor([[0.0, float("nan")]]), "NaN or infinity"),
        (torch.tensor([[0.0, float("inf")]]), "NaN or infinity"),
    ],
)
def test_information_of_other_values_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        mutual_information(values)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_networks_that_we_did_not_write_stay_as_they_were(name):
    model = given.seeded(lambda: getattr(torchvision.models, name)(num_classes=4)).train()
    split = given.split(6, 3, 32, 32, classes=4, labels="in turn")
    before, twin, random = given.state(model), copy.deepcopy(model), torch.get_rng_state()
    pair = Split(split.images[:2], split.labels[:2])
    found = [equivalent_smoothing(model, split), wrong_logit_variance(model, split)]
    found.append(mutual_information(logit_differences(model, pair, pair=(0, 1), draws=2, seed=0)))
    assert all(math.isfinite(value) and value >= 0 for value in found) and 0 < found[0] < 4 / 3
    assert given.same_state(given.state(model), before) and torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == [m.training for m in twin.modules()]
    double = Split(split.images.double(), split.labels)
    assert equivalent_smoothing(model.double(), double) == pytest.approx(found[0], rel=1e-4)
