r"""Path-level transformation: one layer becomes a tree of branches that computes the same (cai2018path).

A layer is replaced by several branches. A scheme says how they get its input and how their outputs are merged:

=================  ============================================  =====================================================
scheme             branches                                      layers
=================  ============================================  =====================================================
replicate-add      copies, whose mean is taken                   any
replicate-concat   each computes a part of the outputs           convolutions without groups, linear layers
split-add          each reads a part of the inputs               convolutions without groups, linear layers
split-concat       each has a part of the channels from in to    grouped and depthwise convolutions, batch norm,
                   out                                           pooling, activations, the identity
=================  ============================================  =====================================================

:func:`insert_identity` adds an identity edge after any layer, which can itself be branched, so trees grow: at most
three branches deep, as in the paper. All these steps keep the function. :func:`replace_identity`, which puts an
operation in the place of an identity edge, does not.

Copies of a layer have the same gradient and stay the same forever: ``noise`` breaks the symmetry; default 0.

Branches are modules, so any network will do, without tracing. Left out: the tree-LSTM controller that chooses the
steps, and that of cai2018efficient, which chooses layers of a chain to widen or deepen (:mod:`network_morphism
<lib.morphism.network_morphism>` has these steps); :func:`grow` chooses at random.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.arguments import check_one_of, check_sizes
from lib.morphism.shared.branches import Branches
from lib.morphism.shared.checks import check, check_noise, draw, proved, replaced
from lib.morphism.shared.layers import layer_named
from lib.morphism.shared.parts import by_channel, dense
from lib.seeding import seeded
from lib.structure.apart import answers, copied, twin

SCHEMES = ("replicate-add", "replicate-concat", "split-add", "split-concat")
DEEPEST = 3
EDGES = ("separable3", "separable5", "separable7", "convolution1", "average3", "maximum3")


@torch.no_grad()
def branch(
    model: nn.Module,
    layer: str,
    example: Tensor,
    *,
    scheme: str = "replicate-add",
    branches: int = 2,
    noise: float = 0.0,
    seed: int = 0,
) -> nn.Module:
    """Replace a layer by branches that together compute the same.

    The branches are ``<layer>.branches.0``, ``<layer>.branches.1``, ..., and can be branched again.

    model: any network; not changed.
    layer: any module with one tensor in and one out; the table above says which schemes fit it.
    example: one or more inputs, (n, ...).
    scheme: "replicate-add" (default), "replicate-concat", "split-add" or "split-concat".
    branches: how many, 2 or more; default 2.
    noise: standard deviation of what is added to the copies of "replicate-add", in units of that of each parameter; its
        mean over the branches is zero, so a single convolution or linear layer stays exact. Default 0. The authors'
        code uses 0.006.
    seed: of the noise; default 0.

    Returns the copy with branches, proved equal before noise is added. Raises ValueError for a layer that does not
    exist, a scheme that does not fit it, more branches than it has channels, a tree that would be too deep, and a layer
    that shares a weight with another one.

    >>> model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
    >>> wide, x = branch(model, "0", torch.zeros(1, 2, 8, 8), scheme="replicate-concat"), torch.ones(1, 2, 8, 8)
    >>> wide[0].branches[1].out_channels, torch.allclose(wide(x), model(x), atol=1e-6)
    (2, True)
    """
    check(model, example)
    old = layer_named(model, layer, nn.Module)
    check_noise(noise)
    check_sizes({"seed": seed, "branches": branches}, {"seed": 0, "branches": 2})
    check_one_of("scheme", scheme, SCHEMES)
    if depth(model, layer) >= DEEPEST:
        raise ValueError(f"layer {layer!r} is already {DEEPEST} branches deep, the most that a tree may have")
    axis = -1 if isinstance(old, nn.Linear) else 1
    if scheme == "replicate-add":
        parts = [copied(old, {}) for _ in range(branches)]
    elif scheme == "split-concat":
        parts = by_channel(layer, old, branches, channels=_reads(model, layer, example)[axis])
    else:
        parts = dense(layer, old, branches, inputs=scheme == "split-add")
    allocation, merge = scheme.split("-")
    merge = "mean" if scheme == "replicate-add" else merge
    new = Branches(parts, allocation=allocation, merge=merge, axis=axis)
    new.training = new.branches.training = old.training  # not train(): parts of a part may have modes of their own
    morphed = replaced(model, layer, new)
    proved(model, morphed, example, f"{scheme} of layer {layer!r}")
    if noise and scheme == "replicate-add":
        _perturb(parts, noise, seed)
    return morphed


def _perturb(parts: Sequence[nn.Module], noise: float, seed: int) -> None:
    """Add noise whose mean over the copies is zero."""
    generator = torch.Generator().manual_seed(seed)
    for together in zip(*(part.parameters() for part in parts), strict=True):
        spread = together[0].std(correction=0) if together[0].numel() else 0
        added = draw((len(parts), *together[0].shape), together[0], generator)
        for value, extra in zip(together, added - added.mean(0), strict=True):
            value += noise * spread * extra


@torch.no_grad()
def insert_identity(model: nn.Module, layer: str, example: Tensor) -> nn.Module:
    """Insert a node after a layer: the layer becomes ``<layer>.0``, and an identity edge, ``<layer>.1``, follows it.

    model: any network; not changed.
    layer: any module with one tensor in and one out.
    example: one or more inputs, (n, ...).

    Returns the copy. Raises ValueError for a layer that does not exist, or shares a weight with another one.

    >>> insert_identity(nn.Sequential(nn.Linear(2, 3)), "0", torch.zeros(1, 2))[0][1]
    Identity()
    """
    check(model, example)
    old = layer_named(model, layer, nn.Module)
    pair = nn.Sequential(copied(old, {}), nn.Identity().train(old.training))
    pair.training = old.training
    return proved(model, replaced(model, layer, pair), example, f"a node after layer {layer!r}")


@torch.no_grad()
def replace_identity(model: nn.Module, edge: str, example: Tensor, *, operation: str, seed: int = 0) -> nn.Module:
    """Put an operation in place of an identity edge. This changes what the network computes.

    model: any network; not changed.
    edge: name of an ``nn.Identity`` that gets (n, channels, height, width).
    example: one or more inputs, (n, ...).
    operation: "separable3", "separable5" or "separable7" (a depthwise convolution, then a 1 x 1 one), "convolution1",
        each followed by batch norm and ReLU; or "average3" or "maximum3", pooling of 3 x 3 with stride 1.
    seed: of the initial weights; default 0. The authors' code starts from identity weights instead, and measures batch
        norm, where ReLU allows it.

    Returns the copy. Raises ValueError for an edge that is no identity or gets no maps, and for other operations.

    >>> model = insert_identity(nn.Sequential(nn.Conv2d(1, 4, 3)), "0", torch.zeros(1, 1, 8, 8))
    >>> replace_identity(model, "0.1", torch.zeros(1, 1, 8, 8), operation="average3")[0][1].kernel_size
    3
    """
    check(model, example)
    old = layer_named(model, edge, nn.Identity)
    check_sizes({"seed": seed}, {"seed": 0})
    check_one_of("operation", operation, EDGES)
    shape = _reads(model, edge, example)
    if len(shape) != 4:
        raise ValueError(f"edge {edge!r} gets a tensor of shape {shape}: (n, channels, height, width) is needed")
    like = next((p for p in model.parameters() if p.is_floating_point()), example)
    with seeded(seed):
        new = _operation(operation, shape[1])
    new = new.to(like.device, like.dtype if like.is_floating_point() else None).train(old.training)
    return replaced(model, edge, new)


def _operation(name: str, channels: int) -> nn.Module:
    kernel = int(name[-1])
    if name == "average3":
        return nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    if name == "maximum3":
        return nn.MaxPool2d(3, 1, 1)
    layers: list[nn.Module] = [nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
    if name != "convolution1":
        layers.insert(0, nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels, bias=False))
    return nn.Sequential(*layers)


def depth(model: nn.Module, layer: str) -> int:
    """Count the branches that a layer is nested in.

    model: any network.
    layer: a name of one of its modules.

    >>> model = branch(nn.Sequential(nn.Linear(2, 2)), "0", torch.zeros(1, 2))
    >>> depth(model, "0"), depth(model, "0.branches.1")
    (0, 1)
    """
    words = layer.split(".")
    above = (model.get_submodule(".".join(words[:i])) for i in range(1, len(words)))
    return sum(isinstance(module, Branches) for module in above)


def edges(model: nn.Module, layer: str) -> list[str]:
    """Name the edges of a tree: the modules in it that are neither branches nor sequences.

    model: any network.
    layer: where the tree grew.

    Raises ValueError for a layer that does not exist.

    >>> edges(branch(nn.Sequential(nn.Linear(2, 2)), "0", torch.zeros(1, 2), branches=3), "0")
    ['0.branches.0', '0.branches.1', '0.branches.2']
    """
    root = layer_named(model, layer, nn.Module)
    if isinstance(root, Branches):
        return [name for i in range(len(root.branches)) for name in edges(model, f"{layer}.branches.{i}")]
    if isinstance(root, nn.Sequential):
        return [name for i in range(len(root)) for name in edges(model, f"{layer}.{i}")]
    return [layer]


def grow(model: nn.Module, layer: str, example: Tensor, *, steps: int, noise: float = 0.0, seed: int = 0) -> nn.Module:
    """Grow a tree in place of a layer by random steps that keep the function.

    A step takes an edge at random, and branches it by a scheme that fits, into two or (replicate-add) three branches,
    or inserts a node after it.

    model: any network; not changed.
    layer: where the tree grows, any module with one tensor in and one out.
    example: one or more inputs, (n, ...).
    steps: how many, 0 or more.
    noise: as for :func:`branch`; default 0.
    seed: of all choices; default 0.

    Returns the copy after ``steps`` steps. Raises ValueError for a layer that does not exist, and if no step is
    possible.

    >>> x = torch.zeros(1, 4, 8, 8)
    >>> len(edges(grow(nn.Sequential(nn.Conv2d(4, 4, 3)), "0", x, steps=3), "0")) > 2
    True
    """
    check(model, example)
    layer_named(model, layer, nn.Module)
    check_noise(noise)
    check_sizes({"seed": seed, "steps": steps}, {"seed": 0, "steps": 0})
    generator = torch.Generator().manual_seed(seed)

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    tree = copied(model, {})
    for step in range(steps):
        leaves = edges(tree, layer)
        edge = leaves[below(len(leaves))]
        schemes, refused = [*SCHEMES, "insert"], {}
        while schemes:
            scheme = schemes.pop(below(len(schemes)))
            try:
                if scheme == "insert":
                    tree = insert_identity(tree, edge, example)
                else:
                    n = 2 + below(2) if scheme == "replicate-add" else 2
                    tree = branch(tree, edge, example, scheme=scheme, branches=n, noise=noise, seed=seed + step)
                break
            except ValueError as error:  # this scheme does not fit this edge; a node fits most
                refused[scheme] = error
        else:
            raise ValueError(f"edge {edge!r} can neither be branched nor followed by a node: {refused['insert']}")
    return tree


def _reads(model: nn.Module, layer: str, example: Tensor) -> tuple[int, ...]:
    """The shape that a module gets for the first example. ValueError where it gets none."""
    network, seen = twin(model), []
    network.get_submodule(layer).register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    try:
        answers(network, example[:1], training=False)
    except Exception as error:  # the network may raise anything
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"{type(model).__name__} does not run on the example: {why}") from error
    if seen and not seen[0]:
        raise ValueError(f"layer {layer!r} is called with keyword arguments only: it must get its input by position")
    if not seen or not isinstance(seen[0][0], Tensor) or seen[0][0].dim() < 2:
        raise ValueError(f"layer {layer!r} does not get (n, channels, ...) when the network runs")
    return tuple(seen[0][0].shape)
