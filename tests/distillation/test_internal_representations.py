"""Internal representations: both losses in closed form, which layer learns from which, and the order of the stages."""

import copy
import math

import given
import pytest
import torch
from torch import Tensor, nn

from lib import cache, running, training
from lib.distillation import internal_representations as internal
from lib.distillation import soft_targets
from lib.distillation.internal_representations import Parts, attention_loss, initialized, matched, state_loss
from lib.distillation.shared.distiller import answers
from lib.distillation.shared.row_transformer import row_transformer
from lib.vision import torchvision

DTYPES = [torch.float32, torch.float64]


def transformer(seed: int = 0, layers: int = 2, **sizes: int) -> nn.Module:
    given_sizes = {"rows": 6, "columns": 5, "classes": 3, "width": 8, "heads": 2}
    return row_transformer(seed, layers=layers, **given_sizes | sizes).eval()


def split(n: int = 12):
    return given.split(n, 1, 6, 5, classes=3, labels="in turn")


def attention(*shape: int, seed: int = 0, scale: float = 2.0, dtype=torch.float64) -> Tensor:
    return (scale * torch.randn(*shape, generator=given.generator(seed), dtype=torch.float64)).softmax(-1).to(dtype)


def states(*shape: int, seed: int = 0, dtype=torch.float64) -> Tensor:
    return torch.randn(*shape, generator=given.generator(seed), dtype=torch.float64).to(dtype)


def internal_losses(student: nn.Module, teacher: nn.Module, pair: tuple[int, int]) -> tuple[float, float]:
    """Attention and state loss of one pair of layers, on the images of the split."""
    parts = ("layers.{}.attention.probabilities", "layers.{}.cls")
    flows = []
    for model, layer in ((student, pair[0]), (teacher, pair[1])):
        names = [part.replace("{}", str(layer)) for part in parts]
        with torch.no_grad(), running.evaluating(model), running.captured(model, names) as flow:
            model(split().images)
        flows.append([flow.outputs[name] for name in names])
    return attention_loss(flows[0][0], flows[1][0]).item(), state_loss(flows[0][1], flows[1][1]).item()


# --- which layer learns from which --------------------------------------------------------------------------------


def test_a_layer_learns_from_the_last_of_its_share():
    assert matched(6, 12) == [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]
    assert matched(3, 7) == [(0, 2), (1, 4), (2, 6)]
    for most in range(1, 30):
        for least in range(1, most + 1):
            pairs = matched(least, most)
            assert [its + 1 for _, its in pairs] == [math.ceil(j * most / least - 1e-9) for j in range(1, least + 1)]
            assert [ours for ours, _ in pairs] == list(range(least)) and pairs[-1][1] == most - 1
            assert len({its for _, its in pairs}) == least
    assert matched(4, 4) == [(i, i) for i in range(4)]


@pytest.mark.parametrize(("least", "most"), [(0, 4), (-1, 4), (5, 4), (1, 0)])
def test_students_without_layers_or_with_more_are_refused(least, most):
    with pytest.raises(ValueError, match=f"at most its teacher's {most}, not {least}"):
        matched(least, most)


# --- attention ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_loss_is_the_mean_divergence_of_rows(dtype):
    ours, its = attention(2, 3, 4, 5, dtype=dtype), attention(2, 3, 4, 5, seed=1, dtype=dtype)
    rows = [
        sum(p * math.log(p / q) for p, q in zip(t, s, strict=True))
        for t, s in zip(its.reshape(-1, 5).tolist(), ours.reshape(-1, 5).tolist(), strict=True)
    ]
    found = attention_loss(ours, its)
    assert found.item() == pytest.approx(sum(rows) / len(rows), rel=1e-5 if dtype == torch.float32 else 1e-12)
    kl = nn.functional.kl_div(ours.log(), its, reduction="sum") / (2 * 3 * 4)
    torch.testing.assert_close(found, kl)
    assert found.dtype == dtype and min(rows) >= 0
    torch.testing.assert_close(attention_loss(ours.flatten(0, 1), its.flatten(0, 1)), found)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16, torch.float16])
