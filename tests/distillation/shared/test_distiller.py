"""Teacher and student in the training loop: who labels what, what is added up, what is refused, what stays."""

import copy
import warnings

import given
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lib import models, running, training
from lib.cache import cached
from lib.datasets import Split
from lib.distillation import soft_targets
from lib.distillation.shared.distiller import (
    Distiller,
    Term,
    answers,
    check_classes,
    check_finite,
    check_shapes,
    fitted,
)
from lib.vision import torchvision

SEEN: list = []  # what recorded() and the networks below were given


def recorded(student, teacher, labels=None):
    SEEN.append((student, teacher, labels))
    return distance(student, teacher)


def distance(student, teacher, labels=None, *, scale=1.0):
    """Squared distance; of several taps the sum."""
    pairs = [(student, teacher)] if isinstance(student, torch.Tensor) else zip(student, teacher, strict=True)
    return scale * sum((a - b).square().mean() for a, b in pairs)


@pytest.fixture(autouse=True)
def forget():
    SEEN.clear()


class Watched(nn.Module):
    """A linear classifier that notes the images it is given, and whether in training mode."""

    def __init__(self, inputs=12, classes=3, seed=0):
        super().__init__()
        self.fc = given.seeded(lambda: nn.Linear(inputs, classes), seed)
        self.images, self.modes = [], []

    def forward(self, images):
        self.images.append(images.detach().clone())
        self.modes.append(self.training)
        return self.fc(images.flatten(1))


class Twice(nn.Module):
    """Its part runs twice; another runs in training only, and another never."""

    def __init__(self, seed=0):
        super().__init__()
        self.part, self.side, self.idle, self.head = given.seeded(lambda: [nn.Linear(4, 4) for _ in range(4)], seed)

    def forward(self, x):
        x = self.part(torch.relu(self.part(x)))
        return self.head(x) + (self.side(x) if self.training else 0)


def mlp(seed=0, classes=3, inputs=12):
    return models.mlp(seed, inputs=inputs, hidden=(8,), classes=classes, batch_norm=False)


def distiller(teacher, *, loss=distance, taps=(), **options):
    return Distiller(teacher, [Term(loss, taps=taps)], **options)


SPLIT = given.split(20, 3, 2, 2, classes=3)


# --- who labels what ----------------------------------------------------------------------------------------------


def test_the_teacher_labels_the_images_as_they_are_moved():
    split = given.split(20, 3, 6, 6, classes=3)
    teacher, student = Watched(inputs=108).eval(), Watched(inputs=108, seed=1)
    training.fit(student, split, epochs=2, seed=0, batch_size=8, shift=2, flip=True, teaching=distiller(teacher))
    taught = [images for images, mode in zip(student.images, student.modes, strict=True) if mode]
    assert len(taught) == 6
    assert all(torch.equal(a, b) for a, b in zip(teacher.images[-6:], taught, strict=True))
    assert not any(torch.equal(image, other) for image in taught[0][:, None] for other in split.images[:, None])
    assert not any(teacher.modes)


@pytest.mark.parametrize("stored", [False, True])
def test_answers_follow_the_number_of_the_sample(stored):
    teacher = Watched().eval()
    expected = answers(teacher, SPLIT.images)
    teacher.images.clear()
    student = Watched(seed=1)
    teaching = distiller(expected if stored else teacher, loss=recorded)
    training.fit(student, SPLIT, epochs=3, seed=0, batch_size=6, teaching=teaching)
    steps = [images for images, mode in zip(student.images, student.modes, strict=True) if mode]
    assert len(steps) == 12 and not torch.equal(steps[0], steps[4])  # another order in the next epoch
    for images, (_, target, labels) in zip(steps, SEEN[-12:], strict=True):
        torch.testing.assert_close(target, teacher.fc(images.flatten(1)).detach())
        numbers = (images[:, None] == SPLIT.images).flatten(2).all(2).int().argmax(1)
        assert torch.equal(labels, SPLIT.labels[numbers])


def test_the_teacher_labels_each_sample_once_where_nothing_moves():
    teacher = Watched().eval()
    training.fit(mlp(), SPLIT, epochs=5, seed=0, batch_size=4, teaching=distiller(teacher))
    assert sum(map(len, teacher.images)) == 2 + 20  # two to try
    assert answers(teacher, SPLIT.images).shape == (20, 3)


