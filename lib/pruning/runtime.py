r"""Runtime neural pruning (RNP): a recurrent network decides, for each input, how many channels each layer computes.

The output channels of convolution i form k groups. From the input of the layer, averaged over places, a recurrent cell
and a linear decoder give k values; the action :math:`a_i \in \{1, \dots, k\}` computes groups :math:`1, \dots, a_i` and
leaves the others at zero (lin2017rnp). Groups cost, and so does a wrong answer at the end:

.. math:: r_i = -p\,(a_i - 1) - [i = \text{last}]\; \alpha\, L_{cls}.

The decisions are learned by Q-learning, :math:`Q(s_i, a_i) \leftarrow r_i + \max_a Q(s_{i+1}, a)`, with nothing after
the last layer, and with random actions whose probability falls. Then the network is trained under these decisions, and
so on in turn (:func:`alternate`). No weight is removed: the network keeps them all, and chooses again for every input.

Decisions are learned from a memory of episodes: what each layer saw, what was done, and what came of it. Two
differences from the source: the network is first trained with random actions (:func:`nest`), so that each group works
without those after it; and a group that is not computed is zero where the convolution ends, so batch norm after it,
which the source's networks do not have, makes it a constant.
"""

import copy
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn

from lib import measure, running, training
from lib.datasets import Split
from lib.training import FitOptions


class Grouped(nn.Module):
    """A convolution that computes, for each sample, only the first groups of its output channels.

    layer: the convolution.
    groups: number of groups.
    decide: the network that decides how many groups to compute.
    number: number of this layer in that network.
    """

    def __init__(self, layer: nn.Conv2d, groups: int, decide: "RuntimeNetwork", number: int):
        super().__init__()
        self.layer, self.number = layer, number
        self.sizes = [len(part) for part in torch.arange(layer.out_channels).tensor_split(groups)]
        self.decide = [decide]  # in a list, so that it does not become a submodule

    def forward(self, x: Tensor) -> Tensor:
        # method
        actions = self.decide[0].decision(self.number, x)
        # end of method
        if (actions == len(self.sizes)).all():
            return self.layer(x)
        # method
        if not self.decide[0].skip:
            computed = torch.arange(len(self.sizes), device=x.device) < actions[:, None]  # (samples, groups)
            channels = computed.repeat_interleave(torch.tensor(self.sizes, device=x.device), dim=1)
            return self.layer(x) * channels[:, :, None, None]
        # end of method
        weights = self.layer.weight.split(self.sizes)
        biases = [None] * len(weights) if self.layer.bias is None else self.layer.bias.split(self.sizes)
        parts = []
        for group, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            rows = (actions > group).nonzero().flatten()  # the others are not computed
            part = self.layer._conv_forward(x[rows], weight, bias)
            parts.append(part.new_zeros(len(x), *part.shape[1:]).index_copy(0, rows, part))
        return torch.cat(parts, dim=1)


