"""Ensembles: the mean probabilities that their logits stand for, and how much of the gain a student has."""

import copy

import given
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lib import models, training
from lib.distillation import ensemble, logit_mimic, soft_targets
from lib.distillation.ensemble import Ensemble, transferred_pct
from lib.vision import torchvision


def members(n=3, classes=5, dtype=torch.float64):
    return [given.seeded(lambda: nn.Linear(4, classes).to(dtype), seed) for seed in range(n)]


IMAGES = torch.randn(6, 4, generator=given.generator(9), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_arithmetic_mean_of_probabilities_is_the_soft_target(temperature, n):
    several = members(n)
    found = Ensemble(several, temperature=temperature)(IMAGES)
    expected = sum((member(IMAGES) / temperature).softmax(1) for member in several) / n
    torch.testing.assert_close((found / temperature).softmax(1), expected)
    torch.testing.assert_close((found / temperature).exp(), expected)  # they are logarithms, not just up to a constant


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_geometric_mean_is_the_softmax_of_mean_logits(temperature):
    several = members()
    found = Ensemble(several, mean="geometric", temperature=temperature)(IMAGES)
    torch.testing.assert_close(found, sum(member(IMAGES) for member in several) / 3)
    product = torch.stack([(member(IMAGES) / temperature).softmax(1) for member in several]).log().mean(0).exp()
    torch.testing.assert_close((found / temperature).softmax(1), product / product.sum(1, keepdim=True))


@pytest.mark.parametrize("mean", ensemble.MEANS)
def test_one_member_teaches_as_it_does_alone(mean):
    member, student = members(1)[0], given.seeded(lambda: nn.Linear(4, 5).double(), 7)(IMAGES)
    alone = soft_targets.loss(student, member(IMAGES), temperature=3.0)
    in_ensemble = soft_targets.loss(student, Ensemble([member], mean=mean, temperature=3.0)(IMAGES), temperature=3.0)
    torch.testing.assert_close(in_ensemble, alone)
    copies = Ensemble([copy.deepcopy(member) for _ in range(4)], mean=mean, temperature=3.0)
    torch.testing.assert_close(copies(IMAGES).softmax(1), member(IMAGES).softmax(1))


@pytest.mark.parametrize("mean", ensemble.MEANS)
def test_the_order_of_the_members_is_irrelevant(mean):
    several = members(4)
    expected = Ensemble(several, mean=mean)(IMAGES)
    torch.testing.assert_close(Ensemble([several[i] for i in (2, 0, 3, 1)], mean=mean)(IMAGES), expected)


def test_no_sample_costs_more_than_the_mean_of_its_members():
    several, labels = members(4), torch.arange(6) % 5
    mean = torch.stack([cross_entropy(m(IMAGES), labels, reduction="none") for m in several]).mean(0)
    for kind in ensemble.MEANS:
        mine = cross_entropy(Ensemble(several, mean=kind)(IMAGES), labels, reduction="none")
        assert (mine < mean).all()  # Jensen's inequality, strict where members differ


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_members_that_are_sure_give_finite_answers(dtype):
    several = members(2, dtype=dtype)
    for member in several:
        member.weight.data *= 1e4
    found = Ensemble(several)(IMAGES.to(dtype))
    assert found.dtype == dtype and torch.isfinite(found).all()
    expected = sum(member(IMAGES.to(dtype)).softmax(1) for member in several) / 2
    torch.testing.assert_close(found.softmax(1), expected)


def test_each_place_of_a_dense_answer_has_its_mean():
    several = [given.seeded(lambda: nn.Conv2d(3, 5, 1), seed) for seed in range(2)]
    images = torch.rand(2, 3, 4, 4, generator=given.generator())
    expected = sum((member(images) / 2).softmax(1) for member in several) / 2
    found = Ensemble(several, temperature=2.0)(images)
    assert found.shape == (2, 5, 4, 4)
    torch.testing.assert_close((found / 2).softmax(1), expected)


def test_the_state_holds_members_and_temperature():
    first, second = Ensemble(members(), temperature=3.0), Ensemble([nn.Linear(4, 5).double() for _ in range(3)])
    assert set(first.state_dict()) == {
        "temperature",
        *(f"members.{i}.{k}" for i in range(3) for k in ("weight", "bias")),
    }
    second.load_state_dict(first.state_dict())
    for other in (second, copy.deepcopy(first)):
        assert torch.equal(other(IMAGES), first(IMAGES))
    single = copy.deepcopy(first).float()
    torch.testing.assert_close(single(IMAGES.float()), first(IMAGES).float())
    assert "mean='geometric'" in str(Ensemble(members(), mean="geometric"))


def test_members_are_in_evaluation_mode_and_stay_in_it():
    several = [nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 3)) for _ in range(2)]
    teacher, before = Ensemble(several), [given.state(member) for member in several]
    images = torch.rand(9, 4, generator=given.generator())
    answers = teacher.train()(images)
    assert not any(module.training for module in teacher.modules()) and torch.equal(teacher(images), answers)
    assert all(given.same_state(a, given.state(b)) for a, b in zip(before, several, strict=True))
    assert teacher.members[0] is several[0]


