"""The loop against plain torch, evaluation by counting, and a cache that is never wrong."""

import copy
from contextlib import contextmanager

import given
import pytest
import torch
from torch import nn

from lib import models, training
from lib.datasets import Split
from lib.pruning import magnitude


@pytest.fixture
def split():
    return given.split(20, 1, 28, 28, labels="in turn")


def linear(seed: int = 0) -> nn.Module:
    return models.lenet_300_100(seed)


# -- fit ---------------------------------------------------------------------------------------------------------------


def test_fit_is_plain_nesterov_with_decayed_weights_and_a_cosine(split):
    model, plain = linear(), linear()
    losses = training.fit(
        model, split, epochs=2, seed=3, learning_rate=0.1, momentum=0.9, weight_decay=0.01, batch_size=8
    )
    parameters = list(plain.parameters())
    velocity, generator, step, expected = (
        [torch.zeros_like(p) for p in parameters],
        torch.Generator().manual_seed(3),
        0,
        [],
    )
    for _ in range(2):
        total = 0.0
        for batch in torch.randperm(20, generator=generator).split(8):
            rate = 0.1 * (1 + torch.tensor(torch.pi * step / 6).cos().item()) / 2
            loss = nn.functional.cross_entropy(plain(split.images[batch]), split.labels[batch])
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, v, g in zip(parameters, velocity, gradients, strict=True):
                    g = g + 0.01 * p if p.dim() > 1 else g
                    v.mul_(0.9).add_(g)
                    p.sub_(rate * (g + 0.9 * v))
            total, step = total + loss.item() * len(batch), step + 1
        expected.append(total / 20)
    assert losses == pytest.approx(expected, rel=1e-4)
    for ours, theirs in zip(model.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [0, 2])
def test_the_seed_alone_fixes_the_run(split, shift):
    results = []
    for outer in (1, 2):
        torch.manual_seed(outer)
        model = linear()
        training.fit(model, split, epochs=2, seed=5, batch_size=7, shift=shift, learning_rate=0.01)
        results.append(model)
    other = linear()
    training.fit(other, split, epochs=2, seed=6, batch_size=7, shift=shift, learning_rate=0.01)
    assert given.equal(*results) and not given.equal(results[0], other)


def test_shifted_images_are_the_image_moved_with_zeros_coming_in():
    images = torch.rand(40, 2, 5, 6)
    moved = training.shifted(images, 2, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    offsets = set()
    for image, result in zip(images, moved, strict=True):
        padded = nn.functional.pad(image, (2, 2, 2, 2))
        found = [(y, x) for y in range(5) for x in range(5) if torch.equal(padded[:, y : y + 5, x : x + 6], result)]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) > 10


def test_no_epochs_change_nothing(split):
    model = linear()
    assert training.fit(model, split, epochs=0, seed=0) == [] and given.equal(model, linear())


def test_what_is_frozen_stays(split):
    model = linear()
    model.fc1.requires_grad_(False)
    training.fit(model, split, epochs=1, seed=0, learning_rate=0.01)
    assert torch.equal(model.fc1.weight, linear().fc1.weight) and not torch.equal(model.fc3.weight, linear().fc3.weight)


def test_before_epoch_is_called_before_each_epoch(split):
    model, seen = linear(), []
    training.fit(
        model,
        split,
        epochs=3,
        seed=0,
        learning_rate=0.01,
        before_epoch=lambda e: seen.append((e, model.fc1.bias.detach().clone())),
    )
    assert [e for e, _ in seen] == [0, 1, 2] and torch.equal(seen[0][1], linear().fc1.bias)
    assert not torch.equal(seen[0][1], seen[1][1])


def test_a_model_with_normalization_ends_in_evaluation_mode_and_in_plain_memory(split):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    training.fit(model, split, epochs=1, seed=0, learning_rate=0.01)
    assert not any(m.training for m in model.modules()) and model[1].num_batches_tracked == 1
    assert all(p.is_contiguous() for p in model.parameters())


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 10, 17])
@pytest.mark.parametrize("size", [1, 2, 4, 8, 100])
def test_batches_hold_each_sample_once_and_leave_none_alone(n, size):
    dealt = training.batches(n, size, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(dealt).tolist()) == list(range(n))
    assert all(len(batch) == size for batch in dealt[:-1]) and len(dealt[-1]) <= size + 1
    assert len(dealt[-1]) > 1 or n < 2 or size == 1
    if n % size != 1:  # the usual case is the plain one
        plain = torch.randperm(n, generator=torch.Generator().manual_seed(0)).split(size)
        assert all(map(torch.equal, dealt, plain))


