"""Compressed weights: how a technique stores a layer's weight, and how a model takes and loses such a form.

A compressed weight is a torch parametrization. The layer keeps the few tensors that are stored and computes with the
dense weight made from them, so training, measuring and saving work on it as on any other layer.
"""

import importlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:

    class Layer(nn.Module):
        """What type checkers know of a layer with a weight: linear, convolution, embedding."""

        weight: nn.Parameter
        bias: nn.Parameter | None

else:
    Layer = nn.Module


@dataclass(frozen=True)
class Encoding:
    """What a file must hold to rebuild one weight.

    symbols: name -> integers (n,), 0 or larger, to be entropy-coded; at most one symbol per weight in each stream. From
        a file they are int32, and decoded each time they are asked for.
    tables: name -> float32 values, stored as they are.
    """

    symbols: Mapping[str, Tensor] = field(default_factory=dict)
    tables: Mapping[str, Tensor] = field(default_factory=dict)

    def whole(self, name: str, count: int) -> list[int]:
        """Return the whole numbers in a table.

        name: of the table.
        count: of its values.

        Raises ValueError where it has another number of values, or values that are not whole.

        >>> Encoding(tables={"bits": torch.tensor([3.0, 5.0])}).whole("bits", 2)
        [3, 5]
        """
        values = self.tables[name].flatten().tolist()
        if len(values) != count or not all(value.is_integer() for value in values):
            raise ValueError(f"the table {name!r} has {len(values)} values: {count} whole numbers are needed")
        return [int(value) for value in values]


class CompressedWeight(nn.Module):
    """How one layer's weight is stored. A technique is a subclass with five methods.

    ``right_inverse(weight) -> stored``      turns a trained dense weight into what is stored
    ``forward(*stored) -> weight``           the dense weight that the layer computes with
    ``encode(*stored) -> Encoding``          what a file must hold
    ``decode(encoding, shape) -> weight``    from the file alone, equal to ``forward`` bit for bit
    ``most(shape) -> streams, tables``       the most that ``encode`` says of such a weight: the bounds of a file

    ``stored`` is one tensor or a tuple of them; they are the layer's trained parameters. What is kept but not trained
    (a mask, the cluster of each weight) is a buffer of the form. Files identify a form by its class name.
    """

    def _encode(self, *stored: Tensor) -> Encoding:
        raise NotImplementedError

    encode: Callable[..., Encoding] = _encode  # each form names its tensors, as with ``forward``

    @staticmethod
    def decode(encoding: Encoding, shape: torch.Size) -> Tensor:
        """Rebuild the dense weight of this ``shape`` from what a file holds; each form has its own."""
        raise NotImplementedError

    @staticmethod
    def most(shape: torch.Size) -> tuple[dict[str, int], dict[str, int]]:
        """Bound what a file may hold of a weight of this ``shape``, before it is read; each form has its own.

        Returns name of each stream -> its most symbols, and name of each table -> its most values.
        """
        raise NotImplementedError


def layers(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """Yield the name and the layer of each linear, convolution and embedding layer, in the model's order.

    A layer counts if its ``weight`` has two dimensions or more and is not empty, so batch norm does not.

    >>> from lib import models
    >>> [(name, tuple(layer.weight.shape)) for name, layer in layers(models.lenet_300_100())]
    [('fc1', (300, 784)), ('fc2', (100, 300)), ('fc3', (10, 100))]
    """
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1 and weight.numel():
            yield name, layer


def layer_named(model: nn.Module, name: str) -> Layer:
    """Return the layer called ``name``.

    model: any network.
    name: of a layer with a weight, as in ``model.named_modules()``: "fc1", "features.0".

    Raises ValueError, which lists the accepted names, for any other name.

    >>> from lib import models
    >>> layer_named(models.lenet5(), "conv1")
    Conv2d(1, 20, kernel_size=(5, 5), stride=(1, 1))
    """
    found = dict(layers(model))
    if name not in found:
        raise ValueError(f"{type(model).__name__} has no layer {name!r} with a weight: it has {', '.join(found)}")
    return found[name]


def compress(model: nn.Module, form: Callable[[str, Layer], CompressedWeight | None]) -> nn.Module:
    """Store each layer's weight in the form that ``form`` chooses for it. In place; returns the model.

    A layer that is compressed already is decompressed first, so one technique can follow another. Layers without a
    weight, or with an empty one, are left as they are.

    model: any network.
    form: called with the name and the layer of each layer with a weight; returns the form in which to store the weight,
        or None to leave the layer as it is.

    Raises ValueError, before anything is changed, for weights that are not finite, a weight that two layers share, and
    a model in which no layer has a weight.

    >>> from lib import models
    >>> from lib.quantization.sign_quantization import SignWeight
    >>> model = compress(models.lenet_300_100(), lambda name, layer: SignWeight() if name == "fc1" else None)
    >>> model.fc1.weight.unique().tolist(), len(model.fc3.weight.unique()) > 2
    ([-1.0, 1.0], True)
    """
    found = [(name, layer, form(name, layer)) for name, layer in layers(model)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no layer with a weight: accepted are linear and convolution layers"
        )
    owner: dict[int, str] = {}
    for name, layer, compressed in found:  # all checks first: after a refusal the model is as it was
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


def _parameter(layer: Layer) -> object:
    """The object that layers with a tied weight have in common."""
    return _chain(layer) if parametrize.is_parametrized(layer, "weight") else layer.weight


def _chain(layer: nn.Module) -> Any:
    """torch's list of parametrizations of the weight. Any, since torch makes its class for each layer."""
    chains: Any = layer.parametrizations
    return chains.weight


def decompress(model: nn.Module) -> nn.Module:
    """Turn every compressed weight into a plain dense parameter of the same values. In place; returns the model.

    model: any network; one without compressed weights is left as it is.

    >>> from lib import models
    >>> from lib.pruning import magnitude
    >>> model = decompress(magnitude.prune(models.lenet_300_100(), density=0.1))
    >>> type(model.fc1.weight).__name__, int(model.fc1.weight.count_nonzero())
    ('Parameter', 23520)
    """
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            kind = type(module)  # torch made it for this module, but a deep copy shares it, and would lose its weight
            own = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, kind.__bases__, own)
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    return model


