"""Networks that are graphs of layers: a supergraph with its masks, and what a mask leaves of it as a plain network."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lib import running
from lib.supergraphs.shared.graph import Graph


class Network(nn.Module):
    r"""A layer at each edge of a graph; a node adds up what its edges bring.

    .. math:: a_j = \operatorname{relu}\Big(\sum_{e : i \to j} f_e(a_i)\Big)

    graph: its nodes and edges.
    layers: edge name -> layer.
    stem: from the images to what the input node holds, before its ReLU.
    head: from the output node to the answers.
    channels: of the images, 1 or more.
    size: height and width of the images in pixels; default None: any.

    Input (n, channels, height, width), output: what the head makes of it.
    Raises ValueError for layers that are not those of the edges and, in the forward pass, for other images.

    >>> from lib.supergraphs.shared.graph import Edge
    >>> chain = Graph((Edge("conv", "in", "out"),), "in", "out")
    >>> layers = {"conv": nn.Conv2d(4, 4, 3)}
    >>> network = Network(chain, layers, stem=nn.Conv2d(1, 4, 3), head=nn.Flatten(), channels=1)
    >>> tuple(network(torch.zeros(2, 1, 6, 6)).shape)
    (2, 16)
    """

    def __init__(
        self,
        graph: Graph,
        layers: Mapping[str, nn.Module],
        *,
        stem: nn.Module,
        head: nn.Module,
        channels: int,
        size: int | None = None,
    ) -> None:
        names = [edge.name for edge in graph.edges]
        if set(names) != set(layers):
            raise ValueError(f"edges and layers differ in {', '.join(sorted(set(names) ^ set(layers)))}")
        super().__init__()
        self.graph, self.channels, self.size = graph, channels, size
        self.stem, self.head = stem, head
        self.layers = nn.ModuleDict({name: layers[name] for name in names})

    def forward(self, images: Tensor) -> Tensor:
        return self._answers(images, None)

    def _answers(self, images: Tensor, live: Tensor | None) -> Tensor:
        """The answers with the edges of a pruned mask, (edges,) or (n, edges); None: all of them."""
        shape = (self.channels, *images.shape[2:]) if self.size is None else (self.channels, self.size, self.size)
        if images.dim() != 4 or images.shape[1:] != shape:
            wanted = "height, width" if self.size is None else f"{self.size}, {self.size}"
            raise ValueError(f"images of {tuple(images.shape)}: this network takes (n, {self.channels}, {wanted})")
        graph = self.graph
        everywhere = [True] * len(graph.edges) if live is None else live.reshape(-1, len(graph.edges)).all(0).tolist()
        somewhere = everywhere if live is None else live.reshape(-1, len(graph.edges)).any(0).tolist()
        held = {graph.input: torch.relu(self.stem(images))}
        for node in graph.nodes:
            total: Tensor | None = None
            # method
            for i in graph.entering[node]:
                if not somewhere[i]:
                    continue
                brought = self.layers[graph.edges[i].name](held[graph.edges[i].source])
                if live is not None and not everywhere[i]:
                    brought = brought * live[:, i].to(brought.dtype).reshape(-1, 1, 1, 1)
                total = brought if total is None else total + brought
            if total is not None:
                held[node] = torch.relu(total)
            # end of method
        last = held[graph.output] if graph.output in held else self._nothing(held[graph.input])
        return self.head(last)

    @torch.no_grad()
    def _nothing(self, x: Tensor) -> Tensor:
        """Zeros of the shape that the output node has: what it holds where no edge leads to it."""
        _, path = self.graph.cheapest_path(dict.fromkeys(self.layers, 1.0))
        with running.evaluating(self):  # batch norm must not learn from this
            for i in self.graph.order:
                x = self.layers[self.graph.edges[i].name](x) if path[i] else x
        return torch.zeros_like(x)


class SuperNetwork(Network):
    """A network whose edges can be masked, for all examples alike or for each example on its own.

    The arguments are those of :class:`Network`.

    An edge counts only if it lies on a path from input to output whose edges are all on: a node without inputs holds
    zeros, and nothing that it leads to is computed. So the biases of a layer that nothing reaches do not leak into the
    answers, and :func:`plain` computes the same. (The published code multiplies by the mask and lets them leak.)
    """

    def forward(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Compute the answers of the masked network.

        images: (n, channels, height, width).
        masks: bool, True = on, (edges,) or (n, edges), one row for each example; default None: all edges are on. Where
            a mask connects nothing, the answer is the head's to zeros.

        Raises ValueError for masks of another type or shape, and for other images.
        """
        if masks is None:
            return self._answers(images, None)
        live = self.graph.live(masks)
        if masks.dim() == 2 and len(masks) != len(images):
            raise ValueError(f"{len(masks)} masks for {len(images)} images: one for each image is needed, or one alone")
        return self._answers(images, live.to(images.device))


def plain(network: SuperNetwork, mask: Tensor) -> Network:
    """Take out what a mask leaves of a supergraph: a network of only its live edges, which computes the same.

    network: not changed; the new network has copies of its layers.
    mask: bool, (edges,), True = on.

    Raises ValueError for a mask that does not connect input and output.

    >>> import numpy as np
    >>> from lib.supergraphs.fabric import fabric
    >>> whole = fabric(layers=3, size=8, width=4)
    >>> chain = plain(whole, whole.graph.random_path(np.random.default_rng(0)))
    >>> len(whole.graph.edges), len(chain.graph.edges)
    (26, 5)
    """
    live = network.graph.live(mask)
    if mask.dim() != 1:
        raise ValueError(f"one mask is needed, ({len(network.graph.edges)},), not {tuple(mask.shape)}")
    if not live.any():
        raise ValueError(
            f"the mask keeps {int(mask.sum())} edges, and no path from {network.graph.input!r} to"
            f" {network.graph.output!r} among them: it leaves no network"
        )
    edges = tuple(edge for edge, on in zip(network.graph.edges, live.tolist(), strict=True) if on)
    return Network(
        Graph(edges, network.graph.input, network.graph.output),
        {edge.name: copy.deepcopy(network.layers[edge.name]) for edge in edges},
        stem=copy.deepcopy(network.stem),
        head=copy.deepcopy(network.head),
        channels=network.channels,
        size=network.size,
    ).train(network.training)
