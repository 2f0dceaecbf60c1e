r"""MnasNet: search for accuracy and latency at once, with a controller that learns from one reward for both.

.. math:: \text{maximize}\quad \mathrm{ACC}(m) \left[\frac{\mathrm{LAT}(m)}{T}\right]^w, \qquad
          w = \alpha \ \text{if}\ \mathrm{LAT}(m) \le T, \ \text{else}\ \beta

(tan2019mnasnet, equations 2 and 3). With the *soft* exponents -0.07 and -0.07 a network of twice the latency is worth
as much if it is 5 % more accurate, wherever the target T is. With the *hard* ones, 0 and -1, latency counts only beyond
the target, where it divides the accuracy. The controller is an LSTM that PPO improves (:mod:`.shared.reinforce`); it
draws a few candidates at a time. The space of the paper is :class:`.shared.mobile_space.MobileSpace`; the search takes
any other too.

Left out: the final training of the best candidates on the whole data set.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from lib.arguments import check_sizes
from lib.search.history import Evaluation, History, Space, check_budget, evaluated
from lib.supergraphs.shared.choices import choices_of
from lib.supergraphs.shared.policies import Policy, RecurrentPolicy, SoftmaxPolicy
from lib.supergraphs.shared.reinforce import Learner

C = TypeVar("C")
SOFT = (-0.07, -0.07)
HARD = (0.0, -1.0)
CONTROLLERS = ("recurrent", "softmax")


def reward(accuracy: float, latency: float, target: float, *, exponents: tuple[float, float] = SOFT) -> float:
    """Compute ACC (LAT / T)^w (tan2019mnasnet, equation 2).

    accuracy: ACC, 0 or more.
    latency: LAT, above 0.
    target: T, above 0, in the unit of the latency.
    exponents: w up to the target and beyond it (alpha, beta), 0 or less; default ``SOFT``.

    Raises ValueError for numbers that are not accepted.

    >>> reward(0.5, 80, target=80), round(reward(0.5, 160, target=80), 4), reward(0.5, 160, target=80, exponents=HARD)
    (0.5, 0.4763, 0.25)
    """
    check_target(target, exponents)
    if not 0 <= accuracy < math.inf:
        raise ValueError(f"accuracy must be a finite number of 0 or more, not {accuracy!r}")
    if not 0 < latency < math.inf:
        raise ValueError(f"latency must be a finite number above 0, not {latency!r}")
    # method
    exponent = exponents[0] if latency <= target else exponents[1]
    return accuracy * (latency / target) ** exponent
    # end of method


def check_target(target: float, exponents: tuple[float, float]) -> None:
    """Raise ValueError for a target or exponents that give no reward.

    target: must be finite and above 0.
    exponents: two, finite, 0 or less.

    >>> check_target(80.0, HARD)
    """
    if not 0 < target < math.inf:
        raise ValueError(f"target must be a finite latency above 0, not {target!r}")
    if len(exponents) != 2 or not all(-math.inf < exponent <= 0 for exponent in exponents):
        raise ValueError(f"exponents must be two finite numbers of 0 or less, not {exponents!r}")


@dataclass(frozen=True)
class MnasNetHistory(History[C]):
    """What a search by MnasNet leaves behind.

    rows: one for each candidate that was drawn; its fitness is the reward.
    accuracies: of the rows; NaN where there is none.
    latencies: of the rows; NaN where there is none.
    target: T.
    policy: the controller.
    """

    accuracies: tuple[float, ...]
    latencies: tuple[float, ...]
    target: float
    policy: Policy[C]

    @property
    def best_within(self) -> Evaluation[C]:
        """The first row with the largest accuracy among those within the target. Raises ValueError if there is none."""
        working = [i for i, row in enumerate(self.rows) if not row.failure]
        within = [i for i in working if self.latencies[i] <= self.target]
        if not within:
            fastest = f"the fastest takes {min(self.latencies[i] for i in working)}" if working else "none worked"
            raise ValueError(f"none of {len(self.rows)} candidates is within the target of {self.target}: {fastest}")
        return self.rows[max(within, key=lambda i: self.accuracies[i])]


def search(
    space: Space[C],
    evaluate: Callable[[C], float],
    *,
    budget: int,
    seed: int,
    latency: Callable[[C], float],
    target: float,
    exponents: tuple[float, float] = SOFT,
    controller: str = "recurrent",
    batch: int = 10,
    learning_rate: float = 0.01,
    steps: int = 4,
    clip: float = 0.2,
    decay: float = 0.95,
    entropy_weight: float = 0.0,
    jobs: int = 1,
) -> MnasNetHistory[C]:
    """Let a controller draw candidates, and improve it by their rewards.

    space: a :class:`lib.supergraphs.shared.mobile_space.MobileSpace`, or any other that lists its candidates.
    evaluate: gives the accuracy of a candidate, 0 or more, as a share or in percent.
    budget: candidates that are drawn and evaluated, 1 or more. One that is drawn again is evaluated again.
    seed: of all random draws, 0 or more.
    latency: of a candidate, above 0: from a table or measured. It is called in this process, one candidate after the
        other, since times that are measured while other networks run are wrong.
    target: T, above 0, in the unit of the latency.
    exponents: w up to the target and beyond it, 0 or less; ``SOFT`` (default) or ``HARD``.
    controller: "recurrent" (default), an LSTM as in the paper, or "softmax", choices that do not depend on each other.
    batch: candidates that are drawn before the controller learns, 1 or more; default 10.
    learning_rate: of Adam, above 0; default 0.01.
    steps: of PPO on the same batch, 1 or more; default 4. With 1 it is REINFORCE.
    clip: of PPO, above 0; default 0.2.
    decay: of the baseline, in [0, 1); default 0.95.
    entropy_weight: 0 or more, in the unit of the reward; default 0.
    jobs: processes that evaluate, default 1.

    Returns the history. A candidate whose evaluation or latency raises or is not accepted is a row that says so; the
    controller learns from it as from an accuracy of 0.
    Raises ValueError for arguments that are not accepted and for a space without a candidate, before anything is
    evaluated.

    >>> from lib.search.chains import Chains
    >>> space = Chains()
    >>> history = search(space, lambda c: c.operations.count("conv3") / 4, budget=200, seed=0,
    ...                  latency=space.multiply_adds, target=200_000, exponents=HARD)
    >>> history.best_within.candidate.operations.count("conv3")
    2
    """
    check_budget(budget, seed)
    check_target(target, exponents)
    check_sizes({"batch": batch})
    if not callable(latency):
        raise ValueError(f"latency must be a function of a candidate, not {latency!r}")
    if controller not in CONTROLLERS:
        raise ValueError(f"controller must be one of {', '.join(CONTROLLERS)}, not {controller!r}")
    choices = choices_of(space)
    policy: Policy[C] = RecurrentPolicy(choices, seed=seed) if controller == "recurrent" else SoftmaxPolicy(choices)
    learner = Learner(
        policy, learning_rate=learning_rate, steps=steps, clip=clip, decay=decay, entropy_weight=entropy_weight
    )
    generator = torch.Generator().manual_seed(seed)
    rows, accuracies, latencies = list[Evaluation[C]](), list[float](), list[float]()
    # method
    while len(rows) < budget:
        numbers = policy.sample(min(batch, budget - len(rows)), generator)
        drawn = [choices.candidate(row) for row in numbers.tolist()]
        times = evaluated(latency, drawn)
        scores = evaluated(evaluate, drawn, jobs=jobs)
        new = [_row(time, score, target, exponents) for time, score in zip(times, scores, strict=True)]
        learner.learn(numbers, torch.tensor([max(row.fitness, 0.0) for row in new]))
        # end of method
        rows += new
        accuracies += [math.nan if score.failure else score.fitness for score in scores]
        latencies += [math.nan if time.failure else time.fitness for time in times]
    return MnasNetHistory(tuple(rows), tuple(accuracies), tuple(latencies), target, policy)


def _row(time: Evaluation[C], score: Evaluation[C], target: float, exponents: tuple[float, float]) -> Evaluation[C]:
    if time.failure:
        return Evaluation(time.candidate, -math.inf, f"latency: {time.failure}")
    if score.failure:
        return score
    try:
        return Evaluation(time.candidate, reward(score.fitness, time.fitness, target, exponents=exponents))
    except ValueError as error:
        return Evaluation(time.candidate, -math.inf, str(error))
