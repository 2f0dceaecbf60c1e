"""ENAS: the controller against enumeration, its penalty, what a search learns and leaves behind, what is refused."""

import math

import numpy as np
import pytest
import torch
from given import generator, split
from given_choices import every
from torch import nn

from lib.datasets import Split
from lib.search.chains import Chains
from lib.supergraphs import enas
from lib.supergraphs.enas import Controller, search
from lib.supergraphs.shared.macro_space import MacroSpace
from lib.supergraphs.shared.mobile_space import Base, MobileSpace
from lib.supergraphs.shared.policies import Decisions
from lib.supergraphs.shared.weight_sharing import accuracy_pct

SPACE = Chains(positions=2, pools=1, width=4, size=8)
MACRO = MacroSpace(layers=3, operations=("conv3", "max3"), width=4)
TRAIN, VALIDATION = split(40, 1, 8, 8), split(30, 1, 8, 8, seed=1)
OPTIONS = {"budget": 2, "seed": 0, "train": TRAIN, "validation": VALIDATION, "epochs": 1}
OPTIONS |= {"controller_steps": 2, "samples": 3}


def test_the_controller_reads_what_it_skipped():
    controller = Controller(MACRO, seed=0)
    for i, parameter in enumerate(controller.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator(i))
    rows = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]])
    steps = controller(rows).steps
    torch.testing.assert_close(steps[2][0], steps[2][1])
    assert not torch.allclose(steps[3][0], steps[3][1])


def test_the_probability_of_a_skip_is_that_of_the_equation():
    controller = Controller(MACRO, seed=0)
    for i, parameter in enumerate(controller.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator(i)) / 3
    numbers = torch.tensor([[1, 0, 1, 1, 0, 1]])
    states, anchors = [None, None], []
    x = controller.start[None]
    for operation in (1, 0, 1):
        controller.step(x, states)
        hidden = controller.step(controller.readers[0].weight[[operation]], states)
        before, x = list(anchors), controller.start[None]
        anchors.append(hidden)
        if len(anchors) == 2:
            x = before[0] / 2  # the one skip that was chosen, over one more than their number
    v, w1, w2 = controller.value.weight, controller.earlier.weight, controller.later.weight
    q = 1.5 * (v @ (w1 @ anchors[1].T + w2 @ anchors[2].T).tanh()).tanh()  # from layer 1 to layer 2
    found = controller(numbers).steps[5][0, 1].exp()
    torch.testing.assert_close(found, (2 * q).sigmoid()[0, 0])


def test_the_penalty_is_the_divergence_from_the_prior():
    controller = Controller(MACRO, seed=0)
    at_prior = torch.tensor([[0.6, 0.4]] * 4).log()
    decisions = controller(every(MACRO)[:4])
    same = Decisions(decisions.log_probabilities, tuple(at_prior for _ in decisions.steps))
    assert controller.skip_penalty(same).item() == pytest.approx(0, abs=1e-7)
    by_hand = [
        p * math.log(p / prior) + (1 - p) * math.log((1 - p) / (1 - prior))
        for step in (2, 4, 5)
        for prior in [0.3]
        for p in decisions.steps[step][:, 1].exp().tolist()
    ]
    assert controller.skip_penalty(decisions, prior=0.3).item() == pytest.approx(sum(by_hand) / 4 / 2, rel=1e-4)


def test_skips_are_the_choices_between_false_and_true():
    assert Controller(MACRO, seed=0).skips == [2, 4, 5]
    assert not Controller(MacroSpace(layers=1), seed=0).skip_penalty(Decisions(torch.zeros(1), ())).any()


def test_the_penalty_brings_the_skips_to_the_prior():
    controller = Controller(MACRO, seed=0)
    learner = enas.Learner(controller, learning_rate=0.01, penalty=lambda d: controller.skip_penalty(d, prior=0.2))
    numbers = every(MACRO)[::5]
    first = controller.skip_penalty(controller(numbers), prior=0.2).item()
    for _ in range(40):
        learner.learn(numbers, torch.zeros(len(numbers)))
    assert controller.skip_penalty(controller(numbers), prior=0.2).item() < 0.1 * first


class Guess(nn.Module):
    """Answers that the images decide, or that say nothing: class 3 for all."""

    def __init__(self, good: bool):
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False))
        with torch.no_grad():
            self.layer[1].weight.copy_(torch.eye(4) if good else torch.eye(4) * 0)
        self.good = good

    def forward(self, images):
        return self.layer(images) if self.good else self.layer(images) + torch.tensor([0.0, 0, 0, 9])


class Planted:
    """Three choices; a network is right if the first is "good", whatever the others are."""

    def __iter__(self):
        return iter([(a, b, c) for a in ("bad", "good", "worse") for b in (1, 2) for c in (1, 2)])

    def build(self, candidate, seed):
        return nn.Sequential(*([Guess(True)] if candidate[0] == "good" else [nn.Identity(), Guess(False)]))


def test_the_controller_learns_which_children_are_good():
    labels = torch.arange(40) % 3
    data = Split(nn.functional.one_hot(labels, 4).float()[:, None, None], labels)
    history = search(
        Planted(),
        lambda c: float(c[0] == "good"),
        budget=3,
        seed=0,
        train=data,
        validation=data,
        epochs=6,
        learning_rate=1e-6,
        controller_steps=8,
        controller_rate=0.02,
    )
    assert set(history.rewards) == {0.0, 1.0}
    assert np.mean(history.rewards[:40]) < 0.6 and np.mean(history.rewards[-100:]) > 0.8
    assert [row.fitness for row in history.rows] == [1, 1, 1]


