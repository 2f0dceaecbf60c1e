"""Compressed weights: how a technique stores a layer's weight, and how a model is compressed and decompressed.

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

from lib import owners

if TYPE_CHECKING:

    class Layer(nn.Module):
        """What type checkers know of a layer with a weight: linear, convolution, embedding."""

        weight: nn.Parameter
        bias: nn.Parameter | None

else:
    Layer = nn.Module

NORMS = nn.LayerNorm | nn.RMSNorm  # their weight may have several dimensions, but it is a factor, not a matrix


@dataclass(frozen=True)
class PackedWeight:
    """A weight that its module keeps under a name other than ``weight``, such as attention's ``in_proj_weight``.

    It is not a module: nothing calls it, so it has no hooks and cannot be replaced. ``isinstance`` tells it from a
    layer.

    module: the one that keeps it.
    key: its name there.
    """

    module: nn.Module
    key: str

    @property
    def weight(self) -> nn.Parameter:
        """The dense weight that the module computes with."""
        return getattr(self.module, self.key)

    @property
    def bias(self) -> None:
        """None: a bias belongs to the module."""


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
    ``most(shape) -> streams, tables``       the most that ``encode`` gives for such a weight: the bounds of a file

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


def layers(model: nn.Module) -> Iterator[tuple[str, Layer | PackedWeight]]:
    """Yield the name and the layer of each weight of a network, in the model's order.

    A weight has two dimensions or more and is not empty. It is the ``weight`` of a linear, convolution or embedding
    layer, or any other parameter of a module whose name holds the word "weight": ``in_proj_weight`` of attention,
    ``weight_ih_l0`` of an LSTM. The second kind comes as a :class:`PackedWeight`, and its name is the parameter's.
    Factors of normalizations, biases, and parameters under any other name, such as class tokens, position embeddings
    and scales, do not count as weights of a layer. No technique compresses them; :func:`lib.measure.by_layer` counts
    them.

    model: any network.

    Raises ValueError for a lazy layer that has not seen an input yet.

    >>> from lib import models
    >>> [(name, tuple(layer.weight.shape)) for name, layer in layers(models.lenet_300_100())]
    [('fc1', (300, 784)), ('fc2', (100, 300)), ('fc3', (10, 100))]
    >>> [(name, tuple(layer.weight.shape)) for name, layer in layers(nn.MultiheadAttention(4, 2))]
    [('in_proj_weight', (12, 4)), ('out_proj', (4, 4))]
    """
    for prefix, module in model.named_modules():
        if isinstance(module, NORMS) or ".parametrizations." in f".{prefix}.":
            continue
        # A weight that is neither parameter nor buffer is computed from the others, as weight norm's is.
        whole = isinstance(getattr(module, "weight", None), Tensor) and "weight" not in _own(module)
        for key in ["weight"] if whole else sorted(key for key in _own(module) if "weight" in key):
            weight = getattr(module, key, None)
            if isinstance(weight, nn.UninitializedParameter | nn.UninitializedBuffer):
                raise ValueError(f"layer {prefix!r} has no weights before it has seen an input: run the network once")
            if isinstance(weight, Tensor) and weight.dim() > 1 and weight.numel():
                layer: Any = module
                yield _name(prefix, key), layer if key == "weight" else PackedWeight(module, key)


def _own(module: nn.Module) -> dict[str, object]:
    """A module's own parameters and parametrized tensors, by name; a ``weight`` counts even if it is a buffer.

    Weights that are shared have one object in common: the parameter, or torch's list of parametrizations.
    """
    own: dict[str, object] = {key: value for key, value in module._parameters.items() if value is not None}
    if module._buffers.get("weight") is not None:
        own["weight"] = module._buffers["weight"]
    return own | dict(_chains(module))


def _chains(module: nn.Module) -> dict[str, Any]:
    """Name -> torch's list of its parametrizations. Typed Any, since torch makes a class for each module."""
    lists: Any = module.parametrizations if parametrize.is_parametrized(module) else {}
    return dict(lists.items())