@pytest.mark.parametrize(
    ("build", "shape"),
    [(lambda: models.mlp(0, inputs=16, hidden=(8,)), (16,)), (lambda: models.resnet8(0), (3, 4, 4))],
    ids=["a table", "maps of one place"],
)
def test_a_sample_that_is_left_over_does_not_stop_batch_norm(build, shape):
    model = build()
    losses = training.fit(model, given.split(9, *shape, labels="in turn"), epochs=2, seed=0, batch_size=4)
    assert len(losses) == 2 and next(m for m in model.modules() if hasattr(m, "running_mean")).num_batches_tracked == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": -1}, "epochs must be 0 or more"),
        ({"epochs": 1.5}, "not 1.5 and 128: whole numbers"),
        ({"batch_size": 0}, "batch_size 1 or more, not 1 and 0"),
        ({"batch_size": 2.5}, "not 1 and 2.5: whole numbers"),
        ({"learning_rate": float("nan")}, "learning_rate must be 0 or more and finite in float32, not nan"),
        ({"learning_rate": 1e39}, r"learning_rate .*, not 1e\+39"),
        ({"momentum": float("inf")}, "momentum must be 0 or more and finite in float32, not inf"),
        ({"weight_decay": float("nan")}, "weight_decay must be 0 or more and finite in float32, not nan"),
        ({"shift": -1}, "shift must be a whole number of 0 or more, not -1"),
        ({"shift": 0.5}, "shift must be a whole number of 0 or more, not 0.5"),
    ],
)
def test_bad_numbers_are_refused(arguments, message, split):
    model = linear()
    with given.refused(model, message):
        training.fit(model, split, **{"epochs": 1, "seed": 0} | arguments)


def table(classes: int = 3, n: int = 12) -> Split:
    return given.split(n, 4, classes=classes, labels="in turn")


def normalized() -> nn.Sequential:
    return given.seeded(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).eval())


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (table(), {"shift": 1}, r"shift moves images .*: these samples have the shape \(12, 4\)"),
        (table(classes=5), {}, "labels hold the class 3: accepted are 0 to 2"),
        (table(classes=5), {"loss": "squared_hinge"}, "labels hold the class 3: accepted are 0 to 2"),
        (Split(table().images, table().labels / 2), {}, r"cross_entropy does not take labels of shape \(12,\)"),
        (Split(table(n=14).images, table().labels), {}, "the split has 14 images and 12 labels"),
        (Split(table(n=10).images, table().labels), {}, "the split has 10 images and 12 labels"),
        (given.split(12, 5, classes=3), {}, r"does not take images of shape \(2, 5\)"),
    ],
)
def test_what_does_not_fit_is_refused_before_an_epoch_begins(rows, options, message):
    model, begun = normalized(), []
    with given.refused(model, message):
        training.fit(model, rows, epochs=1, seed=0, before_epoch=begun.append, **options)
    assert not begun and not model.training


def test_pixels_without_a_class_are_passed_over():
    labels = torch.zeros(4, 5, 5, dtype=torch.long)
    labels[:, 0] = training.IGNORED
    assert training.fit(nn.Conv2d(1, 2, 1), Split(torch.rand(4, 1, 5, 5), labels), epochs=1, seed=0)[0] > 0


def test_a_network_in_which_nothing_learns_is_refused():
    model = normalized().requires_grad_(False)
    with given.refused(model, "Sequential has no parameter that learns"):
        training.fit(model, table(), epochs=1, seed=0)


def test_a_lazy_layer_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'0\.weight' of Sequential is not there yet"):
        training.fit(nn.Sequential(nn.LazyLinear(3)), table(), epochs=1, seed=0)


@pytest.mark.parametrize("labels", [(12,), (12, 3)])
def test_the_squared_error_refuses_other_shapes(labels):
    model = nn.Linear(4, 1)
    with given.refused(model, r"labels of shape \(2,.*\) for outputs of shape \(2, 1\)"):
        training.fit(model, Split(table().images, torch.rand(labels)), epochs=1, seed=0, loss="squared_error")


def test_parameters_that_come_after_the_beginning_are_refused():
    def unfreeze(model):
        model[0].weight.requires_grad_(True)

    def replace(model):
        model[2] = nn.Linear(6, 3)

    for change, name in ((unfreeze, "0.weight"), (replace, "2.weight")):
        model = normalized()
        model[0].weight.requires_grad_(False)
        with pytest.raises(ValueError, match=f"before_epoch brought parameter '{name}', which would not be trained"):
            training.fit(model, table(), epochs=2, seed=0, before_epoch=lambda _, c=change, m=model: c(m))