def test_any_distiller_takes_an_ensemble_for_its_teacher():
    split = given.split(40, 4, classes=5)
    several = members(dtype=torch.float32)
    before = [given.state(member) for member in several]
    for teaching in (
        ensemble.distiller(several, temperature=2.0),
        ensemble.distiller(several, mean="geometric", labels_weight=0.5),
        logit_mimic.distiller(Ensemble(several, mean="geometric")),
    ):
        student = models.mlp(3, inputs=4, hidden=(30,), classes=5)
        losses = training.fit(student, split, epochs=30, seed=0, teaching=teaching)
        assert losses[-1] < 0.7 * losses[0]
    assert all(given.same_state(a, given.state(b)) for a, b in zip(before, several, strict=True))


def test_student_and_mean_have_one_temperature():
    teaching = ensemble.distiller(members(), mean="geometric", temperature=2.5, labels_weight=0.2)
    teacher = teaching.teacher
    assert isinstance(teacher, Ensemble) and teacher.temperature.item() == 2.5 and teacher.mean == "geometric"
    assert dict(teaching.terms[0].options) == {"temperature": 2.5, "labels_weight": 0.2}


def test_networks_we_did_not_write_teach_together():
    names = ("resnet18", "squeezenet1_1")
    several = [given.seeded(lambda n=n: getattr(torchvision.models, n)(weights=None, num_classes=4)) for n in names]
    student = given.seeded(lambda: torchvision.models.mobilenet_v2(weights=None, num_classes=4))
    before, split = given.state(student), given.split(4, 3, 64, 64, classes=4)
    losses = training.fit(student, split, epochs=1, seed=0, teaching=ensemble.distiller(several))
    assert 0 < losses[0] < 100 and not given.same_state(before, given.state(student))


def test_the_share_of_the_gain_is_that_of_the_paper():
    assert transferred_pct(100 - 58.9, 100 - 61.1, 100 - 60.8) == pytest.approx(100 * (60.8 - 58.9) / (61.1 - 58.9))
    assert transferred_pct(10, 5, 5) == 100 and transferred_pct(10, 5, 10) == 0
    assert transferred_pct(10, 5, 4) == pytest.approx(120) and transferred_pct(10, 5, 11) == pytest.approx(-20)


class Pair(nn.Module):
    def forward(self, images):
        return images, images


MEMBER = nn.Linear(4, 5).double()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Ensemble([]), "an ensemble needs at least one member"),
        (lambda: Ensemble([MEMBER, "b"]), "member 1 of the ensemble is str: networks are needed"),
        (lambda: Ensemble([nn.ReLU(), MEMBER, MEMBER]), "member 2 of the ensemble is member 1 again"),
        (lambda: Ensemble([MEMBER], mean="median"), "mean must be one of arithmetic, geometric, not 'median'"),
        (lambda: Ensemble([MEMBER], temperature=0.0), "temperature must be above 0 and finite, not 0.0"),
        (lambda: ensemble.distiller([MEMBER], temperature=-1.0), "temperature must be above 0 and finite"),
        (lambda: ensemble.distiller([MEMBER], labels_weight=2.0), r"labels_weight must be in \[0, 1\], not 2.0"),
        (lambda: ensemble.distiller([]), "at least one member"),
        (lambda: Ensemble([MEMBER, nn.Linear(4, 3).double()])(IMAGES), r"answer with \(6, 5\), \(6, 3\): logits"),
        (lambda: Ensemble([Pair()])(IMAGES), "answer with tuple: logits"),
        (lambda: Ensemble([nn.Flatten(0)])(IMAGES), r"answer with \(24,\): logits"),
        (lambda: Ensemble([MEMBER, nn.Linear(3, 5).double()])(IMAGES), "Linear does not take images of shape"),
        (lambda: transferred_pct(5, 5, 4), "the ensemble's error of 5 % is not below the single network's 5 %"),
        (lambda: transferred_pct(5, 6, 4), "no gain to transfer"),
        (lambda: transferred_pct(float("nan"), 6, 4), r"the error of single must be in \[0, 100\] percent, not nan"),
        (lambda: transferred_pct(9, 6, 101), "the error of student must be in"),
        (lambda: transferred_pct(9, -1, 5), "the error of ensemble must be in"),
    ],
)
def test_bad_input_is_one_sentence(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_members_of_other_classes_are_refused_before_training():
    student, split = nn.Linear(4, 5), given.split(8, 4, classes=5)
    with given.refused(student, "the members answer with"):
        training.fit(student, split, epochs=1, seed=0, teaching=ensemble.distiller([nn.Linear(4, 5), nn.Linear(4, 3)]))


def test_a_member_cannot_be_the_student():
    several, split = members(dtype=torch.float32), given.split(8, 4, classes=5)
    with given.refused(several[1], "the teacher shares weights with its student"):
        training.fit(several[1], split, epochs=1, seed=0, teaching=ensemble.distiller(several))
