"""One large layer becomes several small ones in a row: what the factorizations of section 2.3 have in common."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TypedDict, TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib import weights

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Dense = nn.Linear | Convolution  # the layers that some technique can factorize
DenseLayer = TypeVar("DenseLayer", bound=Dense)
CONVOLUTIONS: dict[int, Callable[..., Convolution]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}  # weight's dimensions


@dataclass(frozen=True)
class Replaced:
    """What became of one layer: its ranks, and its parameters before and after; equal where it was left as it is."""

    layer: str
    ranks: tuple[int, ...]
    before: int
    after: int


def factorize_model(
    model: nn.Module,
    factorize: Callable[[str, DenseLayer], tuple[nn.Sequential, tuple[int, ...]]],
    kinds: tuple[type[DenseLayer], ...],
    layers: Iterable[str] | None = None,
) -> tuple[nn.Module, list[Replaced]]:
    """Copy the model and replace each chosen layer by its factors, where these have fewer parameters.

    model: any network; it is left as it is.
    factorize: called with a layer's name and the layer, returns its factors and their ranks.
    kinds: types of the layers that ``factorize`` takes.
    layers: names of the layers to factorize; default: all that :func:`refusal` has nothing against.

    Returns the copy, and a :class:`Replaced` for each chosen layer, replaced or not.
    Raises ValueError for a name that the model does not have, a layer that cannot be factorized, a weight that two
    layers share, and a model with nothing to factorize.
    """
    model = deepcopy(model)
    chosen = {name: layer for name, layer in weights.layers(model) if accepted(layer, kinds)}
    if layers is not None:
        known, everywhere, chosen = list(chosen), dict(model.named_modules()), {}
        for name in layers:
            if name not in everywhere:
                raise ValueError(f"no layer {name!r} to factorize: the layers are {', '.join(known) or 'none'}")
            layer = everywhere[name]
            if not accepted(layer, kinds):
                raise ValueError(f"layer {name!r} cannot be factorized: {refusal(layer, kinds)}")
            chosen[name] = layer
    if not chosen:
        kind_names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{type(model).__name__} has no layer to factorize: accepted are {kind_names} of one group")
    owners: dict[int, list[str]] = {}
    for name, weighted in weights.layers(model):
        if not parametrize.is_parametrized(weighted, "weight"):  # that one is made anew at every look
            owners.setdefault(id(weighted.weight), []).append(name)
    for names in owners.values():
        if len(names) > 1 and chosen.keys() & set(names):
            raise ValueError(f"layers {names[0]!r} and {names[1]!r} share one weight: give each its own first")
    report = []
    for name, layer in chosen.items():
        factors, ranks = factorize(name, layer)
        before, after = size(layer), size(factors)
        if after < before:
            model = weights.replace(model, name, factors)
        report.append(Replaced(name, ranks, before, min(before, after)))
    return model, report


def factorize_matrices(
    model: nn.Module,
    factorize: Callable[[DenseLayer, int], nn.Sequential],
    matrix: Callable[[Tensor], Tensor],
    kinds: tuple[type[DenseLayer], ...],
    *,
    rank: int | Mapping[str, int] | None,
    energy: float | None,
    layers: Iterable[str] | None,
) -> tuple[nn.Module, list[Replaced]]:
    """:func:`factorize_model` for techniques that cut a matrix to a rank, which is given or found by its energy.

    model: any network; it is left as it is.
    factorize: called with a layer and a rank, returns the layer's factors.
    matrix: weight -> the matrix that ``factorize`` cuts.
    kinds: types of the layers that ``factorize`` takes.
    rank: of every layer, cut to the layer's full rank, or layer name -> rank.
    energy: share of the sum of squared singular values that each layer's rank must hold, see :func:`rank_for`.
    layers: names of the layers to factorize; None: those that ``rank`` names, or all that can be factorized.

    Returns the copy, and a :class:`Replaced` for each chosen layer, replaced or not.
    Raises ValueError unless exactly one of rank and energy is given, for layers beside a rank that names its layers,
    and as :func:`factorize_model` does.
    """
    if (rank is None) == (energy is None):
        raise ValueError("give exactly one of rank and energy")

    def form(name: str, layer: DenseLayer) -> tuple[nn.Sequential, tuple[int, ...]]:
        whole = matrix(checked(layer, kinds))
        if energy is not None:
            chosen = rank_for(torch.linalg.svdvals(whole), energy)
        else:
            assert rank is not None  # one of the two is given
            chosen = chosen_rank(rank, name, min(whole.shape))
        return factorize(layer, chosen), (chosen,)

    return factorize_model(model, form, kinds, chosen_layers(layers, rank))


def chosen_layers(layers: Iterable[str] | None, rank: object) -> Iterable[str] | None:
    """The names of the layers to factorize: those of ``layers``, or those that a mapping ``rank`` names.

    layers: names, or None for all layers.
    rank: any value; a mapping has layer names as its keys.

    Raises ValueError where both name layers.
    """
    if not isinstance(rank, Mapping):
        return layers
    if layers is not None:
        raise ValueError("give the names of layers once: in a mapping of ranks, or as layers")
    return rank


def size(layer: nn.Module) -> int:
    """Count the weights and biases of a layer or of a row of layers; a compressed weight counts by its dense shape."""
    tensors = [getattr(part, key, None) for part in layer.modules() for key in ("weight", "bias")]
    return sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))


def refusal(layer: nn.Module, kinds: tuple[type[DenseLayer], ...]) -> str | None:
    """Say in half a sentence why a layer cannot be factorized; None if it can.

    layer: any module.
    kinds: accepted types, of which convolutions must have one group.
    """
    kind = parametrize.type_before_parametrizations(layer)
    # a subclass may be read by its owner in ways that a row of layers does not answer
    if kind not in kinds or not isinstance(layer, kinds):
        return f"it is {kind.__name__}, accepted are {', '.join(known.__name__ for known in kinds)}"
    if getattr(layer, "groups", 1) != 1:
        return (
            f"it is a convolution of {layer.groups} groups, and only those of one group are matrices over all channels"
        )
    if layer.weight.numel() == 0:
        return f"its weight of shape {tuple(layer.weight.shape)} is empty"
    return None


def accepted(layer: nn.Module, kinds: tuple[type[DenseLayer], ...]) -> TypeGuard[DenseLayer]:
    """Whether :func:`refusal` has nothing against factorizing the layer."""
    return refusal(layer, kinds) is None


def checked(layer: nn.Module, kinds: tuple[type[DenseLayer], ...]) -> Tensor:
    """The layer's weight as float64.

    Raises ValueError for a layer that :func:`refusal` says something against, and for weights that are not finite.
    """
    if not accepted(layer, kinds):
        raise ValueError(f"the layer cannot be factorized: {refusal(layer, kinds)}")
    weight = layer.weight.detach().double()
    if not torch.isfinite(weight).all():
        raise ValueError("the weights of the layer hold NaN or infinity: finite ones are needed")
    return weight


def checked_rank(rank: object, most: int) -> int:
    """The rank. Raises ValueError where it is not a whole number from 1 to ``most``."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
        raise ValueError(f"the rank must be a whole number from 1 to {most}, not {rank!r}")
    return rank