def test_taps_run_the_teacher_at_each_step():
    teacher = Watched().eval()
    teaching = distiller(teacher, taps=[("fc2", "fc")])
    training.fit(mlp(), SPLIT, epochs=3, seed=0, batch_size=20, teaching=teaching)
    assert sum(len(images) for images in teacher.images) >= 3 * 20


def test_network_and_stored_answers_teach_the_same():
    teacher = mlp(1).eval()
    students = [mlp(2), mlp(2), mlp(2)]
    teachers = (teacher, answers(teacher, SPLIT.images), copy.deepcopy(teacher).double())
    for student, taught_by in zip(students, teachers, strict=True):
        training.fit(student, SPLIT, epochs=3, seed=0, batch_size=6, teaching=distiller(taught_by))
    assert given.equal(students[0], students[1])
    torch.testing.assert_close(given.state(students[0]), given.state(students[2]))


def test_stored_answers_of_another_type_get_no_gradient():
    stored = answers(mlp(1), SPLIT.images).double().requires_grad_()
    losses = training.fit(mlp(), SPLIT, epochs=2, seed=0, teaching=distiller(stored))
    assert stored.grad is None and losses[1] < losses[0]


def test_one_sample_can_be_taught():
    losses = training.fit(mlp(), SPLIT.first(1), epochs=20, seed=0, teaching=distiller(mlp(1).eval()))
    assert losses[-1] < 0.1 * losses[0]


class Flat(nn.Module):
    """A convolution and a view that only plain memory allows."""

    def __init__(self):
        super().__init__()
        self.conv = given.seeded(lambda: nn.Conv2d(3, 8, 3, padding=1))
        self.fc = given.seeded(lambda: nn.Linear(8 * 64, 4))

    def forward(self, x):
        return self.fc(self.conv(x).view(len(x), 8 * 64))


def convolutional(seed=0):
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return given.seeded(lambda: nn.Sequential(*copy.deepcopy(layers)), seed)


def test_a_teacher_that_needs_plain_memory_gets_it():
    split = given.split(16, 3, 8, 8, classes=4)
    student = convolutional()
    assert running.layout(student, split.images) == torch.channels_last  # what the student trains in
    losses = training.fit(student, split, epochs=2, seed=0, flip=True, teaching=distiller(Flat().eval()))
    assert len(losses) == 2
    last = Split(split.images.to(memory_format=torch.channels_last), split.labels)
    assert answers(Flat(), last.images).shape == (16, 4)


class Corner(nn.Module):
    """A classifier without a single weight."""

    def forward(self, images):
        return images.flatten(1)[:, :3]


def test_a_teacher_without_weights_can_teach():
    losses = training.fit(mlp(), SPLIT, epochs=9, seed=0, teaching=distiller(Corner().eval()))
    assert losses[-1] < losses[0]
    assert torch.equal(answers(Corner(), SPLIT.images), Corner()(SPLIT.images))


# --- what is added up ---------------------------------------------------------------------------------------------


def first_loss(student, teaching, split=SPLIT):
    """The loss of the first step, of all samples together."""
    return training.fit(copy.deepcopy(student), split, epochs=1, seed=0, batch_size=len(split), teaching=teaching)[0]


def test_the_loss_is_the_weighted_sum_of_labels_and_terms():
    teacher, student = mlp(1).eval(), mlp()
    outputs, targets = student(SPLIT.images), teacher(SPLIT.images)
    hidden = [network[:2](SPLIT.images) for network in (student, teacher)]
    terms = [
        Term(distance, weight=0.5, options={"scale": 3.0}),
        Term(distance, taps=[("fc1", "fc1"), ("fc2", "fc2")], weight=2.0),
        Term(soft_targets.loss, taps=[("fc2", "fc2")], options={"temperature": 2.0}),
    ]
    expected = (
        0.7 * cross_entropy(outputs, SPLIT.labels)
        + 0.5 * 3 * distance(outputs, targets)
        + 2 * (distance(*hidden) + distance(outputs, targets))
        + soft_targets.loss(outputs, targets, temperature=2.0)
    )
    found = first_loss(student, Distiller(teacher, terms, labels_weight=0.7))
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_several_taps_come_in_order_and_one_comes_alone():
    taps = [("fc2", "fc1"), ("fc1", "fc1"), ("fc2", "fc2")]
    teacher = models.mlp(1, inputs=12, hidden=(3,), classes=3, batch_norm=False).eval()
    student = models.mlp(inputs=12, hidden=(3,), classes=3, batch_norm=False)
    first_loss(student, distiller(teacher, loss=recorded, taps=taps))
    mine, its, _ = SEEN[0]
    images = SPLIT.images[:2]
    parts = [(net[:2](images), net(images)) for net in (student, teacher)]
    for value, expected in zip(mine, (parts[0][1], parts[0][0], parts[0][1]), strict=True):
        torch.testing.assert_close(value, expected)
    for value, expected in zip(its, (parts[1][0], parts[1][0], parts[1][1]), strict=True):
        torch.testing.assert_close(value, expected)
    SEEN.clear()
    first_loss(student, distiller(teacher, loss=recorded, taps=[("fc1", "fc1")]))
    assert SEEN[0][0].shape == (2, 3)


