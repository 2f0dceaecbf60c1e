"""MnasNet: identities of the reward, what the controller learns, failures that end no search, what is refused."""

import math

import joblib
import numpy as np
import pytest
import torch
from scipy import stats

from lib.search.chains import Chain, Chains
from lib.supergraphs.mnasnet import HARD, SOFT, reward, search
from lib.supergraphs.shared.mobile_space import Base, Mobile, MobileSpace

SPACE = Chains(positions=3)
VALUE = {"conv3": 0.3, "separable3": 0.27, "conv1": 0.2, "skip": 0.0}  # separable3 is worth it within a target
TARGET = 100_000.0


def planted(candidate: Chain) -> float:
    return 0.1 + sum(VALUE[operation] for operation in candidate.operations)


def found(**options):
    given = {"budget": 300, "seed": 0, "latency": SPACE.multiply_adds, "target": TARGET, "exponents": HARD}
    return search(SPACE, planted, **given | options)


def test_at_the_target_the_reward_is_the_accuracy():
    for exponents in (SOFT, HARD, (-0.2, -3.0)):
        assert reward(0.5, 80, target=80, exponents=exponents) == 0.5


def test_twice_the_latency_costs_five_percent_of_the_soft_reward():
    assert reward(0.8, 160, target=80) == pytest.approx(0.9526 * 0.8, rel=1e-4)
    # Pareto equivalence: 5 % more accurate at twice the latency is worth as much, whatever the target
    for target in (20, 80, 500):
        assert reward(0.5 * 1.05, 160, target) == pytest.approx(reward(0.5, 80, target), rel=1e-3)


def test_the_hard_reward_counts_latency_only_beyond_the_target():
    assert reward(0.5, 1, 80, exponents=HARD) == reward(0.5, 79, 80, exponents=HARD) == 0.5
    assert reward(0.5, 160, 80, exponents=HARD) == 0.25
    assert reward(0.5, 80 * (1 + 1e-9), 80, exponents=HARD) == pytest.approx(0.5)  # no jump at the target


def test_the_largest_soft_reward_is_on_the_pareto_front():
    random = np.random.default_rng(0)
    for _ in range(50):
        accuracies, latencies = random.random(40), random.uniform(20, 200, 40)
        best = np.argmax([reward(a, t, 80) for a, t in zip(accuracies, latencies, strict=True)])
        better = (accuracies >= accuracies[best]) & (latencies <= latencies[best])
        assert better.sum() == 1


def test_draws_with_the_hard_reward_meet_the_target():
    history = found()
    drawn = history.policy.candidates(200, torch.Generator().manual_seed(1))
    assert np.mean([SPACE.multiply_adds(candidate) <= TARGET for candidate in drawn]) >= 0.95
    rewards = [row.fitness for row in history.rows]
    assert stats.mannwhitneyu(rewards[-50:], rewards[:50], alternative="greater").pvalue < 0.01


def test_rewards_are_those_of_the_accuracies_and_latencies():
    history = found(budget=25, exponents=SOFT)
    assert len(history.rows) == 25
    for row, accuracy, latency in zip(history.rows, history.accuracies, history.latencies, strict=True):
        assert accuracy == planted(row.candidate) and latency == SPACE.multiply_adds(row.candidate)
        assert row.fitness == pytest.approx(accuracy * (latency / TARGET) ** -0.07)


def test_the_best_within_the_target_is_that_of_brute_force():
    history = found(budget=80)
    within = [row.candidate for row in history.rows if SPACE.multiply_adds(row.candidate) <= TARGET]
    assert planted(history.best_within.candidate) == max(map(planted, within))
    assert SPACE.multiply_adds(history.best_within.candidate) <= TARGET


def test_a_target_below_the_cheapest_is_said():
    history = found(budget=20, target=10.0)
    fastest = min(history.latencies)
    with pytest.raises(ValueError, match=f"none of 20 candidates is within the target of 10.0: .* {fastest}"):
        _ = history.best_within


def test_the_first_step_does_not_depend_on_the_clip():
    def rows(steps: int, clip: float):
        return found(budget=60, steps=steps, clip=clip, controller="softmax", learning_rate=0.1).rows

    assert rows(1, 0.01) == rows(1, 3.0)
    assert rows(8, 0.01) != rows(8, 3.0)


def test_the_seed_decides_and_the_global_state_is_left_alone():
    before = torch.random.get_rng_state()
    a, b, other = (found(budget=30, seed=seed).rows for seed in (1, 1, 2))
    assert a == b != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_several_jobs_evaluate_the_same():
    with joblib.parallel_config(backend="threading"):
        assert found(budget=30, jobs=2).rows == found(budget=30).rows


