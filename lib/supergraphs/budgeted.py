r"""Budgeted super networks: learn which edges of a supergraph to keep, under a limit on what the network costs.

Each edge e has a gate that is open with probability :math:`\gamma_e`, the sigmoid of a number that is learned. For each
example x one mask H is drawn from all gates. Weights and gates minimize

.. math:: L(\theta, \Gamma) = \mathbb E_{(x, y)} \mathbb E_{H \sim \Gamma} \big[D\big], \qquad
    D = \Delta\big(f(x, E \circ H, \theta), y\big) + \lambda \max\big(0, C(H \circ E) - \mathbf C\big)

with the loss :math:`\Delta`, the cost C of a network and the budget :math:`\mathbf C` (veniat2018learning). The
expectation of D is linear in each :math:`\gamma_e`, so it is smallest where all of them are 0 or 1: at a single
architecture, which for a large :math:`\lambda` is the best one within the budget (Proposition 1). That holds for the
global optimum; the gradient need not get there,

.. math:: \nabla L = \mathbb E\big[(D - \tilde D)\, \nabla_\Gamma \log P(H \mid \Gamma) + \nabla_\theta \Delta\big]

(REINFORCE, williams1992reinforce). :math:`\tilde D` is the mean over the minibatch. In the end the gates with
:math:`\gamma_e > 0.5` stay open, and the network that they leave is taken out.

Four things differ from the published code. Costs are divided by that of the whole supergraph, so that one
:math:`\lambda` fits all kinds of cost. :math:`\tilde D` is the mean of the *other* examples, which removes the bias.
Adam moves the gates, since by plain gradient descent the gates of cheap edges move too slowly for short training. A
mask that connects nothing costs as much as the whole supergraph; otherwise closing every gate would meet a small
budget. Left out: the two-sided penalty ("abs").
"""

from collections.abc import Callable
from typing import Literal, Unpack, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lib import training
from lib.datasets import Split
from lib.supergraphs.shared.costs import Cost, check_limit
from lib.supergraphs.shared.graph import Graph
from lib.supergraphs.shared.supernetwork import Network, SuperNetwork, plain
from lib.training import UpdateOptions

Charge = Literal["sampled", "pruned"]


class StepOptions(UpdateOptions, total=False):
    """Options of :func:`lib.training.fit` that :func:`fit` passes on."""

    weight_decay: float
    batch_size: int
    shift: int
    flip: bool


class Gated(nn.Module):
    """A supergraph with a gate at each edge.

    network: the supergraph; it is used, not copied.
    start: the number whose sigmoid is each gate's first probability, finite; default 3, so 0.953. Lower ones draw masks
        that connect nothing.

    The answers are those of the network that the gates above 0.5 leave, in both modes.
    Raises ValueError for another start.

    >>> from lib.supergraphs.fabric import fabric
    >>> model = Gated(fabric(layers=2, size=4, width=4))
    >>> int(model.mask.sum()), round(model.entropy_bits(), 2)
    (11, 0.28)
    """

    logits: Tensor

    def __init__(self, network: SuperNetwork, *, start: float = 3.0) -> None:
        if not np.isfinite(start):
            raise ValueError(f"start must be a finite number, not {start}")
        super().__init__()
        self.network = network
        first = next(network.parameters())
        self.register_buffer("logits", first.new_full((len(network.graph.edges),), start).detach())

    @property
    def probabilities(self) -> Tensor:
        """The probability that each gate is open, (edges,)."""
        return self.logits.sigmoid()

    @property
    def mask(self) -> Tensor:
        """The gates above 0.5, bool (edges,)."""
        return self.probabilities > 0.5

    def entropy_bits(self) -> float:
        """Return the mean entropy of the gates in bits: 0 where all of them have decided, at most 1."""
        p = self.probabilities.double()
        return float((torch.special.entr(p) + torch.special.entr(1 - p)).mean() / np.log(2))

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images, self.mask)

    def plain(self) -> Network:
        """Take out the network that the gates above 0.5 leave: a copy, without gates, that answers the same.

        Raises ValueError where they do not connect input and output.
        """
        return plain(self.network, self.mask)


def gate_gradient(losses: Tensor, masks: Tensor, probabilities: Tensor) -> Tensor:
    r"""Estimate the gradient of the expected loss in the numbers whose sigmoids are the gates, without bias.

    .. math:: \frac1n \sum_k \Big(D_k - \frac1{n - 1} \sum_{j \ne k} D_j\Big) (H_k - \gamma)

    since :math:`\nabla \log P(H \mid \Gamma) = H - \gamma` for these numbers (veniat2018learning).

    losses: D of each example, (n,), two or more.
    masks: H that each example was given, (n, edges).
    probabilities: gamma, (edges,).

    Returns (edges,). Raises ValueError for fewer than two examples.

    >>> masks = torch.tensor([[True, False], [False, True]])
    >>> gate_gradient(torch.tensor([3.0, 1.0]), masks, torch.tensor([0.5, 0.5]))  # the first edge costs more
    tensor([ 1., -1.])
    """
    n = len(losses)
    if n < 2:
        raise ValueError(f"two examples or more are needed, since each is compared with the others, not {n}")
    # method
    advantages = (losses - losses.mean()) * n / (n - 1)
    return advantages @ (masks.to(probabilities.dtype) - probabilities) / n
    # end of method