def compressed_form(layer: nn.Module) -> tuple[CompressedWeight, tuple[Tensor, ...]] | None:
    """Return the form in which a layer's weight is stored, and the tensors that are stored; None for a dense layer.

    layer: any module.

    Raises ValueError where the weight has a parametrization that is not a :class:`CompressedWeight`.

    >>> from lib import models
    >>> from lib.pruning import magnitude
    >>> form, stored = compressed_form(magnitude.prune(models.lenet_300_100(), density=0.1).fc1)
    >>> type(form).__name__, [tuple(tensor.shape) for tensor in stored]
    ('PrunedWeight', [(300, 784)])
    """
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    chain = _chain(layer)
    if len(chain) != 1 or not isinstance(chain[0], CompressedWeight):
        raise ValueError(f"{type(layer).__name__} carries a parametrization that is no CompressedWeight: {chain[0]}")
    stored = (
        (chain.original,) if chain.is_tensor else tuple(getattr(chain, f"original{i}") for i in range(chain.ntensors))
    )
    return chain[0], stored


def form_named(name: str) -> type[CompressedWeight]:
    """Return the subclass of :class:`CompressedWeight` called ``name``.

    Where a technique of ``lib`` has a form of this name, its file is imported, and no other.

    name: of the class, "PrunedWeight".

    Raises ValueError, which lists the known names, where no technique has such a form, and where several have.

    >>> from lib.pruning import magnitude
    >>> form_named("PrunedWeight") is magnitude.PrunedWeight
    True
    """

    def subclasses(cls: type[CompressedWeight]) -> Iterator[type[CompressedWeight]]:
        for sub in cls.__subclasses__():
            yield sub
            yield from subclasses(sub)

    places = _places()
    if name in places:
        importlib.import_module(places[name])
    known: dict[str, dict[str, type[CompressedWeight]]] = {}
    for form in subclasses(CompressedWeight):  # in a notebook a class may be defined again: the last one counts
        known.setdefault(form.__name__, {})[f"{form.__module__}.{form.__qualname__}"] = form
    if name not in known:
        names = ", ".join(sorted(known.keys() | places.keys()))
        raise ValueError(f"no technique stores weights as {name!r}: known are {names}")
    if len(known[name]) > 1:
        raise ValueError(f"{name!r} is the name of several forms, {', '.join(sorted(known[name]))}: each needs its own")
    return next(iter(known[name].values()))


@cache
def _places() -> dict[str, str]:
    """Form -> the module of ``lib`` that defines it. Its files are read, not imported: that would take seconds."""
    folder, places, bases = Path(__file__).parent, {}, {}
    for path in sorted(folder.glob("[!_]*/**/*.py")):
        for name, above in re.findall(r"^class (\w+)\(([^)]*)\):", path.read_text("utf-8"), re.MULTILINE):
            places[name] = ".".join((__package__, *path.relative_to(folder).with_suffix("").parts))
            bases[name] = set(re.findall(r"\w+", above))
    forms: set[str] = set()
    while new := {name for name in bases.keys() - forms if bases[name] & (forms | {CompressedWeight.__name__})}:
        forms |= new
    return {name: places[name] for name in sorted(forms)}


def replace(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """Put ``layer`` in the place of the layer called ``name``. In place; returns the model.

    A layer that is used under several names is replaced under all of them.

    model: any network.
    name: as in ``model.named_modules()``, with or without a weight. "" names the model itself: ``layer`` is returned.
    layer: the module to use from now on.

    Raises ValueError, which lists the accepted names, for any other name.

    >>> from lib import models
    >>> replace(models.lenet_300_100(), "relu1", nn.Sigmoid()).relu1
    Sigmoid()
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


def check_one_of(name: str, value: object, accepted: Collection[str]) -> None:
    """Raise ValueError unless ``value`` is one of the accepted ones; the message lists them.

    name: what the message calls the argument.
    value: what was given.
    accepted: the values that may be given.

    >>> check_one_of("scope", "layer", ("layer", "global"))
    >>> check_one_of("scope", "filter", ("layer", "global"))
    Traceback (most recent call last):
    ValueError: scope must be one of layer, global, not 'filter'
    """
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}, not {value!r}")