def test_without_weight_the_labels_are_not_used():
    other = Split(SPLIT.images, (SPLIT.labels + 1) % 3)
    students = [mlp(), mlp()]
    for student, split in zip(students, (SPLIT, other), strict=True):
        training.fit(student, split, epochs=2, seed=0, teaching=distiller(mlp(1).eval()))
    assert given.equal(*students)


def test_a_tap_is_what_the_part_answers_the_last_time():
    teacher, student = Twice(1).eval(), Twice()
    split = given.split(6, 4, classes=4)
    first_loss(student, distiller(teacher, loss=recorded, taps=[("part", "part")]), split)
    expected = [net.part(torch.relu(net.part(split.images[:2]))) for net in (student, teacher)]
    torch.testing.assert_close(SEEN[0][:2], tuple(expected))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_layer_that_changes_its_input_does_not_change_the_tap(inplace):
    def build(seed):
        parts = [nn.Linear(12, 5), nn.ReLU(inplace=inplace), nn.Linear(5, 3)]
        return given.seeded(lambda: nn.Sequential(nn.Flatten(), *copy.deepcopy(parts)), seed)

    teacher, student = build(1).eval(), build(2)
    expected = distance(student[:2](SPLIT.images), teacher[:2](SPLIT.images)).item()
    assert first_loss(student, distiller(teacher, taps=[("1", "1")])) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_the_gradient_of_the_terms_is_limited_to_that_of_labels(scale):
    teacher, student = mlp(1).eval(), mlp()
    terms = [Term(distance, weight=scale), Term(distance, taps=[("fc1", "fc1")], weight=scale)]
    made = Distiller(teacher, terms, labels_weight=0.5, limit_gradient=True)
    trained = copy.deepcopy(student)
    training.fit(
        trained, SPLIT, epochs=1, seed=0, batch_size=20, momentum=0, weight_decay=0, learning_rate=0.1, teaching=made
    )
    hidden = [network[:2](SPLIT.images) for network in (student, teacher)]
    main = 0.5 * cross_entropy(student(SPLIT.images), SPLIT.labels)
    other = scale * (distance(student(SPLIT.images), teacher(SPLIT.images)) + distance(*hidden))
    gradients = [torch.autograd.grad(loss, list(student.parameters())) for loss in (main, other)]
    lengths = [torch.cat([g.flatten() for g in parts]).norm() for parts in gradients]
    factor = min(1.0, (lengths[0] / lengths[1]).item())
    assert (factor == 1) == (scale < 1)
    for before, after, a, b in zip(student.parameters(), trained.parameters(), *gradients, strict=True):
        torch.testing.assert_close(before - after, 0.1 * (a + factor * b), rtol=1e-3, atol=1e-6)


def test_terms_without_gradient_are_not_limited_to_nothing():
    teacher = mlp().eval()
    teaching = distiller(teacher, labels_weight=1.0, limit_gradient=True)
    losses = training.fit(mlp(), SPLIT, epochs=20, seed=0, teaching=teaching)  # no distance at the start
    assert losses[-1] < losses[0]
    part = mlp()
    for parameter in part[1].parameters():
        parameter.requires_grad_(False)
    teaching = distiller(teacher, taps=[("fc1", "fc1")], labels_weight=1.0, limit_gradient=True)
    assert training.fit(part, SPLIT, epochs=2, seed=0, teaching=teaching)[1] > 0  # the term cannot move what is frozen


# --- what stays as it was -----------------------------------------------------------------------------------------


def regularized(seed=0):
    parts = [nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)]
    return given.seeded(lambda: nn.Sequential(nn.Flatten(), *copy.deepcopy(parts)), seed)


