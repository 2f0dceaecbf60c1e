r"""Convolutional neural fabrics: one trellis of convolutions that holds exponentially many networks.

A node is a response map at layer :math:`\ell` and scale s; scale 0 has the size of the image, and each next scale half
of it, down to one pixel. A node of layer :math:`\ell` reads the nodes of the layer before at the finer, the same and
the coarser scale,

.. math:: a(s, c, \ell) = \operatorname{relu}\sum_{i, j} \operatorname{conv}_{3 \times 3}\big(a(c + i, s + j, \ell - 1),
    w^{ij}_{sc\ell}\big), \qquad j \in \{-1, 0, 1\}

(saxena2016convolutional). A finer map is read with stride 2; a coarser one is first doubled, with zeros between its
pixels. Within the first layer the image is handed down from scale to scale. Within the last layer the answers are
collected: downwards to one pixel to classify images, upwards to the size of the image to classify pixels.
Each path from input to output is a network, and so is each connected subgraph. The whole fabric is trained at once, as
an ensemble of all its paths, which share weights. There are S - 1 + (L - 1)(3S - 2) + S - 1 edges.

Batch norm follows each convolution, as in the fabrics of veniat2018learning; the authors normalize each node once,
after the sum, but then a node without inputs is not zero.
Left out: channels that double from scale to scale, and dropout.
"""

from collections import OrderedDict
from typing import Literal, get_args

from torch import nn

from lib.arguments import check_sizes
from lib.seeding import seeded
from lib.supergraphs.shared.convolutions import Interleaved, Neighbors, normalized
from lib.supergraphs.shared.graph import Edge, Graph
from lib.supergraphs.shared.supernetwork import SuperNetwork

Task = Literal["classification", "segmentation"]
Connections = Literal["dense", "sparse"]


def trellis(*, layers: int, scales: int, task: Task = "classification") -> Graph:
    """Give the graph of a fabric. Its nodes are called "l0s0" and so on: layer and scale.

    layers: L, 2 or more.
    scales: S, 1 or more.
    task: "classification" (default): the output is the coarsest scale of the last layer; "segmentation": the finest.

    Raises ValueError for other arguments.

    >>> graph = trellis(layers=8, scales=6)
    >>> len(graph.edges), graph.paths()
    (122, 7442)
    """
    check_sizes({"layers": layers, "scales": scales}, {"layers": 2})
    if task not in get_args(Task):
        raise ValueError(f'task must be "classification" or "segmentation", not {task!r}')
    last, coarsest = layers - 1, scales - 1
    # method
    down = [(s, s + 1) for s in range(coarsest)]
    pairs = [((0, s), (0, t)) for s, t in down]
    for layer in range(1, layers):
        for s in range(scales):
            pairs += [((layer - 1, t), (layer, s)) for t in (s - 1, s, s + 1) if 0 <= t <= coarsest]
    pairs += [((last, s), (last, t)) if task == "classification" else ((last, t), (last, s)) for s, t in down]
    # end of method
    named = [(_name(*source), _name(*target)) for source, target in pairs]
    edges = tuple(Edge(f"{source}_{target}", source, target) for source, target in named)
    return Graph(edges, _name(0, 0), _name(last, coarsest if task == "classification" else 0))


def _name(layer: int, scale: int) -> str:
    return f"l{layer}s{scale}"


def fabric(
    seed: int = 0,
    *,
    layers: int,
    size: int,
    width: int,
    channels: int = 1,
    classes: int = 10,
    connections: Connections = "dense",
    task: Task = "classification",
) -> SuperNetwork:
    """Build a fabric with random weights.

    seed: of the weights, default 0.
    layers: L, 2 or more.
    size: height and width of the images in pixels, a power of two; there are S = log2(size) + 1 scales.
    width: channels of each node, 1 or more.
    channels: of the images, default 1.
    classes: 2 or more, default 10.
    connections: "dense" (default): each channel reads all channels; "sparse": its two neighbors and itself.
    task: "classification" (default), output (n, classes), or "segmentation", output (n, classes, size, size).

    Input (n, channels, size, size). Raises ValueError for other arguments, before anything is built.

    >>> import torch
    >>> network = fabric(layers=3, size=8, width=4)
    >>> network(torch.zeros(2, 1, 8, 8)).shape, len(network.graph.edges)
    (torch.Size([2, 10]), 26)
    """
    sizes = {"layers": layers, "size": size, "width": width, "channels": channels, "classes": classes}
    check_sizes(sizes, {"layers": 2})
    if size & (size - 1):
        raise ValueError(f"size must be a power of two, not {size}: pad or resize the images")
    if connections not in get_args(Connections):
        raise ValueError(f'connections must be "dense" or "sparse", not {connections!r}')
    graph = trellis(layers=layers, scales=size.bit_length(), task=task)
    with seeded(seed):
        stem = normalized(channels, width)
        edges = {edge.name: _convolution(edge, width, connections) for edge in graph.edges}
        head = nn.Conv2d(width, classes, 1) if task == "segmentation" else _flat(width, classes)
    return SuperNetwork(graph, edges, stem=stem, head=head, channels=channels, size=size)


def _flat(width: int, classes: int) -> nn.Sequential:
    """The 1 x 1 convolution of a map of one pixel."""
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=nn.Linear(width, classes)))


def _convolution(edge: Edge, width: int, connections: Connections) -> nn.Sequential:
    source, target = (int(node.split("s")[1]) for node in (edge.source, edge.target))
    stride = 2 if target > source else 1
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if target < source:
        layers["interleave"] = Interleaved()
    if connections == "dense":
        layers["conv"] = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
    else:
        layers["conv"] = Neighbors(width, stride)
    layers["norm"] = nn.BatchNorm2d(width)
    return nn.Sequential(layers)
