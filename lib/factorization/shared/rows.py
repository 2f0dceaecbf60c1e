"""Factorize the layers of a network: which of them, at which ranks, and a report on each."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lib import owners, weights
from lib.factorization.shared.parts import DenseLayer


@dataclass(frozen=True)
class Replaced:
    """What became of one layer: its ranks, and its parameters before and after; equal if it was left as it is.

    reason: why it could not be factorized; empty if it could, even if its factors would not have been smaller.
    """

    layer: str
    ranks: tuple[int, ...]
    before: int
    after: int
    reason: str = ""


def factorize_model(
    model: nn.Module,
    factorize: Callable[[str, DenseLayer], tuple[nn.Sequential, tuple[int, ...]]],
    kinds: tuple[type[DenseLayer], ...],
    layers: Iterable[str] | None = None,
    *,
    suited: Callable[[DenseLayer], bool] = lambda layer: True,
) -> tuple[nn.Module, list[Replaced]]:
    """Copy the model and replace each chosen layer by its factors, if these have fewer parameters.

    model: any network; it is left as it is.
    factorize: called with a layer's name and the layer, returns its factors and their ranks.
    kinds: types of the layers that ``factorize`` takes.
    layers: names of the layers to factorize; default: all that :func:`refusal` accepts.
    suited: which layers to take if none are named; default: all.

    Returns the copy, and a :class:`Replaced` for each chosen layer, replaced or not. If no layers are named, there is
    also one for each layer of these kinds that cannot be factorized, with the reason. Packed weights count as linear
    layers.
    Raises ValueError for a name that the model does not have, a layer that cannot be factorized, a weight that two
    layers share, and a model with nothing to factorize.
    """
    model = deepcopy(model)
    report = _report(model, kinds, suited) if layers is None else _named(model, kinds, layers)
    chosen = [row.layer for row in report if not row.reason]
    if not chosen:
        kind_names = ", ".join(kind.__name__ for kind in kinds)
        others = "".join(f"; {row.layer!r} is left: {row.reason}" for row in report[:1])
        raise ValueError(
            f"{type(model).__name__} has no layer to factorize: accepted are {kind_names} of one group{others}"
        )
    shared = weights.tied(model)
    for name in chosen:
        for key in (name, f"{name}.bias".lstrip(".")):
            if key in shared:
                first, second, *_ = shared[key]
                raise ValueError(f"layers {first!r} and {second!r} share one weight: give each its own first")
    for i, row in enumerate(report):
        if not row.reason:
            layer: Any = model.get_submodule(row.layer)
            try:
                factors, ranks = factorize(row.layer, layer)
            except ValueError as error:
                raise ValueError(f"layer {row.layer!r}: {error}") from error
            after = size(factors)
            if after < row.before:
                model = weights.replace(model, row.layer, factors)
            report[i] = Replaced(row.layer, tuple(map(int, ranks)), row.before, min(row.before, after))
    return model, report


def _report(
    model: nn.Module, kinds: tuple[type[DenseLayer], ...], suited: Callable[[DenseLayer], bool]
) -> list[Replaced]:
    """List every layer of these kinds, with the reason if it cannot be factorized."""
    report = []
    for name, layer in weights.layers(model):
        if isinstance(layer, weights.PackedWeight):
            owner = type(layer.module).__name__
            reason: str | None = f"it is a weight of {owner}, which is no layer"
            if nn.Linear not in kinds:
                continue
        elif not isinstance(layer, kinds) or (accepted(layer, kinds) and not suited(layer)):
            continue
        else:
            reason = _read(model, name) or refusal(layer, kinds)
        count = layer.weight.numel() if isinstance(layer, weights.PackedWeight) else size(layer)
        report.append(Replaced(name, (), count, count, reason or ""))
    return report


def _named(model: nn.Module, kinds: tuple[type[DenseLayer], ...], names: Iterable[str]) -> list[Replaced]:
    """List the named layers; raise ValueError for one that cannot be factorized."""
    everywhere, packed = dict(model.named_modules()), dict(weights.layers(model))
    report = []
    for name in dict.fromkeys(names):
        if isinstance(packed.get(name), weights.PackedWeight):
            raise ValueError(f"{name!r} cannot be factorized: it is a packed weight, accepted are layers")
        if name not in everywhere:
            known = [row.layer for row in _report(model, kinds, lambda layer: True) if not row.reason]
            raise ValueError(f"no layer {name!r} to factorize: the layers are {', '.join(known) or 'none'}")
        layer = everywhere[name]
        reason = _read(model, name) or refusal(layer, kinds)
        if reason:
            raise ValueError(f"layer {name!r} cannot be factorized: {reason}")
        report.append(Replaced(name, (), size(layer), size(layer)))
    return report


def _read(model: nn.Module, name: str) -> str | None:
    """Why a row of layers could not replace this one: its owner reads an attribute that the row does not have."""
    for attribute, owner in owners.reads(model, name).items():
        if not hasattr(nn.Sequential, attribute):
            return f"{owner} reads its {attribute} instead of calling it"
    return None


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
    """Do what :func:`factorize_model` does, for techniques that cut a matrix to a rank, given or found by its energy.

    model: any network; it is left as it is.
    factorize: called with a layer and a rank, returns the layer's factors.
    matrix: weight -> the matrix that ``factorize`` cuts.
    kinds: types of the layers that ``factorize`` takes.
    rank: of every layer, cut to the layer's full rank, or layer name -> rank.
    energy: share of the sum of squared singular values that each layer's rank must hold, see :func:`rank_for`.
    layers: names of the layers to factorize; None: those that ``rank`` names, or all that can be factorized.

    Returns the copy, and a :class:`Replaced` for each chosen layer, replaced or not.
    Raises ValueError unless exactly one of rank and energy is given, for ``layers`` given together with a mapping of
    ranks, and as :func:`factorize_model` does.
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
    """Return the names of the layers to factorize: ``layers``, or the keys of ``rank`` if it is a mapping.

    layers: names, or None for all layers.
    rank: any value; a mapping has layer names as its keys.

    Raises ValueError if both name layers.
    """
    if not isinstance(rank, Mapping):
        return layers
    if layers is not None:
        raise ValueError("name the layers only once: as keys of the ranks, or in layers")
    return rank


