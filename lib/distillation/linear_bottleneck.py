r"""A linear bottleneck: one wide layer becomes two thin ones, so that a shallow student trains faster (ba2014deep).

The weight of a layer with D inputs and H outputs is written as a product of two learned factors,

.. math:: W = U V, \qquad U \in \mathbb R^{H \times k}, \quad V \in \mathbb R^{k \times D},

without a non-linearity between them. They have :math:`k (H + D)` weights, and as many multiply-adds for a sample,
instead of :math:`H D`: fewer where :math:`k < H D / (H + D)`. The paper puts the bottleneck below the widest layer of
its students. Weight decay on U and V is not weight decay on their product.
"""

from copy import deepcopy
from numbers import Integral

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib import weights
from lib.arguments import check_one_of

STARTS = ("random", "svd")


class Bottleneck(nn.Module):
    """Two linear layers in a row: V, without a bias, and U, with the bias of the layer that they replace.

    inputs: D.
    rank: k, 1 or more.
    outputs: H.
    bias: whether U has a bias.
    like: the tensor whose type and device the weights get.

    Input (n, ..., D), output (n, ..., H).
    """

    def __init__(self, inputs: int, rank: int, outputs: int, *, bias: bool, like: Tensor) -> None:
        super().__init__()
        self.V = nn.Linear(inputs, rank, bias=False, device="meta")
        self.U = nn.Linear(rank, outputs, bias=bias, device="meta")
        self.to_empty(device=like.device).to(like.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.U(self.V(x))


@torch.no_grad()
def bottleneck(model: nn.Module, layer: str, *, rank: int, start: str = "random", seed: int = 0) -> nn.Module:
    """Return a copy of the model in which a bottleneck replaces one linear layer (ba2014deep).

    model: any network; it is left as it was.
    layer: name of a linear layer, as in ``model.named_modules()``; D inputs, H outputs.
    rank: k, 1 to min(D, H).
    start: "random" (default), to be trained: new weights and a new bias, uniform between -1 and 1 over the root of the
        inputs of their layer; "svd", for a trained network: the product is the best approximation of the layer's weight
        that has this rank, and the bias is kept.
    seed: of the draws, default 0; "svd" draws nothing.

    Returns the copy; the new layer is a :class:`Bottleneck`.
    Raises ValueError for a layer that does not exist or is not linear, that is compressed, shares its weight, has
    hooks, or whose weight its owner reads directly; for a rank or a start that is not accepted; and, with "svd", for
    weights that are not finite.

    >>> from lib import models
    >>> student = bottleneck(models.mlp(inputs=64, hidden=(2000,), batch_norm=False), "fc1", rank=8)
    >>> student.fc1.V.weight.shape, student.fc1.U.weight.shape
    (torch.Size([8, 64]), torch.Size([2000, 8]))
    """
    old = _linear(model, layer)
    outputs, inputs = old.weight.shape
    most = min(outputs, inputs)
    if isinstance(rank, bool) or not isinstance(rank, Integral) or not 1 <= rank <= most:
        raise ValueError(f"the rank of layer {layer!r} must be a whole number from 1 to {most}, not {rank!r}")
    check_one_of("start", start, STARTS)
    new = Bottleneck(inputs, int(rank), outputs, bias=old.bias is not None, like=old.weight)
    if start == "random":
        generator = torch.Generator().manual_seed(seed)
        # method
        for factor in (new.V, new.U):
            bound = factor.in_features**-0.5
            for values in factor.parameters():
                drawn = torch.rand(values.shape, generator=generator, dtype=torch.float64)
                values.copy_(bound * (2 * drawn - 1))
        # end of method
    else:
        if not all(torch.isfinite(values).all() for values in old.parameters()):
            raise ValueError(f"the weights of layer {layer!r} hold NaN or infinity: finite ones are needed")
        u, sigma, v = torch.linalg.svd(old.weight.double(), full_matrices=False)
        root = sigma[:rank].sqrt()
        new.U.weight.copy_(u[:, :rank] * root)
        new.V.weight.copy_(root[:, None] * v[:rank])
        if old.bias is not None:
            new.U.bias.copy_(old.bias)
    new.requires_grad_(old.weight.requires_grad).train(old.training)
    if old.bias is not None:
        new.U.bias.requires_grad_(old.bias.requires_grad)
    return weights.replace(deepcopy(model), layer, new)


@torch.no_grad()
def merged(model: nn.Module, layer: str) -> nn.Module:
    """Return a copy of the model in which one linear layer, the product U V, replaces a bottleneck.

    The model computes the same, and the layer is as large as it was without a bottleneck.

    model: any network; it is left as it was.
    layer: name of a :class:`Bottleneck`.

    Returns the copy.
    Raises ValueError for a layer that does not exist or is no bottleneck, and for factors that are no longer linear
    layers.

    >>> from lib import models
    >>> student = bottleneck(models.lenet_300_100(), "fc1", rank=50)
    >>> merged(student, "fc1").fc1
    Linear(in_features=784, out_features=300, bias=True)
    """
    found = dict(model.named_modules())
    old = found.get(layer)
    if not isinstance(old, Bottleneck):
        kind = "not there" if old is None else f"a {type(old).__name__}"
        named = [name for name, module in found.items() if isinstance(module, Bottleneck)]
        raise ValueError(f"layer {layer!r} is {kind}: bottlenecks are {', '.join(map(repr, named)) or 'none'}")
    for factor in (old.V, old.U):
        if not isinstance(factor, nn.Linear):
            kind = type(factor).__name__
            raise ValueError(f"a factor of layer {layer!r} has become {kind}: linear layers are needed")
    # method
    product = old.U.weight.double() @ old.V.weight.double()
    # end of method
    bias = old.U.bias
    new = nn.Linear(old.V.in_features, old.U.out_features, bias=bias is not None, device="meta")
    new = new.to_empty(device=product.device).to(old.U.weight.dtype)
    new.weight.copy_(product)
    new.requires_grad_(old.U.weight.requires_grad or old.V.weight.requires_grad).train(old.training)
    if bias is not None:
        new.bias.copy_(bias).requires_grad_(bias.requires_grad)
    return weights.replace(deepcopy(model), layer, new)


def _linear(model: nn.Module, name: str) -> nn.Linear:
    """The linear layer of this name, if two layers can take its place."""
    layer: nn.Module = weights.layer_named(model, name)
    if parametrize.is_parametrized(layer) or "weight" not in layer._parameters:
        raise ValueError(
            f"the weight of layer {name!r} is compressed or computed from other tensors: decompress the model first"
        )
    if type(layer) is not nn.Linear:
        raise ValueError(f"layer {name!r} is {type(layer).__name__}: accepted are plain linear layers, nn.Linear")
    for key in (name, f"{name}.bias".lstrip(".")):
        if together := weights.tied(model).get(key):
            raise ValueError(f"layers {together[0]!r} and {together[1]!r} share one weight: give each its own first")
    if layer._forward_hooks or layer._forward_pre_hooks:
        raise ValueError(f"layer {name!r} has hooks, which would be lost: remove them first")
    return layer
