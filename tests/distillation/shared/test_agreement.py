"""Agreement and shared mistakes: counted by hand, and refused where there is nothing to count."""

import given
import pytest
import torch
from torch import nn

from lib import training
from lib.datasets import Split
from lib.distillation.shared.agreement import agreement_pct, shared_mistakes_pct
from lib.vision import torchvision


class Answers(nn.Module):
    """Chooses the classes of a table, sample after sample: images (n, 1) hold the numbers of the samples."""

    def __init__(self, *chosen):
        super().__init__()
        self.register_buffer("table", nn.functional.one_hot(torch.tensor(chosen), 4).float())

    def forward(self, images):
        return self.table[images[:, 0].long()]


def numbered(*labels):
    return Split(torch.arange(float(len(labels)))[:, None], torch.tensor(labels))


STUDENT, TEACHER, SPLIT = Answers(0, 1, 2, 3, 0, 1), Answers(0, 1, 3, 3, 1, 2), numbered(0, 0, 2, 1, 0, 1)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_both_shares_are_counted(batch_size):
    assert agreement_pct(STUDENT, TEACHER, SPLIT, batch_size=batch_size) == 50
    # the teacher is wrong on samples 1 to 5, and the student chooses the same class for 1 and 3
    assert shared_mistakes_pct(STUDENT, TEACHER, SPLIT, batch_size=batch_size) == pytest.approx(40)


def test_a_network_agrees_with_itself_and_shares_all_mistakes():
    assert agreement_pct(TEACHER, TEACHER, SPLIT) == 100 and shared_mistakes_pct(TEACHER, TEACHER, SPLIT) == 100


def test_another_wrong_class_is_no_shared_mistake():
    split = numbered(0, 0)
    assert shared_mistakes_pct(Answers(1, 2), Answers(1, 1), split) == 50
    assert shared_mistakes_pct(Answers(0, 0), Answers(1, 1), split) == 0


def test_agreement_reads_no_labels_and_is_symmetric():
    assert agreement_pct(TEACHER, STUDENT, numbered(3, 3, 3, 3, 3, 3)) == agreement_pct(STUDENT, TEACHER, SPLIT)


def test_a_perfect_student_agrees_as_often_as_the_teacher_is_right():
    perfect = Answers(*SPLIT.labels.tolist())
    assert agreement_pct(perfect, TEACHER, SPLIT) == pytest.approx(100 - training.error_pct(TEACHER, SPLIT))


def test_each_place_of_a_dense_answer_counts():
    images = torch.zeros(1, 3, 2, 2)
    images[0, 1, 0, 0] = images[0, 2, 1, 1] = 1
    student, teacher = nn.Identity(), nn.Conv2d(3, 3, 1, bias=False)
    teacher.weight.data = torch.eye(3)[[0, 1, 0], :, None, None] + torch.tensor([1e-3, 0, 0])[:, None, None, None]
    split = Split(images, torch.zeros(1, 2, 2, dtype=torch.long))
    assert agreement_pct(student, teacher, split) == 75
    assert shared_mistakes_pct(student, teacher, split) == 100  # at (0, 0) both choose class 1


def test_both_answer_in_evaluation_mode_and_keep_their_own():
    student = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(4), nn.Linear(4, 3))
    student[1].eval()
    before, split = given.state(student), given.split(30, 4, classes=3)
    assert agreement_pct(student, student, split) == 100
    assert [module.training for module in student] == [True, False, True] and student.training
    assert given.same_state(before, given.state(student))


def test_networks_of_other_types_and_memory_are_compared():
    student = given.seeded(lambda: torchvision.models.mobilenet_v2(weights=None, num_classes=4))
    teacher = given.seeded(lambda: torchvision.models.resnet18(weights=None, num_classes=4)).double()
    split = given.split(6, 3, 64, 64, classes=4)
    last = Split(split.images.to(memory_format=torch.channels_last), split.labels)
    with torch.no_grad():
        same = student.eval()(split.images).argmax(1) == teacher.eval()(split.images.double()).argmax(1)
    assert agreement_pct(student, teacher, split) == pytest.approx(100 * same.double().mean().item())
    assert agreement_pct(student, teacher, last) == agreement_pct(student, teacher, split)


def test_stored_answers_stand_for_the_teacher():
    with torch.no_grad():
        stored = TEACHER.eval()(SPLIT.images)
    for measure in (agreement_pct, shared_mistakes_pct):
        assert measure(STUDENT, stored, SPLIT, batch_size=3) == measure(STUDENT, TEACHER, SPLIT)
    with pytest.raises(ValueError, match=f"2 stored answers for {len(SPLIT)} samples"):
        agreement_pct(STUDENT, stored[:2], SPLIT)


class Pair(nn.Module):
    def forward(self, images):
        return images, images


def test_bad_input_is_one_sentence():
    table = given.split(5, 4, classes=4)
    broken = Split(torch.full((3, 4), torch.nan), torch.zeros(3, dtype=torch.long))
    for call, says in (
        (lambda: agreement_pct(STUDENT, TEACHER, SPLIT.first(0)), "the split is empty"),
        (lambda: shared_mistakes_pct(STUDENT, TEACHER, SPLIT.first(0)), "the split is empty"),
        (lambda: shared_mistakes_pct(STUDENT, STUDENT, numbered(0, 1, 2)), "the teacher makes no mistake"),
        (lambda: agreement_pct(STUDENT, TEACHER, SPLIT, batch_size=0), "batch_size must be 1 or more, not 0"),
        (lambda: agreement_pct(nn.Linear(4, 3), nn.Linear(4, 5), table), "both must have the same classes"),
        (lambda: agreement_pct(nn.Identity(), Pair(), table), "with logits .* not with tuple"),
        (lambda: agreement_pct(nn.Flatten(0), nn.Identity(), table), r"with logits .* not with \(20,\)"),
        (lambda: agreement_pct(nn.Identity(), nn.Identity(), broken), "logits of Identity hold NaN or infinity"),
        (lambda: agreement_pct(nn.Linear(3, 4), nn.Identity(), table), "Linear does not take images of shape"),
        (
            lambda: shared_mistakes_pct(nn.Identity(), nn.Identity(), Split(table.images, torch.zeros(5, 2))),
            r"labels of shape \(5, 2\) for choices of shape \(5,\)",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            call()
