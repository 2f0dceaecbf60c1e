"""A network that runs with its chains of bits: its graph, traced once, as a list of operations."""

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lib.binarization.shared import bit_images, kernels
from lib.binarization.shared.bit_images import BitImages, Window
from lib.binarization.shared.bit_layer import BitLayer
from lib.binarization.shared.chains import Link
from lib.binarization.shared.shifts import ShiftBatchNorm1d, ShiftBatchNorm2d

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, ShiftBatchNorm1d, ShiftBatchNorm2d)
# Modules that keep the order of values, or reverse it, and round alike in every shape, since they only compare.
ORDERED = (nn.Identity, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Dropout, nn.Dropout1d, nn.Dropout2d)
ORDERED_FUNCTIONS = {torch.relu, functional.relu, functional.relu6, "relu"}
FRESH = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, BitLayer)  # their outputs are memory of their own


@dataclass(frozen=True)
class Value:
    """The value of an operation, as an argument of another."""

    place: int


@dataclass
class Call:
    """A module or function that runs as it is.

    target: the name of a module or method, a function, or the name of a parameter.
    kind: as torch.fx names it: "call_module", "call_method", "call_function", "get_attr".
    """

    place: int
    kind: str
    target: Any
    args: Any
    kwargs: Any
    over: list[int]  # values that nothing reads afterwards


@dataclass
class Count:
    """A layer on bits.

    link: to what it reads.
    out: the link of the layer that reads its bits; None where it gives floats.
    source: the place of what it reads.
    """

    place: int
    link: Link
    out: Link | None
    source: int
    over: list[int]


class _Unfit(Exception):
    """Raised for an input that has to run without chains."""


def _leaf(module: nn.Module) -> bool:
    """Whether a module is one operation: a layer on bits, or a module that holds none."""
    return isinstance(module, BitLayer) or not any(isinstance(each, BitLayer) for each in module.modules())


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _leaf(m)


class Chained:
    """The forward pass of a converted network in which layers hand bits to each other.

    It computes what the network's own forward pass does, and leaves the work to it where a chain does not fit: for an
    input of another type or number of dimensions, in training mode, for a module that was replaced or has hooks, and
    without numba. Parameters and buffers are read at each call, so they may change. Memory for bits is kept for the
    next call; calls in several threads each have their own.

    model: the network; ``model.forward`` becomes this.
    operations: in the order in which they run.
    watched: (owner, name, module) of all that a chain holds, and of the blocks around it.
    """

    def __init__(
        self,
        model: nn.Module,
        operations: list[Call | Count],
        watched: list[tuple[nn.Module, str, nn.Module]],
        output: Any,
    ) -> None:
        self.model, self.operations, self.watched, self.output = model, operations, watched, output
        self.places = 1 + max(operation.place for operation in operations)
        links = [each.link for each in operations if isinstance(each, Count)]
        self.modules = list(dict.fromkeys(module for link in links for module in link.modules()))
        self.through = [m for m in model.modules() if not _leaf(m)]  # whose forward passes were traced
        self.stamp: list[tuple[int, int]] | None = None
        self.fits = True  # whether each layer still has one base
        self.free: list[dict[tuple, np.ndarray]] = []  # memory that no call uses now

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"free": [], "stamp": None}  # memory is no part of a file or a copy

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and self._ready(args[0]):
            try:
                memory = self.free.pop()
            except IndexError:
                memory = {}
            try:
                return self._run(args[0], memory)
            except _Unfit:
                pass
            finally:
                self.free.append(memory)
        return type(self.model).forward(self.model, *args, **kwargs)

    def _ready(self, x: Tensor) -> bool:
        if not kernels.available() or not x.numel() or x.device.type != "cpu":
            return False
        if any(module.training for module in self.through):
            return False
        for owner, name, module in self.watched:
            hooked = module._forward_hooks or module._forward_pre_hooks
            if owner._modules.get(name) is not module or hooked or module.training:
                return False
        self._refresh()
        return self.fits

    def _refresh(self) -> None:
        """Clear what was computed from parameters and buffers if one of them has changed."""
        stamp = [
            (value.data_ptr(), value._version)
            for module in self.modules
            for value in (*module._parameters.values(), *module._buffers.values())
            if value is not None
        ]
        if stamp != self.stamp:
            links = [each.link for each in self.operations if isinstance(each, Count)]
            for link in links:
                link.kept.clear()
            self.fits = all(link.reader.alone() for link in links)
            self.stamp = stamp

    def _run(self, x: Tensor, memory: dict[tuple, np.ndarray]) -> Any:
        values: list[Any] = [None] * self.places
        values[0] = x
        for operation in self.operations:
            if isinstance(operation, Count):
                values[operation.place] = _counted(operation, values[operation.source], memory)
            else:
                values[operation.place] = self._called(operation, values)
            for place in operation.over:
                values[place] = None
        return _filled(self.output, values)

    def _called(self, call: Call, values: list[Any]) -> Any:
        if call.kind == "get_attr":
            return operator.attrgetter(call.target)(self.model)
        args, kwargs = _filled(call.args, values), _filled(call.kwargs, values)
        if call.kind == "call_module":
            module = self.model._modules.get(call.target)  # much faster than get_submodule, for a name without dots
            return (self.model.get_submodule(call.target) if module is None else module)(*args, **kwargs)
        if call.kind == "call_method":
            return getattr(args[0], call.target)(*args[1:], **kwargs)
        return call.target(*args, **kwargs)