def chosen_rank(rank: int | Mapping[str, int], name: str, most: int) -> int:
    """The rank that is meant for the layer called ``name``.

    rank: layer name -> rank, or one for all layers, which is cut to ``most``.
    name: of the layer.
    most: its full rank.
    """
    if isinstance(rank, Mapping):
        return rank[name]
    return min(rank, most) if isinstance(rank, int) else rank


def rank_for(singular_values: Tensor, energy: float) -> int:
    r"""The smallest rank r with :math:`\sum_{i \le r} \sigma_i^2 \ge` ``energy`` :math:`\sum_i \sigma_i^2`.

    singular_values: (n,), in falling order.
    energy: share in (0, 1]; ValueError otherwise.

    >>> rank_for(torch.tensor([4.0, 2, 2, 1]), energy=0.8)  # 16 + 4 of 25
    2
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy must be in (0, 1], not {energy}")
    held = singular_values.double().square().cumsum(0)
    return min(int((held < energy * held[-1] * (1 - 1e-12)).sum()) + 1, len(held))


def row(layer: Dense, *parts: nn.Module) -> nn.Sequential:
    """Put the factors in a row that is as the layer was: its dtype, its device, its mode, and whether it is trained."""
    trained = all(p.requires_grad for p in layer.parameters())
    made = nn.Sequential(*parts).to(device=layer.weight.device, dtype=layer.weight.dtype)
    return made.requires_grad_(trained).train(layer.training)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer with copies of these values.

    weight: (outputs, inputs).
    bias: (outputs,), or None for a layer without.
    """
    outputs, inputs = weight.shape
    return _filled(nn.Linear(inputs, outputs, bias=bias is not None, device="meta"), weight, bias)


class Geometry(TypedDict):
    """How a convolution moves over its input: arguments of :func:`convolution`, one number for each dimension."""

    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    padding_mode: str


def convolution(
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    padding_mode: str = "zeros",
    groups: int = 1,
) -> Convolution:
    """A convolution with copies of these values, in as many dimensions as its kernel has.

    weight: (outputs, inputs / groups, kernel), the kernel of 1 to 3 dimensions.
    bias: (outputs,), or None for a layer without.
    stride: of the windows; one number, or one for each dimension, default 1.
    padding: pixels added on both sides; one number, one for each dimension, "same" or "valid", default 0.
    dilation: distance of a kernel's entries; one number, or one for each dimension, default 1.
    padding_mode: what is added: "zeros" (default), "reflect", "replicate" or "circular".
    groups: parts into which the channels are split, default 1.
    """
    layer = CONVOLUTIONS[weight.dim()](
        weight.shape[1] * groups,
        len(weight),
        weight.shape[2:],
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
        padding_mode=padding_mode,
        device="meta",
    )
    return _filled(layer, weight, bias)


def geometry(layer: Convolution) -> Geometry:
    """How the convolution moves over its input."""
    return Geometry(
        stride=layer.stride, padding=layer.padding, dilation=layer.dilation, padding_mode=layer.padding_mode
    )


def apart(layer: nn.Conv2d) -> tuple[Geometry, Geometry]:
    """How the two halves of a separable convolution move: first down the rows (d x 1), then across the columns (1 x d).

    >>> down, across = apart(nn.Conv2d(1, 1, 3, stride=(2, 1), padding=1))
    >>> down["stride"], down["padding"], across["stride"], across["padding"]
    ((2, 1), (1, 0), (1, 1), (0, 1))
    """
    (sy, sx), (dy, dx), padding = layer.stride, layer.dilation, layer.padding
    py, px = (padding, padding) if isinstance(padding, str) else ((padding[0], 0), (0, padding[1]))
    mode = layer.padding_mode
    down = Geometry(stride=(sy, 1), padding=py, dilation=(dy, 1), padding_mode=mode)
    return down, Geometry(stride=(1, sx), padding=px, dilation=(1, dx), padding_mode=mode)


def _filled(layer: DenseLayer, weight: Tensor, bias: Tensor | None) -> DenseLayer:
    layer.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
