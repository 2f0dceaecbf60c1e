r"""Layers that compute only a few units for each input, found by hashing (spring2017scalable).

The units of a linear layer are the rows of its weight. For each input a small active set A of them is chosen; only

.. math:: z_i = w_i^\top x + b_i, \quad i \in A, \qquad |A| = \lfloor s n \rfloor

is computed, all other outputs are 0, and the gradient of every row outside of A is 0. Adaptive dropout
(:mod:`lib.hashing.shared.adaptive_dropout`) also prefers units with large outputs, but must compute all outputs to know
them. Hashing does not: the rows, with their biases, lie in hash tables, the input is hashed, and the rows that share
the most buckets with it are active. A row is more likely to share a bucket if its inner product with the input is
large.

As in the authors' code, the default is SimHash without an asymmetric transform, and neighboring inputs can be pooled
before they are hashed, which makes hashing cheaper. (On MNIST that code has keys of 6 bits, 100 tables and pools of 98
inputs; here, pools of 14 and keys of 4 bits were better on validation images.) Four differences:

- A always has the same size, so that all ways to choose it can be compared on equal terms; a unit that shares no bucket
  is active only where too few units share one;
- biases are hashed with their rows;
- a batch is one step, while the authors update after each sample, from several threads without locks;
- there is neither momentum nor weight decay, since both would change rows that are not active.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib import running, training
from lib.arguments import check_one_of
from lib.datasets import Split
from lib.hashing.inner_product_search import Candidates, share
from lib.hashing.shared.active_products import ActiveProducts
from lib.hashing.shared.linear_layers import SparseLinear, Work, check_linear, check_seed, replaced, uniform
from lib.hashing.simhash import check_vectors

SELECTIONS = ("lsh", "top", "random")


class SelectedLinear(SparseLinear):
    """A linear layer that computes the same share of its units for each input; the other outputs are 0.

    An activation with f(0) = 0, such as ReLU, should follow, so that inactive units stay at 0.

    layer: linear layer whose weight and bias it takes over.
    fraction: s, share of the units that are active, in (0, 1]; rounded down, at least 1. With 1 the layer is dense.
    selection: "lsh" (default), by hashing; "top", the units with the largest outputs, which costs as much as all of
        them; "random", a new draw in each forward pass in training mode, and always the same draw in evaluation mode.
    bits: K, of each key of the hash tables, in 1..64, default 4. This and the next four arguments are for "lsh" only.
    tables: L, 1 or more, default 100.
    probes: buckets that an input looks at in each table besides its own, in 0..bits, default 0.
    pool: how many neighboring inputs are added up before hashing, in 1..inputs, default 1.
    transform: "simhash" (default), "simple-lsh", "sign-alsh" or "l2-alsh" of
        :mod:`lib.hashing.inner_product_search`.
    seed: integer, 0 or more, of all draws. Default 0.

    After a forward pass ``active`` holds the numbers of the active units, (samples, |A|). ``age`` counts the forward
    passes in training mode since the tables were built, in which the rows may have moved.

    Raises ValueError for another kind of layer, numbers out of range, and weights that are not finite.
    Source: spring2017scalable.

    >>> layer = SelectedLinear(nn.Linear(784, 1000), fraction=0.05, pool=14)
    >>> outputs = layer(torch.rand(3, 784))
    >>> layer.active.shape, layer.work
    (torch.Size([3, 50]), Work(products=39200, selection=22800, dense=784000))
    """

    age: Tensor
    draw: Tensor  # the seed, and the number of draws so far

    def __init__(
        self,
        layer: nn.Linear,
        *,
        fraction: float,
        selection: str = "lsh",
        bits: int = 4,
        tables: int = 100,
        probes: int = 0,
        pool: int = 1,
        transform: str = "simhash",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_linear(layer, "the layer")
        check_one_of("selection", selection, SELECTIONS)
        self.outputs, self.inputs = layer.weight.shape
        if not 1 <= pool <= self.inputs:
            raise ValueError(f"pool must be in 1..{self.inputs}, the inputs of the layer, not {pool}")
        check_seed(seed)
        self.size, self.selection, self.probes, self.pool = share(self.outputs, fraction), selection, probes, pool
        self.weight, self.bias = layer.weight, layer.bias
        self.active = torch.zeros(0, self.size, dtype=torch.int64)
        self.register_buffer("age", torch.tensor(0))
        rows = self._rows()
        if selection == "lsh":
            self.index = Candidates(rows, transform=transform, bits=bits, tables=tables, seed=seed)
            self.index.counts(rows[:1], probes=probes)  # refuses wrong probes now, not in the first forward pass
        if selection == "random":
            self.register_buffer("draw", torch.tensor([seed, 0]))
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 1 or x.shape[-1] != self.inputs:
            raise ValueError(f"the inputs must be of shape (..., {self.inputs}), not {tuple(x.shape)}")
        flat = x.reshape(x.shape[:-1].numel(), self.inputs)
        self.active = self.choose(flat)
        if self.training:
            self.age += 1
        if self.size == self.outputs:
            return functional.linear(x, self.weight, self.bias)
        z = ActiveProducts.apply(flat, self.weight, self.bias, self.active)
        return z.reshape(*x.shape[:-1], self.outputs)

    @torch.no_grad()
    def choose(self, x: Tensor) -> Tensor:
        """Choose the active units of each sample.

        x: (samples, inputs) floats.

        Returns their numbers, (samples, |A|) int64.
        Raises ValueError for inputs that are not finite, where they are hashed.
        """
        if self.size == self.outputs or not len(x):
            return torch.arange(self.size, device=x.device).expand(len(x), self.size)
        # method
        if self.selection == "lsh":
            queries = self._hashable(x, None if self.bias is None else x.new_ones(len(x)))
            return self.index.retrieve(queries, self.size, probes=self.probes)
        if self.selection == "top":
            return functional.linear(x, self.weight, self.bias).topk(self.size, dim=1).indices
        return (
            uniform(self.draw, (len(x), self.outputs), advance=self.training)
            .to(x.device)
            .topk(self.size, dim=1)
            .indices
        )
        # end of method

    def _hashable(self, vectors: Tensor, last: Tensor | None) -> Tensor:
        """Vectors as they are hashed: pooled, with one value appended, a row's bias or 1 for an input.

        The sums over ``pool`` neighbors, divided by the root of ``pool``, project the vectors onto those that are
        constant over each pool: inner products with such vectors stay the same.
        """
        if self.pool > 1:
            padded = functional.pad(vectors, (0, -self.inputs % self.pool))
            vectors = padded.unflatten(1, (-1, self.pool)).sum(2) / self.pool**0.5
        return vectors if last is None else torch.cat([vectors, last.detach()[:, None]], dim=1)

    @torch.no_grad()
    def rebuild(self) -> None:
        """Fill the hash tables with the current rows, and set ``age`` to 0; only "lsh" has tables.

        Raises ValueError for weights that are not finite.
        """
        if self.selection == "lsh":
            self.index.rebuild(self._rows())
        self.age.zero_()

    def _rows(self) -> Tensor:
        """The rows as they are hashed."""
        rows = self._hashable(self.weight.detach(), self.bias)
        if not torch.isfinite(rows).all():
            raise ValueError("the weights hold NaN or infinity: finite ones are needed")
        return rows

    @property
    def work(self) -> Work:
        """The multiply-adds of one input vector."""
        dense, chooses = self.inputs * self.outputs, self.size < self.outputs
        hashing = self.index.tables.multiply_adds if self.selection == "lsh" else 0
        selection = {"lsh": hashing, "top": dense, "random": 0}[self.selection]
        return Work(self.inputs * self.size, selection if chooses else 0, dense)

    def extra_repr(self) -> str:
        return f"{self.inputs}, {self.outputs}, active={self.size}, selection={self.selection!r}"


def select(
    model: nn.Module,
    layers: Sequence[str],
    *,
    fraction: float,
    selection: str = "lsh",
    bits: int = 4,
    tables: int = 100,
    probes: int = 0,
    pool: int = 1,
    transform: str = "simhash",
    seed: int = 0,
) -> nn.Module:
    """Return a copy of a network whose named linear layers compute a share of their units for each input.

    model: any network; it is left as it was.
    layers: names of hidden linear layers, one or more: an output layer would give 0 for most classes.
    fraction, selection, bits, tables, probes, pool, transform: as for :class:`SelectedLinear`.
    seed: integer, 0 or more, of the first layer; each later layer takes the next number. Default 0.

    Raises ValueError for a layer that is not accepted, which it names, and as :class:`SelectedLinear` does.
    Source: spring2017scalable.

    >>> from lib import models
    >>> from lib.hashing.shared import linear_layers
    >>> model = select(models.mlp(hidden=(1000,), batch_norm=False), ["fc1"], fraction=0.05, pool=14)
    >>> linear_layers.work(model, (1, 28, 28))
    Work(products=49200, selection=22800, dense=794000)
    """

    def made(layer: nn.Linear, number: int) -> nn.Module:
        return SelectedLinear(
            layer,
            fraction=fraction,
            selection=selection,
            bits=bits,
            tables=tables,
            probes=probes,
            pool=pool,
            transform=transform,
            seed=seed + number,
        )

    return replaced(model, layers, made)


def rebuilding(model: nn.Module, every: int) -> Callable[[], None]:
    """Return a function for ``after_step`` of :func:`lib.training.fit` that rebuilds hash tables when they are old.

    model: any network.
    every: the age, in forward passes in training mode, at which the tables of a layer are rebuilt; 1 or more.

    Raises ValueError for an age below 1.

    >>> layer = SelectedLinear(nn.Linear(8, 20), fraction=0.1).train()
    >>> after_step = rebuilding(layer, every=2)
    >>> for step in range(3):
    ...     outputs = layer(torch.rand(4, 8))
    ...     after_step()
    >>> int(layer.age)
    1
    """
    if every < 1:
        raise ValueError(f"tables must be rebuilt every 1 step or more, not {every}")
    chosen = [module for module in model.modules() if isinstance(module, SelectedLinear)]

    def after_step() -> None:
        for layer in chosen:
            if layer.age >= every:
                layer.rebuild()

    return after_step


def fit(
    model: nn.Module,
    split: Split,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 0.05,
    batch_size: int = 32,
    rebuild: int = 40,
) -> list[float]:
    """Train a network by Adagrad, which changes no weight whose gradient is 0, and rebuild its hash tables on the way.

    A network without selected layers is trained in the same way. The tables are not rebuilt at the end, since the
    network was trained with the tables as they are.

    model: any network that takes the split's images, (n, ...) -> (n, classes); it is trained in place.
    split: the samples to train on; at least one.
    epochs: passes over the split, 0 or more.
    seed: integer, of the order of the samples.
    learning_rate: of the first step, positive, default 0.05; it falls to 0 along half a cosine.
    batch_size: samples per step, 1 or more, default 32.
    rebuild: steps after which the tables are rebuilt, 1 or more, default 40.

    Returns the mean loss of each epoch. Raises ValueError as :func:`lib.training.fit` does, and for other numbers.
    Source: spring2017scalable.
    """
    if not 0 < learning_rate < float("inf"):
        raise ValueError(f"learning_rate must be positive and finite, not {learning_rate}")
    after_step = rebuilding(model, rebuild)
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    return training.fit(
        model,
        split,
        epochs=epochs,
        seed=seed,
        batch_size=batch_size,
        weight_decay=0.0,
        # the fused form is five times as fast, but for the CPU only
        optimizer=lambda groups: torch.optim.Adagrad(groups, lr=learning_rate, fused=on_cpu or None),
        after_step=after_step,
    )


@torch.no_grad()
def recall(layer: SelectedLinear, x: Tensor) -> float:
    """Return the share of the units with the largest outputs that the layer would choose, over all samples.

    layer: it is left as it was.
    x: inputs of the layer, (samples, inputs) floats, one or more.

    Raises ValueError for no samples, and inputs that are not finite.

    >>> layer = SelectedLinear(nn.Linear(8, 20), fraction=0.1, selection="top")
    >>> recall(layer, torch.rand(5, 8))
    1.0
    """
    check_vectors(x, "the inputs", layer.inputs)
    with running.evaluating(layer):
        chosen = layer.choose(x)
    largest = functional.linear(x, layer.weight, layer.bias).topk(layer.size, dim=1).indices
    return (chosen[:, :, None] == largest[:, None, :]).any(1).double().mean().item()


def overlap(active: Tensor) -> float:
    r"""Return the mean Jaccard index of the active sets of consecutive samples, :math:`|A \cap B| / |A \cup B|`.

    The smaller it is, the more rarely two updates that run at the same time touch the same row.

    active: (samples, |A|), two samples or more, as a :class:`SelectedLinear` has them after a forward pass.

    Raises ValueError for fewer samples.

    >>> overlap(torch.tensor([[0, 1], [1, 2], [3, 4]]))  # 1/3 and 0
    0.16666666666666666
    """
    if active.dim() != 2 or len(active) < 2 or not active.numel():
        raise ValueError(f"active must be (samples, |A|) with two samples or more, not {tuple(active.shape)}")
    both = (active[1:, :, None] == active[:-1, None, :]).sum((1, 2)).double()
    return (both / (2 * active.shape[1] - both)).mean().item()