def fails(candidate: Chain) -> float:
    match candidate.operations[0]:
        case "conv3":
            raise RuntimeError("no memory")
        case "conv1":
            return math.nan
        case "separable3":
            return -1.0
    return 1.0


EVALUATION = {
    "conv3": "RuntimeError: no memory",
    "conv1": "the fitness is nan: a finite number is needed",
    "separable3": "accuracy must be a finite number of 0 or more, not -1.0",
}
LATENCY = {
    "conv3": "latency: RuntimeError: no memory",
    "conv1": "latency: the fitness is nan: a finite number is needed",
    "separable3": "latency must be a finite number above 0, not -1.0",
}


@pytest.mark.parametrize(
    ("evaluate", "latency", "failures"), [(fails, SPACE.multiply_adds, EVALUATION), (planted, fails, LATENCY)]
)
def test_evaluations_that_fail_are_rows_and_are_avoided(evaluate, latency, failures):
    given = {"budget": 200, "seed": 0, "target": TARGET, "controller": "softmax", "learning_rate": 0.1}
    history = search(SPACE, evaluate, latency=latency, **given)
    assert len(history.rows) == len(history.accuracies) == len(history.latencies) == 200
    for row in history.rows:
        assert row.failure == failures.get(row.candidate.operations[0], "")
        assert (row.fitness == -math.inf) == bool(row.failure)
    failed = [bool(row.failure) for row in history.rows]
    assert sum(failed[-50:]) < 0.5 * sum(failed[:50])  # three of four at first


def test_a_search_without_any_success_says_so():
    history = found(budget=5, latency=lambda c: 0.0)
    for ask in (lambda: history.best, lambda: history.best_within):
        with pytest.raises(ValueError, match="none"):
            ask()


def test_in_a_space_too_large_to_list_the_search_beats_random_draws():
    space = MobileSpace(bases=(Base(8, 2, 2),) * 4)  # 3.5e10 candidates

    def accuracy(candidate: Mobile) -> float:
        return sum((block.kernel == 5) + (block.width > 1) + (block.squeeze > 0) for block in candidate.blocks) / 12

    def latency(candidate: Mobile) -> float:
        return 1 + sum(block.layers for block in candidate.blocks) / 10

    options = {"budget": 240, "seed": 0, "latency": latency, "target": 1.0, "exponents": (-0.5, -0.5)}
    rows = search(space, accuracy, **options, controller="softmax", learning_rate=0.1).rows
    random = np.random.default_rng(0)
    drawn = [space.sample(random) for _ in range(240)]
    theirs = [reward(accuracy(c), latency(c), 1.0, exponents=(-0.5, -0.5)) for c in drawn]
    assert np.mean([row.fitness for row in rows[-50:]]) > max(theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 0}, "budget must be a whole number of 1"),
        ({"seed": 0.5}, "seed must be a whole number of 0"),
        ({"target": 0.0}, "target must be a finite latency above 0, not 0.0"),
        ({"target": -1.0}, "target must be a finite latency above 0"),
        ({"target": math.nan}, "target must be a finite latency above 0"),
        ({"target": math.inf}, "target must be a finite latency above 0"),
        ({"exponents": (0.1, 0.0)}, "exponents must be two finite numbers of 0 or less"),
        ({"exponents": (0.0,)}, "exponents must be two"),
        ({"exponents": (0.0, math.nan)}, "exponents must be two"),
        ({"batch": 0}, "batch must be a whole number of 1"),
        ({"controller": "rnn"}, "controller must be one of recurrent, softmax"),
        ({"learning_rate": -1.0}, "learning_rate must be a finite number above 0"),
        ({"steps": 0}, "steps must be a whole number of 1"),
        ({"latency": None}, "latency must be a function"),
    ],
)
def test_arguments_that_are_not_accepted_are_refused(options, message):
    given = {"budget": 3, "seed": 0, "latency": SPACE.multiply_adds, "target": TARGET}
    with pytest.raises(ValueError, match=message):
        search(SPACE, lambda c: pytest.fail("evaluated before it was refused"), **given | options)


@pytest.mark.parametrize(("accuracy", "latency"), [(-0.1, 1), (math.nan, 1), (0.5, 0), (0.5, math.inf)])
def test_numbers_without_a_reward_are_refused(accuracy, latency):
    with pytest.raises(ValueError, match="must be a finite number"):
        reward(accuracy, latency, 80)


def test_a_space_without_a_candidate_is_refused():
    with pytest.raises(ValueError, match="no candidate"):
        search([], planted, budget=1, seed=0, latency=float, target=1.0)