@pytest.mark.parametrize("taps", [(), [("1", "1")]])
def test_the_teacher_stays_as_it_was_bit_for_bit(taps):
    teacher = regularized(1)
    teacher[2].eval()
    before, hooks = given.state(teacher), [len(module._forward_hooks) for module in teacher.modules()]
    with pytest.warns(UserWarning, match="the teacher was in training mode: it labels in evaluation mode") as caught:
        training.fit(regularized(), SPLIT, epochs=3, seed=0, teaching=distiller(teacher, taps=taps))
    assert caught[0].filename == __file__
    assert given.same_state(before, given.state(teacher))
    assert [module.training for module in teacher] == [True, True, False, True, True]
    assert [len(module._forward_hooks) for module in teacher.modules()] == hooks
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


def test_a_teacher_in_training_mode_labels_in_evaluation_mode():
    teacher = regularized(1)
    images = SPLIT.images
    with torch.no_grad():
        expected = copy.deepcopy(teacher).eval()(images)
    torch.testing.assert_close(answers(teacher, images), expected)
    assert teacher.training
    with pytest.warns(UserWarning, match="training mode"):
        mine = first_loss(mlp(), distiller(teacher))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first_loss(mlp(), distiller(copy.deepcopy(teacher).eval())) == mine


def test_the_student_has_no_hooks_left_and_draws_are_its_own():
    student, before = mlp(), torch.random.get_rng_state()
    training.fit(student, SPLIT, epochs=1, seed=0, teaching=distiller(mlp(1).eval(), taps=[("fc1", "fc1")]))
    assert not any(module._forward_hooks for module in student.modules())
    assert torch.equal(torch.random.get_rng_state(), before)


def once(student, teacher, labels=None):
    SEEN.append(None)
    if len(SEEN) > 1:
        raise RuntimeError("no second time")
    return distance(student, teacher)


def test_hooks_are_gone_when_training_fails():
    teacher, student = mlp(1).eval(), mlp()
    with pytest.raises(RuntimeError, match="no second time"):
        training.fit(student, SPLIT, epochs=1, seed=0, teaching=distiller(teacher, loss=once, taps=[("fc1", "fc1")]))
    assert not any(module._forward_hooks for net in (teacher, student) for module in net.modules())


# --- the cache ----------------------------------------------------------------------------------------------------


def test_a_taught_network_is_cached_by_all_it_depends_on(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))

    def entries(teaching):
        cached(training.fit, mlp(), split=SPLIT, epochs=1, seed=0, teaching=teaching)
        return len(list(tmp_path.glob("fit-*.safetensors")))

    teacher = mlp(1).eval()
    moved = copy.deepcopy(teacher)
    moved[1].weight.data[0, 0] += 1
    stored = answers(teacher, SPLIT.images)
    several = [
        soft_targets.distiller(teacher),
        soft_targets.distiller(moved),
        soft_targets.distiller(teacher, temperature=2.0),
        soft_targets.distiller(teacher, labels_weight=0.5),
        soft_targets.distiller(stored),
        soft_targets.distiller(stored + 1),
        distiller(teacher),
        distiller(teacher, labels_weight=1.0),
        distiller(teacher, labels_weight=1.0, limit_gradient=True),
        distiller(teacher, taps=[("fc1", "fc1")]),
        distiller(teacher, taps=[("fc2", "fc2")]),
        Distiller(teacher, [Term(distance, weight=2.0)]),
        Distiller(teacher, [Term(distance, options={"scale": 2.0})]),
    ]
    assert [entries(teaching) for teaching in several] == list(range(1, len(several) + 1))
    assert [entries(teaching) for teaching in several] == [len(several)] * len(several)
    again = soft_targets.distiller(copy.deepcopy(teacher))
    assert entries(again) == len(several)


def test_a_cached_student_is_the_one_that_was_taught(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    teaching = soft_targets.distiller(mlp(1).eval())
    plain = mlp()
    training.fit(plain, SPLIT, epochs=2, seed=0, teaching=teaching)
    for _ in range(2):
        assert given.equal(cached(training.fit, mlp(), split=SPLIT, epochs=2, seed=0, teaching=teaching), plain)


# --- what is refused ----------------------------------------------------------------------------------------------


def broken(key="fc2"):
    teacher = mlp(1).eval()
    getattr(teacher, key).weight.data[0, 0] = torch.nan
    return teacher


class Gated(nn.Module):
    """What its part answers is not finite, and its own answers are."""

    def __init__(self):
        super().__init__()
        self.part, self.head = nn.Linear(12, 3), nn.Linear(3, 3)
        nn.init.constant_(self.part.bias, torch.inf)

    def forward(self, images):
        return self.head(torch.sigmoid(self.part(images.flatten(1))))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, images):
        return self.head(self.lstm(images.flatten(2))[0].mean(1))