def test_attention_loss_is_never_negative(dtype):
    for seed in range(20):
        ours = attention(2, 2, 5, 6, seed=seed, scale=4, dtype=dtype)
        for other in (ours, attention(2, 2, 5, 6, seed=seed + 1, scale=4, dtype=dtype)):
            assert attention_loss(ours, other) >= -torch.finfo(dtype).eps
        assert attention_loss(ours, ours) == 0
    assert attention_loss(ours, other) > 0.01


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_attention_has_no_gradient(dtype):
    ours = attention(2, 3, 4, 5, dtype=dtype).requires_grad_()
    attention_loss(ours, ours.detach().clone()).backward()
    assert ours.grad.abs().max() <= 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_that_is_zero_has_a_finite_loss_and_gradient(dtype):
    scores = torch.tensor([[[0.0, 2e3, 0.0], [0.0, 0.0, 0.0]]], dtype=dtype, requires_grad=True)  # a row underflows
    its = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]], dtype=dtype)
    cost = attention_loss(scores.softmax(-1), its)
    cost.backward()
    assert torch.isfinite(cost) and torch.isfinite(scores.grad).all() and cost > 10
    padded = torch.tensor([[[0.25, 0.75, 0.0]]], dtype=dtype).requires_grad_()
    cost = attention_loss(padded, padded.detach())
    cost.backward()
    assert cost == 0 and torch.isfinite(padded.grad).all()


def test_averaged_heads_may_differ_in_number():
    ours, its = attention(2, 4, 3, 5), attention(2, 6, 3, 5, seed=1)
    with pytest.raises(ValueError, match=r"4 attention heads and the teacher 6: .*average_heads=True"):
        attention_loss(ours, its)
    expected = attention_loss(ours.mean(1), its.mean(1))
    torch.testing.assert_close(attention_loss(ours, its, average_heads=True), expected)
    assert attention_loss(ours, ours[:, [1, 0, 3, 2]], average_heads=True) < 1e-15
    assert attention_loss(ours, ours[:, [1, 0, 3, 2]]) > 0.1


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (torch.full((1, 2, 2), 0.6), "not made of probabilities"),
        (torch.tensor([[[1.5, -0.5]]]), "not made of probabilities"),
        (torch.tensor([[[float("nan"), 1.0]]]), "not made of probabilities"),
        (torch.tensor([[[float("inf"), 0.0]]]), "not made of probabilities"),
        (torch.zeros(1, 2, 2), "not made of probabilities"),
        (torch.tensor([[0.5, 0.5]]), r"\(n, heads, rows, columns\) or \(n, rows, columns\), not \(1, 2\)"),
        (torch.zeros(0, 2, 2), r"not \(0, 2, 2\)"),
        (torch.ones(1, 1, 1, dtype=torch.long), "must be"),
    ],
)
def test_rows_that_are_no_probabilities_are_refused(rows, says):
    right = torch.full((1, 2, 2), 0.5)
    for who, pair in (("student", (rows, right)), ("teacher", (right, rows))):
        with pytest.raises(ValueError, match=f"the {who}'s attention .*{says}"):
            attention_loss(*pair)


def test_attention_of_other_tokens_is_refused():
    with pytest.raises(ValueError, match="the same shape"):
        attention_loss(attention(2, 3, 4, 4), attention(2, 3, 5, 5))
    with pytest.raises(ValueError, match="the same shape"):
        attention_loss(attention(2, 4, 4), attention(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"must be \(n, heads, rows, columns\), not \(2, 4, 4\)"):
        attention_loss(attention(2, 4, 4), attention(2, 4, 4), average_heads=True)


# --- states -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_state_loss_is_one_minus_the_cosine(dtype):
    ours, its = states(7, 5, dtype=dtype), states(7, 5, seed=1, dtype=dtype)
    expected = 1 - nn.functional.cosine_similarity(ours, its).mean()
    torch.testing.assert_close(state_loss(ours, its), expected)
    assert state_loss(ours, -ours).item() == pytest.approx(2)
    tokens = torch.stack([ours, its, its], dim=1)
    torch.testing.assert_close(state_loss(tokens, its), expected)  # CLS is the first token


def test_state_loss_ignores_positive_scales():
    ours, its = states(7, 5), states(7, 5, seed=1)
    before = state_loss(ours, its)
    for factor in (1e-6, 0.3, 1e6):
        torch.testing.assert_close(state_loss(factor * ours, its), before)
        torch.testing.assert_close(state_loss(ours, factor * its), before)
    assert state_loss(3 * ours, ours) < 1e-15


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_states_have_no_loss_and_no_gradient(dtype):
    ours = states(4, 6, dtype=dtype).requires_grad_()
    cost = state_loss(ours, ours.detach().clone())
    cost.backward()
    assert cost == 0 and not ours.grad.any()


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
def test_states_of_zeros_have_a_finite_loss_and_gradient(dtype):
    ours = torch.zeros(2, 3, dtype=dtype).requires_grad_()
    cost = state_loss(ours, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype))
    cost.backward()
    assert cost == 0.25 and torch.isfinite(ours.grad).all()
    assert ours.grad[0, 0] < 0  # towards the teacher's direction