def _filled(argument: Any, values: list[Any]) -> Any:
    """An argument, possibly nested, with each :class:`Value` replaced by its value."""
    if isinstance(argument, Value):
        return values[argument.place]
    if isinstance(argument, tuple | list):
        return type(argument)(_filled(each, values) for each in argument)
    if isinstance(argument, dict):
        return {key: _filled(each, values) for key, each in argument.items()}
    if isinstance(argument, slice):
        return slice(*(_filled(each, values) for each in (argument.start, argument.stop, argument.step)))
    return argument


def _memory(memory: dict[tuple, np.ndarray], key: tuple, shape: tuple[int, ...]) -> np.ndarray:
    """Words to write to: 0 at first, and the same memory again at the next call of this shape."""
    found = memory.get(key)
    if found is None or found.shape != shape:
        found = memory[key] = np.zeros(shape, np.uint64)
    return found


def _counted(count: Count, x: Tensor | BitImages, memory: dict[tuple, np.ndarray]) -> Tensor | BitImages:
    """What a layer gives: floats, or the bits that the next layer reads."""
    link, reader = count.link, count.link.reader
    images = x if isinstance(x, BitImages) else _packed(count, x, memory)
    _, height, width, words = images.words.shape
    if link.flat and height * width * images.channels != reader.length:
        raise _Unfit
    filters, place = link.filters((height, width, images.channels)), reader.place
    if link.flat:
        flat = images.words.reshape(len(images.words), 1, 1, height * width * words)
        images = BitImages(flat, 64 * height * width * words)
    if images.channels != filters.shape[1]:
        raise _Unfit
    if count.out is None:
        sums = kernels.sums(images.words, filters, place)
        sums = sums if reader.image else sums.flatten(1)
        if reader.image and filters.shape[0] == 1:
            sums = sums.to(memory_format=torch.contiguous_format)  # as kernels.convolution gives it
        return reader.values(sums)
    size = images.words.shape[1:3]
    cuts, last = count.out.cuts(size)
    shape = (len(images.words), *place.outputs(size, filters.shape[2:]), -(-filters.shape[0] // 64))
    written = bit_images.bits(images, filters, place, cuts, _memory(memory, (count.place, "bits"), shape))
    return written if count.out.window is None else _pooled(count.place, written, count.out.window, last, memory)


def _pooled(
    place: int, images: BitImages, window: Window, last: np.ndarray, memory: dict[tuple, np.ndarray]
) -> BitImages:
    count, height, width, words = images.words.shape
    out = _memory(memory, (place, "pooled"), (count, *window.outputs((height, width)), words))
    return bit_images.pool(images, window, last, out)


def _packed(count: Count, x: Tensor, memory: dict[tuple, np.ndarray]) -> BitImages:
    """The bits of floats that a chain begins with."""
    reader, link = count.link.reader, count.link
    dimensions = 4 if reader.image else 2
    if x.dim() != dimensions or x.dtype != torch.float32 or x.shape[1] != reader.thresholds.shape[1] or not x.numel():
        raise _Unfit
    t, below, last = link.thresholds()
    height, width = (x.shape[2], x.shape[3]) if reader.image else (1, 1)
    out = _memory(memory, (count.place, "packed"), (len(x), height, width, -(-x.shape[1] // 64)))
    images = bit_images.pack(x, t, below, out)
    return images if link.window is None else _pooled(-1 - count.place, images, link.window, last, memory)


# -- finding chains ----------------------------------------------------------------------------------------------------


def chain(model: nn.Module) -> nn.Module:
    """Let the layers of a converted network hand bits to each other where its graph allows. In place; returns it.

    A network that torch.fx cannot trace, or without chains, is unchanged.

    model: in evaluation mode, with layers that count bits.
    """
    if isinstance(model, BitLayer):
        return model
    nodes = _traced(model)
    if not nodes:
        return model
    modules = dict(model.named_modules(remove_duplicate=False))
    links = _links(nodes, modules)
    if links:
        model.forward = _program(model, nodes, modules, links)
    return model


def _traced(model: nn.Module) -> list[fx.Node]:
    """The operations of a network that reads one tensor; none where torch.fx cannot trace it, or only for one input."""
    before, tracer = set(vars(model)), _Tracer()
    try:
        nodes = list(tracer.trace(model).nodes)
    except Exception:  # whatever tracing runs into: such a network runs layer by layer
        nodes = []
    made = set(vars(model)) - before  # tensors that the forward pass made while it was traced: it may make others
    for name in made:
        delattr(model, name)
    inputs = [node for node in nodes if node.op == "placeholder"]
    return [] if made or len(inputs) != 1 else nodes


def _links(nodes: list[fx.Node], modules: dict[str, nn.Module]) -> dict[fx.Node, tuple[Link, fx.Node, list[fx.Node]]]:
    """Layer -> its link, what it reads, and the operations that are skipped; for all layers that are in a chain."""
    found = {}
    for node in nodes:
        layer = _module(node, modules)
        if isinstance(layer, BitLayer) and layer.alone() and len(node.args) == 1 and not node.kwargs:
            found[node] = _link(node, layer, modules)
    read = {source for link, source, _ in found.values() if link.source is not None}
    # Not worth it for rows of floats that only one layer reads: batch norm of so few values is cheaper than a skip.
    alone = {node for node, (link, _, skipped) in found.items() if not (skipped and link.reader.image)}
    return {node: each for node, each in found.items() if each[0].source or node in read or node not in alone}


def _link(node: fx.Node, layer: BitLayer, modules: dict[str, nn.Module]) -> tuple[Link, fx.Node, list[fx.Node]]:
    """The link of a layer, found by going back from it as long as each operation is read only by the next."""
    skipped: list[fx.Node] = []
    source: Any = node.args[0]
    pooled = flat = False
    while len(source.users) == 1 and (kind := _kind(source, modules)):
        if (kind == "pool" and pooled) or (kind == "flat" and (flat or pooled or layer.image)):
            break
        pooled, flat = pooled or kind == "pool", flat or kind == "flat"
        skipped.insert(0, source)
        source = source.args[0]
    maker = _module(source, modules)
    counts = isinstance(maker, BitLayer) and maker.alone() and len(source.users) == 1
    window = next((w for each in skipped if (w := _window(each, modules))), None)
    if counts and isinstance(maker, BitLayer):
        counts = maker.image == (layer.image or flat)
        counts &= not flat or window is None or _apart(window)
    if not counts:
        # Floats are packed as they lie: what is flattened, or pooled for a linear layer, happens before.
        runs = [i for i, each in enumerate(skipped) if not layer.image and _kind(each, modules) != "value"]
        source, skipped = _from(runs, source, skipped)
        owned = isinstance(_module(source, modules), FRESH) and len(source.users) == 1
        runs = [i for i, each in enumerate(skipped) if not owned and _in_place(each, modules)]
        source, skipped = _from(runs, source, skipped)
    return _linked(layer, maker if counts else None, skipped, modules), source, skipped


def _from(runs: list[int], source: Any, skipped: list[fx.Node]) -> tuple[Any, list[fx.Node]]:
    """The chain without the operations up to the last one that has to run: what it reads, and what is skipped."""
    last = runs[-1] if runs else -1
    return (skipped[last] if runs else source), skipped[last + 1 :]


def _linked(layer: BitLayer, source: Any, skipped: list[fx.Node], modules: dict[str, nn.Module]) -> Link:
    link = Link(layer, source)
    pooled = not any(_kind(each, modules) == "pool" for each in skipped)
    for node in skipped:
        kind = _kind(node, modules)
        if kind == "pool":
            pooled, link.window = True, _window(node, modules)
        elif kind == "flat":
            link.flat, link.flat_at = True, len(link.after)
        else:
            function: Any = _module(node, modules) or (torch.relu if node.target == "relu" else node.target)
            (link.after if pooled else link.before).append(function)
    return link


def _module(node: Any, modules: dict[str, nn.Module]) -> nn.Module | None:
    return modules.get(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """What an operation does to values that become signs: "value", "pool", "flat", or "" for anything else."""
    module, plain = _module(node, modules), len(node.args) == 1 and not node.kwargs
    if module is not None and plain:
        if _hooked(module):
            return ""
        if type(module) in NORMS:
            return "value" if module.running_var is not None and not module.training else ""
        if type(module) in ORDERED:
            return "value"
        if type(module) is nn.Flatten:
            return "flat" if (module.start_dim, module.end_dim) == (1, -1) else ""
        return "pool" if _window(node, modules) else ""
    if node.op in ("call_function", "call_method"):
        if node.target in ORDERED_FUNCTIONS and len(node.args) == 1 and set(node.kwargs) <= {"inplace"}:
            return "value"
        if node.target in (torch.flatten, "flatten") and node.args[1:] == (1,) and not node.kwargs:
            return "flat"
    return ""


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _window(node: fx.Node, modules: dict[str, nn.Module]) -> Window | None:
    module: Any = _module(node, modules)
    if type(module) is not nn.MaxPool2d or module.return_indices:
        return None
    size, stride, border, dilation = (
        (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))
        for value in (module.kernel_size, module.stride, module.padding, module.dilation)
    )
    return Window(size, stride, border, dilation, bool(module.ceil_mode))


def _apart(window: Window) -> bool:
    """Whether no place is in two windows."""
    return all(d == 1 and s <= step for s, step, d in zip(window.size, window.stride, window.dilation, strict=True))


def _in_place(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return bool(getattr(_module(node, modules), "inplace", False) or node.kwargs.get("inplace"))


def _program(
    model: nn.Module,
    nodes: list[fx.Node],
    modules: dict[str, nn.Module],
    links: dict[fx.Node, tuple[Link, fx.Node, list[fx.Node]]],
) -> Chained:
    skipped = {each for _, _, some in links.values() for each in some}
    outs = {source: link for link, source, _ in links.values() if link.source is not None}
    place = {node: i for i, node in enumerate(nodes)}
    kept = [node for node in nodes if node not in skipped and node.op not in ("placeholder", "output")]
    last: dict[fx.Node, fx.Node] = {}
    for node in [*kept, nodes[-1]]:
        for read in [links[node][1]] if node in links else node.all_input_nodes:
            last[read] = node
    operations: list[Call | Count] = []
    for node in kept:
        over = [place[read] for read, by in last.items() if by is node]
        if node in links:
            link, source, _ = links[node]
            operations.append(Count(place[node], link, outs.get(node), place[source], over))
        else:
            args, kwargs = (_planned(each, place) for each in (node.args, node.kwargs))
            operations.append(Call(place[node], node.op, node.target, args, kwargs, over))
    names = [str(node.target) for node in [*links, *skipped] if _module(node, modules) is not None]
    names += [name for name, module in modules.items() if name and not _leaf(module)]  # blocks that hold chains
    watched = [(modules[name.rpartition(".")[0]], name.rpartition(".")[2], modules[name]) for name in names]
    output = _planned(nodes[-1].args[0], place)
    return Chained(model, operations, watched, output)


def _planned(argument: Any, place: dict[fx.Node, int]) -> Any:
    """An argument of a traced operation, with places where it has operations, in plain lists and dicts."""
    if isinstance(argument, fx.Node):
        return Value(place[argument])
    if isinstance(argument, tuple):
        return tuple(_planned(each, place) for each in argument)
    if isinstance(argument, list):
        return [_planned(each, place) for each in argument]
    if isinstance(argument, dict):
        return {key: _planned(each, place) for key, each in argument.items()}
    if isinstance(argument, slice):
        return slice(*(_planned(each, place) for each in (argument.start, argument.stop, argument.step)))
    return argument