class Pair(nn.Module):
    def forward(self, images):
        return images, images


STORED = torch.zeros(20, 3)


@pytest.mark.parametrize(
    ("teaching", "says"),
    [
        (distiller(broken()), "the teacher's answers hold NaN or infinity"),
        (distiller(Gated().eval(), taps=[("fc2", "part")]), "the teacher's answers hold NaN or infinity"),
        (distiller(torch.full((20, 3), torch.nan)), "the teacher's answers hold NaN or infinity"),
        (distiller(mlp(classes=4).eval()), r"with \(2, 3\) and the teacher with \(2, 4\): both must have the same"),
        (distiller(torch.zeros(20, 4)), r"and the teacher with \(2, 4\)"),
        (distiller(Pair().eval()), "and the teacher with tuple"),
        (distiller(mlp(inputs=9).eval()), "Sequential does not take images of shape"),
        (distiller(mlp().eval(), taps=[("fc9", "fc1")]), "has no layer 'fc9': it has flatten, fc1, relu1, fc2"),
        (distiller(mlp().eval(), taps=[("fc1", "fc9")]), "has no layer 'fc9'"),
        (distiller(torch.zeros(19, 3)), "19 stored answers for 20 samples"),
        (distiller(torch.zeros(())), "the stored answers are a single number"),
        (distiller(STORED, taps=[("fc1", "fc1")]), "stored answers have no parts to tap"),
        (distiller(mlp().eval(), loss=soft_targets.loss, taps=[("fc1", "fc2")]), "must have the same shape"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_student_changes(teaching, says):
    student = mlp().train()
    with given.refused(student, says):
        training.fit(student, SPLIT, epochs=1, seed=0, teaching=teaching)
    assert student.training and not any(module._forward_hooks for module in student.modules())


@pytest.mark.parametrize("name", ["idle", "side"])
def test_a_part_that_does_not_run_is_refused(name):
    split = given.split(6, 4, classes=4)
    for taps in ([(name, "part")], [("part", name)]):
        student, teacher = Twice(), Twice(1).eval()
        with given.refused(student, f"layer '{name}' did not run"):
            training.fit(student, split, epochs=1, seed=0, teaching=distiller(teacher, taps=taps))
        assert not any(module._forward_hooks for net in (student, teacher) for module in net.modules())


def test_a_part_that_answers_with_several_tensors_is_refused():
    student, split = Recurrent(), given.split(6, 5, 4, classes=3)
    with given.refused(student, "layer 'lstm' answers with tuple, not with one tensor: tap another part"):
        training.fit(student, split, epochs=1, seed=0, teaching=distiller(Recurrent().eval(), taps=[("lstm", "lstm")]))
    losses = training.fit(
        student, split, epochs=1, seed=0, teaching=distiller(Recurrent().eval(), taps=[("head", "head")])
    )
    assert losses[0] > 0


def test_a_student_that_shares_weights_with_its_teacher_is_refused():
    student = regularized()
    buffers, view = regularized(1), regularized(1)
    buffers[2].running_mean = student[2].running_mean
    view[1].weight = nn.Parameter(student[1].weight.data[:8])
    for teacher in (student, nn.Sequential(student, nn.Identity()), buffers, view):
        with given.refused(student, "the teacher shares weights with its student: teach a copy"):
            training.fit(student, SPLIT, epochs=1, seed=0, teaching=distiller(teacher.eval()))
    assert training.fit(student, SPLIT, epochs=1, seed=0, teaching=distiller(copy.deepcopy(student)))


def test_stored_answers_do_not_fit_images_that_move():
    student, split = convolutional(), given.split(20, 3, 8, 8, classes=4)
    for options in ({"shift": 1}, {"flip": True}):
        with given.refused(student, "stored answers do not fit images that are moved"):
            training.fit(student, split, epochs=1, seed=0, teaching=distiller(torch.zeros(20, 4)), **options)


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="the split is empty: at least one sample is needed to train on"):
        distiller(mlp().eval()).lesson(mlp(), SPLIT.first(0), augmented=False)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Distiller(mlp(), []), "a distiller needs at least one term"),
        (lambda: Distiller([mlp()], [Term(distance)]), "must be a network or a tensor of its stored answers, not list"),
        (lambda: distiller(mlp(), labels_weight=-1.0), "the weight of a loss must be 0 or more and finite, not -1.0"),
        (lambda: distiller(mlp(), labels_weight=float("nan")), "must be 0 or more and finite, not nan"),
        (lambda: Distiller(mlp(), [Term(distance, weight=float("inf"))]), "must be 0 or more and finite, not inf"),
        (lambda: distiller(mlp(), limit_gradient=True), "labels_weight must be above 0"),
        (lambda: Term(distance, taps=("fc1", "fc2")), "taps must be pairs of names, .*: 'fc1' is no pair"),
        (lambda: Term(distance, taps=[("fc1",)]), r"\('fc1',\) is no pair"),
        (lambda: Term(distance, taps=[("fc1", 2)]), r"\('fc1', 2\) is no pair"),
        (lambda: answers(mlp(), SPLIT.images[:0]), "there are no images to answer"),
        (lambda: answers(mlp(), SPLIT.images, batch_size=0), "batch_size must be 1 or more, not 0"),
        (lambda: answers(broken(), SPLIT.images), "hold NaN or infinity"),
        (lambda: answers(Pair(), SPLIT.images), "Pair answers with tuple: one tensor of logits is needed"),
        (lambda: answers(mlp(inputs=9), SPLIT.images), "Sequential does not take images of shape"),
        (lambda: check_finite(torch.tensor([1.0, -torch.inf])), "hold NaN or infinity"),
        (lambda: check_shapes(torch.zeros(2, 3), torch.zeros(3, 2)), r"not \(2, 3\) and \(3, 2\)"),
        (lambda: check_shapes(torch.zeros(2, 3), torch.zeros(2, 3), least=4), "4 dimensions or more and a sample"),
        (lambda: check_shapes(torch.zeros(0, 3), torch.zeros(0, 3)), r"answers of shape \(0, 3\)"),
        (lambda: check_classes(torch.zeros(5, 1)), "at least two classes are needed"),
    ],
)
def test_bad_arguments_are_one_sentence(build, says):
    with pytest.raises(ValueError, match=says):
        build()