@pytest.mark.parametrize(
    ("ours", "its"), [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((3,), (3,)), ((0, 3), (0, 3)), ((2, 3, 4, 5), (2, 3, 4, 5))]
)
def test_states_of_other_shapes_are_refused(ours, its):
    with pytest.raises(ValueError, match=r"must have the same shape|2 dimensions or more|must be"):
        state_loss(torch.ones(ours), torch.ones(its))


def test_the_loss_is_the_sum_and_takes_two_taps():
    ours, its = (attention(2, 2, 3, 3), states(2, 4)), (attention(2, 2, 3, 3, seed=1), states(2, 4, seed=1))
    torch.testing.assert_close(internal.loss(ours, its), attention_loss(ours[0], its[0]) + state_loss(ours[1], its[1]))
    with pytest.raises(ValueError, match="two taps are compared"):
        internal.loss(ours[:1], its)


# --- a student that begins with the teacher's layers --------------------------------------------------------------


def test_a_student_begins_with_the_layers_of_its_teacher():
    student, teacher = transformer(0, 2), transformer(1, 4)
    before = given.state(student)
    begun = initialized(student, teacher)
    assert given.same_state(given.state(student), before), "a copy is returned"
    for ours, its in matched(2, 4):
        assert given.equal(begun.layers[ours], teacher.layers[its])
    for part in ("embed", "norm", "head"):
        assert given.equal(getattr(begun, part), getattr(teacher, part))
    assert torch.equal(begun.positions, teacher.positions) and torch.equal(begun.token, teacher.token)
    begun.head.weight.data.zero_()
    assert teacher.head.weight.any(), "no memory is shared"
    lowest = initialized(student, teacher, pairs=[(0, 0), (1, 1)])
    assert given.equal(lowest.layers[1], teacher.layers[1])


def test_a_student_of_as_many_layers_begins_as_its_teacher():
    teacher = transformer(1, 3)
    begun = initialized(transformer(0, 3), teacher)
    assert given.equal(begun, teacher)
    for pair in matched(3, 3):
        assert internal_losses(begun, teacher, pair) == (0, 0)


def test_more_than_ten_layers_keep_apart():
    student, teacher = transformer(0, 1), transformer(1, 12)
    assert given.equal(initialized(student, teacher, pairs=[(0, 1)]).layers[0], teacher.layers[1])
    assert given.equal(initialized(student, teacher).layers[0], teacher.layers[11])


@pytest.mark.parametrize(
    ("student", "options", "says"),
    [
        ({"width": 16}, {}, r"token has the shape \(16,\) and the teacher's token \(8,\)"),
        ({"classes": 4}, {}, r"head.weight has the shape \(4, 8\)"),
        ({"layers": 5}, {}, "at most its teacher's 4, not 5"),
        ({}, {"pairs": [(0, 4), (1, 1)]}, r"the pair \(0, 4\) is out of range: the student has 2 layers"),
        ({}, {"pairs": [(0, -1), (1, 1)]}, r"the pair \(0, -1\) is out of range"),
        ({}, {"pairs": [(0, 1)]}, r"must be in one pair: the pairs have its layers \[0\]"),
        ({}, {"pairs": [(0, 1), (1, 2), (1, 3)]}, r"the pairs have its layers \[0, 1, 1\]"),
        ({}, {"pairs": []}, "no pairs of layers"),
        ({}, {"parts": Parts(layer="block{}")}, "RowTransformer has no layer 'block0'"),
    ],
)
def test_layers_that_do_not_fit_are_refused(student, options, says):
    with pytest.raises(ValueError, match=says):
        initialized(transformer(**student), transformer(1, 4), **options)


def test_a_teacher_that_lacks_a_weight_or_is_not_finite_is_refused():
    teacher = transformer(1, 4)
    del teacher.positions
    with pytest.raises(ValueError, match="the teacher's positions nothing"):
        initialized(transformer(), teacher)
    teacher = transformer(1, 4)
    teacher.layers[1].fc1.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match=r"layers.1.fc1.bias holds NaN"):
        initialized(transformer(), teacher)


@pytest.mark.parametrize("name", ["layers", "layers.{}.{}", ""])
def test_a_name_without_one_number_is_refused(name):
    with pytest.raises(ValueError, match=r"must have {} once"):
        Parts(attention=name)


# --- training -----------------------------------------------------------------------------------------------------


OPTIONS = {"seed": 0, "learning_rate": 0.01, "optimizer": "adam", "batch_size": 6}


