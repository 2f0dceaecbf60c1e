"""Policy gradients against exact enumeration, PPO's first step and its clipping, the baseline, what is refused."""

import math

import numpy as np
import pytest
import torch
from given import generator
from given_choices import every
from torch import Tensor

from lib.search.chains import Chains
from lib.supergraphs.enas import Controller
from lib.supergraphs.shared.choices import Listed, choices_of
from lib.supergraphs.shared.macro_space import MacroSpace
from lib.supergraphs.shared.policies import RecurrentPolicy, SoftmaxPolicy
from lib.supergraphs.shared.reinforce import Baseline, Learner, clipped_loss

BANDIT = Listed([("a", 1), ("a", 2), ("b", 1)])  # two steps; one combination is missing


def policy_gradient_loss(log_probabilities: Tensor, advantages: Tensor) -> Tensor:
    """The loss whose gradient is the negative policy gradient (williams1992reinforce)."""
    return -(advantages * log_probabilities).mean()


def expected_reward(policy, rewards: Tensor) -> Tensor:
    """J, the sum of probability times reward over all candidates, in the order of ``every``."""
    return (policy(every(policy.choices)).log_probabilities.exp() * rewards).sum()


def made(name: str):
    """A policy in float64 that is not uniform."""
    policies = {
        "softmax": lambda: SoftmaxPolicy(BANDIT),
        "recurrent": lambda: RecurrentPolicy(BANDIT, seed=0, hidden=4, layers=1),
        "controller": lambda: Controller(MacroSpace(layers=3, operations=("conv3", "max3")), seed=0, hidden=4),
    }
    policy = policies[name]().double()
    for i, parameter in enumerate(policy.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator(i), dtype=torch.double) / 2
    return policy


def gradient(loss, policy) -> torch.Tensor:
    gradients = torch.autograd.grad(loss, list(policy.parameters()), materialize_grads=True)
    return torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize("name", ["softmax", "recurrent", "controller"])
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_the_mean_policy_gradient_is_the_gradient_of_the_expectation(name, baseline):
    policy = made(name)
    rows = every(policy.choices)
    rewards = torch.rand(len(rows), generator=generator(), dtype=torch.double)
    logs = policy(rows).log_probabilities
    often = len(rows) * logs.exp().detach()  # how often each is drawn, as a multiple of once
    mean = gradient(policy_gradient_loss(logs, often * (rewards - baseline)), policy)
    torch.testing.assert_close(-mean, gradient(expected_reward(policy, rewards), policy), rtol=1e-9, atol=1e-12)


def test_twenty_thousand_draws_estimate_the_gradient_within_five_percent():
    policy = made("softmax")
    rewards = torch.tensor([1.0, 0.2, 0.5], dtype=torch.double)
    place = {tuple(row): i for i, row in enumerate(every(BANDIT).tolist())}
    numbers = policy.sample(20_000, generator())
    drawn = rewards[[place[tuple(row)] for row in numbers.tolist()]]
    estimate = -gradient(policy_gradient_loss(policy(numbers).log_probabilities, drawn - 0.5), policy)
    exact = gradient(expected_reward(policy, rewards), policy)
    assert (estimate - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("name", ["softmax", "recurrent"])
def test_with_entropy_the_learner_climbs_reward_and_entropy(name, monkeypatch):
    policy, beta = made(name), 0.3
    rows = every(policy.choices)
    rewards = torch.tensor([1.0, 0.2, 0.5], dtype=torch.double)
    logs = policy(rows).log_probabilities
    exact = gradient((logs.exp() * rewards).sum() - beta * (logs.exp() * logs).sum(), policy)
    learner, total = Learner(policy, learning_rate=0.1, entropy_weight=beta), 0
    monkeypatch.setattr(learner.optimizer, "step", lambda: None)
    for p, row, reward in zip(logs.exp().detach(), rows, rewards, strict=True):
        learner.baseline.value, learner.baseline.decay = 0.4, 1.0  # a constant does not move the mean
        learner.learn(row[None], reward[None])
        grads = [torch.zeros_like(q) if q.grad is None else q.grad for q in policy.parameters()]
        total = total - p * torch.cat([g.flatten() for g in grads])
    torch.testing.assert_close(total, exact, rtol=1e-9, atol=1e-12)


def test_the_first_step_of_ppo_is_the_policy_gradient():
    policy = made("recurrent")
    numbers = policy.sample(50, generator())
    advantages = torch.randn(50, generator=generator(1), dtype=torch.double)
    logs = policy(numbers).log_probabilities
    clipped = clipped_loss(logs, logs.detach(), advantages, clip=0.01)
    plain = policy_gradient_loss(policy(numbers).log_probabilities, advantages)
    torch.testing.assert_close(gradient(clipped, policy), gradient(plain, policy), rtol=1e-12, atol=1e-14)


def test_the_clipped_objective_is_that_of_numpy():
    random = np.random.default_rng(0)
    new, old, advantages = random.normal(size=(3, 200))
    ratio = np.exp(new - old)
    expected = -np.mean(np.minimum(ratio * advantages, np.clip(ratio, 0.7, 1.3) * advantages))
    assert clipped_loss(*map(torch.tensor, (new, old, advantages)), clip=0.3).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"), [(1.3, 1, False), (1.3, -1, True), (0.7, 1, True), (0.7, -1, False)]
)
def test_clipping_stops_only_what_has_gone_far_enough(ratio, advantage, moves):
    log = torch.tensor([math.log(ratio)], requires_grad=True)
    clipped_loss(log, torch.zeros(1), torch.tensor([float(advantage)])).backward()
    assert bool(log.grad) == moves