def _name(prefix: str, key: str) -> str:
    """What a weight is called: its layer's name, or the parameter's where it is packed."""
    return prefix if key == "weight" else f"{prefix}.{key}".lstrip(".")


def _place(layer: nn.Module | PackedWeight) -> tuple[nn.Module, str]:
    """The module that keeps a weight, and the weight's name there."""
    return (layer.module, layer.key) if isinstance(layer, PackedWeight) else (layer, "weight")


def layer_named(model: nn.Module, name: str) -> Layer:
    """Return the layer called ``name``.

    model: any network.
    name: of a layer with a weight, as in ``model.named_modules()``: "fc1", "features.0".

    Raises ValueError, which lists the accepted names, for any other name, and for a weight that is no layer's.

    >>> from lib import models
    >>> layer_named(models.lenet5(), "conv1")
    Conv2d(1, 20, kernel_size=(5, 5), stride=(1, 1))
    """
    found = weight_named(model, name)
    if isinstance(found, PackedWeight):
        raise ValueError(f"{name!r} is a weight of {_kind(found.module)}, which is no layer: accepted are layers")
    return found


def weight_named(model: nn.Module, name: str) -> Layer | PackedWeight:
    """Return the layer or the packed weight called ``name``.

    model: any network.
    name: as :func:`layers` gives it: "fc1", "encoder.in_proj_weight".

    Raises ValueError, which lists the accepted names, for any other name.

    >>> weight_named(nn.LSTM(3, 2), "weight_ih_l0").weight.shape
    torch.Size([8, 3])
    """
    found = dict(layers(model))
    if name not in found:
        raise ValueError(f"{type(model).__name__} has no layer {name!r} with a weight: it has {', '.join(found)}")
    return found[name]


def _kind(module: nn.Module) -> str:
    return parametrize.type_before_parametrizations(module).__name__


def compress(model: nn.Module, form: Callable[[str, Layer | PackedWeight], CompressedWeight | None]) -> nn.Module:
    """Store each layer's weight in the form that ``form`` chooses for it. In place; returns the model.

    A layer that is compressed already is decompressed first, so one technique can follow another. Layers without a
    weight, or with an empty one, are left as they are.

    model: any network.
    form: called with the name and the layer of each layer with a weight, or its :class:`PackedWeight`; returns the form
        in which to store the weight, or None to leave the layer as it is.

    Raises ValueError, before anything is changed, for weights that are not finite or not floats, a weight that two
    layers share, one with a parametrization that is not ours or that is computed from other tensors, one that the form
    refuses, and a model in which no layer has a weight.

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
    chosen = [(name, layer, compressed) for name, layer, compressed in found if compressed is not None]
    shared = tied(model)
    for name, layer, _ in chosen:
        _check(name, layer, shared.get(name, []))
    # Everything that can fail comes first: after a refusal the model is as it was.
    stored = [_stored(name, layer, compressed) for name, layer, compressed in chosen]
    for (_, layer, compressed), value in zip(chosen, stored, strict=True):
        decompress(PackedWeight(*_place(layer)))  # only this weight, none of the layer's others
        _register(*_place(layer), compressed, value)
    return model


def tied(model: nn.Module) -> dict[str, list[str]]:
    """Return name -> names of all weights and parameters that are the same object, for those that are shared.

    model: any network.

    >>> model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    >>> model[1].weight = model[0].weight
    >>> tied(model)
    {'0': ['0', '1'], '1': ['0', '1']}
    """
    names: dict[int, list[str]] = {}
    for prefix, module in model.named_modules():
        if ".parametrizations." not in f".{prefix}.":
            for key, value in _own(module).items():
                names.setdefault(id(value), []).append(_name(prefix, key))
    return {name: together for together in names.values() if len(together) > 1 for name in together}


def _check(name: str, layer: Layer | PackedWeight, together: list[str]) -> None:
    module, key = _place(layer)
    called = name or _kind(module)
    if together:
        raise ValueError(f"layers {together[0]!r} and {together[1]!r} share one weight: give each its own first")
    if key not in _own(module):
        raise ValueError(
            f"the weight of layer {called!r} is computed from other tensors of it: make it a parameter first"
        )
    try:
        compressed_form(layer)
    except ValueError as error:
        raise ValueError(f"layer {called!r} cannot be compressed: {error}") from error
    weight = layer.weight
    if not weight.is_floating_point():
        raise ValueError(f"the weights of layer {called!r} are {weight.dtype}: floating-point numbers are needed")
    if not torch.isfinite(weight).all():
        raise ValueError(f"the weights of layer {called!r} hold NaN or infinity: finite ones are needed")


def _stored(name: str, layer: Layer | PackedWeight, form: CompressedWeight) -> Tensor | tuple[Tensor, ...]:
    """What the form stores of the layer's weight, which is not changed."""
    form.train(_place(layer)[0].training)
    right_inverse: Any = form.right_inverse
    try:
        with torch.no_grad():
            weight = layer.weight
            stored = right_inverse(weight)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}" if name else str(error)) from error
    if isinstance(stored, Tensor) and stored.dtype != weight.dtype:  # torch would refuse, after other layers changed
        raise ValueError(f"layer {name!r} has weights of {weight.dtype}, which {type(form).__name__} does not take")
    return stored