@pytest.mark.parametrize("schedule", internal.SCHEDULES)
def test_both_losses_of_every_layer_fall_by_half(schedule):
    teacher, student = transformer(1, 4), transformer(0, 2)
    for layer in teacher.layers:  # so that attention is not nearly uniform
        layer.attention.read.weight.data *= 4
    before = [internal_losses(student, teacher, pair) for pair in matched(2, 4)]
    own = given.state(teacher)
    losses = internal.fit(student, split(), teacher, schedule=schedule, epochs_per_layer=40, epochs=0, **OPTIONS)
    after = [internal_losses(student, teacher, pair) for pair in matched(2, 4)]
    assert len(losses) == 80 and losses[39] < 0.5 * losses[0] and losses[-1] < 0.5 * losses[40]
    assert all(new < 0.5 * old for new, old in zip(after[1], before[1], strict=True))
    if schedule == "stacked":  # progressive forgets the first layer
        assert all(new < 0.5 * old for new, old in zip(after[0], before[0], strict=True))
    assert given.same_state(given.state(teacher), own) and not student.training


def test_layers_wait_for_their_turn():
    teacher, student = transformer(1, 4), transformer(0, 2)
    before = given.state(student)
    internal.fit(student, split(), teacher, epochs_per_layer=2, epochs=0, pairs=[(0, 1)], **OPTIONS)
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("layers.0") for name in changed) and "embed.weight" in changed
    assert not [name for name in changed if name.startswith(("layers.1", "norm", "head"))]


@pytest.mark.parametrize("schedule", internal.SCHEDULES)
def test_fit_is_one_training_for_each_stage(schedule):
    teacher, student = transformer(1, 4), transformer(0, 2)
    by_hand = copy.deepcopy(student)
    losses = internal.fit(
        student, split(), teacher, schedule=schedule, epochs_per_layer=2, epochs=3, temperature=2.0, **OPTIONS
    )
    stages = {"progressive": [[(0, 1)], [(1, 3)]], "stacked": [[(0, 1)], [(0, 1), (1, 3)]]}[schedule]
    lessons = [(internal.distiller(teacher, pairs), 2) for pairs in stages]
    lessons += [(soft_targets.distiller(teacher, temperature=2.0), 3)]
    expected = []
    for stage, (teaching, epochs) in enumerate(lessons):
        options = OPTIONS | {"seed": stage}
        expected += training.fit(by_hand, split(), epochs=epochs, teaching=teaching, **options)
    assert losses == expected and given.equal(student, by_hand)


def test_the_last_stage_learns_the_answers_without_labels():
    teacher = transformer(1, 4)
    teacher.head.weight.data *= 5
    data = split()
    wrong = type(data)(data.images, (data.labels + 1) % 3)
    options = {"epochs_per_layer": 3, "epochs": 40, "temperature": 1.0} | OPTIONS
    students = [transformer(0, 2) for _ in range(2)]
    for student, part in zip(students, (data, wrong), strict=True):
        internal.fit(student, part, teacher, **options)
    assert given.equal(*students), "labels are not used"
    gap = [
        soft_targets.loss(answers(s, data.images), answers(teacher, data.images)) for s in (students[0], transformer())
    ]
    assert gap[0] < 0.2 * gap[1]


def test_a_copy_of_the_teacher_has_nothing_to_learn():
    teacher = transformer(1, 3).double()
    twin, images = copy.deepcopy(teacher), split().images.double()
    data = type(split())(images, split().labels)
    with internal.distiller(teacher, matched(3, 3)).lesson(twin, data, augmented=False) as lesson:
        cost = lesson(twin(images), data.labels, images, torch.arange(12))
        cost.backward()
    assert cost.item() == 0 and all(p.grad is None or p.grad.abs().max() < 1e-15 for p in twin.parameters())
    assert all(p.grad is None for p in teacher.parameters())


