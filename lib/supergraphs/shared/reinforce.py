r"""Policy gradients: how a controller learns from the rewards of the candidates that it drew.

.. math:: \nabla_\theta J = \frac1m \sum_k \big(R_k - b\big) \nabla_\theta \log \pi_\theta(a_k)

is an unbiased estimate of the gradient of the expected reward for any baseline b that does not depend on the draws
(williams1992reinforce). With a weight beta for the entropy H the reward is :math:`R_k - \beta \log \pi_\theta(a_k)`,
which gives :math:`\nabla (J + \beta H)`. Proximal policy optimization (PPO) takes several steps on the same draws, and
stops where the ratio r of the new to the old probability leaves :math:`1 \pm \epsilon`:

.. math:: \frac1m \sum_k \min\big(r_k A_k,\ \operatorname{clip}(r_k, 1 - \epsilon, 1 + \epsilon) A_k\big),
          \qquad A_k = R_k - b .

Its first step is the policy gradient, since r = 1.
"""

import math
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

from lib.arguments import check_sizes
from lib.supergraphs.shared.policies import Decisions, Policy

C = TypeVar("C")


def clipped_loss(log_probabilities: Tensor, before: Tensor, advantages: Tensor, *, clip: float = 0.2) -> Tensor:
    """Return the negative clipped objective of PPO.

    log_probabilities: of the candidates that were drawn, (n,).
    before: the same under the policy that drew them, (n,).
    advantages: R - b, (n,).
    clip: epsilon, how far the ratio of the two counts, above 0; default 0.2.

    >>> one = torch.ones(1)
    >>> clipped_loss(one.log(), (0.5 * one).log(), one), clipped_loss(one.log(), (0.5 * one).log(), -one)
    (tensor(-1.2000), tensor(2.))
    """
    # method
    ratio = (log_probabilities - before).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()
    # end of method


class Baseline:
    """A moving average of the rewards before the current ones; for the first rewards it is their own mean.

    decay: weight of the past, in [0, 1); default 0.95.

    Raises ValueError for another decay.

    >>> baseline = Baseline(0.5)
    >>> baseline(torch.tensor([1.0, 3.0])), baseline(torch.tensor([4.0])), baseline(torch.tensor([0.0]))
    (2.0, 2.0, 3.0)
    """

    def __init__(self, decay: float = 0.95) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), not {decay!r}")
        self.decay, self.value = decay, math.nan

    def __call__(self, rewards: Tensor) -> float:
        mean = float(rewards.mean())
        before = mean if math.isnan(self.value) else self.value
        self.value = self.decay * before + (1 - self.decay) * mean
        return before


class Learner(Generic[C]):
    """Improves a policy by rewards, with Adam: the policy gradient, or PPO where it takes more than one step.

    policy: to improve, in place.
    learning_rate: of Adam, above 0.
    steps: on the same draws, 1 or more; default 1, which is the plain policy gradient.
    clip: epsilon of PPO, above 0; default 0.2. It has no effect on the first step.
    decay: of the baseline, in [0, 1); default 0.95.
    entropy_weight: beta, 0 or more; default 0.
    penalty: added to the loss, from what the policy decided; default none.

    Raises ValueError for numbers that are not accepted.

    >>> from lib.supergraphs.shared.choices import Listed
    >>> from lib.supergraphs.shared.policies import SoftmaxPolicy
    >>> policy = SoftmaxPolicy(Listed("ab"))
    >>> Learner(policy, learning_rate=0.1).learn(torch.tensor([[0], [1]]), torch.tensor([0.0, 1.0]))
    >>> policy.logits[0].detach()
    tensor([-0.1000,  0.1000])
    """

    def __init__(
        self,
        policy: Policy[C],
        *,
        learning_rate: float,
        steps: int = 1,
        clip: float = 0.2,
        decay: float = 0.95,
        entropy_weight: float = 0.0,
        penalty: Callable[[Decisions], Tensor] | None = None,
    ) -> None:
        for name, value in (("learning_rate", learning_rate), ("clip", clip)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, not {value!r}")
        check_sizes({"steps": steps})
        if not 0 <= entropy_weight < math.inf:
            raise ValueError(f"entropy_weight must be a finite number of 0 or more, not {entropy_weight!r}")
        self.policy, self.steps, self.clip, self.penalty = policy, steps, clip, penalty
        self.entropy_weight, self.baseline = entropy_weight, Baseline(decay)
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)

    def learn(self, numbers: Tensor, rewards: Tensor) -> None:
        """Improve the policy by the rewards of its draws.

        numbers: the choices, (n, choices) int64, n of 1 or more.
        rewards: (n,), finite, larger is better.

        Raises ValueError for rewards of another shape, and for some that are not finite.
        """
        if rewards.shape != numbers.shape[:1] or not len(rewards) or not torch.isfinite(rewards).all():
            raise ValueError(f"rewards must be {len(numbers)} finite numbers, 1 or more, not {rewards.tolist()}")
        # method
        with torch.no_grad():
            before = self.policy(numbers).log_probabilities
            rewards = rewards - self.entropy_weight * before
            advantages = rewards - self.baseline(rewards)
        for _ in range(self.steps):
            decisions = self.policy(numbers)
            loss = clipped_loss(decisions.log_probabilities, before, advantages, clip=self.clip)
            if self.penalty is not None:
                loss = loss + self.penalty(decisions)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        # end of method