# --- stored answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000, None])
def test_answers_do_not_depend_on_the_batch(batch_size):
    teacher = regularized()
    found = answers(teacher, SPLIT.images, batch_size=batch_size)
    torch.testing.assert_close(found, copy.deepcopy(teacher).eval()(SPLIT.images).detach())
    assert not found.requires_grad and teacher.training


def test_large_images_are_answered_a_few_at_a_time():
    teacher = Watched(inputs=3 * 256 * 256).eval()
    answers(teacher, torch.zeros(20, 3, 256, 256))
    assert max(map(len, teacher.images)) == 7  # 500 images of 32 x 32


def test_images_are_fitted_to_the_weights_where_there_are_any():
    assert fitted(mlp().double(), SPLIT.images).dtype == torch.float64
    assert fitted(Corner(), SPLIT.images) is SPLIT.images


# --- networks we did not write ------------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", [(), [("features.18.1", "layer1.0.bn1"), ("features.0.1", "layer4")]])
def test_networks_we_did_not_write_teach_and_learn(taps):
    teacher = given.seeded(lambda: torchvision.models.resnet18(weights=None, num_classes=4)).eval()
    student = given.seeded(lambda: torchvision.models.mobilenet_v2(weights=None, num_classes=4))
    before, known, split = given.state(student), given.state(teacher), given.split(4, 3, 64, 64, classes=4)
    teaching = distiller(teacher, loss=means, taps=taps)
    losses = training.fit(student, split, epochs=1, seed=0, flip=True, teaching=teaching)
    assert 0 < losses[0] < 1000 and not given.same_state(before, given.state(student))
    assert given.same_state(known, given.state(teacher))


def means(student, teacher, labels=None):
    """Distance of the means, which fits parts of any size."""
    pairs = [(student, teacher)] if isinstance(student, torch.Tensor) else zip(student, teacher, strict=True)
    return sum((a.mean() - b.mean()).square() for a, b in pairs)