class Blocks(nn.Module):
    """A transformer of other names, whose state is that of all tokens: images (n, 6, 5) to 3 outputs."""

    def __init__(self, blocks: int, heads: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({f"block_{i}": Block(heads) for i in range(blocks)})
        self.head = nn.Linear(5, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(0, 1).reshape(len(images), 6, 5)
        for block in self.encoder.values():
            x = block(x)
        return self.head(x[:, 0])


class Block(nn.Module):
    def __init__(self, heads: int) -> None:
        super().__init__()
        self.scores, self.weights = nn.Linear(5, 6 * heads), nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weights(self.scores(x).unflatten(-1, (-1, 6)).transpose(1, 2))
        return x + weights.mean(1) @ x


def test_other_transformers_are_taught_by_their_names():
    parts = Parts("encoder.block_{}", "encoder.block_{}.weights", "encoder.block_{}")
    student, teacher = given.seeded(lambda: Blocks(1, 2), 0), given.seeded(lambda: Blocks(2, 3), 1)
    options = {"epochs_per_layer": 20, "epochs": 5, "parts": parts} | OPTIONS
    with given.refused(student, "2 attention heads and the teacher 3"):
        internal.fit(student, split(), teacher.eval(), **options)
    losses = internal.fit(student, split(), teacher, average_heads=True, **options)
    assert losses[19] < losses[0] and losses[24] < losses[20]
    with given.refused(student, "attention .*(not made of probabilities|must be)"):
        swapped = Parts("encoder.block_{}", "encoder.block_{}.scores", "encoder.block_{}")
        internal.fit(student, split(), teacher, **options | {"parts": swapped})


def test_networks_that_hide_their_attention_begin_as_the_teacher_and_are_refused():
    def vit(layers: int) -> nn.Module:
        return torchvision.models.VisionTransformer(32, 16, layers, 2, 16, 32, num_classes=3).eval()

    layer = "encoder.layers.encoder_layer_{}"
    parts = Parts(layer, f"{layer}.self_attention", layer)
    student, teacher = given.seeded(lambda: vit(1), 0), given.seeded(lambda: vit(2), 1)
    begun = initialized(student, teacher, parts=parts)
    assert given.equal(begun.encoder.layers[0], teacher.encoder.layers[1]) and given.equal(begun.heads, teacher.heads)
    images = given.split(4, 3, 32, 32, classes=3)
    with given.refused(student, "self_attention' answers with tuple"):
        internal.fit(student, images, teacher, epochs_per_layer=1, epochs=1, seed=0, parts=parts)


def test_fit_is_cached_with_its_teacher_and_its_schedule(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    options = {"split": split(6), "epochs_per_layer": 1, "epochs": 1, "seed": 0}
    found = [
        cache.cached(internal.fit, transformer(0, 2), teacher=transformer(seed, 4), schedule=schedule, **options)
        for seed, schedule in ((1, "progressive"), (1, "stacked"), (2, "stacked"), (1, "progressive"))
    ]
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    assert given.equal(found[0], found[3]) and not given.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("options", "teacher", "says"),
    [
        ({"schedule": "all"}, {}, "schedule must be one of progressive, stacked, not 'all'"),
        ({"epochs_per_layer": -1}, {}, "0 or more, not -1 and 1"),
        ({"epochs": -1}, {}, "0 or more, not 1 and -1"),
        ({"temperature": 0.0}, {}, "temperature must be above 0"),
        ({"labels_weight": 2.0}, {}, r"labels_weight must be in \[0, 1\]"),
        ({"batch_size": 0}, {}, "batch_size 1 or more"),
        ({"loss": "cross_entropy"}, {}, "the teacher gives the loss"),
        ({"optimizer": "none"}, {}, "optimizer must be one of"),
        (
            {"pairs": [(0, 1), (2, 3)]},
            {},
            r"the pair \(2, 3\) is out of range: the student has 2 layers and the teacher 4",
        ),
        ({"parts": Parts(state="layers.{}.end")}, {}, "no layer 'layers.0.end'"),
        ({"parts": Parts(attention="layers.{}.norm1")}, {}, "attention is not made of probabilities"),
        ({}, {"layers": 1}, "at most its teacher's 1, not 2"),
        ({}, {"heads": 4}, "2 attention heads and the teacher 4"),
        ({}, {"width": 16}, "the same shape"),
        ({}, {"classes": 4}, "the same classes"),
        ({}, {"rows": 7}, "images must have the shape"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(options, teacher, says):
    student = transformer(0, 2)
    with given.refused(student, says):
        taught_by = transformer(**{"seed": 1, "layers": 4} | teacher)
        internal.fit(student, split(), taught_by, **{"epochs_per_layer": 1, "epochs": 1, "seed": 0} | options)


def test_what_is_wrong_at_the_top_is_refused_before_the_first_stage():
    student, teacher = transformer(0, 2), transformer(1, 4)
    teacher.head.bias.data[0] = float("nan")
    with given.refused(student, "NaN or infinity"):
        internal.fit(student, split(), teacher, epochs_per_layer=1, epochs=1, seed=0)
    with pytest.raises(ValueError, match="the split is empty"):
        internal.fit(student, split(0), transformer(1, 4), epochs_per_layer=1, epochs=1, seed=0)
    with pytest.raises(TypeError, match="there is no option 'rate'"):
        internal.fit(student, split(), transformer(1, 4), epochs_per_layer=1, epochs=1, seed=0, rate=1)
    with pytest.raises(ValueError, match="at least one term"):
        internal.distiller(transformer(), [])