def size(layer: nn.Module) -> int:
    """Count the weights and biases of a layer or a row of layers; a compressed weight counts with its dense shape."""
    tensors = [getattr(part, key, None) for part in layer.modules() for key in ("weight", "bias")]
    return sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))


def refusal(layer: nn.Module, kinds: tuple[type[DenseLayer], ...]) -> str | None:
    """Return why a layer cannot be factorized, as half a sentence; None if it can.

    layer: any module.
    kinds: accepted types, of which convolutions must have one group.
    """
    kind = parametrize.type_before_parametrizations(layer)
    # the owner of a subclass may use it in ways that a row of layers does not support
    if kind not in kinds or not isinstance(layer, kinds):
        return f"it is {kind.__name__}, accepted are {', '.join(known.__name__ for known in kinds)}"
    if getattr(layer, "groups", 1) != 1:
        return (
            f"it is a convolution of {layer.groups} groups, and only those of one group are matrices over all channels"
        )
    if layer.weight.numel() == 0:
        return f"its weight of shape {tuple(layer.weight.shape)} is empty"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return "it has hooks, which would be lost"
    return None


def accepted(layer: nn.Module, kinds: tuple[type[DenseLayer], ...]) -> TypeGuard[DenseLayer]:
    """Whether the layer can be factorized: :func:`refusal` has no reason against it."""
    return refusal(layer, kinds) is None


def checked(layer: nn.Module, kinds: tuple[type[DenseLayer], ...]) -> Tensor:
    """Return the layer's weight as float64.

    Raises ValueError for a layer that cannot be factorized (:func:`refusal`), and for weights that are not finite.
    """
    if not accepted(layer, kinds):
        raise ValueError(f"the layer cannot be factorized: {refusal(layer, kinds)}")
    weight = layer.weight.detach().double()
    if not torch.isfinite(weight).all():
        raise ValueError("the weights of the layer hold NaN or infinity: finite ones are needed")
    return weight


def checked_rank(rank: object, most: int) -> int:
    """Return the rank as an int; raise ValueError unless it is a whole number, numpy's included, from 1 to ``most``."""
    if isinstance(rank, bool) or not isinstance(rank, Integral) or not 1 <= int(rank) <= most:
        raise ValueError(f"the rank must be a whole number from 1 to {most}, not {rank!r}")
    return int(rank)


def chosen_rank(rank: int | Mapping[str, int], name: str, most: int) -> int:
    """Return the rank for the layer called ``name``.

    rank: layer name -> rank, or one for all layers, which is cut to ``most``.
    name: of the layer.
    most: its full rank.
    """
    if isinstance(rank, Mapping):
        return rank[name]
    whole = isinstance(rank, Integral) and not isinstance(rank, bool)
    return min(int(rank), most) if whole else rank  # anything else is refused where the rank is used


def rank_for(singular_values: Tensor, energy: float) -> int:
    r"""Return the smallest rank r with :math:`\sum_{i \le r} \sigma_i^2 \ge` ``energy`` :math:`\sum_i \sigma_i^2`.

    singular_values: (n,), in falling order.
    energy: share in (0, 1]; ValueError otherwise.

    >>> rank_for(torch.tensor([4.0, 2, 2, 1]), energy=0.8)  # 16 + 4 of 25
    2
    """
    if not 0 < energy <= 1:
        raise ValueError(f"energy must be in (0, 1], not {energy}")
    held = singular_values.double().square().cumsum(0)
    return min(int((held < energy * held[-1] * (1 - 1e-12)).sum()) + 1, len(held))