@pytest.mark.parametrize("clip", [0.01, 5.0])
def test_one_step_of_the_learner_is_reinforce_whatever_the_clip(clip):
    policy, plain = made("softmax"), made("softmax")
    numbers, rewards = torch.tensor([[0, 0], [1, 0], [0, 1]]), torch.tensor([1.0, 0.0, 3.0], dtype=torch.double)
    Learner(policy, learning_rate=0.1, clip=clip).learn(numbers, rewards)
    adam = torch.optim.Adam(plain.parameters(), lr=0.1)
    policy_gradient_loss(plain(numbers).log_probabilities, rewards - rewards.mean()).backward()
    adam.step()
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), plain.parameters(), strict=True))


def test_the_baseline_is_a_moving_average_of_the_past():
    baseline, rewards = Baseline(0.9), [torch.tensor([1.0, 2.0]), torch.tensor([5.0]), torch.tensor([0.0])]
    assert [baseline(r) for r in rewards] == pytest.approx([1.5, 1.5, 0.9 * 1.5 + 0.1 * 5])
    assert baseline.value == pytest.approx(0.9 * 1.85)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_learner_finds_the_best_of_many(steps):
    choices = choices_of(Chains(positions=3))
    policy = SoftmaxPolicy(choices)
    learner, random = Learner(policy, learning_rate=0.1, steps=steps), generator()
    for _ in range(40):
        numbers = policy.sample(10, random)
        learner.learn(numbers, (numbers == torch.tensor([2, 0, 3])).float().sum(1))
    best = policy(torch.tensor([[2, 0, 3]])).log_probabilities.exp().item()
    assert best > 0.5  # 1 / 64 at first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": math.nan}, "learning_rate must be a finite number above 0"),
        ({"learning_rate": 0.1, "clip": -1.0}, "clip must be a finite number above 0"),
        ({"learning_rate": 0.1, "steps": 0}, "steps must be a whole number of 1"),
        ({"learning_rate": 0.1, "entropy_weight": -1.0}, "entropy_weight must be a finite number of 0"),
        ({"learning_rate": 0.1, "decay": 1.0}, r"decay must be in \[0, 1\)"),
    ],
)
def test_numbers_with_which_nothing_is_learned_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Learner(SoftmaxPolicy(BANDIT), **options)


@pytest.mark.parametrize("rewards", [[math.nan, 1.0], [math.inf, 1.0], [1.0]])
def test_rewards_that_are_not_finite_or_too_few_are_refused(rewards):
    policy = SoftmaxPolicy(BANDIT)
    with pytest.raises(ValueError, match="2 finite numbers"):
        Learner(policy, learning_rate=0.1).learn(torch.tensor([[0, 0], [1, 0]]), torch.tensor(rewards))
    assert all(not parameter.any() for parameter in policy.parameters())


def test_no_draw_at_all_is_refused():
    with pytest.raises(ValueError, match="1 or more"):
        Learner(SoftmaxPolicy(BANDIT), learning_rate=0.1).learn(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0))