def test_a_network_may_get_what_it_needs_before_an_epoch():
    class Prepared(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.queue = nn.Linear(4, 3), []

        def forward(self, x):
            return self.fc(x) * (self.queue[0] if self.training else 1)

    model = Prepared()
    assert len(training.fit(model, table(), epochs=1, seed=0, before_epoch=lambda _: model.queue.append(1))) == 1
    with given.refused(Prepared(), "does not take images of shape"):
        training.fit(Prepared(), table(), epochs=1, seed=0)


def test_weights_that_the_last_step_ruined_are_refused():
    def ruin(update):
        update.param_groups[0]["params"][0].data.fill_(float("nan"))

    def optimizer(groups):
        update = torch.optim.SGD(groups, lr=0.1)
        update.register_step_post_hook(lambda update, *_: ruin(update))
        return update

    with pytest.raises(ValueError, match=r"training diverged in epoch 1: parameter '0\.weight' holds NaN or infinity"):
        training.fit(normalized(), table(), epochs=1, seed=0, optimizer=optimizer)


def test_the_trial_moves_no_random_state():
    model = nn.Sequential(nn.Dropout(), nn.Linear(4, 3))
    state = torch.get_rng_state()
    training.fit(model, table(), epochs=0, seed=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_empty_splits_are_refused(split):
    for call in (
        lambda: training.fit(linear(), split.first(0), epochs=1, seed=0),
        lambda: training.error_pct(linear(), split.first(0)),
    ):
        with pytest.raises(ValueError, match="empty: at least one sample"):
            call()


def test_training_that_diverges_says_so(split):
    with pytest.raises(ValueError, match=r"training diverged in epoch \d: the loss is (nan|inf)"):
        training.fit(linear(), split, epochs=3, seed=0, learning_rate=1e20, batch_size=5)


@pytest.mark.parametrize("shape", [(4, 1, 8, 8), (4, 3, 28, 28), (4, 784, 1, 2)])
@pytest.mark.parametrize("build", [models.lenet_300_100, models.lenet5])
def test_an_input_of_the_wrong_shape_is_one_clear_error(build, shape):
    wrong = Split(torch.zeros(shape), torch.zeros(4, dtype=torch.int64))
    for call in (lambda: training.fit(build(), wrong, epochs=1, seed=0), lambda: training.error_pct(build(), wrong)):
        with pytest.raises(
            ValueError, match=rf"Sequential does not take images of shape \([24], {shape[1]}, {shape[2]}, "
        ):
            call()


def test_adam_is_torchs_with_the_same_order_and_schedule(split):
    model, plain = linear(), linear()
    how = {"learning_rate": 1e-3, "batch_size": 8, "momentum": 0.8, "weight_decay": 0.0}
    training.fit(model, split, epochs=2, seed=3, optimizer="adam", **how)
    update = torch.optim.Adam(plain.parameters(), lr=1e-3, betas=(0.8, 0.999), fused=True)
    generator, step = torch.Generator().manual_seed(3), 0
    for _ in range(2):
        for batch in torch.randperm(20, generator=generator).split(8):
            update.param_groups[0]["lr"] = 1e-3 * (1 + torch.cos(torch.tensor(torch.pi * step / 6)).item()) / 2
            update.zero_grad()
            nn.functional.cross_entropy(plain(split.images[batch]), split.labels[batch]).backward()
            update.step()
            step += 1
    for a, b in zip(given.state(model).values(), given.state(plain).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_an_unknown_optimizer_is_refused(split):
    with pytest.raises(ValueError, match="optimizer must be one of sgd, adam, not 'adagrad'"):
        training.fit(linear(), split, epochs=1, seed=0, optimizer="adagrad")


def test_squared_hinge_is_the_summed_squared_distance_to_the_margin(split):
    outputs = torch.tensor([[2.0, -0.5, 0.25], [-3.0, 1.5, 0.0]])
    # class 0: max(0, 1 - 2)², others max(0, 1 - 0.5)² and max(0, 1 + 0.25)²; class 2: 0, (1 + 1.5)² and 1²
    expected = ((0 + 0.25 + 1.5625) + (0 + 6.25 + 1)) / 2
    assert training.squared_hinge(outputs, torch.tensor([0, 2])).item() == expected
    model, labels = linear(), split.labels.tolist()
    losses = training.fit(model, split, epochs=1, seed=0, batch_size=20, loss="squared_hinge", learning_rate=0.0)
    whole = 0.0
    for row, label in zip(linear()(split.images).tolist(), labels, strict=True):
        whole += sum(max(0.0, 1 - (1 if c == label else -1) * value) ** 2 for c, value in enumerate(row))
    assert losses == pytest.approx([whole / 20], rel=1e-5) and given.equal(model, linear())


def test_squared_hinge_agrees_with_torchs_margin_loss_of_two_classes():
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(9, 2, generator=generator), torch.arange(9) % 2
    away = nn.functional.relu(1 - outputs * torch.tensor([[1, -1], [-1, 1]])[labels])
    torch.testing.assert_close(training.squared_hinge(outputs, labels), away.square().sum() / 9)


def test_a_named_loss_is_the_same_as_its_function(split):
    named, function = linear(), linear()
    training.fit(named, split, epochs=1, seed=0, loss="squared_hinge", learning_rate=0.01)
    training.fit(function, split, epochs=1, seed=0, loss=training.squared_hinge, learning_rate=0.01)
    assert given.equal(named, function)


class Heard:
    """A teaching that keeps what it is given, and is cross-entropy."""

    def __init__(self):
        self.open, self.steps = False, []

    @contextmanager
    def lesson(self, student, split, *, augmented):
        self.open, self.augmented = True, augmented
        yield self.step
        self.open = False

    def step(self, outputs, labels, images, samples):
        assert self.open
        self.steps.append((labels, images.clone(), samples))
        return nn.functional.cross_entropy(outputs, labels)


@pytest.mark.parametrize("augmentation", [{}, {"shift": 2}, {"flip": True}])
def test_a_teaching_gets_the_images_that_the_student_saw_and_their_numbers(split, augmentation):
    taught, alone, heard = linear(), linear(), Heard()
    options = {"epochs": 1, "seed": 0, "learning_rate": 0.01, "batch_size": 8} | augmentation
    assert training.fit(taught, split, teaching=heard, **options) == training.fit(alone, split, **options)
    assert given.equal(taught, alone) and heard.augmented == bool(augmentation) and not heard.open
    for labels, images, samples in heard.steps:
        assert torch.equal(labels, split.labels[samples])
        assert torch.equal(images, split.images[samples]) != bool(augmentation)
    assert sorted(torch.cat([samples for _, _, samples in heard.steps]).tolist()) == list(range(20))


def test_half_of_the_images_are_mirrored_each_time_anew():
    split, heard = given.split(1, 1, 4, 4), Heard()
    split = Split(split.images.expand(400, -1, -1, -1), torch.zeros(400, dtype=torch.long))
    training.fit(models.mlp(inputs=16, hidden=(), classes=2), split, epochs=2, seed=0, flip=True, teaching=heard)
    images = torch.cat([images for _, images, _ in heard.steps])
    as_it_is, mirrored = ((images == one).all((1, 2, 3)) for one in (split.images[0], split.images[0].flip(2)))
    assert (as_it_is ^ mirrored).all()
    assert abs(mirrored.float().mean().item() - 0.5) < 4 * 0.5 / 800**0.5
    first, second = mirrored.split(400)
    assert not torch.equal(first, second)


def test_rows_of_a_table_cannot_be_mirrored(split):
    rows = Split(split.images.flatten(1), split.labels)
    with pytest.raises(ValueError, match=r"flip mirrors images .*: these samples have the shape \(20, 784\)"):
        training.fit(linear(), rows, epochs=1, seed=0, flip=True)


@pytest.mark.parametrize("options", [{"shift": 1}, {"flip": True}])
def test_images_do_not_move_away_from_labels_of_pixels(split, options):
    pixels = Split(split.images, torch.zeros(len(split.images), 28, 28, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels of shape \(20, 28, 28\) would not fit them"):
        training.fit(linear(), pixels, epochs=1, seed=0, **options)


def test_an_unknown_loss_is_refused_before_a_step(split):
    model = linear()
    with pytest.raises(
        ValueError, match="loss must be one of cross_entropy, squared_hinge, squared_error, or a function, not 'hinge'"
    ):
        training.fit(model, split, epochs=1, seed=0, loss="hinge")
    assert given.equal(model, linear()) and model.training


def test_an_optimizer_may_be_a_function_of_the_groups_of_parameters(split):
    ours, plain, seen = linear(), linear(), []

    def make(groups):
        seen.append([(len(group["params"]), group["weight_decay"]) for group in groups])
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True, fused=True)

    how = {"epochs": 2, "seed": 3, "batch_size": 8, "weight_decay": 0.01}
    losses = training.fit(ours, split, optimizer=make, learning_rate=99.0, **how)  # its own rate, on the same cosine
    assert losses == training.fit(plain, split, learning_rate=0.05, **how) and given.equal(ours, plain)
    assert seen == [[(3, 0.01), (3, 0.0)]]


def test_after_step_is_called_once_behind_each_update(split):
    model, seen = linear(), []

    def record():
        seen.append(model.fc3.bias.detach().clone())
        with torch.no_grad():
            model.fc1.weight.clamp_(-0.01, 0.01)

    training.fit(model, split, epochs=2, seed=0, batch_size=8, learning_rate=0.01, after_step=record)
    assert len(seen) == 6 and not any(torch.equal(a, b) for a, b in zip([linear().fc3.bias, *seen], seen, strict=False))
    assert torch.equal(seen[-1], model.fc3.bias) and model.fc1.weight.abs().max() <= 0.01
    training.fit(model, split, epochs=0, seed=0, after_step=record)
    assert len(seen) == 6


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize(("size", "shape"), [((3, 2), (5, 3)), ((1, 3), (3, 4)), ((2, 3), (3, 4)), ((3, 3), (5, 4))])
def test_training_is_that_of_float64_on_any_processor(size, shape, shift):
    """One channel, a stride along the width and one output column: wrong in channels_last on some processors."""

    def build():
        torch.manual_seed(0)
        rows = shape[0] - size[0] + 1
        return nn.Sequential(nn.Conv2d(1, 34, size, stride=(1, 2)), nn.Flatten(), nn.Linear(34 * rows, 4))

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, *shape, 1, generator=generator).permute(0, 3, 1, 2)  # one channel, and permuted
    labels, how = torch.arange(12) % 4, {"epochs": 2, "seed": 0, "learning_rate": 0.01, "batch_size": 6}
    single, double = build(), build().double()
    training.fit(single, Split(images, labels), shift=shift, **how)
    training.fit(double, Split(images.double(), labels), shift=shift, **how)
    for ours, exact in zip(single.parameters(), double.parameters(), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)
    wrong = (double(images.double()).argmax(1) != labels).double().mean().item()
    assert training.error_pct(single, Split(images, labels)) == pytest.approx(100 * wrong)


# -- minimize ----------------------------------------------------------------------------------------------------------


def test_minimize_finds_the_logistic_regression_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    data = Split(torch.randn(60, 5, generator=generator), torch.arange(60) % 3)
    model = nn.Linear(5, 3, bias=False).double()
    found = training.minimize(model, data, weight_decay=0.1)
    peer = LogisticRegression(C=1 / (60 * 0.1), fit_intercept=False, tol=1e-10)
    peer.fit(data.images.double().numpy(), data.labels.numpy())
    torch.testing.assert_close(model.weight.detach(), torch.from_numpy(peer.coef_), rtol=1e-3, atol=1e-5)
    loss = nn.functional.cross_entropy(model(data.images.double()), data.labels)
    assert found == pytest.approx(float(loss + 0.05 * model.weight.square().sum()), rel=1e-12)


def test_minimize_leaves_masked_weights_at_zero_and_minimizes_the_rest():
    generator = torch.Generator().manual_seed(0)
    data = Split(torch.randn(40, 5, generator=generator), torch.arange(40) % 3)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double().train()
    masks = {"0.weight": torch.rand(4, 5, generator=generator) < 0.5, "2.bias": torch.tensor([True, False, True])}
    training.minimize(model, data, weight_decay=0.01, masks=masks)
    assert (model[0].weight[~masks["0.weight"]] == 0).all() and model[2].bias[1] == 0
    loss = nn.functional.cross_entropy(model(data.images.double()), data.labels)
    loss = loss + 0.005 * sum(p.square().sum() for p in model.parameters())
    for name, p in model.named_parameters():
        gradient = torch.autograd.grad(loss, p, retain_graph=True)[0]
        assert (gradient * masks.get(name, torch.ones_like(p))).abs().max() < 1e-4
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (table(), {"masks": {"typo": torch.ones(6, 4).bool()}}, "there is no parameter 'typo': masks are of 0.weight"),
        (
            table(),
            {"masks": {"0.weight": torch.ones(4, 6).bool()}},
            r"of shape \(6, 4\), not torch.bool of shape \(4, 6",
        ),
        (table(), {"masks": {"0.weight": torch.ones(6, 4)}}, "truth values .* not torch.float32"),
        (table(), {"weight_decay": -1.0}, "weight_decay must be 0 or more"),
        (table(), {"iterations": -1}, "iterations must be a whole number of 0 or more, not -1"),
        (table(classes=5), {}, "labels hold the class 3"),
        (Split(table().images / 0, table().labels), {}, "the images hold NaN or infinity"),
        (Split(table(n=9).images, table().labels), {}, "9 images and 12 labels"),
    ],
)
def test_minimize_refuses_before_it_changes(rows, options, message):
    model = normalized().train()
    with given.refused(model, message):
        training.minimize(model, rows, **{"weight_decay": 0.1} | options)
    assert model.training


def test_minimize_refuses_what_needs_no_gradient():
    model = normalized()
    model[2].bias.requires_grad_(False)
    with given.refused(model, "parameter '2.bias' needs no gradient"):
        training.minimize(model, table(), weight_decay=0.1)


def test_minimize_reads_words():
    model = nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 3)).double()
    words = Split(torch.arange(60).reshape(12, 5) % 9, table().labels)
    assert training.minimize(model, words, weight_decay=0.01, iterations=5) > 0