class RuntimeNetwork(nn.Module):
    """A copy of a network with a controller that takes, for each input and layer, the action with the largest value.

    model: any network; it is left as it was.
    example_input: inputs to run it with once, (n, channels, height, width).
    layers: names of the convolutions to decide on. Default: all that have at least one channel per group and are not
        grouped themselves.
    groups: number of groups of channels in each of these layers, 2 or more. Default 4.
    hidden: size of the recurrent cell, 1 or more. Default 16.
    seed: seed of the controller's weights and of random actions. Default 0.

    After a forward pass ``actions`` is (samples, layers), in 1..groups, and ``states`` holds what each layer saw,
    (samples, channels). ``forced``, if not None, holds actions to take instead, (layers,) or (samples, layers).
    ``costs`` is (layers, groups): the multiply-adds of each group of channels for one input. With ``skip`` only the
    chosen groups are computed. Without it, all are computed and the others are set to zero: the same answers, and
    faster for a batch.

    Raises ValueError for numbers out of range, a layer that is not accepted, and a network without any.
    Source: lin2017rnp.

    >>> from lib import models
    >>> network = RuntimeNetwork(models.lenet5(), torch.zeros(1, 1, 28, 28))
    >>> network.forced = torch.tensor([1, 4])  # a quarter of the first convolution, all of the second
    >>> _ = network(torch.zeros(1, 1, 28, 28))
    >>> network.multiply_adds(network.actions)
    tensor([2077000])
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor,
        *,
        layers: Sequence[str] | None = None,
        groups: int = 4,
        hidden: int = 16,
        seed: int = 0,
    ):
        super().__init__()
        if groups < 2 or hidden < 1:
            raise ValueError(f"groups must be 2 or more and hidden 1 or more, not {groups} and {hidden}")
        convolutions = _convolutions(model)
        accepted = [n for n, m in convolutions.items() if m.groups == 1 and m.out_channels >= groups]
        names = accepted if layers is None else list(layers)
        for name in names:
            if name not in accepted:
                known = ", ".join(accepted) or "none"
                raise ValueError(f"layers must be convolutions of {groups} groups of channels ({known}), not {name!r}")
        if not names:
            raise ValueError(
                f"{type(model).__name__} has no 2-d convolution with {groups} channels or more to decide on"
            )
        with torch.no_grad(), running.captured(model, names) as flow, running.evaluating(model):
            running.logits(model, example_input[:1])
        places = {name: output[0, 0].numel() for name, output in flow.outputs.items()}
        if idle := [name for name in names if name not in places]:
            raise ValueError(f"layer {idle[0]!r} does not run in evaluation mode: layers must be convolutions that run")
        names = list(places)  # in the order in which they run
        self.network, self.groups = copy.deepcopy(model), groups
        self.forced: Tensor | None = None
        copied = _convolutions(self.network)
        sizes = []
        for number, name in enumerate(names):
            grouped = Grouped(copied[name], groups, self, number)
            self.network.set_submodule(name, grouped)
            sizes.append([places[name] * size * grouped.layer.weight[0].numel() for size in grouped.sizes])
        self.costs = torch.tensor(sizes)
        self.constant = measure.multiply_adds(model, tuple(example_input.shape[1:])) - int(self.costs.sum())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoders = nn.ModuleList(nn.Linear(convolutions[name].in_channels, hidden) for name in names)
            self.cell = nn.GRUCell(hidden, hidden)
            self.decoders = nn.ModuleList(nn.Linear(hidden, groups) for _ in names)
        self.explore, self.skip, self.generator = 0.0, True, torch.Generator().manual_seed(seed)
        self.states: list[Tensor] = []
        self._actions: list[Tensor] = []
        self._memory: Tensor | None = None

    def forward(self, images: Tensor) -> Tensor:
        self._memory, self._actions, self.states = None, [], []
        logits = self.network(images)
        self.actions = torch.stack(self._actions, dim=1)
        return logits

    def decision(self, number: int, x: Tensor) -> Tensor:
        """Decide on one layer, for each sample.

        number: number of the layer, in the order in which they run.
        x: its input, (samples, channels, height, width).

        Returns the actions, (samples,), in 1..groups.
        """
        self.states.append(x.detach().mean(dim=(2, 3)))
        with torch.no_grad():
            values, self._memory = self.step(number, self.states[-1], self._memory)
        actions = 1 + values.argmax(dim=1)
        if self.forced is not None:
            actions = self.forced[..., number].expand(len(x))
        elif self.explore:
            other = torch.randint(1, self.groups + 1, actions.shape, generator=self.generator)
            random = torch.rand(len(x), generator=self.generator) < self.explore
            actions = torch.where(random.to(x.device), other.to(x.device), actions)
        self._actions.append(actions)
        return actions

    def step(self, number: int, state: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Let the controller take one step, for one layer.

        number: number of the layer, in the order in which they run.
        state: (samples, channels), the input of the layer averaged over places.
        memory: (samples, hidden), what the recurrent cell keeps from the layers before; None for the first.

        Returns the values of the actions, (samples, groups), and the new memory.
        """
        memory = self.cell(torch.relu(self.encoders[number](state)), memory)
        return self.decoders[number](memory), memory

    def values(self, states: Sequence[Tensor]) -> Tensor:
        """Return the values of all actions, (samples, layers, groups).

        states: for each layer (samples, channels), its input averaged over places.
        """
        memory, result = None, []
        for number, state in enumerate(states):
            values, memory = self.step(number, state, memory)
            result.append(values)
        return torch.stack(result, dim=1)

    def multiply_adds(self, actions: Tensor) -> Tensor:
        """Count the multiply-adds of each input: the groups that its actions compute, and all other layers.

        actions: (samples, layers), in 1..groups.

        Returns (samples,). The controller's own are not included, see :meth:`overhead`.
        """
        spent = torch.cat([torch.zeros(len(self.costs), 1, dtype=torch.long), self.costs.cumsum(1)], dim=1)
        return self.constant + spent[torch.arange(len(self.costs)), actions].sum(1)

    def overhead(self) -> int:
        """Count the multiply-adds of the controller for one input."""
        linear = [*self.encoders, *self.decoders]
        cell = self.cell.weight_ih.numel() + self.cell.weight_hh.numel()
        return sum(layer.weight.numel() for layer in linear) + cell * len(self.encoders)