def _register(module: nn.Module, key: str, form: CompressedWeight, stored: Tensor | tuple[Tensor, ...]) -> None:
    """Make the module compute its weight with the form, from what is stored."""
    _own_class(module)
    vars(form)["right_inverse"] = lambda weight: stored  # it is computed already
    try:
        parametrize.register_parametrization(module, key, form)
    finally:
        del vars(form)["right_inverse"]
    containers: Any = module.parametrizations
    containers.train(module.training)  # torch makes these containers in training mode
    if isinstance(module, nn.RNNBase):
        # torch keeps a list of the weights beside their names, and would go on to compute with the old ones.
        kind: Any = type(module)
        vars(module).pop("_flat_weights", None)
        kind._flat_weights = property(
            lambda module: [getattr(module, name, None) for name in module._flat_weights_names], lambda module, _: None
        )
        kind._update_flat_weights = lambda module: None  # it compares that list with the weights at each forward pass


def _own_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own: torch made one for it, but deep copies share it.

    Otherwise a weight that is added to one copy, or removed from it, would be added or missing in all copies.
    """
    if parametrize.is_parametrized(module):
        kind = type(module)
        own = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
        module.__class__ = type(kind.__name__, kind.__bases__, own)


def decompress(model: nn.Module | PackedWeight) -> nn.Module:
    """Turn every compressed weight into a plain dense parameter of the same values. In place; returns the model.

    A weight with another parametrization, such as weight norm, becomes plain as well. What was frozen stays frozen.

    model: any network; one without compressed weights is left as it is. Of a :class:`PackedWeight`, only that weight is
        changed, and its module is returned.

    >>> from lib import models
    >>> from lib.pruning import magnitude
    >>> model = decompress(magnitude.prune(models.lenet_300_100(), density=0.1))
    >>> type(model.fc1.weight).__name__, int(model.fc1.weight.count_nonzero())
    ('Parameter', 23520)
    """
    if isinstance(model, PackedWeight):
        _plain(model.module, [model.key])
        return model.module
    for module in list(model.modules()):
        chains = _chains(module).items()
        _plain(module, [key for key, chain in chains if "weight" in key or isinstance(chain[0], CompressedWeight)])
    return model


def _plain(module: nn.Module, keys: Collection[str]) -> None:
    chains = _chains(module)
    for key in keys:
        if key in chains:
            _own_class(module)
            stored = list(chains[key].parameters())
            parametrize.remove_parametrizations(module, key, leave_parametrized=True)
            value = module._buffers.get(key)
            if stored and value is not None:  # torch turns several tensors without gradients into a buffer
                del module._buffers[key]
                module.register_parameter(key, nn.Parameter(value, any(p.requires_grad for p in stored)))
            if isinstance(module, nn.RNNBase):
                module._init_flat_weights()


def compressed_form(layer: nn.Module | PackedWeight) -> tuple[CompressedWeight, tuple[Tensor, ...]] | None:
    """Return the form in which a layer's weight is stored, and the tensors that are stored; None for a dense layer.

    layer: any module, whose ``weight`` is meant, or a :class:`PackedWeight`.

    Raises ValueError where the weight has a parametrization that is not a :class:`CompressedWeight`.

    >>> from lib import models
    >>> from lib.pruning import magnitude
    >>> form, stored = compressed_form(magnitude.prune(models.lenet_300_100(), density=0.1).fc1)
    >>> type(form).__name__, [tuple(tensor.shape) for tensor in stored]
    ('PrunedWeight', [(300, 784)])
    """
    module, key = _place(layer)
    found = _chains(module).get(key)
    if found is None:
        return None
    if len(found) != 1 or not isinstance(found[0], CompressedWeight):
        raise ValueError(f"{_kind(module)} computes its {key} by {found[0]}, which is no CompressedWeight")
    stored = (
        (found.original,) if found.is_tensor else tuple(getattr(found, f"original{i}") for i in range(found.ntensors))
    )
    return found[0], stored


def chain_of(layer: nn.Module | PackedWeight) -> Any:
    """Return torch's ``ParametrizationList`` of a compressed weight: its first item is the form.

    What is stored is its parameter ``original``, or ``original0``, ``original1`` and so on where it is a tuple.

    layer: one whose weight is compressed.

    >>> from lib.pruning import magnitude
    >>> chain_of(magnitude.prune(nn.Linear(3, 2), density=0.5)).original.shape
    torch.Size([2, 3])
    """
    module, key = _place(layer)
    return _chains(module)[key]


def compressed(model: nn.Module) -> Iterator[tuple[str, CompressedWeight, tuple[Tensor, ...]]]:
    """Yield the name, the form and the stored tensors of every compressed weight, without computing the dense ones.

    model: any network. A form that draws its weight at random draws nothing here, unlike with :func:`layers`.

    Raises ValueError where a weight has a parametrization that is not a :class:`CompressedWeight`.

    >>> from lib.pruning import magnitude
    >>> [(name, type(form).__name__) for name, form, _ in compressed(magnitude.prune(nn.GRU(3, 2), density=0.5))]
    [('weight_hh_l0', 'PrunedWeight'), ('weight_ih_l0', 'PrunedWeight')]
    """
    for prefix, module in model.named_modules():
        for key in sorted(_chains(module)):
            stored = compressed_form(PackedWeight(module, key))
            assert stored is not None  # it has a list of parametrizations
            yield _name(prefix, key), *stored


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

    Raises ValueError, which lists the accepted names, for any other name; and, before anything is changed, for a packed
    weight, and for a layer from which its owner reads what ``layer`` does not have, as in ``F.linear(x, fc.weight)``.

    >>> from lib import models
    >>> replace(models.lenet_300_100(), "relu1", nn.Sigmoid()).relu1
    Sigmoid()
    """
    named = dict(model.named_modules(remove_duplicate=False))
    if name not in named:
        prefix, _, key = name.rpartition(".")
        if prefix in named and "weight" in key and key in _own(named[prefix]):
            raise ValueError(f"{name!r} is a weight of {_kind(named[prefix])}, which is no layer: it stays there")
        raise ValueError(f"{type(model).__name__} has no layer {name!r}: it has {', '.join(filter(None, named))}")
    if named[name] is model:
        return layer
    places = [each for each, module in named.items() if module is named[name]]
    for place in places:
        for attribute, owner in owners.reads(model, place).items():
            if not hasattr(layer, attribute):
                raise ValueError(
                    f"layer {place!r} cannot be replaced: {owner} reads its {attribute}, which"
                    f" {type(layer).__name__} does not have"
                )
    for place in places:
        parent, _, child = place.rpartition(".")
        setattr(named[parent], child, layer)
    return model
