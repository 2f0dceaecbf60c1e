"""A residual network as a supergraph: blocks and skips that can be left out, and blocks from the stage before."""

from collections.abc import Sequence

from torch import nn

from lib.arguments import check_sizes
from lib.seeding import seeded
from lib.supergraphs.shared.convolutions import normalized
from lib.supergraphs.shared.graph import Edge, Graph
from lib.supergraphs.shared.supernetwork import SuperNetwork


def residual_fabric(
    seed: int = 0, *, widths: Sequence[int], blocks: int, channels: int = 1, classes: int = 10
) -> SuperNetwork:
    """Build a residual network whose parts are edges, with shortcuts across its stages (veniat2018learning).

    Block n of a stage and its skip lead from node n - 1 to node n of the stage: a block is two 3 x 3 convolutions, a
    skip the identity, or a 1 x 1 convolution where the width changes. Each stage after the first begins with stride 2,
    and is also reached from the middle of the stage before, by one block and one skip to each node: node n of the later
    stage from node ``blocks`` - 2 - n of the earlier one. A path through them is a shallower network. Without them, it
    is a residual network.

    seed: of the weights, default 0.
    widths: channels of each stage, one or more stages.
    blocks: in each stage, 1 or more.
    channels: of the images, default 1.
    classes: 2 or more, default 10.

    Input (n, channels, height, width), output (n, classes).
    Left out: the published code's shortcuts from other places of the stage before, and those that jump over a stage.
    Raises ValueError for other sizes.

    >>> network = residual_fabric(widths=(4, 8), blocks=3)
    >>> len(network.graph.edges), network.graph.paths()
    (16, 104)
    """
    check_sizes({f"widths[{i}]": width for i, width in enumerate(widths)})
    check_sizes({"stages": len(widths), "blocks": blocks, "channels": channels, "classes": classes})
    edges: list[Edge] = []
    layers: dict[str, nn.Module] = {}

    def join(source: str, target: str, inputs: int, outputs: int, stride: int) -> None:
        block = nn.Sequential(*normalized(inputs, outputs, stride=stride), nn.ReLU(), *normalized(outputs, outputs))
        same = inputs == outputs and stride == 1
        skip = nn.Identity() if same else normalized(inputs, outputs, kernel=1, stride=stride)
        for kind, layer in (("block", block), ("skip", skip)):
            edges.append(Edge(f"{kind}_{source}_{target}", source, target))
            layers[edges[-1].name] = layer

    with seeded(seed):
        stem, last = normalized(channels, widths[0]), "input"
        for stage, width in enumerate(widths):
            before = widths[max(0, stage - 1)]
            for n in range(blocks):
                node, first = f"s{stage}n{n}", n == 0
                join(last, node, before if first else width, width, 2 if first and stage else 1)
                if stage and n <= blocks - 2:
                    join(f"s{stage - 1}n{blocks - 2 - n}", node, before, width, 2)
                last = node
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
    return SuperNetwork(Graph(tuple(edges), "input", last), layers, stem=stem, head=head, channels=channels)


def idle(network: SuperNetwork) -> list[str]:
    """Name the edges that compute nothing, for :class:`lib.supergraphs.shared.costs.Makespan`.

    network: any supergraph.

    >>> idle(residual_fabric(widths=(4,), blocks=2))
    ['skip_input_s0n0', 'skip_s0n0_s0n1']
    """
    return [name for name, layer in network.layers.items() if isinstance(layer, nn.Identity)]
