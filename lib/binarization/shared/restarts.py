"""Training of discrete weights that keeps the best network, and jumps to random states when it is stuck."""

import torch
from torch import Tensor, nn

from lib import training
from lib.binarization.shared.states import TernaryStates
from lib.datasets import Split
from lib.weights import compressed

SHARE = 0.8  # of the weights that a restart draws again, as in the code of deng2018gxnor


def random_states(states: Tensor, space: int, generator: torch.Generator, share: float = SHARE) -> Tensor:
    """Draw the states of some weights again, uniformly from all states; the others stay.

    states: n of each weight, int8, any shape.
    space: N: there are 2^N + 1 states.
    generator: of the draws, on the CPU.
    share: probability that a weight is drawn again; 0.8 by default.

    >>> states = torch.ones(1000, dtype=torch.int8)
    >>> after = random_states(states, 1, torch.Generator().manual_seed(0))
    >>> 420 < (after == states).sum().item() < 520  # 0.2 + 0.8 / 3 of them
    True
    """
    drawn = torch.randint(0, 2**space + 1, states.shape, generator=generator, dtype=states.dtype)
    again = torch.rand(states.shape, generator=generator) < share
    return torch.where(again.to(states.device), drawn.to(states.device), states)


class Restarts:
    """Called before each epoch: keeps the best network so far, and restarts from it, with random states, when stuck.

    model: with discrete weights.
    split: on whose error the network is judged.
    patience: epochs without a lower error, from 1, before a restart.
    seed: of the draws.

    Raises ValueError for an empty split and another patience.
    """

    def __init__(self, model: nn.Module, split: Split, *, patience: int = 15, seed: int = 0) -> None:
        split.check_not_empty("to judge the network on")
        if patience < 1:
            raise ValueError(f"patience must be 1 epoch or more, not {patience}")
        self.model, self.split, self.patience = model, split, patience
        self.generator = torch.Generator().manual_seed(seed)
        self.best, self.waited, self.count = float("inf"), 0, 0
        self.state: dict[str, Tensor] = {}

    def __call__(self, epoch: int) -> None:
        """Judge the network before this epoch, and restart it if it is stuck.

        epoch: from 0.
        """
        self.judge()
        if self.waited >= self.patience:
            self.restart()

    def judge(self) -> None:
        """Keep the network if it is the best so far."""
        error = training.error_pct(self.model, self.split)
        self.waited += 1
        if error < self.best:
            self.best, self.waited = error, 0
            self.state = {name: value.clone() for name, value in self.model.state_dict().items()}

    def restart(self) -> None:
        """Go back to the best network, with most of its weights in random states."""
        self.model.load_state_dict(self.state)
        for _, form, _ in compressed(self.model):
            if isinstance(form, TernaryStates):
                form.states.copy_(random_states(form.states, form.space, self.generator))
        self.waited, self.count = 0, self.count + 1

    def finish(self) -> None:
        """Judge the network after the last epoch, and go back to the best of all."""
        self.judge()
        self.model.load_state_dict(self.state)
