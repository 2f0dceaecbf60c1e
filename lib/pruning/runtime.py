r"""Runtime neural pruning (RNP): a recurrent network decides, for each input, how many channels each layer computes.

The output channels of convolution i form k groups. From the input of the layer, averaged over places, a recurrent cell
and a linear decoder give k values; the action :math:`a_i \in \{1, \dots, k\}` computes groups :math:`1, \dots, a_i`
and leaves the others at zero (lin2017rnp). Groups cost, and so does a wrong answer at the end:

.. math:: r_i = -p\,(a_i - 1) - [i = \text{last}]\; \alpha\, L_{cls}.

The decisions are learned by Q-learning: :math:`Q(s_i, a_i) \leftarrow r_i + \max_a Q(s_{i+1}, a)`, with nothing to come
behind the last layer, and with actions that are random with a probability that falls. No weight goes: the network keeps
them all, and the choice is made anew for every input.

Decisions are learned from a memory of episodes: what each layer saw, what was done, and what it led to. One difference
from the source: the network is first trained with random actions (:func:`nest`), so that each group works without those
behind it.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib import measure, running, training
from lib.datasets import Split


class Grouped(nn.Module):
    """A convolution that computes, for each sample, the first ``actions`` groups of its output channels."""

    def __init__(self, layer: nn.Conv2d, groups: int, decide: "RuntimeNetwork", number: int):
        super().__init__()
        self.layer, self.number = layer, number
        self.sizes = [len(part) for part in torch.arange(layer.out_channels).tensor_split(groups)]
        self.decide = [decide]  # in a list, so that it is no submodule

    def forward(self, x: Tensor) -> Tensor:
        actions = self.decide[0].decision(self.number, x)
        if (actions == len(self.sizes)).all():
            return self.layer(x)
        if not self.decide[0].skip:
            computed = torch.arange(len(self.sizes)) < actions[:, None]  # (samples, groups)
            channels = computed.repeat_interleave(torch.tensor(self.sizes), dim=1)
            return self.layer(x) * channels[:, :, None, None]
        weights = self.layer.weight.split(self.sizes)
        biases = [None] * len(weights) if self.layer.bias is None else self.layer.bias.split(self.sizes)
        parts = []
        for group, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            rows = (actions > group).nonzero().flatten()  # the others are not computed
            part = self.layer._conv_forward(x[rows], weight, bias)
            parts.append(part.new_zeros(len(x), *part.shape[1:]).index_copy(0, rows, part))
        return torch.cat(parts, dim=1)


class RuntimeNetwork(nn.Module):
    """A copy of a network with a controller that takes, for each input and layer, the action of the largest value.

    layers: names of the convolutions to decide on; by default all that have a channel for each group and are not
    grouped themselves. After a forward pass ``actions`` is (samples, layers), in 1..groups, and ``states`` has what
    each layer saw, (samples, channels). ``forced``, if not None, has actions to take instead, (layers,) or (samples,
    layers). ``skip``: compute only what is decided; without, all is computed and the rest set to zero, which is equal
    and faster for a batch. ``costs`` is (layers, groups): multiply-adds of each group of channels for one input.
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
        convolutions = {name: m for name, m in model.named_modules() if type(m) is nn.Conv2d}
        fit = [n for n, m in convolutions.items() if m.groups == 1 and m.out_channels >= groups]
        names = fit if layers is None else list(layers)
        for name in names:
            if name not in fit:
                raise ValueError(f"layer {name!r} is no convolution of {groups} groups of channels: accepted are {fit}")
        if not names:
            raise ValueError(f"{type(model).__name__} has no convolution with at least {groups} channels to decide on")
        modes = {module: module.training for module in model.modules()}
        with torch.no_grad(), running.captured(model.eval(), names) as flow:
            running.logits(model, example_input[:1])
        for module, mode in modes.items():
            module.training = mode
        places = {name: output[0, 0].numel() for name, output in flow.outputs.items()}
        names = list(places)  # in the order in which they run
        self.network, self.groups, self.forced = copy.deepcopy(model), groups, None
        sizes = []
        for number, name in enumerate(names):
            grouped = Grouped(self.network.get_submodule(name), groups, self, number)
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

    def forward(self, images: Tensor) -> Tensor:
        self._memory, self._actions, self.states = None, [], []
        logits = self.network(images)
        self.actions = torch.stack(self._actions, dim=1)
        return logits

    def decision(self, number: int, x: Tensor) -> Tensor:
        """The actions of one layer, (samples,), for its input (samples, channels, height, width)."""
        self.states.append(x.detach().mean(dim=(2, 3)))
        with torch.no_grad():
            values, self._memory = self.step(number, self.states[-1], self._memory)
        actions = 1 + values.argmax(dim=1)
        if self.forced is not None:
            actions = self.forced[..., number].expand(len(x))
        elif self.explore:
            other = torch.randint(1, self.groups + 1, actions.shape, generator=self.generator)
            actions = torch.where(torch.rand(len(x), generator=self.generator) < self.explore, other, actions)
        self._actions.append(actions)
        return actions

    def step(self, number: int, state: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """Values of the actions of one layer, (samples, groups), and the recurrent cell's new memory."""
        memory = self.cell(torch.relu(self.encoders[number](state)), memory)
        return self.decoders[number](memory), memory

    def values(self, states: Sequence[Tensor]) -> Tensor:
        """Values of all actions, (samples, layers, groups), from what each layer saw, (samples, channels)."""
        memory, found = None, []
        for number, state in enumerate(states):
            values, memory = self.step(number, state, memory)
            found.append(values)
        return torch.stack(found, dim=1)

    def multiply_adds(self, actions: Tensor) -> Tensor:
        """Multiply-adds of each input, (samples,): those of the groups that its actions (samples, layers) compute, and
        of all other layers. The controller's own are not among them (see :meth:`overhead`)."""
        spent = torch.cat([torch.zeros(len(self.costs), 1, dtype=torch.long), self.costs.cumsum(1)], dim=1)
        return self.constant + spent[torch.arange(len(self.costs)), actions].sum(1)

    def overhead(self) -> int:
        """Multiply-adds of the controller for one input."""
        linear = [*self.encoders, *self.decoders]
        cell = self.cell.weight_ih.numel() + self.cell.weight_hh.numel()
        return sum(layer.weight.numel() for layer in linear) + cell * len(self.encoders)


def targets(values: Tensor, actions: Tensor, losses: Tensor, *, penalty: float, scale: float) -> Tensor:
    """What Q(s_i, a_i) moves to, (samples, layers): the reward and the best value of the next layer.

    values: (samples, layers, groups). actions: (samples, layers) in 1..groups. losses: (samples,) L_cls.
    """
    rewards = -penalty * (actions - 1.0)
    rewards[:, -1] -= scale * losses
    rewards[:, :-1] += values[:, 1:].max(dim=2).values
    return rewards


def nest(network: RuntimeNetwork, split: Split, *, epochs: int, seed: int, **fit: object) -> RuntimeNetwork:
    """Train the network under random actions, so that the first groups of a layer do without the rest.

    fit: arguments of :func:`lib.training.fit`. In place; returns the network.
    """
    network.generator.manual_seed(seed)
    network.explore, network.skip = 1.0, False
    try:
        training.fit(network, split, epochs=epochs, seed=seed, **fit)
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
    """Teach the controller by Q-learning; the network that it steers stays as it is.

    penalty: what each further group costs (p). scale: what a unit of cross-entropy costs (alpha). Each round adds an
    episode of every sample to the memory and takes ``updates`` steps on batches from it; the probability of a random
    action falls from 1 to 0.1. In place; returns the network.
    """
    if len(split) == 0:
        raise ValueError("the split is empty: at least one sample is needed to learn decisions from")
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
            seen, did, lost = (
                [torch.cat(each) for each in zip(*states, strict=True)],
                torch.cat(actions),
                torch.cat(losses),
            )
            for _ in range(updates):
                batch = torch.randint(len(did), (batch_size,), generator=network.generator)
                values = network.values([state[batch] for state in seen])
                wanted = targets(values.detach(), did[batch], lost[batch], penalty=penalty, scale=scale)
                taken = values.gather(2, did[batch][:, :, None] - 1)[:, :, 0]
                optimizer.zero_grad()
                nn.functional.mse_loss(taken, wanted).backward()
                optimizer.step()
    finally:
        network.explore, network.skip = 0.0, True
        optimizer.zero_grad()
    return network