def excess(masks: Tensor, graph: Graph, *, cost: Cost, budget: float, charge: Charge = "sampled") -> Tensor:
    r"""Compute what masks cost beyond a budget: :math:`\max(0, C(H \circ E) - \mathbf C)`.

    masks: bool, (n, edges). One that connects nothing costs as much as the whole supergraph.
    graph: of the supergraph.
    cost: what masks cost.
    budget: the cost that is free, in the unit of ``cost``.
    charge: "sampled" (default): C is the cost of all open gates; "pruned": only of those on an open path.

    Returns (n,) float64, in the unit of the cost.

    >>> from lib.supergraphs.fabric import trellis
    >>> from lib.supergraphs.shared.costs import Makespan
    >>> graph = trellis(layers=3, scales=4)
    >>> excess(torch.tensor([[True] * 26, [False] * 26]), graph, cost=Makespan(graph, machines=1), budget=20).tolist()
    [6.0, 6.0]
    """
    live = graph.live(masks)
    charged = torch.where(live.any(1), cost(masks if charge == "sampled" else live), cost.full)
    return (charged - budget).clamp(min=0)


def fit(
    model: Gated,
    split: Split,
    *,
    cost: Cost,
    budget: float,
    epochs: int,
    seed: int,
    strength: float = 10.0,
    gate_rate: float = 0.05,
    charge: Charge = "sampled",
    before_epoch: Callable[[int], None] | None = None,
    **options: Unpack[StepOptions],
) -> list[float]:
    """Learn weights and gates together, one mask for each example. In place.

    model: its gates need not be at their start.
    split: samples to train on, two or more; labels (n,), or (n, height, width) for a network that classifies pixels.
    cost: what masks cost: :class:`~lib.supergraphs.shared.costs.Sum` (of multiply-adds, parameters, a latency table) or
        :class:`~lib.supergraphs.shared.costs.Makespan`.
    budget: the largest cost, in the unit of ``cost``; at least that of the cheapest connected network.
    epochs: passes over the split.
    seed: integer, of the order of the samples and of the masks.
    strength: lambda, the loss that a whole supergraph's cost beyond the budget would add; 0 or more, default 10. Gates
        are random while they learn, so a large one ends well below the budget.
    gate_rate: learning rate of the gates, 0 or more; the same in all epochs. Default 0.05. With 0 they stay.
    charge: "sampled" (default): C is the cost of all open gates; "pruned": only of those on an open path.
    before_epoch: called with the number of each epoch, from 0, before it begins.
    options: how the weights learn: learning_rate, momentum, optimizer, weight_decay, batch_size, shift and flip of
        :class:`lib.training.FitOptions`.

    Returns the mean of D of each epoch. Raises TypeError for other options; ValueError, before anything is changed, for
    a budget below the cheapest network and other arguments; and for a loss that is not finite, before it moves a gate.

    >>> from lib.datasets import Split
    >>> from lib.supergraphs.fabric import fabric
    >>> from lib.supergraphs.shared.costs import Makespan
    >>> model = Gated(fabric(layers=2, size=4, width=4))
    >>> data = Split(torch.eye(4).expand(8, 1, 4, 4), torch.arange(8))
    >>> len(fit(model, data, cost=Makespan(model.network.graph, machines=1), budget=6, epochs=2, seed=0))
    2
    """
    training.check_options(options, kinds=StepOptions)
    split.check_not_empty("to train on")
    check_limit(budget, cost)
    if min(len(split), options.get("batch_size", 2)) < 2:
        raise ValueError("a batch needs two examples or more, since each is compared with the others")
    for name, value in (("strength", strength), ("gate_rate", gate_rate)):
        if not 0 <= value < np.inf:
            raise ValueError(f"{name} must be finite, 0 or more, not {value}")
    if not torch.isfinite(split.images).all():
        raise ValueError("the images hold NaN or infinity: finite ones are needed")
    if charge not in get_args(Charge):
        raise ValueError(f'charge must be "sampled" or "pruned", not {charge!r}')
    sampled = _Sampled(model, seed)
    gates = nn.Parameter(model.logits.clone())
    adam = torch.optim.Adam([gates], lr=gate_rate)

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        losses = functional.cross_entropy(outputs, labels, reduction="none").reshape(len(labels), -1).mean(1)
        if not torch.isfinite(losses).all():
            raise ValueError(f"the loss of a batch is {float(losses.mean().detach())}: try a lower learning rate")
        # method
        over = excess(sampled.masks, model.network.graph, cost=cost, budget=budget, charge=charge)
        penalties = strength * over.to(losses) / cost.full
        gates.grad = gate_gradient(losses.detach() + penalties, sampled.masks, model.probabilities)
        return losses.mean() + penalties.mean()  # the gradient of the weights is that of the first term
        # end of method

    def move_gates() -> None:
        adam.step()
        model.logits.copy_(gates.detach())

    return training.fit(
        sampled,
        split,
        epochs=epochs,
        seed=seed,
        loss=loss,
        before_epoch=before_epoch,
        after_step=move_gates,
        **options,
    )


class _Sampled(nn.Module):
    """The supergraph with one mask for each example in training mode, kept in ``masks``; otherwise with open gates."""

    def __init__(self, model: Gated, seed: int) -> None:
        super().__init__()
        self.model = model
        self.random = np.random.default_rng([seed, 1])  # not the random numbers that order the samples
        self.masks = torch.zeros(0)

    def forward(self, images: Tensor) -> Tensor:
        if not self.training:
            return self.model(images)
        p = self.model.probabilities
        draws = torch.from_numpy(self.random.random((len(images), len(p)))).to(p.device)
        self.masks = draws < p
        return self.model.network(images, self.masks)
