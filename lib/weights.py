"""A compressed weight is a parametrization: what is stored, and the dense weight it stands for."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


@dataclass(frozen=True)
class Encoding:
    """What a file must hold to rebuild one weight.

    symbols: streams of small non-negative integers by name, to be entropy-coded; at most one symbol per weight each.
    tables: float32 values by name, kept as they are.
    """

    symbols: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, Tensor] = field(default_factory=dict)


class CompressedWeight(nn.Module):
    """How one layer's weight is stored. A technique is a subclass that says four things.

    ``right_inverse(weight) -> stored``      how a trained dense weight enters
    ``forward(*stored) -> weight``           the dense weight that the layer computes with
    ``encode(*stored) -> Encoding``          what a file must hold
    ``decode(encoding, shape) -> weight``    from the file alone, equal to ``forward`` bit for bit

    ``stored`` is one tensor or a tuple of them; they are the layer's trained parameters. What is kept but not trained
    (a mask, the cluster of each weight) is a buffer of the form. The class name stands in the file.
    """

    def encode(self, *stored: Tensor) -> Encoding:
        raise NotImplementedError

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        raise NotImplementedError


def layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and layer of everything with a weight of two dimensions or more: linear, convolution, embedding."""
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1 and weight.numel():
            yield name, layer


def compress(model: nn.Module, form: Callable[[str, nn.Module], CompressedWeight | None]) -> nn.Module:
    """Store the weight of each layer as ``form(name, layer)`` says; None leaves a layer as it is.

    A layer that is compressed already is decompressed first, so techniques follow one another by a second call.
    Changes ``model`` in place and returns it. Layers without a weight, or with an empty one, are passed over.
    Raises ValueError for weights that are not finite or that two layers share, and where no layer has a weight at all.
    """
    found = [(name, layer, form(name, layer)) for name, layer in layers(model)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no layer with a weight: accepted are linear and convolution layers"
        )
    owner: dict[int, str] = {}
    for name, layer, compressed in found:  # all checks first: a refusal leaves the model as it was
        if compressed is not None and owner.setdefault(id(_parameter(layer)), name) != name:
            raise ValueError(
                f"layers {owner[id(_parameter(layer))]!r} and {name!r} share one weight: give each its own first"
            )
        if compressed is not None and not torch.isfinite(layer.weight).all():
            raise ValueError(
                f"the weights of layer {name or type(layer).__name__!r} hold NaN or infinity: finite ones are needed"
            )
    for _, layer, compressed in found:
        if compressed is not None:
            decompress(layer)
            parametrize.register_parametrization(layer, "weight", compressed)
    return model


def _parameter(layer: nn.Module) -> object:
    """The object that layers with a tied weight have in common."""
    return layer.parametrizations.weight if parametrize.is_parametrized(layer, "weight") else layer.weight


def decompress(model: nn.Module) -> nn.Module:
    """Turn every compressed weight into a plain dense parameter of the same values. In place; returns the model."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            kind = type(module)  # torch made it for this module, but a deep copy shares it, and would lose its weight
            own = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, kind.__bases__, own)
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return model


def compressed_form(layer: nn.Module) -> tuple[CompressedWeight, tuple[Tensor, ...]] | None:
    """The form in which a layer's weight is stored, and what is stored; None for a dense layer."""
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    chain = layer.parametrizations.weight
    if len(chain) != 1 or not isinstance(chain[0], CompressedWeight):
        raise ValueError(f"{type(layer).__name__} carries a parametrization that is no CompressedWeight: {chain[0]}")
    stored = (
        (chain.original,) if chain.is_tensor else tuple(getattr(chain, f"original{i}") for i in range(chain.ntensors))
    )
    return chain[0], stored


def form_named(name: str) -> type[CompressedWeight]:
    """The subclass of CompressedWeight called ``name``; the technique packages of ``lib`` are looked through for it."""

    def subclasses(cls: type) -> Iterator[type]:
        for sub in cls.__subclasses__():
            yield sub
            yield from subclasses(sub)

    known = {cls.__name__: cls for cls in subclasses(CompressedWeight)}
    if name not in known:
        for module in _techniques():
            importlib.import_module(module)
        known = {cls.__name__: cls for cls in subclasses(CompressedWeight)}
    if name not in known:
        raise ValueError(f"no technique stores weights as {name!r}: known are {', '.join(sorted(known))}")
    return known[name]


def _techniques() -> Iterator[str]:
    """The modules of the sections: all files below a folder of ``lib`` but those that run the book or hold data."""
    package = importlib.import_module(__package__)
    for section in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if section.ispkg and section.name.rpartition(".")[2] not in ("book", "datasets", "coding"):
            folders = importlib.import_module(section.name).__path__
            yield from (found.name for found in pkgutil.walk_packages(folders, f"{section.name}.") if not found.ispkg)


def replace(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Put ``layer`` in the place of the layer called ``name``, under all its names. In place; returns the model.

    The name of the model itself is "": then ``layer`` is returned. Raises ValueError for a name that is not there.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    if name not in named:
        raise ValueError(f"{type(model).__name__} has no layer {name!r}: it has {', '.join(filter(None, named))}")
    if named[name] is model:
        return layer
    for place in [each for each, module in named.items() if module is named[name]]:
        parent, _, child = place.rpartition(".")
        setattr(named[parent], child, layer)
    return model