# -- error_pct ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 10, 1000])
def test_error_counts_the_wrong_ones(batch_size):
    images, labels = torch.eye(10)[:, None, None], torch.arange(10)
    labels[:3] = 9
    assert training.error_pct(nn.Flatten(), Split(images, labels), batch_size=batch_size) == 30
    assert training.error_pct(nn.Flatten(), Split(images[:1], torch.tensor([0]))) == 0
    with pytest.raises(ValueError, match="batch_size must be 1 or more, not 0"):
        training.error_pct(nn.Flatten(), Split(images, labels), batch_size=0)


@pytest.mark.parametrize(
    ("model", "rows", "message"),
    [
        (nn.Conv2d(3, 4, 1), Split(torch.rand(2, 3, 8, 8), torch.zeros(2, 8, 8)), r"not of shape \(2, 8, 8\)"),
        (nn.Linear(4, 3), Split(table().images, table().labels[:, None]), r"labels .* not of shape \(12, 1\)"),
        (nn.Linear(4, 3), Split(table().images, table().labels[:11]), "12 images and 11 labels"),
        (nn.Linear(4, 3), Split(table().images * torch.nan, table().labels), "logits hold NaN"),
        (nn.Linear(4, 3), given.split(12, 12, 4), r"not with \(12, 12, 3\)"),
        (nn.LSTM(4, 3), table(), "not with tuple"),
    ],
)
def test_what_is_no_class_of_each_sample_is_refused(model, rows, message):
    with pytest.raises(ValueError, match=message):
        training.error_pct(model, rows)