def _convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in model.named_modules() if type(module) is nn.Conv2d}


def targets(values: Tensor, actions: Tensor, losses: Tensor, *, penalty: float, scale: float) -> Tensor:
    """Compute what Q(s_i, a_i) is trained toward: the reward plus the best value of the next layer.

    values: (samples, layers, groups) values of all actions.
    actions: (samples, layers) actions taken, in 1..groups.
    losses: (samples,) cross-entropy of the answers.
    penalty: cost of each group after the first, p.
    scale: cost of a unit of cross-entropy, alpha.

    Returns (samples, layers).

    >>> values = torch.tensor([[[0.0, 0.0], [1.0, 2.0]]])
    >>> targets(values, torch.tensor([[2, 1]]), torch.tensor([3.0]), penalty=0.5, scale=1.0)
    tensor([[ 1.5000, -3.0000]])
    """
    # method
    rewards = -penalty * (actions - 1.0)
    rewards[:, -1] -= scale * losses
    rewards[:, :-1] += values[:, 1:].max(dim=2).values
    return rewards
    # end of method


def nest(
    network: RuntimeNetwork, split: Split, *, epochs: int, seed: int, **options: Unpack[FitOptions]
) -> RuntimeNetwork:
    """Train the network with random actions, so that the first groups of a layer work without the others.

    network: it is trained in place.
    split: samples to train on.
    epochs: number of epochs.
    seed: seed of the actions and of the order of the samples.
    options: how to train: learning_rate, momentum, weight_decay, batch_size, shift, optimizer and loss of
        :class:`lib.training.FitOptions`.

    Returns the same network.
    Raises TypeError for other options, before training, and ValueError for an empty split.
    """
    training.check_options(options)
    network.generator.manual_seed(seed)
    network.explore, network.skip = 1.0, False
    try:
        training.fit(network, split, epochs=epochs, seed=seed, **options)
    finally:
        network.explore, network.skip = 0.0, True
    return network


