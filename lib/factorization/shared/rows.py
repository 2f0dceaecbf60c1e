"""One large layer becomes several small ones in a row: what the factorizations of section 2.3 have in common."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib import weights

CONVOLUTIONS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}  # by the dimensions of the weight


@dataclass(frozen=True)
class Replaced:
    """What became of one layer: its ranks, and its parameters before and after; equal where it was left as it is."""

    layer: str
    ranks: tuple[int, ...]
    before: int
    after: int


def compress(
    model: nn.Module,
    factorize: Callable[[str, nn.Module], tuple[nn.Sequential, tuple[int, ...]]],
    kinds: tuple[type[nn.Module], ...],
    layers: Iterable[str] | None = None,
) -> tuple[nn.Module, list[Replaced]]:
    """A copy of the model in which ``factorize(name, layer)`` (the factors, their ranks) replaces all that it shrinks.

    layers: names of the layers to factorize; by default all of the ``kinds`` that :func:`refusal` has nothing against.
    Returns the copy and one row for each layer that was looked at. Raises ValueError for a name that is not there, for
    a layer that cannot be factorized, for weights that two layers share, and where there is nothing to factorize.
    """
    model = deepcopy(model)
    found = {name: layer for name, layer in weights.layers(model) if not refusal(layer, kinds)}
    if layers is not None:
        everywhere = dict(model.named_modules())
        for name in (layers := list(layers)):
            if name not in everywhere:
                raise ValueError(f"no layer {name!r} to factorize: the layers are {', '.join(found) or 'none'}")
            if why := refusal(everywhere[name], kinds):
                raise ValueError(f"layer {name!r} cannot be factorized: {why}")
        found = {name: everywhere[name] for name in layers}
    if not found:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{type(model).__name__} has no layer to factorize: accepted are {names} of one group")
    owners: dict[int, list[str]] = {}
    for name, layer in weights.layers(model):
        if not parametrize.is_parametrized(layer, "weight"):  # that one is made anew at every look
            owners.setdefault(id(layer.weight), []).append(name)
    for names in owners.values():
        if len(names) > 1 and found.keys() & set(names):
            raise ValueError(f"layers {names[0]!r} and {names[1]!r} share one weight: give each its own first")
    rows = []
    for name, layer in found.items():
        factors, ranks = factorize(name, layer)
        before, after = size(layer), size(factors)
        if after < before:
            model = weights.replace(model, name, factors)
        rows.append(Replaced(name, ranks, before, min(before, after)))
    return model, rows


def size(layer: nn.Module) -> int:
    """Weights and biases of a layer or of a row of layers; a compressed weight counts by its dense shape."""
    tensors = [getattr(each, key, None) for each in layer.modules() for key in ("weight", "bias")]
    return sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))


def refusal(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> str | None:
    """Why a layer cannot be factorized, in half a sentence; None where it can."""
    kind = parametrize.type_before_parametrizations(layer)
    if kind not in kinds:  # a subclass may be read by its owner in ways that a row of layers does not answer
        return f"it is {kind.__name__}, accepted are {', '.join(each.__name__ for each in kinds)}"
    if getattr(layer, "groups", 1) != 1:
        return (
            f"it is a convolution of {layer.groups} groups, and only those of one group are matrices over all channels"
        )
    if layer.weight.numel() == 0:
        return f"its weight of shape {tuple(layer.weight.shape)} is empty"
    return None


def checked(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Tensor:
    """The layer's weight as float64, or ValueError for a layer that cannot be factorized or is not finite."""
    if why := refusal(layer, kinds):
        raise ValueError(f"the layer cannot be factorized: {why}")
    weight = layer.weight.detach().double()
    if not torch.isfinite(weight).all():
        raise ValueError("the weights of the layer hold NaN or infinity: finite ones are needed")
    return weight


def checked_rank(rank: object, most: int) -> int:
    """The rank, or ValueError where it is not a whole number from 1 to ``most``."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
        raise ValueError(f"the rank must be a whole number from 1 to {most}, not {rank!r}")
    return rank


def chosen_rank(rank: int | Mapping[str, int], name: str, most: int) -> int:
    """The rank that is meant for one layer: its own in a mapping, or the one for all, cut to the layer's full rank."""
    if isinstance(rank, Mapping):
        if name not in rank:
            raise ValueError(f"rank holds no number for layer {name!r}: it names {', '.join(rank)}")
        return rank[name]
    return min(rank, most) if isinstance(rank, int) else rank


def rank_for(singular_values: Tensor, energy: float) -> int:
    r"""The smallest rank r with :math:`\sum_{i \le r} \sigma_i^2 \ge` ``energy`` :math:`\sum_i \sigma_i^2`."""
    if not 0 < energy <= 1:
        raise ValueError(f"energy must be in (0, 1], not {energy}")
    held = singular_values.double().square().cumsum(0)
    return min(int((held < energy * held[-1] * (1 - 1e-12)).sum()) + 1, len(held))


def row(layer: nn.Module, *parts: nn.Module) -> nn.Sequential:
    """The factors in a row, as the layer was: its type of numbers, its device, its mode, and whether it is trained."""
    trained = all(p.requires_grad for p in layer.parameters())
    made = nn.Sequential(*parts).to(device=layer.weight.device, dtype=layer.weight.dtype)
    return made.requires_grad_(trained).train(layer.training)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer with this weight (outputs, inputs)."""
    outputs, inputs = weight.shape
    return _filled(nn.Linear(inputs, outputs, bias=bias is not None, device="meta"), weight, bias)


def convolution(weight: Tensor, bias: Tensor | None = None, *, groups: int = 1, **geometry: object) -> nn.Module:
    """A convolution with this weight (outputs, inputs / groups, kernel); geometry: stride, padding and the like."""
    sizes = {"in_channels": weight.shape[1] * groups, "out_channels": len(weight), "kernel_size": weight.shape[2:]}
    build = CONVOLUTIONS[weight.dim()]
    return _filled(build(**sizes, groups=groups, bias=bias is not None, device="meta", **geometry), weight, bias)


def geometry(layer: nn.Module) -> dict[str, object]:
    """How a convolution moves over its input."""
    return {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}


def apart(layer: nn.Conv2d) -> tuple[dict[str, object], dict[str, object]]:
    """The same for the two halves of a separable one: first down the rows (d x 1), then across the columns (1 x d)."""
    down, across = {}, {}
    for name, value in geometry(layer).items():
        if isinstance(value, str):  # padding="same", and how the border is filled
            down[name] = across[name] = value
        else:
            still = 0 if name == "padding" else 1
            down[name], across[name] = (value[0], still), (still, value[1])
    return down, across


def _filled(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    layer.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer
