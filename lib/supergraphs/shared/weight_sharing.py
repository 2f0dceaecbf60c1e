"""One set of weights for all candidates of a space: each child network takes its layers from it.

Two candidates share a layer if their networks have it under the same name and with the same description: what
``build`` makes decides what is shared. A child is the network that ``build`` makes, with the shared tensors in place of
its own, so it has exactly the layers of the candidate that is trained alone (pham2018efficient, section 2).
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from lib import running, training
from lib.datasets import Split

C = TypeVar("C")
STATISTICS = ("batch", "stored")
KEPT = 512  # networks that are kept for reuse; more of them could fill the memory


class SharedWeights(nn.Module, Generic[C]):
    """The weights that all candidates share; they are its parameters, and the statistics of batch norm its buffers.

    build: makes the network of a candidate from a seed, a module whose layers are its children. Layers with the same
        name and the same description are one layer.
    candidates: that together have all layers of the space, for instance all candidates.
    seed: of the initial weights.

    Raises ValueError for no candidate, and for a network with weights of its own outside of its layers.

    >>> from lib.search.chains import Chain, Chains
    >>> space = Chains(positions=2, pools=1)
    >>> shared = SharedWeights(space.build, space, seed=0)
    >>> a, b = shared.child(Chain(("conv3", "skip"))), shared.child(Chain(("conv3", "conv1")))
    >>> a.get_parameter("1_conv3.conv.weight") is b.get_parameter("1_conv3.conv.weight")
    True
    """

    def __init__(self, build: Callable[[C, int], nn.Module], candidates: Iterable[C], *, seed: int) -> None:
        super().__init__()
        self.build, self.seed = build, seed
        self.layers = nn.ModuleDict()
        self.places: dict[tuple[str, str], str] = {}
        self.covering: list[C] = []  # the candidates that brought a new layer
        self._built: dict[C, tuple[nn.Module, list[tuple[nn.Module, nn.Module]]]] = {}
        for candidate in candidates:
            network = build(candidate, seed)
            outside = [*network._parameters, *network._buffers]
            if outside:
                raise ValueError(
                    f"{type(network).__name__} has {outside[0]!r} outside of its layers: only layers are shared"
                )
            new = {place: layer for place, layer in _layers(network) if place not in self.places}
            for place, layer in new.items():
                self.places[place] = f"{place[0]}:{len(self.places)}"
                self.layers[self.places[place]] = layer
            if new or not self.covering:
                self.covering.append(candidate)
        if not self.covering:
            raise ValueError("there is no candidate: at least one is needed to know which layers are shared")

    def child(self, candidate: C, *, statistics: str = "stored", reuse: bool = False) -> nn.Module:
        """Return the network of a candidate with the shared tensors, in evaluation mode.

        candidate: of the space.
        statistics: with which batch norm normalizes in evaluation mode: "stored" (default), the moving averages, which
            all children that have the layer wrote; or "batch", those of the images at hand. With "batch" the child has
            no stored ones, and training does not change them.
        reuse: whether repeated calls for a candidate return the same network. That is faster, since building one takes
            as long as a small batch, but the child must be used at once. Default False.

        Raises ValueError for other statistics, and for a candidate with a layer that is not shared.
        """
        if statistics not in STATISTICS:
            raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}, not {statistics!r}")
        network, pairs = self._pairs(candidate, reuse)
        # method
        for own, shared in pairs:  # each module of the child, and that of the supergraph in its place
            own._parameters.update(shared._parameters)
            own._buffers.update(shared._buffers)
        # end of method
        if statistics == "batch":
            for module in network.modules():
                if isinstance(module, BatchNorm):
                    module.running_mean = module.running_var = module.num_batches_tracked = None
        return network.eval()

    def _pairs(self, candidate: C, reuse: bool) -> tuple[nn.Module, list[tuple[nn.Module, nn.Module]]]:
        """The network of a candidate, and each module of its layers with the shared one."""
        if reuse and candidate in self._built:
            return self._built[candidate]
        network = self.build(candidate, self.seed)
        pairs = []
        for place, layer in _layers(network):
            if place not in self.places:
                raise ValueError(f"{candidate} has a layer {place[0]!r} that none of the first candidates had")
            shared = self.layers[self.places[place]]
            pairs += [(layer.get_submodule(name), part) for name, part in shared.named_modules()]
        if reuse:
            if len(self._built) == KEPT:
                self._built.clear()
            self._built[candidate] = network, pairs
        return network, pairs


def _layers(network: nn.Module) -> Iterator[tuple[tuple[str, str], nn.Module]]:
    """The layers with parameters or buffers, by name and description."""
    for name, layer in network.named_children():
        if next(layer.parameters(), None) is not None or next(layer.buffers(), None) is not None:
            yield (name, repr(layer)), layer


class _Drawn(nn.Module, Generic[C]):
    """The child that comes next in a queue, as one network that can be trained."""

    def __init__(self, shared: SharedWeights[C]) -> None:
        super().__init__()
        self.shared, self.queue = shared, list[C]()

    def go_on(self) -> None:
        del self.queue[0]

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            return self.shared.child(self.queue[0], reuse=True).train()(images)
        # all layers, for whoever tries which memory layout is safe for them
        return torch.stack([self.shared.child(candidate)(images) for candidate in self.shared.covering]).sum(0)


def train_shared(
    shared: SharedWeights[C],
    draw: Callable[[int], list[C]],
    split: Split,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 0.1,
    batch_size: int = 128,
    before_epoch: Callable[[int], None] | None = None,
) -> int:
    """Train the shared weights: each batch trains one child that is drawn for it (pham2018efficient, section 2.2). In
    place.

    shared: the weights.
    draw: gives as many candidates as it is asked for; it is called before each epoch.
    split: samples to train on.
    epochs, seed, learning_rate, batch_size: of :func:`lib.training.fit`, with its defaults; momentum 0.9.
    before_epoch: called with the number of each epoch, from 0, before candidates are drawn for it.

    Returns the number of passes: samples that went forward and backward through a child.
    Raises ValueError as :func:`lib.training.fit` does, and where ``draw`` gives another number of candidates.

    >>> from lib import datasets
    >>> from lib.search.chains import Chains
    >>> space = Chains(positions=2, pools=1, size=28)
    >>> shared = SharedWeights(space.build, space, seed=0)
    >>> digits = datasets.load("digits", first=(50, 1, 1)).train
    >>> train_shared(shared, lambda n: list(space)[:n], digits, epochs=2, seed=0)
    100
    """
    drawn = _Drawn(shared)

    def refill(epoch: int) -> None:
        if before_epoch is not None:
            before_epoch(epoch)
        wanted = len(training.batches(len(split), batch_size))
        drawn.queue = list(draw(wanted))
        if len(drawn.queue) != wanted:
            raise ValueError(f"draw gave {len(drawn.queue)} candidates: an epoch needs {wanted}, one for each batch")

    # SGD without `fused`, which fails where a parameter has its first gradient in a later step
    training.fit(
        drawn,
        split,
        epochs=epochs,
        seed=seed,
        optimizer=lambda groups: torch.optim.SGD(groups, learning_rate, momentum=0.9, nesterov=True),
        batch_size=batch_size,
        before_epoch=refill,
        after_step=drawn.go_on,
    )
    return epochs * len(split)


@torch.no_grad()
def accuracy_pct(
    shared: SharedWeights[C], candidate: C, split: Split, *, statistics: str = "batch", batch_size: int = 1000
) -> float:
    """Return the share of samples that a child classifies right with the shared weights, in percent.

    shared: the weights; they are not changed.
    candidate: of the space.
    split: samples to evaluate on; at least one, with statistics of the batch at least two.
    statistics: of batch norm, "batch" (default) or "stored". The stored ones are averages over many children, and fit
        none of them.
    batch_size: samples per forward pass, 1 or more (with statistics of the batch 2 or more), default 1000.

    Raises ValueError for other statistics, and for a split or batch_size below these.
    """
    split.check_not_empty("to evaluate on")
    least = 2 if statistics == "batch" else 1
    if len(split) < least or batch_size < least:
        raise ValueError(
            f"{len(split)} samples in batches of {batch_size}: {least} or more are needed with {statistics} statistics"
        )
    child = shared.child(candidate, statistics=statistics, reuse=True)
    right = 0
    for batch in training.batches(len(split), batch_size):
        answers = running.class_logits(child, split.images[batch])
        right += int((answers.argmax(1) == split.labels[batch]).sum())
    return 100 * right / len(split)