def test_infinity_is_the_largest_logit():
    rows = Split(torch.tensor([[0.0, torch.inf], [-torch.inf, 0.0]]), torch.tensor([1, 0]))
    assert training.error_pct(nn.Identity(), rows) == 50


# -- cached ------------------------------------------------------------------------------------------------------------


def test_the_squared_error_takes_labels_as_the_wanted_outputs():
    images, targets = torch.rand(20, 6), torch.rand(20, 2)
    model = nn.Linear(6, 2)
    start = copy.deepcopy(model)
    (loss,) = training.fit(model, Split(images, targets), epochs=1, seed=0, batch_size=20, loss="squared_error")
    assert loss == pytest.approx((start(images) - targets).square().mean().item(), rel=1e-6)


def test_a_network_with_other_heads_in_training_is_refused_and_left_alone():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.BatchNorm1d(4), nn.Linear(4, 3)

        def forward(self, x):
            x = self.fc(self.norm(x))
            return (x, x) if self.training else x

    model = Heads().eval()
    for train, more in ((training.fit, {}), (magnitude.gradual, {"density": 0.5, "ramp": 1})):
        with given.refused(model, "Heads answers in training mode with tuple, not with one tensor of logits"):
            train(model, given.split(6, 4), epochs=1, seed=0, **more)
    assert not any(module.training for module in model.modules())


def test_one_answer_is_asked_of_a_copy():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3)).eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    training.check_one_answer(model, given.split(6, 4).images)
    assert torch.equal(torch.get_rng_state(), state) and not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
