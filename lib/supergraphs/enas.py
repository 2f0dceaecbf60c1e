r"""ENAS: a controller draws child networks from one supergraph, whose weights they all share.

The two are trained in turns (pham2018efficient, section 2.2). For one epoch each batch trains the weights of one child
that the controller draws. Then the weights stay, and the controller learns by REINFORCE from the accuracy R of the
children that it draws, each on one batch of validation images:

.. math:: \nabla_\theta J = \frac1m \sum_k \big(R_k - b\big) \nabla_\theta \log \pi_\theta(a_k) + \beta \nabla H

with a moving average b of the rewards and the entropy H of the controller. At the end some children are drawn, and the
best of them on one validation batch are trained from scratch. No child is trained alone before that.

Left out: the cells of the micro space, the recurrent cells for language, dropout, cutout, and the auxiliary classifier.
The learning rate of the weights falls along half a cosine once; the paper restarts it four times.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from lib import training
from lib.arguments import check_sizes
from lib.datasets import Split
from lib.search.history import History, Space, check_budget, evaluated
from lib.supergraphs.shared.choices import Product, choices_of
from lib.supergraphs.shared.macro_space import Macro, MacroSpace
from lib.supergraphs.shared.policies import Decisions, Policy, RecurrentPolicy, SoftmaxPolicy
from lib.supergraphs.shared.reinforce import Learner
from lib.supergraphs.shared.weight_sharing import SharedWeights, accuracy_pct, train_shared

C = TypeVar("C")
TRIES = 100  # rounds of draws from a controller that repeats itself
LISTED = 10_000  # candidates whose networks are all built once, to find the layers that they share
BOUND = 1.5  # of the controller's logits, so that no option ever dies (authors' code, macro space)


class NetworkSpace(Space[C], Protocol[C]):
    """A space whose candidates are networks."""

    def build(self, candidate: C, seed: int) -> nn.Module:
        """Build the network of a candidate: (n, channels, height, width) -> (n, classes).

        candidate: of this space.
        seed: of the initial weights.
        """


@dataclass(frozen=True)
class EnasHistory(History[C]):
    """What a search by ENAS leaves behind.

    rows: the children that were trained from scratch at the end, in the order of their shared accuracy.
    passes: samples that went forward and backward to train the shared weights; training the rows is not counted.
    forwards: samples that only went forward, for the rewards.
    rewards: of all children that the controller learned from, accuracy on one batch in [0, 1], in their order.
    shared: the weights.
    policy: the controller.
    """

    passes: int
    forwards: int
    rewards: tuple[float, ...]
    shared: SharedWeights[C]
    policy: Policy[C]


class Controller(RecurrentPolicy[Macro]):
    r"""The controller of the macro space: for each layer an operation, then a skip or none from each earlier layer.

    The LSTM runs twice per layer. Its first output chooses the operation; its second, h_i, is compared with those of
    the earlier layers (authors' code):

    .. math:: P(s_{ij} = 1) = \sigma(2 q_{ij}), \qquad
              q_{ij} = c \tanh\big(v^\top \tanh(W_1 h_j + W_2 h_i)\big)

    and the sum of the chosen h_j, divided by one more than their number, is the next input.

    space: the macro space.
    seed: of the initial weights.
    hidden: units of each layer of the LSTM, 1 or more; default 32 (the paper: 100).
    layers: of the LSTM, 1 or more; default 2.
    bound: c, of all logits, above 0; default 1.5.

    >>> controller = Controller(MacroSpace(layers=2, operations=("conv3",)), seed=0)
    >>> len(controller.candidates(7, torch.Generator().manual_seed(0)))  # of two, with and without the skip
    7
    """

    def __init__(
        self, space: MacroSpace, *, seed: int, hidden: int = 32, layers: int = 2, bound: float = BOUND
    ) -> None:
        super().__init__(space, seed=seed, hidden=hidden, layers=layers, bound=bound)
        self.skips = [step for step, options in enumerate(space.options) if options == (False, True)]
        self.depth = space.layers

    def add_weights(self) -> None:
        """Add the weights that compare layers, in place of those for skips as choices."""
        self.readers, self.makers, hidden = self.readers[:1], self.makers[:1], self.hidden
        self.earlier, self.later = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.value = nn.Linear(hidden, 1, bias=False)

    def decisions(self, n: int) -> Generator[Tensor, Tensor, None]:
        """Yield the logits of each choice, (n, options), and read what was chosen.

        n: candidates that are made at once.
        """
        states: list[tuple[Tensor, Tensor] | None] = [None] * len(self.cells)
        x, anchors = self.start.expand(n, -1), list[Tensor]()
        for _ in range(self.depth):
            operation = yield self.bounded(self.makers[0](self.step(x, states)))
            hidden = self.step(self.readers[0](operation), states)
            total, count = self.start.new_zeros(n, self.hidden), self.start.new_zeros(n, 1)
            for anchor in anchors:
                query = self.value((self.earlier(anchor) + self.later(hidden)).tanh())
                skip = yield self.bounded(torch.cat([-query, query], 1))
                total, count = total + skip[:, None] * anchor, count + skip[:, None]
            x = total / (1 + count) if anchors else self.start.expand(n, -1)
            anchors.append(hidden)

    def skip_penalty(self, decisions: Decisions, *, prior: float = 0.4) -> Tensor:
        """Return how far the skips are from a prior: Kullback-Leibler divergence, summed over the skips of a layer.

        decisions: of this controller.
        prior: probability of a skip, in (0, 1); default 0.4.

        Returns the mean over candidates and layers, a scalar.
        """
        if not self.skips:
            return self.start.new_zeros(())
        logs = torch.stack([decisions.steps[step] for step in self.skips])  # (skips, n, 2)
        divergence = (logs.exp() * (logs - logs.new_tensor([1 - prior, prior]).log())).sum(2)
        return divergence.mean(1).sum() / (self.depth - 1)


def search(
    space: NetworkSpace[C],
    evaluate: Callable[[C], float],
    *,
    budget: int,
    seed: int,
    train: Split,
    validation: Split,
    epochs: int = 30,
    learning_rate: float = 0.1,
    batch_size: int = 128,
    statistics: str = "batch",
    controller_steps: int = 10,
    samples: int = 10,
    controller_rate: float = 0.005,
    decay: float = 0.95,
    entropy_weight: float = 1e-4,
    skip_prior: float = 0.4,
    skip_weight: float = 0.8,
    finalists: int = 10,
    jobs: int = 1,
) -> EnasHistory[C]:
    """Train a supergraph and its controller in turns, and evaluate the children that seem best at the end.

    space: its candidates are networks; a :class:`MacroSpace`, or any other that lists its candidates. Each of their
        networks is built once, so a :class:`~lib.supergraphs.shared.choices.Product` may have at most ``LISTED``.
    evaluate: gives the fitness of a candidate on its own: trained from scratch. One that raises, or whose fitness is
        not finite, is a row that says so.
    budget: evaluations, 1 or more; the paper makes one.
    seed: of all random draws, 0 or more.
    train: samples for the shared weights.
    validation: samples for the rewards, two or more.
    epochs: of the shared weights, 1 or more; default 30 (the paper: 310).
    learning_rate: of the shared weights, default 0.1.
    batch_size: samples per step and per reward, 2 or more; default 128.
    statistics: of batch norm in a reward, "batch" (default) or "stored".
    controller_steps: after each epoch, 0 or more; default 10 (authors' code: 50).
    samples: children that each of these steps draws, 1 or more; default 10 (authors' code: 20).
    controller_rate: learning rate of the controller, above 0; default 0.005 (authors' code: 0.001).
    decay: of the baseline, in [0, 1); default 0.95 (authors' code: 0.99).
    entropy_weight: beta, 0 or more; default 1e-4.
    skip_prior: probability of a skip that the controller is pulled toward, in (0, 1); default 0.4. Macro space only.
    skip_weight: of this penalty, 0 or more; default 0.8.
    finalists: children that are drawn at the end, 1 or more; default 10. More are drawn until there are as many
        different ones as the budget. If the controller has settled on fewer, the rest are drawn at random: at each
        choice, all options that lead to a candidate are equally likely.
    jobs: processes that evaluate, default 1.

    Returns the history; its rows are the ``budget`` evaluations at the end.
    Raises ValueError for arguments that are not accepted and a space with no candidate or too many, before anything is
    trained, and for a training of the shared weights that diverges.

    >>> from lib import datasets
    >>> from lib.search.chains import Chains
    >>> digits, space = datasets.load("digits", first=(100, 50, 1)), Chains(positions=2, pools=1, size=28)
    >>> history = search(space, space.parameters, budget=2, seed=0, train=digits.train,
    ...                  validation=digits.validation, epochs=2, controller_steps=1)
    >>> len(history.rows), history.passes, len(history.rewards)
    (2, 200, 20)
    """
    check_budget(budget, seed)
    least = {"epochs": 1, "batch_size": 2, "controller_steps": 0, "samples": 1, "finalists": 1}
    check_sizes(dict(zip(least, (epochs, batch_size, controller_steps, samples, finalists), strict=True)), least)
    if not 0 < skip_prior < 1 or not 0 <= skip_weight < float("inf"):
        raise ValueError(f"skip_prior must be in (0, 1) and skip_weight 0 or more, not {skip_prior} and {skip_weight}")
    train.check_not_empty("to train on")
    if len(validation) < 2:
        raise ValueError(f"the validation split has {len(validation)} samples: two or more are needed for a reward")
    if isinstance(space, Product) and not isinstance(space, MacroSpace) and space.size > LISTED:
        raise ValueError(
            f"the space has {space.size:,} candidates, and the network of each would be built to find the layers that"
            f" they share: at most {LISTED:,} are accepted"
        )
    choices = choices_of(space)
    candidates = space.covering() if isinstance(space, MacroSpace) else space
    shared = SharedWeights(space.build, candidates, seed=seed)
    accuracy_pct(shared, shared.covering[0], validation, statistics=statistics)  # refuses images and statistics
    policy: Policy[C]
    penalty = None
    if isinstance(space, MacroSpace):
        controller = Controller(space, seed=seed)
        policy = controller

        def penalty(decisions: Decisions) -> Tensor:
            return skip_weight * controller.skip_penalty(decisions, prior=skip_prior)
    else:
        policy = RecurrentPolicy(choices, seed=seed, bound=BOUND)
    learner = Learner(
        policy, learning_rate=controller_rate, decay=decay, entropy_weight=entropy_weight, penalty=penalty
    )
    generator = torch.Generator().manual_seed(seed)
    rewards, forwards = list[float](), 0

    def rewarded(children: list[C]) -> list[float]:
        nonlocal forwards
        batch = training.batches(len(validation), batch_size, generator)[0]
        part = Split(validation.images[batch], validation.labels[batch])
        known = {child: accuracy_pct(shared, child, part, statistics=statistics) / 100 for child in set(children)}
        forwards += len(known) * len(part)
        return [known[child] for child in children]

    # method
    def teach(epoch: int) -> None:
        for _ in range(controller_steps if epoch else 0):  # before the first epoch there is nothing to learn from
            numbers = policy.sample(samples, generator)
            rewards.extend(rewarded([choices.candidate(row) for row in numbers.tolist()]))
            learner.learn(numbers, torch.tensor(rewards[-samples:]))

    passes = train_shared(
        shared,
        lambda n: policy.candidates(n, generator),
        train,
        epochs=epochs,
        seed=seed,
        learning_rate=learning_rate,
        batch_size=batch_size,
        before_epoch=teach,
    )
    teach(epochs)
    drawn = dict.fromkeys(policy.candidates(finalists, generator))
    for _ in range(TRIES):
        if len(drawn) >= budget:
            break
        drawn |= dict.fromkeys(policy.candidates(finalists, generator))
    ranked = dict(zip(drawn, rewarded(list(drawn)), strict=True))
    chosen = sorted(drawn, key=lambda child: -ranked[child])[:budget]
    # end of method
    chosen += SoftmaxPolicy(choices).candidates(budget - len(chosen), generator)
    rows = tuple(evaluated(evaluate, chosen, jobs=jobs))
    return EnasHistory(rows, passes, forwards, tuple(rewards), shared, policy)