@pytest.mark.parametrize(("space", "evaluate"), [(SPACE, SPACE.parameters), (MACRO, lambda c: len(c.operations))])
def test_a_search_counts_what_it_did(space, evaluate, monkeypatch):
    seen = []
    monkeypatch.setattr(
        enas, "accuracy_pct", lambda *given, **how: seen.append(len(given[2])) or accuracy_pct(*given, **how)
    )
    history = search(space, evaluate, **OPTIONS | {"epochs": 2}, batch_size=10)
    assert len(history.rows) == 2 and all(row.fitness == evaluate(row.candidate) for row in history.rows)
    assert history.passes == 2 * 40 and len(history.rewards) == 2 * 2 * 3
    assert history.forwards == sum(seen[1:]) and set(seen[1:]) == {10}  # the first only tries the images
    assert all(0 <= reward <= 1 for reward in history.rewards)


def test_finalists_are_the_best_with_shared_weights():
    history = search(SPACE, SPACE.parameters, **OPTIONS | {"budget": 12})
    shared = [accuracy_pct(history.shared, row.candidate, VALIDATION) for row in history.rows]
    assert len({row.candidate for row in history.rows}) == 12
    assert shared == sorted(shared, reverse=True)  # 30 samples: one batch


def test_a_budget_beyond_the_space_is_spent():
    space = Chains(positions=2, pools=1, width=4, size=8, operations=("conv1", "skip"))
    assert len(search(space, space.parameters, **OPTIONS | {"budget": 6}).rows) == 6


def test_the_seed_decides_and_the_global_state_is_left_alone():
    before = torch.random.get_rng_state()
    options = OPTIONS | {"statistics": "stored"}
    a, b, other = (search(SPACE, SPACE.parameters, **options | {"seed": seed}) for seed in (1, 1, 2))
    assert (a.rows, a.rewards, a.forwards) == (b.rows, b.rewards, b.forwards)
    assert (a.rows, a.rewards) != (other.rows, other.rewards)
    assert torch.equal(before, torch.random.get_rng_state())


def test_evaluations_that_fail_are_rows_and_the_search_ends():
    def evaluate(candidate):
        if candidate.operations[0] == "conv3":
            raise RuntimeError("no memory")
        return math.nan if candidate.operations[0] == "skip" else 1.0

    history = search(SPACE, evaluate, **OPTIONS | {"budget": 16})
    assert len(history.rows) == 16
    for row in history.rows:
        expected = {"conv3": "RuntimeError: no memory", "skip": "the fitness is nan: a finite number is needed"}
        assert row.failure == expected.get(row.candidate.operations[0], "")
    assert history.best.fitness == 1


class Empty(Planted):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be a whole number of 1"),
        ({"seed": -1}, "seed must be a whole number of 0"),
        ({"epochs": 0}, "epochs must be a whole number of 1"),
        ({"batch_size": 1}, "batch_size must be a whole number of 2"),
        ({"controller_steps": 1.0}, "controller_steps must be a whole number of 0"),
        ({"samples": 0}, "samples must be a whole number of 1"),
        ({"finalists": 0}, "finalists must be a whole number of 1"),
        ({"controller_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"skip_prior": 1.0}, r"skip_prior must be in \(0, 1\)"),
        ({"skip_weight": -0.1}, "skip_weight 0 or more"),
        ({"statistics": "none"}, "statistics must be one of batch, stored"),
        ({"train": TRAIN.first(0)}, "split is empty"),
        ({"validation": VALIDATION.first(1)}, "two or more are needed"),
        ({"validation": split(30, 3, 8, 8)}, "does not take images of shape"),
    ],
)
def test_arguments_that_are_not_accepted_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        search(SPACE, lambda c: pytest.fail("evaluated before it was refused"), **OPTIONS | options)


def test_a_space_without_a_candidate_is_refused():
    with pytest.raises(ValueError, match="no candidate"):
        search(Empty(), float, **OPTIONS)


def test_shared_weights_that_diverge_are_an_error():
    with pytest.raises(ValueError, match="training diverged"):
        search(SPACE, float, **OPTIONS | {"train": Split(TRAIN.images * math.inf, TRAIN.labels)})


def test_a_product_with_too_many_networks_is_refused_before_one_is_built(monkeypatch):
    monkeypatch.setattr(MobileSpace, "build", lambda *_: pytest.fail("built before it was refused"))
    space = MobileSpace(bases=(Base(8, 1, 1),) * 3, stem=4, head=8, channels=1)
    with pytest.raises(ValueError, match=r"the space has 80,621,568 candidates, .*: at most 10,000 are accepted"):
        search(space, float, **OPTIONS)


def test_a_small_product_is_searched():
    narrow = {"operations": ("conv",), "kernels": (3,), "squeezes": (0,), "skips": ("none",), "layers": (0,)}
    space = MobileSpace(bases=(Base(4, 1, 1),), stem=4, head=8, channels=1, classes=10, **narrow)
    assert space.size == 3 and len(search(space, lambda c: c.blocks[0].width, **OPTIONS).rows) == 2