def learn(
    network: RuntimeNetwork,
    split: Split,
    *,
    penalty: float,
    seed: int,
    rounds: int = 10,
    updates: int = 100,
    scale: float = 1.0,
    learning_rate: float = 0.003,
    batch_size: int = 256,
) -> RuntimeNetwork:
    """Teach the controller to decide, by Q-learning; the weights of the network that it steers do not change.

    Each round adds one episode of every sample to the memory, and takes steps on batches from it. The probability of a
    random action falls from 1 to 0.1.

    network: its controller is trained in place.
    split: samples with labels.
    penalty: cost of each group after the first, p, 0 or more.
    seed: seed of the actions and batches.
    rounds: number of rounds, 1 or more. Default 10.
    updates: number of steps in each round, 1 or more. Default 100.
    scale: cost of a unit of cross-entropy, alpha, positive. Default 1.
    learning_rate: learning rate of Adam. Default 0.003.
    batch_size: episodes in each step, 1 or more. Default 256.

    Returns the same network.
    Raises ValueError for an empty split and numbers out of range.
    Source: lin2017rnp.
    """
    split.check_not_empty("to learn decisions from")
    if not (0 <= penalty < torch.inf and 0 < scale < torch.inf) or min(rounds, updates, batch_size) < 1:
        raise ValueError(
            "penalty must be 0 or more, scale, rounds, updates and batch_size positive, not"
            f" {penalty}, {scale}, {rounds}, {updates} and {batch_size}"
        )
    controller = [*network.encoders.parameters(), *network.cell.parameters(), *network.decoders.parameters()]
    optimizer = torch.optim.Adam(controller, lr=learning_rate)
    network.generator.manual_seed(seed)
    network.eval().skip = False
    states, actions, losses = [], [], []
    try:
        for round in range(rounds):
            network.explore = 1 - 0.9 * round / max(1, rounds - 1)
            for images, labels in zip(split.images.split(1000), split.labels.split(1000), strict=True):
                with torch.no_grad():
                    logits = running.logits(network, images)
                losses.append(nn.functional.cross_entropy(logits, labels, reduction="none"))
                states.append(network.states)
                actions.append(network.actions)
            seen = [torch.cat(episodes) for episodes in zip(*states, strict=True)]
            taken, lost = torch.cat(actions), torch.cat(losses)
            for _ in range(updates):
                batch = torch.randint(len(taken), (batch_size,), generator=network.generator)
                values = network.values([state[batch] for state in seen])
                wanted = targets(values.detach(), taken[batch], lost[batch], penalty=penalty, scale=scale)
                of_taken = values.gather(2, taken[batch][:, :, None] - 1)[:, :, 0]
                optimizer.zero_grad()
                nn.functional.mse_loss(of_taken, wanted).backward()
                optimizer.step()
    finally:
        network.explore, network.skip = 0.0, True
        optimizer.zero_grad()
    return network


def alternate(
    network: RuntimeNetwork,
    split: Split,
    *,
    penalty: float,
    epochs: int,
    seed: int,
    turns: int = 3,
    explore: float = 0.1,
    rounds: int = 10,
    updates: int = 100,
    scale: float = 1.0,
    **options: Unpack[FitOptions],
) -> RuntimeNetwork:
    """Train the controller and the network that it steers in turn, as the source does.

    network: both of its parts are trained in place; best after :func:`nest`.
    split: samples with labels.
    penalty: cost of each group after the first, p, 0 or more.
    epochs: passes over the split in which the network learns under the decisions, in each turn; 0 or more.
    seed: seed of the actions, the batches and the order of the samples.
    turns: how often each of the two learns, 1 or more. Default 3.
    explore: share of random actions while the network learns, in [0, 1]. Default 0.1.
    rounds, updates, scale: how the controller learns in each turn, see :func:`learn`.
    options: how the network is trained: learning_rate, momentum, weight_decay, batch_size, shift, optimizer and loss of
        :class:`lib.training.FitOptions`.

    Returns the same network.
    Raises TypeError for other options and ValueError for an empty split and numbers out of range, before training.
    Source: lin2017rnp.

    >>> from lib import models
    >>> network = RuntimeNetwork(models.lenet5(), torch.zeros(1, 1, 28, 28))
    >>> split = Split(torch.rand(4, 1, 28, 28), torch.arange(4))
    >>> network = alternate(network, split, penalty=0.1, epochs=1, seed=0, turns=1, rounds=1, updates=1)
    >>> network(split.images).shape, network.actions.shape
    (torch.Size([4, 10]), torch.Size([4, 2]))
    """
    training.check_options(options)
    if turns < 1 or epochs < 0 or not 0 <= explore <= 1:
        raise ValueError(
            f"turns must be 1 or more, epochs 0 or more and explore in [0, 1], not {turns}, {epochs} and {explore}"
        )
    for turn in range(turns):
        learn(network, split, penalty=penalty, seed=seed + turn, rounds=rounds, updates=updates, scale=scale)
        network.explore, network.skip = explore, False
        try:
            training.fit(network, split, epochs=epochs, seed=seed + turn, **options)
        finally:
            network.explore, network.skip = 0.0, True
    return network
