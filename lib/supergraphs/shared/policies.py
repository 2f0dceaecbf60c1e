r"""Policies: distributions over candidates that are made by one choice after another.

.. math:: \log \pi_\theta(a) = \sum_t \log \pi_\theta(a_t \mid a_1, \dots, a_{t-1})

Options that lead to no candidate have probability zero, so the probabilities of all candidates sum to one.
"""

from abc import abstractmethod
from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from lib.arguments import check_sizes
from lib.seeding import seeded
from lib.supergraphs.shared.choices import Choices

C = TypeVar("C")


@dataclass(frozen=True)
class Decisions:
    """How a policy makes given choices.

    log_probabilities: of the candidates, (n,).
    steps: for each choice, the logarithm of the probability of each of its options, (n, options).
    """

    log_probabilities: Tensor
    steps: tuple[Tensor, ...]


class Policy(nn.Module, Generic[C]):
    """A distribution over the candidates of a space.

    choices: that make a candidate, one or more.

    Raises ValueError for a space without a choice.
    """

    def __init__(self, choices: Choices[C]) -> None:
        if not choices.options:
            raise ValueError("the space has no choice: at least one is needed to learn to make it")
        super().__init__()
        self.choices = choices

    @abstractmethod
    def decisions(self, n: int) -> Generator[Tensor, Tensor, None]:
        """Yield the logits of each choice, (n, options); what was chosen, (n,), is sent back.

        n: candidates that are made at once.
        """

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw choices.

        n: candidates.
        generator: of the draws; it is advanced.

        Returns (n, choices) int64.
        """
        return self._walk(n, lambda step, logs: torch.multinomial(logs.exp(), 1, generator=generator)[:, 0])[0]

    def candidates(self, n: int, generator: torch.Generator) -> list[C]:
        """Draw candidates.

        n: how many.
        generator: of the draws; it is advanced.
        """
        return [self.choices.candidate(row) for row in self.sample(n, generator).tolist()]

    def forward(self, numbers: Tensor) -> Decisions:
        """Compute the probabilities of given choices.

        numbers: (n, choices) int64.

        Raises ValueError for choices of another shape.
        """
        expected = len(self.choices.options)
        if numbers.dim() != 2 or numbers.shape[1] != expected:
            raise ValueError(f"choices of shape {tuple(numbers.shape)}: (n, {expected}) are needed")
        steps = self._walk(len(numbers), lambda step, logs: numbers[:, step])[1]
        chosen = [logs.gather(1, numbers[:, [step]])[:, 0] for step, logs in enumerate(steps)]
        return Decisions(torch.stack(chosen).sum(0), steps)

    def _walk(self, n: int, choose: Callable[[int, Tensor], Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        device = next(self.parameters()).device
        before, steps = torch.zeros(n, 0, dtype=torch.long, device=device), []
        decisions = self.decisions(n)
        logits = next(decisions)
        for step in range(len(self.choices.options)):
            if step:
                logits = decisions.send(before[:, -1])
            allowed = self.choices.allowed(before)
            if allowed is not None:
                logits = logits.masked_fill(~allowed, -torch.inf)
            steps.append(logits.log_softmax(1))
            before = torch.cat([before, choose(step, steps[-1])[:, None]], 1)
        return before, tuple(steps)


class SoftmaxPolicy(Policy[C]):
    """Choices that do not depend on each other: one softmax for each, with equally likely options at first.

    choices: that make a candidate.

    >>> from lib.supergraphs.shared.choices import Listed
    >>> policy = SoftmaxPolicy(Listed([("conv", 3), ("conv", 5), ("pool", 3)]))
    >>> policy(torch.tensor([[0, 0], [0, 1], [1, 0]])).log_probabilities.exp().tolist()
    [0.25, 0.25, 0.5]
    """

    def __init__(self, choices: Choices[C]) -> None:
        super().__init__(choices)
        self.logits = nn.ParameterList([torch.zeros(len(options)) for options in choices.options])

    def decisions(self, n: int) -> Generator[Tensor, Tensor, None]:
        """Yield the logits of each choice, (n, options).

        n: candidates that are made at once.
        """
        for logits in self.logits:
            yield logits.expand(n, -1)


class RecurrentPolicy(Policy[C]):
    """An LSTM makes the choices one after another, and reads each before it makes the next (zoph2017neural).

    Choices with the same options share the weights that read and make them.

    choices: that make a candidate.
    seed: of the initial weights, uniform in [-0.1, 0.1].
    hidden: units of each layer of the LSTM, 1 or more; default 32.
    layers: of the LSTM, 1 or more; default 2.
    bound: of the logits, which are bound * tanh(logits), above 0; default infinity, for no bound.

    Raises ValueError for sizes or a bound that are not accepted.

    >>> from lib.supergraphs.shared.choices import Listed
    >>> policy = RecurrentPolicy(Listed([("conv", 3), ("conv", 5), ("pool", 3)]), seed=0)
    >>> policy.candidates(4, torch.Generator().manual_seed(0))
    [('pool', 3), ('conv', 5), ('conv', 3), ('conv', 5)]
    """

    def __init__(
        self, choices: Choices[C], *, seed: int, hidden: int = 32, layers: int = 2, bound: float = float("inf")
    ) -> None:
        super().__init__(choices)
        check_sizes({"hidden": hidden, "layers": layers})
        if not bound > 0:
            raise ValueError(f"bound must be above 0, not {bound!r}")
        self.hidden, self.bound = hidden, bound
        kinds: dict[tuple[Hashable, ...], int] = {}
        self.kinds = [kinds.setdefault(options, len(kinds)) for options in choices.options]
        with seeded(seed):
            self.cells = nn.ModuleList([nn.LSTMCell(hidden, hidden, bias=False) for _ in range(layers)])
            self.start = nn.Parameter(torch.empty(hidden))
            self.readers = nn.ModuleList([nn.Embedding(len(options), hidden) for options in kinds])
            self.makers = nn.ModuleList([nn.Linear(hidden, len(options), bias=False) for options in kinds])
            self.add_weights()
            for parameter in self.parameters():
                nn.init.uniform_(parameter, -0.1, 0.1)

    def add_weights(self) -> None:
        """Add the weights of a derived policy, before all weights are drawn."""

    def step(self, x: Tensor, states: list[tuple[Tensor, Tensor] | None]) -> Tensor:
        """Run the LSTM on one more input and return its output, (n, hidden).

        x: (n, hidden).
        states: of its layers, None at first; they are replaced.
        """
        for i, cell in enumerate(self.cells):
            states[i] = cell(x, states[i])
            x = states[i][0]  # type: ignore[index]
        return x

    def bounded(self, logits: Tensor) -> Tensor:
        """Keep logits between -bound and bound: bound * tanh(logits).

        logits: of any shape.
        """
        return logits if self.bound == float("inf") else self.bound * logits.tanh()

    def decisions(self, n: int) -> Generator[Tensor, Tensor, None]:
        """Yield the logits of each choice, (n, options), and read what was chosen.

        n: candidates that are made at once.
        """
        states: list[tuple[Tensor, Tensor] | None] = [None] * len(self.cells)
        x = self.start.expand(n, -1)
        for kind in self.kinds:
            chosen = yield self.bounded(self.makers[kind](self.step(x, states)))
            x = self.readers[kind](chosen)
